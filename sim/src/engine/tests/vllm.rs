//! Rules of vLLM's scheduler. The step times are those of `harness::plain`: 1 ms a token of a prompt, 10 ms a step of
//! decodes; a decode in a step with prompts costs 1 ms.

use super::harness::{BLOCK, Bench, ask, plain};
use crate::engine::{Engine, EngineConfig, EngineError, EngineEvent, EngineKind, EngineRequest};
use gorgo_core::{RequestId, Span, Time};
use proptest::prelude::*;

fn vllm() -> EngineConfig {
    EngineConfig {
        kind: EngineKind::Vllm,
        max_num_batched_tokens: 100,
        max_running_requests: 8,
        overlap: false,
        ..plain()
    }
}

#[test]
fn decodes_and_chunks_share_one_budget_and_decodes_come_first() {
    let mut bench = Bench::new(vllm());
    bench.submit(0.0, ask(0, 0, 40, 9));
    bench.submit(1.0, ask(1, 1, 250, 2));
    bench.drain();
    // [0, 40) the first prompt; then one decode and 99 tokens of the second a step: 100 ms, 100 ms, and 1 + 52.
    assert_eq!((bench.first(0), bench.prefill(1), bench.first(1)), (40.0, 40.0, 293.0));
    // Its decodes go on meanwhile: 4 tokens by 293 ms, and 5 more steps of 10 ms.
    assert_eq!((bench.finished(1), bench.finished(0)), (303.0, 343.0));
}

#[test]
fn requests_are_admitted_first_come_first_served_and_no_more_than_max_num_seqs() {
    let mut bench = Bench::new(EngineConfig { max_running_requests: 2, ..vllm() });
    for n in 0..6 {
        bench.submit(n as f64 / 10.0, ask(n, n, 60 - n as u32, 3));
    }
    let mut most = 0;
    while let Some(next) = bench.engine.next_event() {
        bench.to(next.ms());
        let loads = bench.engine.loads(next);
        most = most.max(loads.running + loads.prefilling);
    }
    assert_eq!(most, 2);
    assert!((1..6).all(|n| bench.prefill(n) >= bench.prefill(n - 1)));
    assert!((0..6).all(|n| bench.finished(n).is_finite()));
}

#[test]
fn the_request_admitted_last_is_preempted_computes_again_and_finds_its_own_blocks() {
    // 8 blocks of 16, one of them vLLM's own: two prompts of 48 fill 6 of 7.
    let config = EngineConfig { kv_tokens: 128, ..vllm() };
    let mut bench = Bench::new(config);
    bench.submit(0.0, ask(0, 0, 48, 40));
    bench.submit(0.0, ask(1, 1, 48, 40));
    bench.submit(0.0, ask(2, 2, 16, 2));
    bench.drain();
    assert_eq!([0, 1].map(|n| bench.retractions(n)), [0, 1]);
    assert!(bench.finished(0) < bench.finished(1), "the older request goes on");
    assert!(bench.first(2) > bench.finished(0), "the preempted request is in front of those that wait");
    assert!(bench.first(1) < bench.finished(0), "its first token stays the first");
    let counters = bench.engine.counters(Time::NEVER);
    assert_eq!((counters.retracted, counters.generated_tokens), (1, 82), "no token is generated twice");
    assert!(counters.computed_tokens > 48 + 48 + 16 && counters.computed_tokens < 48 + 16 + 2 * 48 + 40);
}

#[test]
fn a_prompt_is_admitted_when_all_of_it_fits_or_when_its_first_chunk_does() {
    let first_chunk = |reserve_full_prompt: bool| {
        // 15 usable blocks; 6 are held by a request that runs for long.
        let mut bench = Bench::new(EngineConfig { kv_tokens: 256, reserve_full_prompt, ..vllm() });
        bench.submit(0.0, ask(0, 0, 80, 16));
        bench.submit(1.0, ask(1, 1, 180, 1));
        bench.drain();
        (bench.prefill(1), bench.finished(0))
    };
    let (waits, done) = first_chunk(true);
    assert!(waits >= done, "12 blocks do not fit beside 6");
    assert!(first_chunk(false).0 < 100.0);
}

#[test]
fn whole_blocks_of_a_prefix_are_found_even_by_a_twin_in_the_same_step() {
    let mut bench = Bench::new(EngineConfig { max_num_batched_tokens: 1_000, ..vllm() });
    bench.submit(0.0, ask(9, 9, 10, 1));
    bench.submit(1.0, ask(0, 7, 100, 2));
    bench.submit(1.0, ask(1, 7, 100, 2));
    bench.submit(500.0, ask(2, 7, 96, 2));
    bench.submit(900.0, ask(3, 7, 230, 2));
    bench.drain();
    // The last token is never cached, and only whole blocks are.
    assert_eq!([0, 1, 2, 3].map(|n| bench.cached(n)), [0, 96, 80, 96]);
    assert_eq!((bench.first(0), bench.first(1)), (114.0, 114.0));
    let off = |config: EngineConfig| {
        let mut bench = Bench::new(config);
        bench.submit(0.0, ask(0, 7, 90, 2));
        bench.submit(500.0, ask(1, 7, 90, 2));
        bench.drain();
        bench.cached(1)
    };
    assert_eq!((off(vllm()), off(EngineConfig { radix_cache: false, ..vllm() })), (80, 0));
    assert_eq!(off(EngineConfig { resume_tokens: 64, ..vllm() }), 64);
}

#[test]
fn the_next_turn_finds_prompt_and_answer_whatever_the_blocks_of_the_trace() {
    let per = |block_tokens: u32| {
        // Tokens 0..290 of one endless text; the first turn's prompt is 100 of them and its answer 90.
        let id = |block: u32, end: u32| {
            (u64::from(block) << 32) | (u64::from((block + 1) * block_tokens > end) * u64::from(end))
        };
        let ids = |end: u32| (0..end.div_ceil(block_tokens)).map(|b| id(b, end)).collect();
        let turn = |n: u64, input: u32, answer: std::ops::Range<u32>| EngineRequest {
            blocks: ids(input),
            answer_blocks: answer.map(|b| id(b, u32::MAX)).collect(),
            block_tokens,
            ..ask(n, 0, input, 90)
        };
        let mut bench = Bench::new(vllm());
        bench.submit(0.0, turn(0, 100, 100 / block_tokens..190 / block_tokens));
        bench.submit(5_000.0, turn(1, 290, 0..0));
        bench.drain();
        bench.cached(1)
    };
    // The KV of 189 tokens is computed: 11 whole blocks of 16; the trace knows whole blocks of its own size only.
    assert_eq!([16, 8, 10, 64].map(per), [176, 176, 176, 128]);
}

#[test]
fn with_overlap_an_arrival_waits_for_the_step_that_was_chosen_already() {
    let first = |overlap: bool| {
        let mut bench = Bench::new(EngineConfig { overlap, ..vllm() });
        bench.submit(0.0, ask(0, 0, 20, 50));
        bench.submit(33.0, ask(1, 1, 20, 1));
        bench.drain();
        (bench.prefill(1), bench.finished(0))
    };
    // Steps end at 20, 30, 40, 50: received at 40, when the step up to 50 is chosen already or is not.
    assert_eq!(first(false), (40.0, 521.0));
    assert_eq!(first(true), (50.0, 521.0), "a request known to end takes part in no further step");
}

#[test]
fn a_cancelled_request_leaves_at_once_and_a_flush_forgets_all_blocks() {
    let mut bench = Bench::new(vllm());
    bench.submit(0.0, ask(0, 0, 90, 50));
    bench.to(150.0);
    assert!(!bench.engine.flush(Time::from_ms(150.0)), "a request runs");
    assert!(bench.cancel(150.0, 0));
    assert!(matches!(bench.events.last(), Some(EngineEvent::Aborted { error: EngineError::Cancelled, .. })));
    assert_eq!(bench.engine.loads(Time::from_ms(150.0)).used_tokens, 0);
    bench.submit(400.0, ask(1, 0, 90, 1));
    bench.drain();
    assert_eq!(bench.cached(1), 80);
    assert!(bench.engine.flush(Time::from_ms(9_000.0)));
    bench.submit(9_000.0, ask(2, 0, 90, 1));
    bench.drain();
    assert_eq!(bench.cached(2), 0);

    bench.submit(10_000.0, ask(3, 0, 90, 50));
    bench.to(10_150.0);
    assert!(bench.cancel(10_150.0, 3));
    assert!(bench.engine.flush(Time::from_ms(10_150.0)), "the step in progress holds no block");
    bench.submit(10_400.0, ask(4, 0, 90, 1));
    bench.drain();
    assert_eq!(bench.cached(4), 0);
}

#[test]
fn gauges_follow_each_step_and_count_blocks_in_use() {
    let mut bench = Bench::new(EngineConfig { max_running_requests: 1, ..vllm() });
    bench.submit(0.0, ask(0, 0, 40, 20));
    bench.submit(1.0, ask(1, 1, 40, 20));
    bench.to(55.0);
    let gauges = bench.engine.metrics(Time::from_ms(55.0));
    assert_eq!((gauges.num_running_reqs, gauges.num_queue_reqs, gauges.num_used_tokens), (1, 1, 3 * 16));
    bench.drain();
    let gauges = bench.engine.metrics(Time::NEVER);
    assert_eq!((gauges.num_running_reqs, gauges.num_queue_reqs, gauges.num_used_tokens), (0, 0, 0));
}

#[test]
fn a_crash_ends_all_requests_and_a_restart_begins_with_an_empty_pool() {
    let mut bench = Bench::new(vllm());
    (0..3).for_each(|n| bench.submit(0.0, ask(n, 3, 90, 50)));
    bench.engine.crash(Time::from_ms(150.0), &mut bench.events);
    assert_eq!(bench.engine.in_flight(), 0);
    let up = bench.engine.restart(Time::from_ms(200.0));
    bench.submit(up.ms(), ask(9, 3, 90, 5));
    bench.drain();
    assert_eq!(bench.cached(9), 0);
    assert!(bench.finished(9).is_finite());
}

#[test]
fn a_budget_below_the_running_requests_is_refused() {
    let error = EngineConfig { max_num_batched_tokens: 7, ..vllm() }.validate().unwrap_err().to_string();
    assert!(error.contains("`max_num_batched_tokens` is 7: give at least max_running_requests"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever arrives and leaves: every request ends once, in order and with all its tokens, no block has two owners
    /// but by prefix, and the pool is never overcommitted.
    #[test]
    fn every_request_ends_once_with_all_its_tokens_and_the_pool_is_never_overcommitted(
        rows in prop::collection::vec((0u64..60_000, 0u64..4, 1u32..300, 1u32..80, prop::option::weighted(0.2, 0u64..900_000)), 1..40),
        (kv_tokens, budget, most, overlap, radix_cache) in (400u32..1_500, 16u32..200, 1u32..16, any::<bool>(), any::<bool>()),
        (reserve_full_prompt, known) in any::<(bool, bool)>(),
    ) {
        let config = EngineConfig {
            kv_tokens, max_num_batched_tokens: budget, max_running_requests: most, overlap, radix_cache,
            reserve_full_prompt, stream_tokens: true, step_noise: 0.02, ..vllm()
        };
        let mut engine = Engine::new(config, 3).unwrap();
        let (mut events, mut now, mut plan) = (Vec::new(), Time::ZERO, Vec::new());
        for (n, &(gap_us, chat, input, output, patience_us)) in rows.iter().enumerate() {
            now += Span(gap_us * 1000);
            let mut request = ask(n as u64, chat, input, output);
            if !known {
                request.answer_blocks = [].into();
            }
            plan.push((now, n, Some(request)));
            plan.extend(patience_us.map(|us| (now + Span(us * 1000), n, None)));
        }
        plan.sort_by_key(|&(at, n, _)| (at, n));
        for (at, n, request) in plan {
            while let Some(next) = engine.next_event().filter(|&next| next <= at) {
                engine.advance(next, &mut events);
                engine.vllm.pool.check();
            }
            match request {
                Some(request) => prop_assert!(engine.submit(at, request).is_ok()),
                None => { engine.cancel(at, RequestId(n as u64), &mut events); }
            }
            engine.vllm.pool.check();
        }
        for _ in 0..200_000 {
            let Some(next) = engine.next_event() else { break };
            engine.advance(next, &mut events);
        }
        prop_assert_eq!(engine.next_event(), None, "it comes to rest");
        let end = engine.loads(Time::NEVER);
        prop_assert_eq!((end.used_tokens, end.running, end.waiting, engine.in_flight()), (0, 0, 0, 0));
        prop_assert_eq!(end.free_tokens + end.tree_tokens, u64::from((kv_tokens / BLOCK - 1) * BLOCK));
        for (n, &(_, _, _, output, patience)) in rows.iter().enumerate() {
            let mine: Vec<&EngineEvent> = events.iter().filter(|e| e.id() == RequestId(n as u64)).collect();
            prop_assert!(mine.windows(2).all(|pair| pair[0].at() <= pair[1].at()), "in order");
            let tokens = mine.iter().filter(|e| matches!(e, EngineEvent::FirstToken { .. } | EngineEvent::Token { .. }));
            match mine.last() {
                Some(EngineEvent::Finished { output_tokens, .. }) => {
                    prop_assert_eq!((*output_tokens, tokens.count() as u32), (output, output));
                }
                Some(EngineEvent::Aborted { .. }) => prop_assert!(patience.is_some()),
                other => prop_assert!(false, "{n} ends with {other:?}"),
            }
            let ends = mine.iter().filter(|e| matches!(e, EngineEvent::Finished { .. } | EngineEvent::Aborted { .. }));
            prop_assert_eq!(ends.count(), 1);
        }
    }
}
