//! Routers of the same replicas tell each other what they learn.

use crate::fixture::{Log, World, chat, ms, replica, whole};
use gorgo_core::ReplicaId;
use gorgo_core::policy::PolicyConfig;
use gorgo_live::config::{Config, Sharing};
use gorgo_live::testkit::{Engine, Net, Script};
use http::Request;
use http_body_util::Full;
use serde_json::Value;

const SEED: &str = "one-secret-of-all-routers";

/// A router at `HOST:8000` before both engines; all routers have the same list of peers.
async fn router(net: &Net, host: &str, seed: &str) -> World {
    let peers = ["router", "second", "third"].map(|host| format!("http://{host}:8000")).to_vec();
    let sharing = Sharing { peers, share_ms: 10, hash_seed: Some(seed.into()), ..Sharing::default() };
    let config = Config {
        name: host.to_owned(),
        replicas: vec![replica("e0"), replica("e1")],
        sharing,
        policy: PolicyConfig::default(),
        ..Config::default()
    };
    World::with(net.clone(), Vec::new(), config, host).await
}

fn engines(net: &Net) -> Vec<Engine> {
    let script = Script { cached: None, ..Script::default() };
    ["e0", "e1"].map(|name| Engine::start(net, name, script.clone())).into()
}

/// Sends a prompt to the router at `host`; returns the replica that answered.
async fn ask(world: &World, host: &str, prompt: &str) -> String {
    let (mut parts, body): (_, Full<bytes::Bytes>) = chat(prompt, true).into_parts();
    parts.uri = format!("http://{host}:8000/v1/chat/completions").parse().unwrap();
    let response = world.send(Request::from_parts(parts, body)).await;
    assert_eq!(response.status(), 200);
    let replica = response.headers()["x-gorgo-replica"].to_str().unwrap().to_owned();
    whole(response).await;
    replica
}

fn tokens(world: &World) -> [u64; 2] {
    world.state.driver.read(|router, _, _| [0, 1].map(|slot| router.index().tokens(ReplicaId(slot))))
}

async fn sharing(world: &World, host: &str) -> Value {
    let request = Request::get(format!("http://{host}:8000/proxy/status")).body(Full::default()).unwrap();
    let status: Value = serde_json::from_slice(&whole(world.send(request).await).await).unwrap();
    status["sharing"].clone()
}

#[tokio::test(start_paused = true)]
async fn what_one_router_dispatched_the_others_find_and_go_on_finding_when_it_dies() {
    let net = Net::default();
    let _engines = engines(&net);
    let first = router(&net, "router", SEED).await;
    let second = router(&net, "second", SEED).await;
    let third = router(&net, "third", SEED).await;
    let prompts: Vec<String> =
        (0..6).map(|i| format!("{i} {}", "what is the capital of France? ".repeat(40))).collect();
    let mut at = Vec::new();
    for prompt in &prompts {
        at.push(ask(&first, "router", prompt).await);
    }
    ms(300).await;
    let known = tokens(&first);
    assert!(known.iter().all(|&tokens| tokens > 0), "{known:?}");
    assert_eq!((tokens(&second), tokens(&third)), (known, known));
    let told = sharing(&first, "router").await;
    let states: Vec<&str> =
        told["peers"].as_array().unwrap().iter().map(|peer| peer["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["self", "up", "up"], "{told}");
    assert_eq!((&told["paths"]["dropped"], &told["paths"]["missing"]), (&0.into(), &0.into()));
    first.server.abort();
    for (prompt, before) in prompts.iter().zip(&at) {
        assert_eq!(ask(&second, "second", prompt).await, *before, "the second router finds the first one's prefix");
        assert_eq!(ask(&third, "third", prompt).await, *before);
    }
    assert_eq!((second.left(), third.left()), ((0, 0), (0, 0)));
}

#[tokio::test(start_paused = true)]
async fn a_router_with_another_seed_is_refused_by_name_and_believed_nothing() {
    let net = Net::default();
    let _engines = engines(&net);
    let first = router(&net, "router", SEED).await;
    let second = router(&net, "second", "another-secret-by-mistake").await;
    ask(&second, "second", &"a long prompt ".repeat(50)).await;
    ms(300).await;
    assert_eq!(tokens(&first), [0, 0]);
    let told = sharing(&second, "second").await;
    assert_eq!(told["peers"][0]["state"], "refused", "{told}");
    let why = told["peers"][0]["why"].as_str().unwrap();
    assert!(why.contains("`second`") && why.contains("sharing.hash_seed_file"), "{why}");
    assert!(!told.to_string().contains("another-secret"));
}

#[tokio::test(start_paused = true)]
async fn a_router_that_names_replicas_otherwise_is_told_and_its_news_are_counted() {
    let log = Log::start();
    let net = Net::default();
    let _engines = engines(&net);
    let first = router(&net, "router", SEED).await;
    let peers = ["router", "second"].map(|host| format!("http://{host}:8000")).to_vec();
    let sharing_of = Sharing { peers, share_ms: 10, hash_seed: Some(SEED.into()), ..Sharing::default() };
    let alias = |name: &str, host: &str| gorgo_live::config::ReplicaConfig {
        url: format!("http://{host}:8080"),
        ..replica(name)
    };
    let config = Config {
        name: "second".to_owned(),
        replicas: vec![replica("e0"), alias("10.0.0.1:8080", "e1")],
        sharing: sharing_of,
        policy: PolicyConfig::parse("round-robin", serde_json::Map::new()).unwrap(),
        ..Config::default()
    };
    let second = World::with(net.clone(), Vec::new(), config, "second").await;
    for n in 0..40 {
        ask(&second, "second", &format!("{n} {}", "what is the capital of France? ".repeat(40))).await;
        ms(1_000).await;
    }
    let told = sharing(&first, "router").await;
    let sender = told["senders"].as_array().unwrap().iter().find(|one| one["name"] == "second").unwrap();
    assert_eq!(sender["unknown_replicas"], serde_json::json!(["10.0.0.1:8080"]), "{told}");
    assert!(told["paths_of_unknown_replicas"].as_u64().unwrap() >= 20, "every second prompt: {told}");
    let told_once = log.with("1 of the 2 replicas of a router are known here by name");
    assert_eq!(told_once.len(), 2, "once at each router: {told_once:?}");
    assert!(tokens(&first)[0] > 0, "what both know is shared");
    let shared = serde_json::json!({"named": 2, "known": 1, "unknown": ["10.0.0.1:8080"]});
    assert_eq!((&told["peers"][1]["state"], &told["peers"][1]["replicas"]), (&"up".into(), &shared), "{told}");
    let metrics = first.get("/metrics").await.1;
    assert!(metrics.as_str().unwrap().contains("gorgo_sharing_unknown_replicas 1.0"), "{metrics}");
}

#[tokio::test(start_paused = true)]
async fn the_state_of_a_peer_is_no_older_than_its_last_heartbeat() {
    let net = Net::default();
    let _engines = engines(&net);
    let first = router(&net, "router", SEED).await;
    let second = router(&net, "second", SEED).await;
    let state = async || {
        let peer = sharing(&first, "router").await["peers"][1].clone();
        (peer["state"].as_str().unwrap().to_owned(), peer["age_ms"].as_u64())
    };
    // Neither has anything to tell.
    ms(60_000).await;
    let (up, age) = state().await;
    assert!(up == "up" && age.unwrap() <= 6_000, "{up}, {age:?}");
    second.server.abort();
    ms(20_000).await;
    assert_eq!(state().await.0, "down");
    let _again = router(&net, "second", SEED).await;
    ms(20_000).await;
    assert_eq!(state().await.0, "up");
}

#[tokio::test(start_paused = true)]
async fn messages_of_another_version_are_refused_as_such() {
    let net = Net::default();
    let _engines = engines(&net);
    let first = router(&net, "router", SEED).await;
    for body in [
        "{\"version\": 9, \"name\": \"new\", \"rows\": 1}",
        "{\"version\": 9, \"name\": \"new\", \"key_id\": \"\", \"router\": \"x\", \"replicas\": [], \"paths\": [], \"loads\": []}",
    ] {
        let request = crate::fixture::post("/proxy/share", body);
        let answer = first.send(request).await;
        let status = answer.status();
        let told = String::from_utf8(whole(answer).await.to_vec()).unwrap();
        assert!(status == 409 && told.contains("`new` sends messages of version 9"), "{status} {told}");
        assert!(!told.contains("seed"), "{told}");
    }
}

/// As [`router`], but only a snapshot can tell it anything.
async fn silent(net: &Net, host: &str, change: impl FnOnce(&mut Config)) -> World {
    let peers = ["router", "second", "third"].map(|host| format!("http://{host}:8000")).to_vec();
    let sharing =
        Sharing { peers, share_ms: 60_000, snapshot_ms: 2_000, hash_seed: Some(SEED.into()), ..Sharing::default() };
    let mut config = Config {
        name: host.to_owned(),
        replicas: vec![replica("e1"), replica("e0")],
        sharing,
        policy: PolicyConfig::default(),
        ..Config::default()
    };
    change(&mut config);
    World::with(net.clone(), Vec::new(), config, host).await
}

async fn ready(world: &World, host: &str) -> u16 {
    let request = Request::get(format!("http://{host}:8000/ready")).body(Full::default()).unwrap();
    world.send(request).await.status().as_u16()
}

#[tokio::test(start_paused = true)]
async fn a_router_that_starts_knows_what_a_ready_peer_knows_before_it_is_ready() {
    let net = Net::default();
    let _engines = engines(&net);
    let first = silent(&net, "router", |_| {}).await;
    assert_eq!(ready(&first, "router").await, 200, "no other router runs");
    let prompts: Vec<String> =
        (0..6).map(|i| format!("{i} {}", "what is the capital of France? ".repeat(40))).collect();
    let mut at = Vec::new();
    for prompt in &prompts {
        at.push(ask(&first, "router", prompt).await);
    }
    let second = silent(&net, "second", |config| config.replicas.reverse()).await;
    let [a, b] = tokens(&first);
    assert!(a > 0 && b > 0);
    assert_eq!(tokens(&second), [b, a], "slots differ, names do not");
    assert_eq!(ready(&second, "second").await, 200);
    for (prompt, before) in prompts.iter().zip(&at) {
        assert_eq!(ask(&second, "second", prompt).await, *before);
    }
}

#[tokio::test(start_paused = true)]
async fn a_router_is_ready_in_time_though_a_peer_says_nothing_or_refuses() {
    let net = Net::default();
    let _engines = engines(&net);
    let mute = net.listen("router", 8000); // connections open and are never served
    let second = silent(&net, "second", |config| {
        config.residency = toml::from_str("rules = [{model = \"m\", allow = [\"eu\"]}]").unwrap();
    })
    .await;
    assert_eq!(ready(&second, "second").await, 503, "it still asks");
    ms(2_500).await;
    assert_eq!(ready(&second, "second").await, 200);
    drop(mute);
    ask(&second, "second", &"a prompt that a fence may hold ".repeat(40)).await;
    let third = silent(&net, "third", |_| {}).await;
    ms(2_500).await;
    assert_eq!((ready(&third, "third").await, tokens(&third)), (200, [0, 0]), "a fence is told to no other router");
}
