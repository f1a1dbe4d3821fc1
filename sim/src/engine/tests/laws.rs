//! Properties that hold for every workload, tested on random ones.

use super::harness::{ask, plain};
use crate::engine::{Engine, EngineConfig, EngineError, EngineEvent, EngineRequest};
use gorgo_core::{RequestId, Span, Time};
use proptest::prelude::*;

#[derive(Debug, Clone)]
struct Arrival {
    after_us: u64,
    request: EngineRequest,
    /// Leaves so long after arriving.
    patience_us: Option<u64>,
}

/// Gap, conversation, prompt, answer, `max_tokens`, whether the answer's ids are known, patience.
type Row = (u64, u64, u32, u32, Option<u32>, bool, Option<u64>);

fn arrivals(most: usize, longest: u32) -> impl Strategy<Value = Vec<Arrival>> {
    let gap = prop_oneof![2 => Just(0u64), 3 => 0u64..30_000, 1 => 0u64..2_000_000];
    let patience = prop_oneof![6 => Just(None), 1 => (0u64..1_500_000).prop_map(Some)];
    let one = (gap, 0u64..5, 1..longest, 1u32..150, prop::option::of(1u32..300), any::<bool>(), patience);
    prop::collection::vec(one, 1..most).prop_map(|rows| {
        let make = |(n, row): (usize, Row)| {
            let (after_us, chat, input, output, max_new_tokens, known, patience_us) = row;
            let mut request = ask(n as u64, chat, input, output);
            request.max_new_tokens = max_new_tokens;
            if !known {
                request.answer_blocks = Vec::new().into();
            }
            Arrival { after_us, request, patience_us }
        };
        rows.into_iter().enumerate().map(make).collect()
    })
}

fn configs() -> impl Strategy<Value = EngineConfig> {
    let queue = prop_oneof![5 => Just(None), 1 => (1u32..6).prop_map(Some)];
    (400u32..3000, 1u32..24, prop_oneof![Just(0u32), 30u32..400], any::<(bool, bool)>(), queue, 0.0f64..0.05, 1u32..50)
        .prop_map(|(kv_tokens, max_running, chunk, (overlap, radix_cache), max_queued_requests, step_noise, log)| {
            let mut config = plain();
            config.prefill.ms_per_token = 0.07;
            config.prefill.weights_ms = 9.0;
            config.decode.ms_per_context_token = 2e-3;
            (config.decode.eager_ms, config.decode.cuda_graph_max_bs) = (13.0, 6);
            EngineConfig {
                kv_tokens,
                max_running_requests: max_running,
                chunked_prefill_size: chunk,
                max_prefill_tokens: 500,
                overlap,
                radix_cache,
                max_queued_requests,
                step_noise,
                decode_log_interval: log,
                tokenizer_fixed_ms: 0.5,
                tokenizer_ms_per_token: 0.003,
                init_new_token_ratio: 0.3, // bold, so that retractions happen
                ..config
            }
        })
}

/// All that happened, the state at a few instants on the way, and the refusals.
type Story = (Vec<EngineEvent>, Vec<String>, Vec<EngineError>);

/// Runs a workload. With `every_us` the engine is looked at that often, else only where it asks for it.
fn run(config: &EngineConfig, work: &[Arrival], every_us: Option<u64>) -> Story {
    let mut engine = Engine::new(config.clone(), 42).unwrap();
    let (mut events, mut states, mut refused) = (Vec::new(), Vec::new(), Vec::new());
    let mut plan: Vec<(Time, usize, bool)> = Vec::new();
    let mut now = Time::ZERO;
    for (n, arrival) in work.iter().enumerate() {
        now += Span(arrival.after_us * 1000);
        plan.push((now, n, false));
        plan.extend(arrival.patience_us.map(|us| (now + Span(us * 1000), n, true)));
    }
    plan.sort();
    let mut clock = Time::ZERO;
    for (at, n, leaves) in plan {
        while let Some(us) = every_us
            && clock + Span(us * 1000) < at
        {
            clock += Span(us * 1000);
            engine.advance(clock, &mut events);
        }
        while let Some(next) = engine.next_event().filter(|&next| next <= at) {
            engine.advance(next, &mut events);
        }
        if leaves {
            engine.cancel(at, RequestId(n as u64), &mut events);
        } else if let Err(error) = engine.submit(at, work[n].request.clone()) {
            refused.push(error);
        }
        engine.advance(at, &mut events);
        states.push(format!("{:?} {:?} {:?}", engine.metrics(at), engine.loads(at), engine.counters(at)));
        clock = at;
    }
    for _ in 0..200_000 {
        let Some(next) = engine.next_event() else { break };
        engine.advance(next, &mut events);
    }
    assert!(engine.next_event().is_none(), "does not come to rest");
    let end = engine.loads(Time::NEVER);
    assert_eq!((end.used_tokens, end.running, end.waiting), (0, 0, 0), "everything was given back");
    assert_eq!(end.free_tokens + end.tree_tokens, u64::from(config.kv_tokens));
    states.push(format!("{end:?} {:?} {:?}", engine.counters(Time::NEVER), engine.gaps()));
    (events, states, refused)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn jumping_equals_walking_to_the_bit(config in configs(), work in arrivals(40, 900)) {
        let jumped = run(&config, &work, None);
        let (mut events, states, refused) = run(&EngineConfig { stream_tokens: true, ..config }, &work, None);
        events.retain(|e| !matches!(e, EngineEvent::Token { .. }));
        prop_assert_eq!(&jumped.0, &events);
        prop_assert_eq!(&jumped.1, &states);
        prop_assert_eq!(&jumped.2, &refused);
    }

    #[test]
    fn looking_at_an_engine_changes_nothing(config in configs(), work in arrivals(30, 600), every in 500u64..40_000) {
        prop_assert_eq!(run(&config, &work, None), run(&config, &work, Some(every)));
    }

    #[test]
    fn every_accepted_request_ends_once_and_in_order(config in configs(), work in arrivals(40, 900)) {
        let (events, _, refused) = run(&config, &work, None);
        let mut ended = 0;
        for (n, arrival) in work.iter().enumerate() {
            let mine: Vec<&EngineEvent> = events.iter().filter(|e| e.id() == RequestId(n as u64)).collect();
            let Some(last) = mine.last() else { continue };
            ended += 1;
            prop_assert!(mine.windows(2).all(|w| w[0].at() <= w[1].at()), "{mine:?}");
            let ends = mine.iter().filter(|e| matches!(e, EngineEvent::Finished { .. } | EngineEvent::Aborted { .. }));
            prop_assert_eq!(ends.count(), 1);
            if let EngineEvent::Finished { output_tokens, .. } = last {
                let asked = arrival.request.output_tokens.min(arrival.request.max_new_tokens.unwrap_or(u32::MAX));
                let room = config.kv_tokens - arrival.request.input_tokens;
                prop_assert!(*output_tokens == asked || *output_tokens < asked && asked + 3 > room, "{output_tokens}");
                prop_assert_eq!(mine.len(), 3, "prefill, first token, end: {:?}", mine);
            }
        }
        prop_assert_eq!(ended + refused.len(), work.len());
    }

    #[test]
    fn equal_seeds_repeat_and_noise_stays_small(work in arrivals(20, 600), seed: u64) {
        let config = EngineConfig { step_noise: 0.02, max_queued_requests: None, ..plain() };
        let finish = |seed| {
            let mut engine = Engine::new(config.clone(), seed).unwrap();
            for (n, arrival) in work.iter().enumerate() {
                engine.submit(Time(n as u64), arrival.request.clone()).unwrap();
            }
            let mut out = Vec::new();
            while let Some(at) = engine.next_event() {
                engine.advance(at, &mut out);
            }
            out
        };
        let once = finish(seed);
        prop_assert_eq!(&once, &finish(seed));
        let other = finish(!seed);
        let (a, b) = (once.last().unwrap().at().ms(), other.last().unwrap().at().ms());
        prop_assert!((a / b - 1.0).abs() < 0.15, "{a} {b}");
    }
}

#[test]
fn tight_pools_do_retract_and_still_finish() {
    let mut config = plain();
    (config.kv_tokens, config.init_new_token_ratio) = (600, 0.1);
    let work: Vec<Arrival> = (0..12)
        .map(|n| Arrival { after_us: 2000, request: ask(n, n, 40 + 7 * n as u32, 120), patience_us: None })
        .collect();
    let (events, ..) = run(&config, &work, None);
    let retracted: u32 = events
        .iter()
        .map(|e| match e {
            EngineEvent::Finished { retractions, .. } => *retractions,
            _ => 0,
        })
        .sum();
    assert!(retracted > 0, "the pool was meant to be too small");
}
