//! Known mistakes of SGLang simulators about the radix cache, one test per mistake; the numbers continue `traps`.
//!
//! Unless a test sets it otherwise, prefill takes 1 ms a token, a decode step 10 ms, and nothing else takes time.

use super::harness::{BLOCK, Bench, ask, plain};
use crate::engine::EngineConfig;
use gorgo_core::Time;

#[test]
fn trap_4_a_hit_counts_when_scheduled_so_it_can_vanish_while_queued() {
    let config = EngineConfig { kv_tokens: 1000, ..plain() };
    let mut bench = Bench::new(config.clone());
    bench.submit(0.0, ask(0, 0, 320, 1));
    bench.submit(500.0, ask(1, 1, 900, 1)); // needs the room
    bench.submit(501.0, ask(2, 0, 336, 1)); // would hit 320 tokens on arrival
    bench.drain();
    assert_eq!(bench.cached(2), 0);

    let mut bench = Bench::new(config);
    bench.submit(0.0, ask(0, 0, 320, 1));
    bench.submit(1.0, ask(1, 0, 336, 1)); // nothing is cached on arrival
    bench.drain();
    assert_eq!(bench.cached(1), 320, "and it can appear");
}

#[test]
fn trap_7_a_match_touches_even_what_is_not_admitted() {
    let mut bench = Bench::new(EngineConfig { kv_tokens: 1000, ..plain() });
    bench.submit(0.0, ask(0, 0, 160, 1)); // used longest ago
    bench.submit(300.0, ask(1, 1, 160, 1));
    let mut hog = ask(2, 2, 100, 100);
    hog.max_new_tokens = Some(500);
    bench.submit(600.0, hog);
    let mut refused = ask(3, 0, 176, 1); // matches the first, but 160 + 900 tokens do not fit
    refused.max_new_tokens = Some(800);
    bench.submit(800.0, refused);
    bench.to(900.0);
    assert_eq!(bench.prefill(3).to_bits(), f64::NAN.to_bits(), "not admitted");
    bench.engine.pool.cache.evict(1);
    assert_eq!(bench.engine.pool.cache.find(&ask(3, 0, 160, 1).blocks).2, 160, "touched by the attempt");
    assert_eq!(bench.engine.pool.cache.find(&ask(3, 1, 160, 1).blocks).2, 0, "the oldest now");
}

#[test]
fn trap_7_nothing_is_evicted_before_room_is_needed_and_then_whole_leaves_go() {
    let mut bench = Bench::new(EngineConfig { kv_tokens: 1000, ..plain() });
    for n in 0..3 {
        bench.submit(400.0 * n as f64, ask(n, n, 320, 1));
    }
    bench.drain();
    assert_eq!(bench.engine.counters(Time::NEVER).evicted_tokens, 0);
    assert_eq!(bench.engine.loads(Time::NEVER).free_tokens, 40);
    bench.submit(2000.0, ask(3, 3, 50, 1));
    bench.drain();
    // 50 do not fit into 40: the first prompt's 320 go at once.
    assert_eq!(bench.engine.counters(Time::NEVER).evicted_tokens, 320);
}

#[test]
fn trap_8_the_next_turn_hits_prompt_and_answer_only_where_the_ids_are_the_same() {
    for (known, hit) in [(true, 160 + 64), (false, 160)] {
        let mut bench = Bench::new(plain());
        let mut turn = ask(0, 0, 160, 80);
        if !known {
            turn.answer_blocks = Vec::new().into();
        }
        bench.submit(0.0, turn);
        bench.submit(5000.0, ask(1, 0, 300, 1));
        bench.drain();
        assert_eq!(bench.cached(1), hit, "80 tokens less the last are 4 whole blocks; known: {known}");
        // Whether it can be matched or not, the answer takes its room.
        assert_eq!(bench.engine.loads(Time::NEVER).tree_tokens, if known { 300 + 15 } else { 300 + 79 });
    }
}

#[test]
fn trap_9_the_last_prompt_token_never_hits_and_the_last_answer_token_is_never_cached() {
    let mut bench = Bench::new(plain());
    bench.submit(0.0, ask(0, 0, 45, 1));
    bench.submit(1000.0, ask(1, 0, 45, 1));
    bench.drain();
    assert_eq!(bench.cached(1), 44);
    for (output, hit) in [(BLOCK, BLOCK), (BLOCK + 1, 2 * BLOCK)] {
        let mut bench = Bench::new(plain());
        bench.submit(0.0, ask(0, 0, BLOCK, output));
        bench.submit(1000.0, ask(1, 0, 3 * BLOCK, 1));
        bench.drain();
        assert_eq!(bench.cached(1), hit, "an answer of {output} tokens has {} in the cache", output - 1);
    }
}

#[test]
fn trap_10_prefixes_match_by_ids_of_tokens_so_a_partial_block_does_not_match_its_extension() {
    let mut bench = Bench::new(plain());
    bench.submit(0.0, ask(0, 0, 40, 1));
    bench.submit(1000.0, ask(1, 0, 60, 1));
    bench.drain();
    assert_eq!(bench.cached(1), 32, "two whole blocks; the third has other ids");
}
