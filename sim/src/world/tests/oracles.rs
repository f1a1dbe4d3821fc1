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

#[test]
fn an_explored_log_tells_what_another_policy_would_have_reached() {
    use gorgo_core::off_policy::{Log, Outcome, estimate};
    let mut config = world(&TWO, Topology::Proxy { site: 0 });
    config.replicas.iter_mut().for_each(|r| r.engine.step_noise = 0.01);
    // Light load: what one decision leaves behind does not outlive it.
    let trace: Vec<_> =
        (0..3_000).map(|i| request(i as f64 * 900.0, i, 200 + (i % 7) as u32 * 100, 8, FRANKFURT)).collect();
    let mean = |out: &super::Outcome| out.records.iter().map(|r| r.router_ttft().unwrap().ms()).sum::<f64>() / 3_000.0;
    config.router.record_decisions = true;
    config.router.explore = 0.2;
    let logged = go(&config, "round-robin", &trace);
    config.router.explore = 0.0;
    for name in ["nearest", "random"] {
        let truth = mean(&go(&config, name, &trace));
        let mut policy = PolicyConfig::parse(name, serde_json::Map::new()).unwrap().build();
        let mut rng = rng::stream(9, "policy", 0);
        let mut log = Log::new(&mut *policy, rng::stream(9, "policy", 1));
        let mut other = PolicyConfig::parse(name, serde_json::Map::new()).unwrap().build();
        for (index, record) in &logged.decisions {
            let candidates: Vec<_> = record.candidates.iter().map(|one| one.candidate.clone()).collect();
            let mut terms = vec![Default::default(); candidates.len()];
            let same = other.choose(&record.info, &candidates, &mut terms, &mut rng).chosen == record.chosen;
            log.decided(index.to_string(), record.odds, same);
            let ttft_ms = logged.records[*index].router_ttft().map(Span::ms);
            log.outcome(&Outcome { id: index.to_string(), ttft_ms, e2e_ms: None });
        }
        let found = estimate(&log.ttft, &mut rng::stream(1, "bootstrap", 0)).unwrap();
        let (low, high) = found.interval_ms;
        assert!(low <= truth && truth <= high, "{name}: {truth} {found:?}");
        assert!(high - low < 0.2 * truth && found.effective > 500.0, "{name}: {found:?}");
    }
    let means = [logged.clone(), go(&config, "nearest", &trace)].map(|out| mean(&out));
    assert!(means[0] > 1.3 * means[1], "the log itself is far from what it tells: {means:?}");
}
