//! What a request costs: its legs, round trips by length, and connections.

use super::*;

#[test]
fn a_lone_request_costs_the_sum_of_its_legs() {
    let config = world(&TWO, Topology::Proxy { site: 0 });
    let out = go(&config, "nearest", &[request(100.0, 1, 512, 3, FRANKFURT)]);
    let r = &out.records[0];
    // Access 20 ms round trip, router beside the replica (0 ms), 0.2 ms in the router.
    assert_eq!((r.status, r.replica, r.attempts, r.hops), (Status::Finished, 0.into(), 1, 0));
    let at = |time: MaybeTime| time.get().unwrap();
    assert_eq!(at(r.arrived) - r.sent, Span::from_ms(10.2));
    assert_eq!((r.dispatched, r.accepted), (r.arrived, r.arrived));
    let stages = [r.accepted, r.prefill, r.engine_first, r.engine_done].map(at);
    assert!(stages.is_sorted_by(|a, b| a < b), "{stages:?}");
    assert_eq!((r.router_first, at(r.first_token) - at(r.router_first)), (r.engine_first, Span::from_ms(10.0)));
    assert_eq!(at(r.done) - at(r.engine_done), Span::from_ms(10.0));
    let engine = &config.replicas[0].engine;
    let prefill = engine.prefill.ms(512, 512.0 * 256.0);
    let waits =
        engine.tokenizer_fixed_ms + engine.tokenizer_ms_per_token * 512.0 + engine.receive_ms + engine.output_ms;
    assert!((r.ttft().unwrap().ms() - (20.2 + waits + prefill)).abs() < 0.01, "{}", r.ttft().unwrap().ms());
}

#[test]
fn a_far_replica_costs_a_round_trip_more_and_another_to_connect() {
    let mut config = world(&TWO, Topology::Proxy { site: 0 });
    config.replicas[0].site = 1;
    config.replicas.truncate(1);
    config.scrape_ms = 60_000.0;
    // The second finds the connection of the first, the third finds it closed.
    let trace: Vec<_> = [0.0, 2_000.0, 20_000.0]
        .into_iter()
        .enumerate()
        .map(|(i, at)| request(at, i as u64, 512, 3, FRANKFURT))
        .collect();
    let seldom = go(&config, "nearest", &trace);
    config.scrape_ms = 1_000.0;
    let often = go(&config, "nearest", &trace);
    config.replicas[0].site = 0;
    let near = go(&config, "nearest", &trace);
    let extra = |far: &Outcome| -> Vec<f64> {
        let ttft = |out: &Outcome, i: usize| out.records[i].ttft().unwrap().ms();
        (0..3).map(|i| (ttft(far, i) - ttft(&near, i)).round()).collect()
    };
    assert_eq!(extra(&seldom), [300.0, 150.0, 300.0]);
    assert_eq!(extra(&often), [300.0, 150.0, 150.0], "scrapes keep a connection open");
}

#[test]
fn a_long_prompt_pays_more_round_trips_and_a_warm_or_bbr_connection_fewer() {
    // 26,000 tokens are 117 kB: 4 round trips from a user and over an idle connection of 150 ms.
    let extra = |congestion, second_at_ms: f64| {
        let ttft = |site: usize| {
            let mut config = world(&TWO, Topology::Proxy { site: 0 });
            config.replicas[0].site = site;
            config.replicas.truncate(1);
            config.network.congestion = congestion;
            config.network.keep_alive_ms = 60_000.0;
            let trace = [request(0.0, 0, 26_000, 1, FRANKFURT), request(second_at_ms, 1, 26_000, 1, FRANKFURT)];
            go(&config, "nearest", &trace).records.iter().map(|r| r.ttft().unwrap().ms()).collect::<Vec<_>>()
        };
        let (far, near) = (ttft(1), ttft(0));
        [far[0] - near[0], far[1] - near[1]].map(|ms| (ms / 15.0).round() / 10.0)
    };
    // The first finds the connection of a scrape or opens one; both send from the initial window.
    let [first, idle] = extra(Congestion::Cubic, 20_000.0);
    assert!((first == 4.0 || first == 5.0) && idle == 4.0, "{first} {idle}");
    assert_eq!(extra(Congestion::CubicKept, 20_000.0)[1], 1.0);
    assert_eq!(extra(Congestion::Bbr, 20_000.0)[1], 1.5);
    let mut config = world(&TWO, Topology::Proxy { site: 0 });
    let alone = |config: &WorldConfig| {
        let out = go(config, "nearest", &[request(0.0, 0, 26_000, 1, FRANKFURT)]);
        (out.records[0].arrived.get().unwrap() - out.records[0].sent).ms()
    };
    assert_eq!(alone(&config), 10.2 + 3.0 * 20.0, "the user's own upload");
    config.network.user_opening_rounds = 2.0;
    assert_eq!(alone(&config), 10.2 + 5.0 * 20.0);
    config.network.bytes_per_token = 0.0;
    assert_eq!(alone(&config), 10.2 + 2.0 * 20.0);
}

#[test]
fn a_routers_network_term_is_what_the_request_pays() {
    let mut config = world(&TWO, Topology::Proxy { site: 0 });
    config.replicas.remove(0);
    config.scrape_ms = 1e6; // a scrape under way holds a connection, of which the router's belief knows nothing
    let trace: Vec<_> = (0..30).map(|i| request(700.0 * i as f64, i, 500 + 900 * i as u32, 1, FRANKFURT)).collect();
    let weights = serde_json::json!({"rtt_weight": 1.0, "ms_per_token": 0.0, "running_cost_factor": 0.0});
    let policy = PolicyConfig::parse("gorgo", weights.as_object().unwrap().clone()).unwrap();
    let out = run(&config, &|| policy.build(), trace.into_iter()).unwrap();
    for r in &out.records[1..] {
        let paid = (r.accepted.get().unwrap() - r.dispatched.get().unwrap()).ms() + 75.0;
        let predicted = f64::from(r.predicted_ttft_ms.unwrap());
        assert!(
            (paid - predicted).abs() < 0.01,
            "request of {} tokens: paid {paid}, predicted {predicted}",
            r.prompt_tokens
        );
    }
}

#[test]
fn users_enter_at_the_nearest_edge_and_a_forward_adds_one_hop() {
    let mut config = world(&TWO, Topology::Edge);
    config.router.gates.max_running = Some(1);
    // Three at once in Frankfurt: one runs, one goes to San Francisco, one waits.
    let trace: Vec<_> = (0..3).map(|i| request(0.0, i, 2_000, 200, FRANKFURT)).collect();
    let out = go(&config, "least-request", &trace);
    assert_eq!(finished(&out), 3);
    assert!(out.records.iter().all(|r| r.router == 0));
    let hops: Vec<u8> = out.records.iter().map(|r| r.hops).collect();
    assert_eq!(hops.iter().filter(|&&h| h == 1).count(), 1, "{hops:?}");
    let forwarded = out.records.iter().find(|r| r.hops == 1).unwrap();
    let local = out.records.iter().find(|r| r.hops == 0).unwrap();
    assert_eq!((forwarded.replica, local.replica), (1.into(), 0.into()));
    assert!(
        (forwarded.ttft().unwrap().ms() - local.ttft().unwrap().ms() - 300.2).abs() < 1.0,
        "one round trip to connect, one for the request"
    );
}
