use crate::fixture::{World, chat, ms, replica, whole};
use gorgo_core::policy::PolicyConfig;
use gorgo_live::config::{Config, PeerConfig, Role};
use gorgo_live::testkit::{Engine, Net, Script};
use serde_json::json;
use std::time::Duration;

/// Edges `edge0`, `edge1`, each beside its engine and the other's peer.
async fn pair(scripts: [Script; 2]) -> [World; 2] {
    let net = Net::default();
    let mut worlds = Vec::new();
    for (i, script) in scripts.into_iter().enumerate() {
        let engine = Engine::start(&net, &format!("e{i}"), script);
        let mut config = Config { role: Role::Edge, replicas: vec![replica(&format!("e{i}"))], ..Config::default() };
        // The engine here first: a policy that learns would also try the peer, of which it knows nothing.
        config.policy = PolicyConfig::default();
        config.router.gates.max_running = Some(1);
        config.peers = vec![peer(1 - i)];
        worlds.push(World::with(net.clone(), vec![engine], config, &format!("edge{i}")).await);
    }
    ms(1_000).await;
    worlds.try_into().map_err(|_| ()).unwrap()
}

fn peer(edge: usize) -> PeerConfig {
    let url = format!("http://edge{edge}:8000");
    PeerConfig { url, name: Some(format!("edge{edge}")), region: None, labels: Vec::new() }
}

fn to(edge: usize, prompt: &str) -> http::Request<http_body_util::Full<bytes::Bytes>> {
    let mut request = chat(prompt, true);
    *request.uri_mut() = format!("http://edge{edge}:8000/v1/chat/completions").parse().unwrap();
    request
}

#[tokio::test(start_paused = true)]
async fn an_edge_forwards_what_it_has_no_room_for_and_never_twice() {
    let slow = Script { prefill: Duration::from_secs(2), ..Script::default() };
    let [a, b] = pair([slow.clone(), slow]).await;
    let answers = futures_util::future::join_all((0..4).map(|n| {
        let client = a.client.clone();
        async move {
            ms(n * 10).await;
            let response = client.request(to(0, &format!("{n} prompt"))).await.unwrap();
            let who = response.headers()["x-gorgo-replica"].to_str().unwrap().to_owned();
            assert!(whole(response).await.ends_with(b"[DONE]\n\n"));
            who
        }
    }))
    .await;
    assert!(answers.contains(&"e0".to_owned()) && answers.contains(&"e1".to_owned()), "{answers:?}");
    let forwarded: Vec<_> = b.engines[0].seen();
    assert!(!forwarded.is_empty() && forwarded.len() < 4);
    assert_eq!(a.engines[0].seen().len() + forwarded.len(), 4, "each ran once");
    let hops: Vec<u8> = b.state.request_log.entries().iter().map(|row| row.hops).collect();
    assert!(hops.iter().all(|&h| h == 1), "{hops:?}");
    assert_eq!(b.state.driver.read(|r, _, _| r.stats().forwarded), 0, "a forwarded request is not forwarded again");
    assert_eq!((a.left(), b.left()), ((0, 0), (0, 0)));
}

#[tokio::test(start_paused = true)]
async fn peers_tell_their_load_and_clock_and_can_be_changed_while_running() {
    let [a, b] = pair([Script::default(), Script { prefill: Duration::from_secs(3), ..Script::default() }]).await;
    let busy = tokio::spawn(b.client.request(to(1, "keeps it busy")));
    ms(500).await;
    let peer = a.state.driver.read(|router, _, now| router.replicas()[1].peer.load(now));
    assert_eq!(peer.waiting_requests, 1, "{peer:?}");
    let get = |path: &'static str, method: http::Method, body: serde_json::Value| {
        let request = http::Request::builder()
            .method(method)
            .uri(format!("http://edge0:8000{path}"))
            .header("content-type", "application/json");
        let sent = a.client.request(request.body(http_body_util::Full::new(body.to_string().into())).unwrap());
        async move { serde_json::from_slice::<serde_json::Value>(&whole(sent.await.unwrap()).await).unwrap() }
    };
    let status = get("/lb/status", http::Method::GET, json!(null)).await;
    assert_eq!(
        (&status["peer_count"], &status["healthy_peers"], &status["healthy"]),
        (&json!(1), &json!(1), &json!(true))
    );
    let removed = get("/lb/peers", http::Method::DELETE, json!({"ip": "edge1", "port": 8000})).await;
    assert_eq!(removed["status"], "removed");
    assert_eq!(get("/lb/peers", http::Method::DELETE, json!({"ip": "edge1"})).await["status"], "not_found");
    assert_eq!(get("/lb/peers", http::Method::POST, json!({"ip": "edge1", "port": 8000})).await["status"], "added");
    assert_eq!(get("/lb/peers", http::Method::POST, json!({"ip": "edge1", "port": 8000})).await["status"], "exists");
    assert_eq!(get("/lb/peers", http::Method::GET, json!(null)).await["count"], 1);
    busy.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_edge_whose_engine_is_down_says_so_and_its_peer_serves() {
    let [mut a, b] = pair([Script::default(), Script::default()]).await;
    a.engines.clear();
    ms(3_000).await;
    for n in 0..5 {
        let response = a.client.request(to(0, &format!("{n}"))).await.unwrap();
        assert_eq!(response.headers()["x-gorgo-replica"], "e1");
        whole(response).await;
    }
    // And the other does not forward to it.
    for n in 0..5 {
        whole(b.client.request(to(1, &format!("{n} b"))).await.unwrap()).await;
    }
    assert_eq!(b.state.driver.read(|r, _, _| r.stats().forwarded), 0);
}
