use super::*;
use crate::engine::EngineConfig;
use crate::network::NetworkConfig;
use gorgo_core::MaybeTime;
use gorgo_core::network::Congestion;
use gorgo_core::policy::PolicyConfig;
use gorgo_core::router::EndReason;
use gorgo_core::router::RouterConfig;
use rand::RngExt;
use std::sync::Arc;

mod clients;
mod delays;
mod digests;
mod faults;
mod links;
mod oracles;
mod proxies;
mod sessions;
mod tuned;

const FRANKFURT: Place = Place { lat: 50.11, lon: 8.68 };
const SAN_FRANCISCO: Place = Place { lat: 37.77, lon: -122.42 };

fn request(at_ms: f64, id: u64, input: u32, output: u32, place: Place) -> TraceRequest {
    let blocks: Arc<[u64]> = (0..input.div_ceil(16)).map(|b| (id << 20) | u64::from(b)).collect();
    TraceRequest {
        place: Some(place),
        country: Some(*b"DE"),
        max_tokens: Some(output),
        ..TraceRequest::lone(id, Time::from_ms(at_ms), input, output, 16, blocks)
    }
}

/// Random requests from two places; a third of the prompts continue an earlier one.
fn traffic(seed: u64, n: u64, gap_ms: f64) -> Vec<TraceRequest> {
    let mut rng = rng::stream(seed, "traffic", 0);
    let mut at = 0.0;
    (0..n)
        .map(|i| {
            at += gap_ms * 2.0 * rng.random::<f64>();
            let place = if rng.random_range(0..3u32) == 0 { SAN_FRANCISCO } else { FRANKFURT };
            let id = if rng.random_range(0..3u32) == 0 { i / 4 } else { i };
            request(at, id, rng.random_range(20..3_000), rng.random_range(1..120), place)
        })
        .collect()
}

fn world(replicas: &[Place], topology: Topology) -> WorldConfig {
    let site = |(i, &place): (usize, &Place)| Site { name: format!("s{i}"), place };
    let replica = |i: usize| ReplicaConfig {
        name: format!("r{i}"),
        site: i,
        engine: EngineConfig { step_noise: 0.0, ..EngineConfig::default() },
        ms_per_token: None,
        keep_alive_ms: None,
    };
    WorldConfig {
        seed: 1,
        network: NetworkConfig { sigma: 0.0, jitter: 0.0, ..NetworkConfig::default() },
        sites: replicas.iter().enumerate().map(site).collect(),
        measured: vec![MeasuredRtt { from: 0, to: 1, ms: 150.0 }],
        links: Vec::new(),
        countries: vec![Country { code: *b"DE", access_ms: 20.0 }],
        replicas: (0..replicas.len()).map(replica).collect(),
        topology,
        proxies: ProxiesConfig::default(),
        router: RouterConfig::default(),
        block_tokens: 16,
        routers_count: false,
        scrape_ms: 1_000.0,
        probe_ms: 1_000.0,
        peer_ms: 200.0,
        digest_ms: 0.0,
        sample_ms: 500.0,
        router_ms: 0.2,
        client: Client::Open,
        patience_ms: None,
        deadline_ms: None,
        faults: Vec::new(),
        drain_limit_s: 3_600.0,
        until: None,
        decisions_of: 0,
        tune: None,
        residency: None,
    }
}

const TWO: [Place; 2] = [FRANKFURT, SAN_FRANCISCO];

fn go(config: &WorldConfig, policy: &str, trace: &[TraceRequest]) -> Outcome {
    let policy: PolicyConfig = PolicyConfig::parse(policy, serde_json::Map::new()).unwrap();
    run(config, &|| policy.build(), trace.iter().cloned()).unwrap()
}

fn finished(outcome: &Outcome) -> usize {
    outcome.records.iter().filter(|r| r.status == Status::Finished).count()
}

#[test]
fn equal_seeds_give_equal_runs_and_others_differ() {
    let mut config = world(&TWO, Topology::Edge);
    config.network = NetworkConfig::default();
    config.replicas[0].engine.step_noise = 0.01;
    let trace = traffic(3, 400, 60.0);
    let (a, b) = (go(&config, "gorgo", &trace), go(&config, "gorgo", &trace));
    assert_eq!(a, b);
    config.seed = 2;
    assert_ne!(go(&config, "gorgo", &trace).event_hash, a.event_hash);
}

#[test]
fn every_policy_finishes_everything_in_both_topologies() {
    let trace = traffic(5, 300, 40.0);
    for topology in [Topology::Edge, Topology::Proxy { site: 1 }] {
        for name in PolicyConfig::names() {
            let mut config = world(&TWO, topology);
            config.router.gates.max_running = Some(10);
            let out = go(&config, name, &trace);
            assert_eq!(finished(&out), 300, "{name} {topology:?}");
            for r in &out.records {
                let reached = [r.arrived, r.dispatched, r.accepted, r.prefill, r.engine_first, r.router_first];
                let order = reached.map(|time| time.get().unwrap());
                assert!(r.sent <= order[0] && order.is_sorted(), "{name}: {r:?}");
                assert!(r.first_token.get().unwrap() <= r.done.get().unwrap(), "{name}: {r:?}");
                assert!(r.cached_tokens < r.prompt_tokens);
            }
        }
    }
}

#[test]
fn jitter_never_lets_the_last_token_overtake_the_first() {
    for topology in [Topology::Edge, Topology::Proxy { site: 1 }] {
        let mut config = world(&TWO, topology);
        config.network.jitter = 0.2;
        config.router.gates.max_running = Some(2);
        let trace: Vec<_> = (0..300).map(|i| request(i as f64 * 40.0, i, 100, 1 + (i % 3) as u32, FRANKFURT)).collect();
        let out = go(&config, "random", &trace);
        assert_eq!(finished(&out), 300);
        for r in &out.records {
            assert!(r.router_first.is_some() && r.first_token.get().unwrap() <= r.done.get().unwrap(), "{r:?}");
        }
    }
}

#[test]
fn contradictions_are_told_in_one_sentence() {
    let trace = traffic(1, 3, 1.0);
    let fail = |change: &dyn Fn(&mut WorldConfig)| {
        let mut config = world(&TWO, Topology::Edge);
        change(&mut config);
        let policy = PolicyConfig::default();
        run(&config, &|| policy.build(), trace.iter().cloned()).unwrap_err().to_string()
    };
    assert_eq!(fail(&|c| c.replicas.clear()), "the fleet has 0 replicas; it needs 1 to 256");
    assert_eq!(fail(&|c| c.replicas[1].site = 9), "replica r1 refers to site 9, but there are 2 sites");
    assert_eq!(fail(&|c| c.scrape_ms = 0.0), "scrape_ms is 0; it must lie between 1 and 1000000000");
    type Pick = fn(&mut WorldConfig) -> &mut f64;
    let settings: [(&str, Pick); 9] = [
        ("sample_ms", |c| &mut c.sample_ms),
        ("digest_ms", |c| &mut c.digest_ms),
        ("probe_ms", |c| &mut c.probe_ms),
        ("peer_ms", |c| &mut c.peer_ms),
        ("patience_ms", |c| c.patience_ms.get_or_insert(0.0)),
        ("deadline_ms", |c| c.deadline_ms.get_or_insert(0.0)),
        ("network.keep_alive_ms", |c| &mut c.network.keep_alive_ms),
        ("router.queue_timeout_ms", |c| &mut c.router.queue_timeout_ms),
        ("drain_limit_s", |c| &mut c.drain_limit_s),
    ];
    for (key, pick) in settings {
        let zero = !(key.starts_with("network.") || key.starts_with("router.") || key == "drain_limit_s");
        let near_0 = if zero { 1e-9 } else { -1e-9 };
        for value in [near_0, -1.0, f64::NAN, f64::INFINITY, 1e300] {
            let message = fail(&|c| *pick(c) = value);
            assert!(message.starts_with(&format!("{key} is {value}; it must lie between")), "{message}");
        }
    }
    assert!(fail(&|c| c.replicas[0].engine.kv_tokens = 0).starts_with("replica r0: engine setting `kv_tokens`"));
    let config = world(&TWO, Topology::Edge);
    let back = [request(5.0, 1, 10, 1, FRANKFURT), request(4.0, 2, 10, 1, FRANKFURT)];
    let policy = PolicyConfig::default();
    let error = run(&config, &|| policy.build(), back.into_iter()).unwrap_err();
    assert!(error.to_string().contains("sort the trace by time"), "{error}");
}

#[test]
fn queue_samples_cover_the_run() {
    let config = world(&TWO, Topology::Edge);
    let out = go(&config, "gorgo", &traffic(13, 200, 20.0));
    assert!(out.samples.len() > 8 && out.samples.iter().any(|s| s.running > 0));
    assert!(out.samples.is_sorted_by_key(|s| s.at));
    assert!(out.itl.count() > 0);
}

#[test]
fn idle_months_cost_nothing_and_change_nothing() {
    let config = world(&TWO, Topology::Edge);
    let trace = |pause_s: f64| -> Vec<TraceRequest> {
        let late = |i: u64| request(100.0 + i as f64 * 300.0, i, 900, 20, SAN_FRANCISCO);
        (0..4)
            .map(late)
            .chain((4..8).map(|i| TraceRequest { at: late(i).at + Span::from_secs(pause_s), ..late(i) }))
            .collect()
    };
    let (short, long) = (go(&config, "gorgo", &trace(40.0)), go(&config, "gorgo", &trace(100.0 * 86_400.0)));
    assert!(long.events < short.events * 2, "{} events in 40 s, {} in 100 days", short.events, long.events);
    assert!(long.samples.len() < short.samples.len() * 2);
    let ttft = |outcome: &Outcome| outcome.records.iter().map(|r| r.ttft().unwrap()).collect::<Vec<_>>();
    assert_eq!(ttft(&short), ttft(&long));
}

#[test]
fn policies_see_prompts_as_the_router_counts_them() {
    let mut config = world(&TWO[..1], Topology::Proxy { site: 0 });
    let first = request(0.0, 7, 1_600, 3, FRANKFURT);
    let twin = request(5_000.0, 7, 1_600, 3, FRANKFURT);
    let predicted = |config: &WorldConfig, trace: &[TraceRequest]| {
        let record = go(config, "gorgo", trace).records[1].clone();
        (record.predicted_cached_tokens, record.cached_tokens)
    };
    assert_eq!(predicted(&config, &[first.clone(), twin.clone()]), (1_600, 1_599));
    config.routers_count = true;
    let counted = |r: &TraceRequest| TraceRequest { router_tokens: Some(880), ..r.clone() };
    assert_eq!(predicted(&config, &[counted(&first), counted(&twin)]), (880, 1_599), "0.55 of the engine's tokens");
}

#[test]
fn sglang_and_vllm_replicas_serve_one_fleet_and_equal_seeds_give_equal_runs() {
    let mut config = world(&TWO, Topology::Edge);
    let vllm = EngineConfig::preset("vllm-llama-3.1-8b-rtxpro6000").unwrap();
    config.replicas[1].engine = EngineConfig { kv_tokens: 9_600, context_len: 9_000, ..vllm };
    let trace = traffic(3, 400, 60.0);
    let out = go(&config, "gorgo", &trace);
    assert_eq!(finished(&out), 400);
    let at = |replica: u16| out.records.iter().filter(|r| r.replica == replica.into()).count();
    assert!(at(0) > 20 && at(1) > 20, "{} and {}", at(0), at(1));
    assert!(out.records.iter().any(|r| r.replica == 1.into() && r.cached_tokens > 0), "prefixes are reused there");
    assert_eq!(go(&config, "gorgo", &trace), out);
}
