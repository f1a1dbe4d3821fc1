//! Behaviour around the steps: batching, gauges, rejections, cancellation, flush and crash. The step times are
//! those of `harness::plain`: prefill 1 ms a token, a decode step 10 ms.

use super::harness::{Bench, ask, plain};
use crate::engine::{Counters, EngineConfig, EngineError, EngineEvent, EngineRequest, Health, Loads};
use gorgo_core::{RequestId, Time};

fn at(ms: f64) -> Time {
    Time::from_ms(ms)
}

#[test]
fn chunks_are_a_budget_of_the_batch_and_the_cut_prompt_goes_first() {
    let mut bench = Bench::new(EngineConfig { chunked_prefill_size: 100, ..plain() });
    bench.submit(0.0, ask(9, 9, 10, 1));
    for (n, input) in [(0, 40), (1, 150), (2, 20), (3, 30)] {
        bench.submit(1.0, ask(n, n, input, 1));
    }
    bench.drain();
    // After one decode step: 40 + 60 of 150 in [20, 120), 90 + 10 of 20 in [120, 220), 10 + 30 in [220, 260).
    assert_eq!([0, 1, 2, 3].map(|n| bench.prefill(n)), [20.0, 20.0, 120.0, 220.0]);
    assert_eq!([0, 1, 2, 3].map(|n| bench.first(n)), [120.0, 220.0, 260.0, 260.0]);
}

#[test]
fn max_prefill_tokens_binds_only_after_the_first_request() {
    let mut bench = Bench::new(EngineConfig { chunked_prefill_size: 0, max_prefill_tokens: 100, ..plain() });
    bench.submit(0.0, ask(9, 9, 10, 1));
    for (n, input) in [(0, 300), (1, 60), (2, 50)] {
        bench.submit(1.0, ask(n, n, input, 1));
    }
    bench.drain();
    assert_eq!([0, 1, 2].map(|n| bench.prefill(n)), [20.0, 320.0, 380.0]);
}

#[test]
fn no_more_than_max_running_requests_run_and_the_rest_wait_in_order() {
    let mut bench = Bench::new(EngineConfig { max_running_requests: 3, ..plain() });
    for n in 0..9 {
        bench.submit(n as f64, ask(n, n, 10, 20));
    }
    let mut most = 0;
    while let Some(next) = bench.engine.next_event() {
        bench.to(next.ms());
        most = most.max(bench.engine.loads(next).running);
    }
    assert_eq!(most, 3);
    assert!((1..9).all(|n| bench.prefill(n) >= bench.prefill(n - 1)));
}

#[test]
fn the_reserve_decays_with_decode_steps_and_is_reset_when_idle() {
    let mut bench = Bench::new(plain());
    bench.submit(0.0, ask(0, 0, 10, 900));
    bench.to(10.0 + 300.0 * 10.0);
    let ratio = bench.engine.loads(at(3010.0)).new_token_ratio;
    // 302 steps were chosen: 300 ended, one runs, one is next.
    assert!((ratio - (0.7 - 302.0 * (0.7 - 0.098) / 600.0)).abs() < 1e-9, "{ratio}");
    bench.to(10.0 + 700.0 * 10.0);
    assert!((bench.engine.loads(at(7010.0)).new_token_ratio - 0.098).abs() < 1e-9);
    bench.drain();
    assert!((bench.engine.loads(Time::NEVER).new_token_ratio - 0.7).abs() < 1e-9);
}

#[test]
fn gauges_move_after_prefills_every_40th_step_and_when_idle_for_long() {
    let mut bench = Bench::new(plain());
    bench.submit(0.0, ask(0, 0, 10, 100));
    bench.to(9.0);
    assert_eq!(bench.engine.metrics(at(9.0)).num_running_reqs, 0);
    bench.to(15.0);
    let gauges = bench.engine.metrics(at(15.0));
    assert_eq!((gauges.published, gauges.num_running_reqs), (at(10.0), 0), "the request just prefilled is not counted");
    bench.to(405.0);
    assert_eq!(bench.engine.metrics(at(405.0)).num_running_reqs, 0, "39 decode steps later still the same");
    assert_eq!(bench.engine.loads(at(405.0)).running, 1, "while the truth is known inside");
    bench.to(415.0);
    let gauges = bench.engine.metrics(at(415.0));
    assert_eq!((gauges.published, gauges.num_running_reqs), (at(410.0), 1));
    assert!((gauges.gen_throughput - 40.0 / 0.41).abs() < 1e-6, "{}", gauges.gen_throughput);
    bench.drain();
    assert_eq!(bench.finished(0), 1000.0);
    // Reported at 810 ms last; done since 1000 ms, and still said to run.
    assert_eq!(bench.engine.metrics(at(30_000.0)).num_running_reqs, 1);
    let idle = bench.engine.metrics(at(30_900.0));
    assert_eq!((idle.num_running_reqs, idle.gen_throughput, idle.published), (0, 0.0, at(30_810.0)));
}

#[test]
fn the_hit_rate_gauge_is_of_the_last_batch_and_cached_tokens_are_not_used_ones() {
    let mut bench = Bench::new(plain());
    bench.submit(0.0, ask(0, 0, 160, 1));
    bench.submit(1000.0, ask(1, 0, 320, 50));
    bench.to(1165.0);
    let gauges = bench.engine.metrics(at(1165.0));
    assert!((gauges.cache_hit_rate - 0.5).abs() < 1e-12);
    assert!(gauges.num_used_tokens >= 320, "locked by the running request");
    bench.drain();
    let gauges = bench.engine.metrics(at(100_000.0));
    assert_eq!((gauges.cache_hit_rate, gauges.token_usage), (0.0, 0.0), "a full cache shows no usage");
    assert_eq!(bench.engine.loads(Time::NEVER).tree_tokens, 320 + 49);
}

#[test]
fn counters_add_up() {
    let mut bench = Bench::new(plain());
    bench.submit(0.0, ask(0, 0, 160, 10));
    bench.submit(1000.0, ask(1, 0, 320, 50));
    bench.drain();
    let expected = Counters {
        requests: 2,
        aborted: 0,
        prompt_tokens: 480,
        cached_tokens: 160,
        computed_tokens: 320,
        generated_tokens: 60,
        evicted_tokens: 0,
        retracted: 0,
    };
    assert_eq!(bench.engine.counters(Time::NEVER), expected);
    assert_eq!(bench.engine.gaps().count(), 60 - 2, "one gap before each token but the first");
    assert_eq!(bench.engine.take_gaps().count(), 58);
    assert_eq!(bench.engine.gaps().count(), 0);
}

#[test]
fn a_prefill_between_two_tokens_makes_one_long_gap_for_each_running_request() {
    let mut bench = Bench::new(plain());
    for n in 0..4 {
        bench.submit(0.0, ask(n, n, 10, 40));
    }
    bench.submit(200.0, ask(4, 4, 500, 1));
    bench.drain();
    let long: u64 =
        bench.engine.gaps().buckets().filter(|bucket| bucket.upper_ms > 100.0).map(|bucket| bucket.count).sum();
    assert_eq!(long, 4);
}

#[test]
fn requests_that_can_never_run_are_refused_with_the_servers_words() {
    let config = EngineConfig { kv_tokens: 1000, context_len: 2000, ..plain() };
    let mut bench = Bench::new(config);
    let mut refuse = |request| {
        let error: EngineError = bench.engine.submit(Time::ZERO, request).unwrap_err();
        format!("{} {error}", error.status().unwrap())
    };
    assert_eq!(
        refuse(ask(0, 0, 2000, 1)),
        "400 The input (2000 tokens) is longer than the model's context length (2000 tokens)."
    );
    assert_eq!(
        refuse(ask(0, 0, 995, 1)),
        "400 Input length (995 tokens) exceeds the maximum allowed length (994 tokens)."
    );
    let text = refuse(ask(0, 0, 900, 1200));
    assert!(text.starts_with("400 Requested token count exceeds"), "{text}");
    assert!(refuse(ask(0, 0, 0, 1)).contains("must be at least 1"));
    let mut odd = ask(0, 0, 100, 1);
    odd.blocks = vec![1].into();
    assert_eq!(refuse(odd), "400 request 0 has 1 blocks: 100 tokens are 7 blocks of 16");
    bench.submit(0.0, ask(0, 0, 994, 1));
    let twice = bench.engine.submit(Time::ZERO, ask(0, 0, 10, 1)).unwrap_err();
    assert!(twice.to_string().contains("already in flight"), "{twice}");
    let mut coarse = ask(1, 0, 10, 1);
    coarse.block_tokens = 512;
    let mixed = bench.engine.submit(Time::ZERO, coarse).unwrap_err();
    assert!(mixed.to_string().contains("earlier requests here have 16"), "{mixed}");
    bench.drain();
    assert_eq!(bench.finished(0), 994.0, "the longest prompt runs");
}

#[test]
fn an_answer_ends_where_the_pool_does() {
    let mut bench = Bench::new(EngineConfig { kv_tokens: 200, ..plain() });
    let mut request = ask(0, 0, 100, 5000);
    request.max_new_tokens = None;
    bench.submit(0.0, request);
    bench.drain();
    let Some(EngineEvent::Finished { output_tokens, .. }) = bench.events.last() else { panic!("{:?}", bench.events) };
    assert_eq!(*output_tokens, 98, "200 less one, the prompt, and one more");
}

#[test]
fn a_full_queue_answers_503_and_an_unlimited_one_never_says_no() {
    for (most, refused) in [(Some(2), 3), (None, 0)] {
        let mut bench = Bench::new(EngineConfig { max_queued_requests: most, max_running_requests: 1, ..plain() });
        for n in 0..6 {
            bench.submit(n as f64, ask(n, n, 10, 20));
        }
        bench.drain();
        let full = |e: &&EngineEvent| matches!(e, EngineEvent::Aborted { error: EngineError::QueueFull, .. });
        assert_eq!(bench.events.iter().filter(full).count(), refused);
    }
    assert_eq!(EngineError::QueueFull.status(), Some(503));
}

#[test]
fn cancelling_frees_a_waiting_request_at_once_and_a_running_one_a_token_later() {
    let mut bench = Bench::new(EngineConfig { max_running_requests: 1, ..plain() });
    bench.submit(0.0, ask(0, 0, 160, 100));
    bench.submit(1.0, ask(1, 1, 160, 100));
    bench.to(300.0);
    assert!(bench.cancel(300.0, 1) && bench.engine.place(1).is_none());
    assert!(bench.cancel(304.0, 0));
    assert!(!bench.cancel(305.0, 1), "gone already");
    bench.drain();
    let aborted: Vec<(u64, f64)> = bench
        .events
        .iter()
        .filter(|e| matches!(e, EngineEvent::Aborted { error: EngineError::Cancelled, .. }))
        .map(|e| (e.id().0, e.at().ms()))
        .collect();
    assert_eq!(aborted, [(1, 300.0), (0, 310.0)]);
    let loads = bench.engine.loads(Time::NEVER);
    assert_eq!(loads.tree_tokens, 160 + 15, "its KV stays: the prompt and 16 tokens less the last");
    assert_eq!((loads.used_tokens, bench.engine.in_flight()), (0, 0));
}

#[test]
fn cancelling_during_prefill_lets_the_prompt_be_computed_and_cached() {
    let mut bench = Bench::new(EngineConfig { chunked_prefill_size: 100, ..plain() });
    bench.submit(0.0, ask(0, 0, 450, 50));
    bench.to(120.0);
    assert!(bench.cancel(150.0, 0));
    bench.submit(1000.0, ask(1, 0, 450, 1));
    bench.drain();
    assert!(bench.finished(0).is_nan());
    assert_eq!(bench.cached(1), 449);
}

#[test]
fn flush_succeeds_only_on_a_fully_idle_engine() {
    let mut bench = Bench::new(plain());
    bench.submit(0.0, ask(0, 0, 160, 3));
    bench.to(5.0);
    assert!(!bench.engine.flush(at(5.0)), "prefilling");
    bench.to(170.0);
    assert!(!bench.engine.flush(at(170.0)), "decoding");
    bench.to(185.0);
    assert_eq!(bench.finished(0), 180.0);
    assert!(!bench.engine.flush(at(185.0)), "the extra decode step still runs");
    bench.to(190.0);
    assert!(bench.engine.flush(at(190.0)));
    assert_eq!(bench.engine.loads(at(190.0)), Loads { free_tokens: 100_000, new_token_ratio: 0.7, ..Loads::default() });
    bench.submit(200.0, ask(1, 0, 160, 1));
    bench.drain();
    assert_eq!(bench.cached(1), 0);
}

#[test]
fn a_crash_loses_everything_in_flight_and_the_cache_and_a_restart_is_slow() {
    let mut bench = Bench::new(EngineConfig { max_running_requests: 1, ..plain() });
    bench.submit(0.0, ask(0, 0, 160, 1));
    bench.submit(400.0, ask(1, 1, 160, 100));
    bench.submit(401.0, ask(2, 2, 160, 100));
    bench.engine.crash(at(700.0), &mut bench.events);
    let lost: Vec<u64> = bench
        .events
        .iter()
        .filter(|e| matches!(e, EngineEvent::Aborted { error: EngineError::Crashed, .. }))
        .map(|e| e.id().0)
        .collect();
    assert_eq!(lost, [1, 2]);
    assert_eq!((bench.engine.health(at(700.0)), bench.engine.next_event()), (Health::Down, None));
    assert_eq!(bench.engine.submit(at(701.0), ask(3, 0, 160, 1)), Err(EngineError::Down));
    let up = bench.engine.restart(at(1000.0));
    assert!((30_000.0..120_000.0).contains(&up.ms()), "{up:?}");
    assert_eq!(bench.engine.restart(at(1001.0)), up, "starting already");
    bench.submit(1002.0, ask(4, 0, 160, 1));
    assert_eq!(bench.engine.health(at(1002.0)), Health::Starting(up));
    bench.drain();
    assert_eq!((bench.prefill(4), bench.cached(4)), (up.ms(), 0), "accepted, but served once up, from an empty cache");
    assert_eq!(bench.engine.health(up), Health::Up);
    assert!(bench.finished(4) > up.ms());
}

#[test]
fn without_a_radix_cache_nothing_is_ever_cached() {
    let mut bench = Bench::new(EngineConfig { radix_cache: false, ..plain() });
    for n in 0..3 {
        bench.submit(1000.0 * n as f64, ask(n, 0, 160, 5));
    }
    bench.drain();
    assert_eq!([0, 1, 2].map(|n| bench.cached(n)), [0; 3]);
    assert_eq!(bench.engine.loads(Time::NEVER).free_tokens, 100_000);
}

#[test]
fn every_token_is_reported_when_streaming() {
    let mut bench = Bench::new(EngineConfig { stream_tokens: true, ..plain() });
    bench.submit(0.0, ask(7, 0, 10, 5));
    bench.drain();
    let mut story = String::new();
    for event in &bench.events {
        assert_eq!(event.id(), RequestId(7));
        let what = match event {
            EngineEvent::PrefillStarted { .. } => "prefill".to_owned(),
            EngineEvent::FirstToken { .. } => "first".to_owned(),
            EngineEvent::Token { generated, .. } => format!("token {generated}"),
            EngineEvent::Finished { output_tokens, .. } => format!("finished {output_tokens}"),
            EngineEvent::Aborted { .. } => "aborted".to_owned(),
        };
        story += &format!("{what} at {}, ", event.at().ms());
    }
    assert_eq!(
        story,
        "prefill at 0, first at 10, token 2 at 20, token 3 at 30, token 4 at 40, token 5 at 50, finished 5 at 50, "
    );
}

#[test]
fn a_prefill_step_takes_no_less_than_its_floor() {
    let mut config = plain();
    config.prefill.floor_ms = 65.0;
    let mut bench = Bench::new(config);
    bench.submit(0.0, ask(0, 0, 18, 1));
    bench.submit(1_000.0, ask(1, 1, 100, 1));
    bench.drain();
    assert_eq!([bench.first(0), bench.first(1) - 1_000.0], [65.0, 100.0]);
}

#[test]
fn a_cold_engine_compiles_at_its_first_step_and_less_and_less_until_it_is_warm() {
    let cold = EngineConfig {
        cold_at_start: true,
        first_step_extra_ms: 700.0,
        warm_up_s: 10.0,
        warm_up_extra_ms: 100.0,
        ..plain()
    };
    let ttft = |config: &EngineConfig| {
        let mut bench = Bench::new(config.clone());
        for (n, ms) in [(0, 1_000.0), (1, 6_000.0), (2, 11_000.0)] {
            bench.submit(ms, ask(n, n, 20, 1));
        }
        bench.drain();
        [bench.first(0) - 1_000.0, bench.first(1) - 6_000.0, bench.first(2) - 11_000.0]
    };
    // The time runs from the first step: 100 ms at once, half of it after 5 s, none after 10 s.
    assert_eq!(ttft(&cold), [820.0, 70.0, 20.0]);
    assert_eq!(ttft(&EngineConfig { cold_at_start: false, ..cold }), [20.0; 3], "a warm engine compiles nothing");
}

#[test]
fn a_cached_prefix_is_reused_up_to_a_resume_point() {
    let cached = |resume_tokens: u32| {
        let mut bench = Bench::new(EngineConfig { resume_tokens, ..plain() });
        bench.submit(0.0, ask(0, 0, 1_000, 2));
        bench.submit(5_000.0, ask(1, 0, 1_000, 2));
        bench.submit(10_000.0, ask(2, 0, 1_600, 2));
        bench.drain();
        assert_eq!(bench.first(1) - 5_000.0, f64::from(1_000 - bench.cached(1)), "what is not reused is computed");
        [bench.cached(1), bench.cached(2)]
    };
    assert_eq!(cached(1), [999, 992]);
    assert_eq!(cached(256), [768, 768]);
    assert_eq!(cached(4_096), [0, 0]);
}

#[test]
fn a_refused_request_costs_the_engine_nothing() {
    let mut bench = Bench::new(plain());
    let refused = EngineRequest { refused: true, ..ask(0, 0, 900, 5) };
    let error = bench.engine.submit(at(0.0), refused).unwrap_err();
    assert_eq!((error.status(), bench.engine.in_flight()), (Some(400), 0));
    bench.submit(0.0, ask(1, 0, 900, 5));
    bench.drain();
    assert_eq!((bench.first(1), bench.cached(1)), (900.0, 0));
}
