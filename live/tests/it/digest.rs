//! Edges tell each other which prefixes their engines hold.

use crate::fixture::{Log, World, chat, ms, replica, whole};
use gorgo_core::policy::PolicyConfig;
use gorgo_live::config::{Config, PeerConfig, Residency, ResidencyRule, Role, Sharing};
use gorgo_live::testkit::{Engine, Listener, Net, Script};
use http::Request;
use http::header::HeaderValue;
use http_body_util::Full;
use serde_json::Value;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const SEED: &str = "one-secret-of-all-edges";

/// The configuration of edge `i` of two, with this hash seed.
fn config(i: usize, seed: Option<&str>) -> Config {
    let url = format!("http://edge{}:8000", 1 - i);
    Config {
        role: Role::Edge,
        region: Some(format!("region{i}")),
        replicas: vec![replica(&format!("e{i}"))],
        peers: vec![PeerConfig { url, name: Some(format!("edge{}", 1 - i)), region: None, labels: Vec::new() }],
        // The engine here first: a policy that learns would also try the peer, of which it knows nothing.
        policy: PolicyConfig::default(),
        sharing: Sharing { hash_seed: seed.map(Into::into), ..Sharing::default() },
        ..Config::default()
    }
}

/// Edges `edge0` and `edge1`, each beside its engine and the other's peer.
async fn pair(configs: [Config; 2]) -> [World; 2] {
    let net = Net::default();
    let mut worlds = Vec::new();
    for (i, config) in configs.into_iter().enumerate() {
        let engine = Engine::start(&net, &format!("e{i}"), Script { cached: None, ..Script::default() });
        worlds.push(World::with(net.clone(), vec![engine], config, &format!("edge{i}")).await);
    }
    ms(1_000).await;
    worlds.try_into().map_err(|_| ()).unwrap()
}

/// Sends a prompt to an edge; returns the engine that answered.
async fn ask(world: &World, edge: usize, prompt: &str, headers: &[(&'static str, &'static str)]) -> String {
    let mut request = chat(prompt, true);
    *request.uri_mut() = format!("http://edge{edge}:8000/v1/chat/completions").parse().unwrap();
    for (name, value) in headers {
        request.headers_mut().insert(*name, HeaderValue::from_static(value));
    }
    let response = world.send(request).await;
    assert_eq!(response.status(), 200);
    let engine = response.headers()["x-gorgo-replica"].to_str().unwrap().to_owned();
    whole(response).await;
    engine
}

async fn page(world: &World, edge: usize, path: &str) -> String {
    let request = Request::get(format!("http://edge{edge}:8000{path}")).body(Full::default()).unwrap();
    String::from_utf8(whole(world.send(request).await).await.to_vec()).unwrap()
}

/// What `status` of an edge says of digests.
async fn digest(world: &World, edge: usize) -> Value {
    let status: Value = serde_json::from_str(&page(world, edge, "/lb/status").await).unwrap();
    status["digest"].clone()
}

fn prompt(of: &str) -> String {
    format!("{of} {}", "what is the capital of France? ".repeat(500))
}

#[tokio::test(start_paused = true)]
async fn a_prompt_that_only_a_peer_served_goes_to_it_by_its_digest() {
    let [a, b] = pair([config(0, Some(SEED)), config(1, Some(SEED))]).await;
    assert_eq!(ask(&b, 1, &prompt("it"), &[]).await, "e1");
    ms(2_500).await;
    assert_eq!(ask(&a, 0, &prompt("it"), &[]).await, "e1", "its prefix is there");
    assert_eq!(ask(&a, 0, &prompt("another"), &[]).await, "e0");
    let told = digest(&a, 0).await;
    assert_eq!((&told["peers"][0]["state"], &told["peers"][0]["id"]), (&"up".into(), &"edge1".into()), "{told}");
    assert!(told["peers"][0]["keys"].as_u64().unwrap() >= 15, "{told}");
    assert!(told["peers"][0]["age_ms"].as_f64().unwrap() < 2_500.0, "{told}");
    assert!(!told.to_string().contains(SEED));
    let received = told["peers"][0]["bytes"].as_u64().unwrap();
    assert!((200..5_000).contains(&received), "{told}");
    ms(4_000).await;
    let more = digest(&a, 0).await["peers"][0]["bytes"].as_u64().unwrap() - received;
    assert!(more < 3 * 250, "nothing changed, so hardly anything is sent: {more}");
    let metrics = page(&a, 0, "/metrics").await;
    assert!(metrics.contains("gorgo_replica_digest_keys{replica=\"edge1\"}"), "{metrics}");
    assert!(metrics.contains("gorgo_digest_sent_bytes_total "));
}

#[tokio::test(start_paused = true)]
async fn the_decision_shows_the_digest_that_it_was_made_by() {
    let [a, b] = pair([config(0, Some(SEED)), config(1, Some(SEED))]).await;
    ask(&b, 1, &prompt("it"), &[]).await;
    ms(2_500).await;
    ask(&a, 0, &prompt("it"), &[]).await;
    let shown: Value = serde_json::from_str(&page(&a, 0, "/explain").await).unwrap();
    let candidates = shown["decisions"][0]["candidates"].as_array().unwrap();
    let [own, peer] = ["e0", "edge1"].map(|id| candidates.iter().find(|row| row["id"] == id).unwrap());
    assert!(own["digest"].is_null() && own["cached_tokens"] == 0, "{own}");
    assert_eq!(peer["digest"]["tokens"], peer["cached_tokens"], "{peer}");
    assert!(peer["cached_tokens"].as_u64().unwrap() > 3_000 && peer["digest"]["age_ms"].is_f64(), "{peer}");
}

#[tokio::test(start_paused = true)]
async fn without_a_seed_nothing_is_asked_and_the_log_says_so_once() {
    let log = Log::start();
    let [a, b] = pair([config(0, None), config(1, Some(SEED))]).await;
    assert_eq!(ask(&b, 1, &prompt("it"), &[]).await, "e1");
    ms(30_000).await;
    assert_eq!(ask(&a, 0, &prompt("it"), &[]).await, "e0");
    assert!(digest(&a, 0).await["off"].as_str().unwrap().contains("sharing.hash_seed_file"));
    assert_eq!(log.with("do not tell each other which prefixes they hold").len(), 1);
    let told = digest(&b, 1).await;
    assert_eq!((&told["peers"][0]["state"], &told["peers"][0]["keys"]), (&"refused".into(), &0.into()), "{told}");
    assert_eq!(log.with("a peer does not tell which prefixes it holds").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn edges_with_different_seeds_believe_nothing_and_say_why() {
    let log = Log::start();
    let [a, b] = pair([config(0, Some(SEED)), config(1, Some("another-secret-by-mistake"))]).await;
    ask(&b, 1, &prompt("it"), &[]).await;
    ms(30_000).await;
    assert_eq!(ask(&a, 0, &prompt("it"), &[]).await, "e0");
    let told = digest(&a, 0).await;
    assert_eq!(told["peers"][0]["state"], "refused", "{told}");
    assert!(told["peers"][0]["why"].as_str().unwrap().contains("sharing.hash_seed_file"), "{told}");
    assert_eq!(log.with("a peer does not tell which prefixes it holds").len(), 2, "once at each edge");
}

#[tokio::test(start_paused = true)]
async fn a_prompt_that_must_stay_in_its_region_is_told_to_nobody() {
    let rule = ResidencyRule { value: Some("here".into()), allow: vec!["region1".into()], ..ResidencyRule::default() };
    let mut fenced = config(1, Some(SEED));
    fenced.residency = Residency { header: Some("x-data-residency".into()), rules: vec![rule] };
    fenced.replicas[0].region = Some("region1".into());
    let [a, b] = pair([config(0, Some(SEED)), fenced]).await;
    ask(&b, 1, &prompt("secret"), &[("x-data-residency", "here")]).await;
    ms(2_500).await;
    let keys = async || digest(&a, 0).await["peers"][0]["keys"].as_u64().unwrap();
    assert_eq!(keys().await, 0);
    ask(&b, 1, &prompt("open"), &[]).await;
    ms(2_500).await;
    let open = keys().await;
    assert!((15..=18).contains(&open), "{open}");
    ask(&b, 1, &prompt("another secret"), &[("x-data-residency", "here")]).await;
    ms(2_500).await;
    assert_eq!(keys().await, open);
}

#[tokio::test(start_paused = true)]
async fn a_damaged_answer_is_ignored_and_told() {
    let log = Log::start();
    let net = Net::default();
    let mut listener = net.listen("edge1", 8000);
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = [0; 4_096];
                while client.read(&mut head).await.is_ok_and(|read| read > 0) {
                    let body = r#"{"version":1,"key_id":"#;
                    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                    let _ = client.write_all(answer.as_bytes()).await;
                }
            });
        }
    });
    let engine = Engine::start(&net, "e0", Script::default());
    let a = World::with(net, vec![engine], config(0, Some(SEED)), "edge0").await;
    tokio::time::sleep(Duration::from_secs(20)).await;
    let told = digest(&a, 0).await;
    assert_eq!((&told["peers"][0]["state"], &told["peers"][0]["keys"]), (&"damaged".into(), &0.into()), "{told}");
    assert_eq!(log.with("its answer cannot be read").len(), 1);
    assert_eq!(ask(&a, 0, &prompt("it"), &[]).await, "e0");
}
