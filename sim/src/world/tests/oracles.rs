//! Oracles and explored logs.

use super::*;

#[test]
fn an_oracle_foresees_the_first_token_when_no_request_follows() {
    for topology in [Topology::Proxy { site: 0 }, Topology::Edge] {
        let mut config = world(&TWO, topology);
        config.network.jitter = 0.05;
        config.replicas[0].engine.step_noise = 0.02;
        // Three requests at once, then one: nothing comes after it.
        let mut trace: Vec<_> = (0..3).map(|i| request(1_000.0, i, 2_000, 200, FRANKFURT)).collect();
        trace.push(request(1_200.0, 9, 1_500, 5, FRANKFURT));
        let out = go(&config, "oracle-ttft", &trace);
        assert_eq!(finished(&out), 4);
        let last = &out.records[3];
        let actual = (last.router_first.get().unwrap() - last.dispatched.get().unwrap()).ms();
        let predicted = f64::from(last.predicted_ttft_ms.unwrap());
        assert!((predicted - actual).abs() < 0.01, "{topology:?}: {predicted} {actual}");
    }
}

#[test]
fn an_oracle_that_counts_harm_leaves_others_alone_where_its_own_time_does_not_suffer() {
    let mut config = world(&TWO, Topology::Proxy { site: 0 });
    config.measured = vec![MeasuredRtt { from: 0, to: 1, ms: 60.0 }];
    // Ten decodes run in Frankfurt; a long prompt would stall them all.
    let mut trace: Vec<_> = (0..10).map(|i| request(100.0 + i as f64, i, 100, 400, FRANKFURT)).collect();
    trace.push(request(1_500.0, 99, 6_000, 5, FRANKFURT));
    let target = |policy: &str| {
        let out = go(&config, policy, &trace);
        (out.records[10].replica.get(), out.records[..10].iter().map(|r| r.e2e().unwrap().ms()).sum::<f64>())
    };
    let (selfish, kind) = (target("oracle-ttft"), target("oracle-sum"));
    assert!(kind.1 < selfish.1, "{kind:?} {selfish:?}");
}

/// The loss that roll-outs sum: ln TTFT + ln E2E, ms.
fn loss(out: &super::Outcome) -> f64 {
    out.records.iter().map(|r| r.ttft().unwrap().ms().ln() + r.e2e().unwrap().ms().ln()).sum()
}

#[test]
fn a_roll_out_leaves_room_for_the_request_that_comes_next() {
    let mut config = world(&TWO, Topology::Proxy { site: 0 });
    config.measured = vec![MeasuredRtt { from: 0, to: 1, ms: 40.0 }];
    config.replicas.iter_mut().for_each(|r| r.engine.max_running_requests = 1);
    // The near replica has a long prefix; a short prompt with a long answer comes just before the next request that uses it.
    let trace = [
        request(100.0, 5, 8_000, 5, FRANKFURT),
        request(5_000.0, 7, 100, 400, FRANKFURT),
        request(5_020.0, 5, 8_000, 5, FRANKFURT),
    ];
    let run = |policy: &str| {
        let out = go(&config, policy, &trace);
        (out.records.iter().map(|r| r.replica.get().unwrap()).collect::<Vec<_>>(), loss(&out))
    };
    let (greedy, rolled) = (run("oracle-ttft"), run("oracle-rollout"));
    assert_eq!(greedy.0[..2], [0, 0], "both see only that the near replica is idle");
    assert!(rolled.0[0] == rolled.0[2] && rolled.0[1] != rolled.0[0], "{rolled:?}");
    assert!(rolled.1 < greedy.1 - 2.0, "{rolled:?} {greedy:?}");
}

#[test]
fn a_copy_goes_on_as_the_world_does() {
    let mut config = world(&TWO, Topology::Proxy { site: 0 });
    (config.network.jitter, config.network.sigma) = (0.05, 0.1);
    config.replicas.iter_mut().for_each(|r| r.engine.step_noise = 0.02);
    let out = go(&config, "oracle-rollout", &traffic(3, 40, 120.0));
    assert_eq!(finished(&out), 40);
    // After the last arrival no choice is left, so the copy in which the last request was sent is the world itself.
    let last = &out.records[39];
    let actual = (last.router_first.get().unwrap() - last.arrived.get().unwrap()).ms();
    let predicted = f64::from(last.predicted_ttft_ms.unwrap());
    assert!((predicted - actual).abs() < 0.01, "{predicted} {actual}");
}

#[test]
fn rolled_out_runs_repeat_and_beat_the_policy_that_they_improve() {
    for topology in [Topology::Proxy { site: 0 }, Topology::Edge] {
        let mut config = world(&TWO, topology);
        config.network.jitter = 0.05;
        let trace = traffic(4, 60, 60.0);
        let (one, two) = (go(&config, "oracle-rollout", &trace), go(&config, "oracle-rollout", &trace));
        assert_eq!((one.event_hash, one.events, finished(&one)), (two.event_hash, two.events, 60), "{topology:?}");
        let (rolled, plain) = (loss(&one), loss(&go(&config, "predictive", &trace)));
        assert!(rolled < plain, "{topology:?}: {rolled} {plain}");
    }
}

#[test]
fn worlds_too_large_to_be_copied_are_refused_with_the_limit() {
    let config = world(&TWO, Topology::Proxy { site: 0 });
    let policy = PolicyConfig::parse("oracle-rollout", serde_json::Map::new()).unwrap();
    let error =
        |trace: &[TraceRequest]| run(&config, &|| policy.build(), trace.iter().cloned()).unwrap_err().to_string();
    let many: Vec<_> = (0..5_001).map(|i| request(i as f64, i, 20, 1, FRANKFURT)).collect();
    let message = error(&many);
    assert!(
        message.starts_with("the run has 5001 requests; oracle-rollout copies") && message.contains("at most 5000"),
        "{message}"
    );
    let turn = TraceRequest { delay: Some(Span::from_ms(5.0)), ..request(9.0, 1, 20, 1, FRANKFURT) };
    let message = error(&[request(5.0, 1, 20, 1, FRANKFURT), turn]);
    assert!(message.contains("1 turns that wait for the turn before them"), "{message}");
}

#[test]
fn an_explored_log_tells_what_another_policy_would_have_reached() {
    use gorgo_core::off_policy::{Log, Outcome, estimate};
    let mut config = world(&TWO, Topology::Proxy { site: 0 });
    config.replicas.iter_mut().for_each(|r| r.engine.step_noise = 0.01);
    // Light load: what one decision leaves behind does not outlive it.
    let trace: Vec<_> =
        (0..3_000).map(|i| request(i as f64 * 900.0, i, 200 + (i % 7) as u32 * 100, 8, FRANKFURT)).collect();
    let mean = |out: &super::Outcome| out.records.iter().map(|r| r.router_ttft().unwrap().ms()).sum::<f64>() / 3_000.0;
    config.decisions_of = usize::MAX;
    config.router.explore = 0.2;
    let logged = go(&config, "round-robin", &trace);
    config.router.explore = 0.0;
    for name in ["nearest", "random"] {
        let truth = mean(&go(&config, name, &trace));
        let mut policy = PolicyConfig::parse(name, serde_json::Map::new()).unwrap().build();
        let mut rng = rng::stream(9, "policy", 0);
        let mut log = Log::new(&mut *policy, rng::stream(9, "policy", 1));
        let mut other = PolicyConfig::parse(name, serde_json::Map::new()).unwrap().build();
        for super::Decided { record: index, decision, .. } in &logged.decisions {
            let candidates: Vec<_> = decision.candidates.iter().map(|one| one.candidate.clone()).collect();
            let mut terms = vec![Default::default(); candidates.len()];
            let same = other.choose(&decision.info, &candidates, &mut terms, &mut rng).chosen == decision.chosen;
            log.decided(index.to_string(), decision.odds, same);
            let ttft_ms = logged.records[*index].router_ttft().map(Span::ms);
            log.outcome(&Outcome { id: index.to_string(), ttft_ms, e2e_ms: None, dispatch_ttft_ms: None });
        }
        let found = estimate(&log.ttft, &mut rng::stream(1, "bootstrap", 0)).unwrap();
        let (low, high) = found.interval_ms;
        assert!(low <= truth && truth <= high, "{name}: {truth} {found:?}");
        assert!(high - low < 0.2 * truth && found.effective > 500.0, "{name}: {found:?}");
    }
    let means = [logged.clone(), go(&config, "nearest", &trace)].map(|out| mean(&out));
    assert!(means[0] > 1.3 * means[1], "the log itself is far from what it tells: {means:?}");
}
