//! Edges on turmoil's simulated network: cut off from each other, slowed down, dying while they serve each other.

use crate::fixture::replica;
use crate::network::{dial, listen};
use bytes::Bytes;
use gorgo_live::AppState;
use gorgo_live::config::{Config, PeerConfig, Role};
use gorgo_live::testkit::{Connector, pooled_client};
use gorgo_live::testkit::{Engine, Script};
use http_body_util::{BodyExt, Full};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

const EDGES: usize = 3;
const SEEDS: u64 = 3;

type Named<T> = Mutex<Vec<(String, T)>>;

/// What is left of a world for its test to look at.
#[derive(Clone, Default)]
struct Seen {
    /// Every router that ever ran, crashed ones included, by the edge's name.
    nodes: Arc<Named<Arc<AppState>>>,
    engines: Arc<Mutex<BTreeMap<String, Engine>>>,
    answers: Arc<Mutex<Vec<(usize, How)>>>,
}

/// How a user's request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum How {
    Whole,
    /// Begun, then an error event.
    Told,
    /// Begun, then silence or a cut.
    Cut,
    /// Never begun: the status that said so, 0 if none did.
    Lost(u16),
}

/// Edges `edge0` to `edge2`, each beside its engine `e0` to `e2` and peer of the others.
fn world(seed: u64, seen: &Seen) -> turmoil::Sim<'static> {
    let mut sim = turmoil::Builder::new()
        .rng_seed(seed)
        .simulation_duration(Duration::from_secs(200))
        .min_message_latency(Duration::from_millis(5))
        .max_message_latency(Duration::from_millis(40))
        .tick_duration(Duration::from_millis(2))
        .tcp_capacity(1_024)
        .build();
    for i in 0..EDGES {
        let (name, seen_by_engine) = (format!("e{i}"), seen.clone());
        sim.host(name.clone(), move || {
            let (name, seen) = (name.clone(), seen_by_engine.clone());
            async move {
                let script = Script { prefill: Duration::from_millis(150), tokens: 60, ..Script::default() };
                let engine = Engine::serve(listen(8080).await?, &name, script);
                seen.engines.lock().unwrap().insert(name, engine);
                std::future::pending().await
            }
        });
        let seen_by_edge = seen.clone();
        sim.host(format!("edge{i}"), move || {
            let seen = seen_by_edge.clone();
            async move {
                let others = (0..EDGES).filter(|&j| j != i).map(|j| format!("edge{j}"));
                let peers = others.map(|name| PeerConfig {
                    url: format!("http://{name}:8000"),
                    name: Some(name),
                    region: None,
                    labels: Vec::new(),
                });
                let mut config = Config {
                    role: Role::Edge,
                    name: format!("edge{i}"),
                    replicas: vec![replica(&format!("e{i}"))],
                    peers: peers.collect(),
                    ..Config::default()
                };
                // So tight that much is forwarded.
                config.router.gates.max_running = Some(2);
                // A link that was cut never says so here: lost segments are not sent again.
                config.timeouts.idle_gap_ms = 3_000;
                config.timeouts.first_token_ms = 40_000;
                let state = gorgo_live::start(config, None, dial())?;
                seen.nodes.lock().unwrap().push((format!("edge{i}"), Arc::clone(&state)));
                gorgo_live::serve(state, listen(8000).await?, std::future::pending()).await?;
                Ok(())
            }
        });
    }
    sim
}

fn prompt(n: usize) -> String {
    format!("request {n} of a story that nobody tells twice")
}

async fn ask(edge: usize, n: usize) -> How {
    let client = pooled_client(Connector::new(dial(), None, Duration::from_secs(5)), Duration::from_secs(1));
    let stream = !n.is_multiple_of(4);
    let body = serde_json::json!({"stream": stream, "prompt": prompt(n)}).to_string();
    let uri = format!("http://edge{edge}:8000/v1/completions");
    let request = http::Request::post(uri).body(Full::new(Bytes::from(body))).unwrap();
    let Ok(response) = client.request(request).await else { return How::Lost(0) };
    if response.status() != 200 {
        return How::Lost(response.status().as_u16());
    }
    let Ok(body) = response.into_body().collect().await else { return How::Cut };
    let text = String::from_utf8_lossy(&body.to_bytes()).into_owned();
    if !stream || text.ends_with("data: [DONE]\n\n") {
        How::Whole
    } else if text.contains("\"upstream_broke\"") {
        How::Told
    } else {
        How::Cut
    }
}

/// A user at each of `edges` asks every `gap` ms for `seconds`.
fn users(sim: &mut turmoil::Sim<'static>, seen: &Seen, edges: &[usize], seconds: u64, gap: u64) {
    for &edge in edges {
        let seen = seen.clone();
        sim.client(format!("user{edge}"), async move {
            tokio::time::sleep(Duration::from_secs(2)).await;
            let mut asked = tokio::task::JoinSet::new();
            for k in 0..(seconds * 1_000 / gap) as usize {
                let n = k * EDGES + edge;
                asked.spawn(async move { (n, ask(edge, n).await) });
                tokio::time::sleep(Duration::from_millis(gap)).await;
            }
            while let Some(answer) = asked.join_next().await {
                seen.answers.lock().unwrap().push(answer.unwrap());
            }
            // What a cut link keeps from ending ends by its time.
            tokio::time::sleep(Duration::from_secs(8)).await;
            Ok(())
        });
    }
}

fn run_until(sim: &mut turmoil::Sim<'static>, ms: u64) {
    while sim.elapsed() < Duration::from_millis(ms) {
        sim.step().unwrap();
    }
}

/// The laws that hold whatever happened; returns how often each end was met.
fn check(seed: u64, seen: &Seen, crashed: &[&str]) -> BTreeMap<How, usize> {
    let answers = seen.answers.lock().unwrap();
    let mut ends = BTreeMap::new();
    for (n, how) in answers.iter() {
        assert!(!matches!(how, How::Lost(_) | How::Cut), "seed {seed}: request {n} ended {how:?}");
        *ends.entry(*how).or_default() += 1;
    }
    // How often a request was sent on by the router its user asked, and how often it reached an engine.
    let mut attempts: BTreeMap<String, usize> = BTreeMap::new();
    let nodes = seen.nodes.lock().unwrap();
    let mut forwarded = 0;
    for (name, state) in nodes.iter() {
        for row in state.request_log.entries() {
            assert!(row.hops <= 1, "seed {seed}: {name} got a request with {} hops", row.hops);
            if row.hops == 0 {
                *attempts.entry(row.id().to_owned()).or_default() += usize::from(row.attempts);
            } else if let Some(replica) = &row.replica {
                assert_eq!(replica.slot, 0, "seed {seed}: {name} forwarded a forwarded request to {}", replica.name);
            }
        }
        if crashed.contains(&name.as_str()) {
            continue;
        }
        let (load, in_flight, queued, stats) = state.driver.read(|router, _, _| {
            let load: u32 = router.replicas().iter().map(|r| r.load.requests()).sum();
            (load, router.in_flight(), router.queue_len(), router.stats())
        });
        assert_eq!((load, in_flight, queued), (0, 0, 0), "seed {seed}: {name} is not empty in the end");
        forwarded += stats.forwarded;
    }
    assert!(forwarded > 10, "seed {seed}: only {forwarded} forwards, so this shows nothing");
    let mut reached: BTreeMap<String, usize> = BTreeMap::new();
    for engine in seen.engines.lock().unwrap().values() {
        for request in engine.seen() {
            let Some(id) = request.headers.get("x-request-id").filter(|_| !request.body.is_empty()) else { continue };
            assert!(!request.headers.contains_key("x-lb-hop"), "the hop is between routers only");
            *reached.entry(id.to_str().unwrap().to_owned()).or_default() += 1;
        }
    }
    for (id, times) in reached {
        // Rows of a crashed router are gone with it when its own user asked.
        if let Some(&allowed) = attempts.get(&id) {
            assert!(times <= allowed, "seed {seed}: {id} reached engines {times} times in {allowed} attempts");
        }
    }
    ends
}

#[test]
fn edges_cut_off_for_long_serve_on_and_find_back() {
    for seed in 1..=SEEDS {
        let seen = Seen::default();
        let mut sim = world(seed, &seen);
        users(&mut sim, &seen, &[0, 1], 20, 300);
        run_until(&mut sim, 5_000);
        sim.partition("edge0", "edge1");
        run_until(&mut sim, 6_000);
        sim.partition("edge0", "edge2");
        // Longer than it takes to notice: what was sent before is lost here for good and has to be sent elsewhere.
        run_until(&mut sim, 18_000);
        sim.repair("edge0", "edge1");
        sim.repair("edge0", "edge2");
        sim.run().unwrap();
        let ends = check(seed, &seen, &[]);
        assert_eq!(ends.values().sum::<usize>(), 132);
        assert!(ends[&How::Whole] >= 120, "seed {seed}: {ends:?}");
    }
}

#[test]
fn edges_cut_off_for_a_moment_lose_nothing_at_all() {
    for seed in 1..=SEEDS {
        let seen = Seen::default();
        let mut sim = world(seed, &seen);
        users(&mut sim, &seen, &[0, 1], 12, 300);
        for from in [4_000, 8_000, 11_000] {
            run_until(&mut sim, from);
            // As with TCP over a real link: what was sent meanwhile comes when the link is back.
            sim.hold("edge0", "edge1");
            sim.hold("edge0", "edge2");
            run_until(&mut sim, from + 1_500);
            sim.release("edge0", "edge1");
            sim.release("edge0", "edge2");
        }
        sim.run().unwrap();
        assert_eq!(check(seed, &seen, &[]), BTreeMap::from([(How::Whole, 80)]), "seed {seed}");
    }
}

#[test]
fn links_that_turn_slow_and_fast_again_break_nothing() {
    for seed in 1..=SEEDS {
        let seen = Seen::default();
        let mut sim = world(seed, &seen);
        users(&mut sim, &seen, &[0, 1], 15, 300);
        for (ms, latency) in [(4_000, 300), (7_000, 20), (10_000, 900), (13_000, 5), (15_000, 150)] {
            run_until(&mut sim, ms);
            sim.set_link_latency("edge0", "edge1", Duration::from_millis(latency));
            sim.set_link_latency("edge0", "edge2", Duration::from_millis(latency / 2));
        }
        sim.run().unwrap();
        assert_eq!(check(seed, &seen, &[]), BTreeMap::from([(How::Whole, 100)]), "seed {seed}");
    }
}

#[test]
fn a_peer_that_crashes_with_forwarded_streams_takes_only_what_had_begun() {
    let mut told = 0;
    for seed in 1..=SEEDS {
        let seen = Seen::default();
        let mut sim = world(seed, &seen);
        users(&mut sim, &seen, &[0, 2], 15, 300);
        run_until(&mut sim, 7_000 + seed * 130);
        sim.crash("edge1");
        run_until(&mut sim, 11_000);
        sim.bounce("edge1");
        sim.run().unwrap();
        let ends = check(seed, &seen, &["edge1"]);
        assert_eq!(ends.values().sum::<usize>(), 100);
        told += ends.get(&How::Told).copied().unwrap_or(0);
        let again = seen.nodes.lock().unwrap().iter().filter(|(name, _)| name == "edge1").count();
        assert_eq!(again, 2);
        let served = seen.nodes.lock().unwrap().last().unwrap().1.request_log.entries().len();
        assert!(served > 0, "seed {seed}: the peer that returned is used again");
    }
    assert!(told > 0, "some stream was under way");
}
