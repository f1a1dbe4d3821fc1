//! Known mistakes of SGLang simulators, one test per mistake: scheduling, admission, retraction, step times. Those
//! about the cache are in `cache_traps`.
//!
//! Unless a test sets it otherwise, prefill takes 1 ms a token, a decode step 10 ms, and nothing else takes time.

use super::harness::{Bench, ask, plain};
use crate::engine::{EngineConfig, EngineEvent};
use gorgo_core::{RequestId, Time};

#[test]
fn trap_1_prefill_goes_first_so_first_tokens_stay_quick_while_decode_starves() {
    let mut bench = Bench::new(plain());
    bench.submit(0.0, ask(0, 0, 10, 51));
    for n in 1..=10 {
        bench.submit(100.0 * n as f64, ask(n, n, 90, 1));
    }
    bench.drain();
    for n in 1..=10 {
        assert!(bench.first(n) - 100.0 * n as f64 <= 110.0, "request {n} waits for decode");
    }
    // Alone it takes 10 + 50·10 ms; each of the ten prefills adds its whole length.
    assert_eq!(bench.finished(0), 10.0 + 500.0 + 900.0);
}

#[test]
fn trap_2_chunks_of_a_long_prompt_do_not_interleave_with_decode() {
    let mut bench = Bench::new(EngineConfig { chunked_prefill_size: 100, stream_tokens: true, ..plain() });
    bench.submit(0.0, ask(0, 0, 10, 30));
    bench.submit(35.0, ask(1, 1, 450, 2));
    bench.drain();
    let (start, first) = (bench.prefill(1), bench.first(1));
    assert_eq!((start, first), (50.0, 500.0));
    let starved = bench.events.iter().filter(|e| e.id() == RequestId(0));
    assert!(starved.map(|e| e.at().ms()).all(|at| at <= start || at > first), "a token came between two chunks");
}

#[test]
fn trap_3_a_busy_engine_starts_an_arrival_one_step_late() {
    // Decode steps run from 10 ms on; the arrival at 34 comes in the step that ends at 40.
    for (overlap, start) in [(true, 50.0), (false, 40.0)] {
        let mut bench = Bench::new(EngineConfig { overlap, ..plain() });
        bench.submit(0.0, ask(0, 0, 10, 20));
        bench.submit(34.0, ask(1, 1, 10, 1));
        bench.drain();
        assert_eq!((bench.prefill(0), bench.prefill(1)), (0.0, start), "overlap {overlap}");
    }
}

#[test]
fn trap_3_a_finished_request_occupies_one_more_decode_slot() {
    for (overlap, start) in [(true, 30.0), (false, 21.0)] {
        let mut bench = Bench::new(EngineConfig { overlap, ..plain() });
        bench.submit(0.0, ask(0, 0, 10, 2));
        bench.submit(21.0, ask(1, 1, 10, 1)); // the first one finished at 20
        bench.drain();
        assert_eq!((bench.finished(0), bench.prefill(1)), (20.0, start), "overlap {overlap}");
    }
}

#[test]
fn trap_3_twins_in_adjacent_batches_both_compute_their_prompt_and_the_copy_is_freed() {
    for (overlap, cached) in [(true, [0, 0, 159]), (false, [0, 159, 159])] {
        let mut bench = Bench::new(EngineConfig { chunked_prefill_size: 160, overlap, ..plain() });
        bench.submit(0.0, ask(9, 9, 10, 1));
        for twin in 0..3 {
            bench.submit(1.0, ask(twin, 0, 160, 1));
        }
        bench.drain();
        assert_eq!([0, 1, 2].map(|twin| bench.cached(twin)), cached, "overlap {overlap}");
        assert_eq!(bench.engine.loads(Time::NEVER).tree_tokens, 160 + 10);
    }
}

#[test]
fn trap_5_admission_reserves_for_max_tokens_not_for_what_comes() {
    let run = |max_new| {
        let mut bench = Bench::new(EngineConfig { kv_tokens: 1000, ..plain() });
        for n in 0..2 {
            let mut request = ask(n, n, 100, 5);
            request.max_new_tokens = Some(max_new);
            bench.submit(0.0, request);
        }
        bench.submit(0.0, ask(2, 2, 10, 5)); // short, but behind them
        bench.drain();
        [0, 1, 2].map(|n| bench.prefill(n))
    };
    // The engine was idle, so the first starts at once and alone; the others follow together after its first token.
    assert_eq!(run(5), [0.0, 110.0, 110.0]);
    // Reserving 800 each, the second waits until the first is gone, and the third, which would fit, behind it.
    let waits = run(800);
    assert_eq!(waits[1], 150.0, "finished at 140, one step more, then admitted");
    assert!(waits[2] >= waits[1]);
}

#[test]
fn trap_5_the_batch_full_latch_holds_until_a_request_leaves() {
    let mut bench = Bench::new(EngineConfig { kv_tokens: 1000, ..plain() });
    let mut hog = ask(0, 0, 100, 40);
    hog.max_new_tokens = Some(800);
    bench.submit(0.0, hog);
    let mut large = ask(1, 1, 100, 5);
    large.max_new_tokens = Some(800);
    bench.submit(150.0, large);
    bench.to(200.0);
    assert!(bench.engine.batch.full);
    assert!(bench.cancel(200.0, 1), "the one that did not fit leaves the queue");
    bench.submit(210.0, ask(2, 2, 10, 1)); // would fit easily
    bench.drain();
    assert!(bench.prefill(2) > bench.finished(0), "admission is not tried again before the large request leaves");
}

#[test]
fn trap_6_retraction_takes_the_shortest_output_first_then_the_longest_prompt() {
    let bold = EngineConfig { kv_tokens: 300, init_new_token_ratio: 0.0, ..plain() };
    let mut bench = Bench::new(bold.clone());
    bench.submit(0.0, ask(0, 0, 64, 110));
    bench.submit(200.0, ask(1, 1, 64, 110)); // joins later, so has fewer tokens
    bench.drain();
    assert_eq!((bench.retractions(0), bench.retractions(1)), (0, 1));

    let mut bench = Bench::new(bold);
    bench.submit(0.0, ask(9, 9, 10, 1));
    bench.submit(1.0, ask(0, 0, 48, 110)); // these two join together
    bench.submit(1.0, ask(1, 1, 80, 110));
    bench.drain();
    assert_eq!((bench.retractions(0), bench.retractions(1)), (0, 1));
}

#[test]
fn trap_6_the_retracted_go_to_the_back_keep_their_tokens_and_hit_their_own_prompt() {
    let config = EngineConfig { kv_tokens: 300, init_new_token_ratio: 0.0, max_running_requests: 2, ..plain() };
    let mut bench = Bench::new(EngineConfig { stream_tokens: true, ..config });
    bench.submit(0.0, ask(0, 0, 64, 110));
    bench.submit(200.0, ask(1, 1, 64, 110));
    bench.submit(400.0, ask(2, 2, 64, 2)); // waits for a slot
    while bench.engine.meter.counters.retracted == 0 {
        let at = bench.engine.next_event().unwrap();
        bench.to(at.ms());
    }
    let queue: Vec<u64> = bench.engine.waiting.iter().map(|&slot| bench.engine.requests[slot].id.0).collect();
    assert_eq!(queue, [2, 1], "behind the one that waited");
    let computed = bench.engine.meter.counters.computed_tokens;
    bench.drain();
    let tokens: Vec<u32> = bench
        .events
        .iter()
        .filter_map(|e| match e {
            EngineEvent::Token { id: RequestId(1), generated, .. } => Some(*generated),
            _ => None,
        })
        .collect();
    assert_eq!(tokens, (2..=110).collect::<Vec<u32>>(), "no token is lost or made twice");
    let again = bench.engine.meter.counters.computed_tokens - computed - 64; // request 2's prompt
    assert!(again < 110, "{again} tokens were computed again: the 64 of the prompt should have been cached");
}

#[test]
fn trap_11_batches_are_padded_and_above_the_captured_size_steps_turn_eager() {
    let gap = |preset: Option<&str>, count: u64| {
        let mut config = plain();
        config.decode.ms_per_row = 1.0;
        if let Some(preset) = preset {
            config = EngineConfig { step_noise: 0.0, ..EngineConfig::preset(preset).unwrap() };
        }
        let mut bench = Bench::new(config);
        for n in 0..count {
            bench.submit(0.0, ask(n, n, 16, 200));
        }
        bench.drain();
        bench.engine.gaps().quantile(0.5).unwrap()
    };
    let (padded, exact) = (gap(None, 17), gap(None, 24));
    assert!((padded / exact - 1.0).abs() < 0.01, "17 rows cost as much as 24: {padded} {exact}");
    let (captured, eager) = (gap(Some("l40s-2-qwen3.5"), 20), gap(Some("l40s-2-qwen3.5"), 21));
    assert!(eager > 2.5 * captured, "{captured} {eager}");
    let (captured, eager) = (gap(Some("mistral-7b-l40s"), 32), gap(Some("mistral-7b-l40s"), 33));
    assert!(eager > 1.1 * captured, "{captured} {eager}");
}

#[test]
fn trap_12_the_tokenizer_is_a_serial_server_and_counts_in_the_first_token() {
    let mut bench =
        Bench::new(EngineConfig { tokenizer_fixed_ms: 0.5, tokenizer_ms_per_token: 0.003, receive_ms: 3.0, ..plain() });
    bench.submit(0.0, ask(0, 0, 20_000, 1));
    bench.submit(0.0, ask(1, 1, 10, 1));
    assert_eq!(bench.engine.next_event(), Some(Time::from_ms(60.5 + 3.0)));
    bench.to(62.0);
    assert_eq!(
        bench.engine.loads(Time::from_ms(62.0)).arriving,
        2,
        "the short one waits for the long one's tokenizing"
    );
    bench.drain();
    assert_eq!(bench.prefill(0), 63.5);
}

#[test]
fn trap_13_decode_slows_with_the_context_of_all_requests() {
    let config = EngineConfig { step_noise: 0.0, ..EngineConfig::default() };
    let times = config.decode;
    let more = times.ms(64, 64 * 4096) - times.ms(64, 0);
    assert!((more - 21.0).abs() < 0.5, "64 contexts of 4k tokens add {more} ms");
    let gap = |input| {
        let mut bench = Bench::new(config.clone());
        for n in 0..32 {
            bench.submit(0.0, ask(n, n, input, 300));
        }
        bench.drain();
        bench.engine.gaps().quantile(0.5).unwrap()
    };
    let (short, long) = (gap(100), gap(4096));
    assert!((long - short - 32.0 * 3996.0 * 8e-5).abs() < 1.5, "{short} {long}");
}

#[test]
fn trap_14_the_first_prefill_after_a_restart_is_far_slower() {
    let mut bench = Bench::new(plain());
    bench.engine.crash(Time::ZERO, &mut bench.events);
    let up = bench.engine.restart(Time::ZERO).ms();
    bench.submit(up, ask(0, 0, 100, 1));
    bench.submit(up + 5000.0, ask(1, 1, 100, 1));
    bench.drain();
    assert_eq!(bench.first(0) - bench.prefill(0), 1100.0);
    assert_eq!(bench.first(1) - bench.prefill(1), 100.0);
}

#[test]
fn trap_15_no_first_token_leaves_before_its_prefill_ends() {
    let mut bench = Bench::new(EngineConfig { output_ms: 0.75, ..plain() });
    for n in 0..20 {
        bench.submit(37.0 * n as f64, ask(n, n % 3, 50 + n as u32, 9));
    }
    bench.drain();
    for n in 0..20 {
        let compute = f64::from(50 + n as u32 - bench.cached(n));
        assert!(bench.first(n) >= bench.prefill(n) + compute + 0.75 - 1e-9, "request {n}");
    }
}

#[test]
fn trap_6_a_request_retracted_before_its_prefill_is_known_loses_that_token() {
    let mut seen = 0;
    for (arrival, input) in (300..600).step_by(10).flat_map(|at| (16..24).map(move |input| (at, input))) {
        let mut bench = Bench::new(EngineConfig { kv_tokens: 300, init_new_token_ratio: 0.0, ..plain() });
        for n in 0..6 {
            bench.submit(40.0 * n as f64, ask(n, n, 16, 100)); // one a batch: running ones reserve nothing
        }
        bench.submit(f64::from(arrival), ask(6, 6, input, 2));
        let mut early = false;
        while let Some(next) = bench.engine.next_event() {
            bench.to(next.ms());
            let waits = bench.engine.place(6) == Some(crate::engine::request::Place::Waiting);
            early |= waits && !bench.prefill(6).is_nan() && bench.first(6).is_nan();
        }
        seen += u32::from(early);
        let firsts = bench.events.iter().filter(|e| matches!(e, EngineEvent::FirstToken { id: RequestId(6), .. }));
        assert_eq!(firsts.count(), 1);
        assert!(
            !early || bench.first(6) > bench.prefill(6) + f64::from(input),
            "the token of the lost prefill came out"
        );
        let loads = bench.engine.loads(Time::NEVER);
        assert_eq!((loads.used_tokens, loads.free_tokens + loads.tree_tokens), (0, 300));
    }
    assert!(seen > 0, "no arrival met the case");
}
