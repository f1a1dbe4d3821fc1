//! What operators watch: the overview, its stream, the page.

use crate::fixture::{World, chat, ms, replica, whole};
use bytes::Bytes;
use gorgo_core::policy::PolicyConfig;
use gorgo_live::Dashboard;
use gorgo_live::testkit::{Engine, Net, Script};
use http::{HeaderValue, Request};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use serde_json::{Value, json};
use std::time::Duration;

fn locate(region: &str) -> Option<[f64; 2]> {
    (region == "eu").then_some([50.0, 8.0])
}

fn page() -> Dashboard {
    Dashboard { page: "<p>page</p>".into(), policy: HeaderValue::from_static("default-src 'none'"), locate }
}

/// Two engines in `eu` and one in `us`, behind a router in `eu` with a shadow policy.
async fn world(script: Script) -> World {
    let net = Net::default();
    let engines: Vec<Engine> = (0..3).map(|i| Engine::start(&net, &format!("e{i}"), script.clone())).collect();
    let region = |i: usize| Some(if i < 2 { "eu" } else { "us" }.to_owned());
    let mut config = gorgo_live::config::Config {
        replicas: (0..3)
            .map(|i| gorgo_live::config::ReplicaConfig { region: region(i), ..replica(&format!("e{i}")) })
            .collect(),
        region: region(0),
        policy: PolicyConfig::default(),
        ..Default::default()
    };
    config.shadow.policies = vec![PolicyConfig::parse("random", Default::default()).unwrap()];
    let world = World::with(net, engines, config, "router").await;
    world.state.dashboard.set(page()).unwrap();
    world
}

/// The next event of a stream; `None` at its end.
async fn event(body: &mut Incoming) -> Option<Value> {
    let frame = body.frame().await?.unwrap().into_data().unwrap();
    let text = std::str::from_utf8(&frame).unwrap().strip_prefix("data: ").unwrap().strip_suffix("\n\n").unwrap();
    Some(serde_json::from_str(text).unwrap())
}

fn get(path: &str) -> Request<Full<Bytes>> {
    Request::get(format!("http://router:8000{path}")).body(Full::default()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn the_overview_tells_of_regions_replicas_decisions_hits_and_policies() {
    let world = world(Script::default()).await;
    for n in 0..12 {
        whole(world.send(chat(&format!("family {} {}", n % 3, "some shared words ".repeat(100)), true)).await).await;
    }
    ms(1_100).await; // a scrape
    let (status, told) = world.get("/overview").await;
    assert_eq!(status, 200);
    assert_eq!(
        (&told["region"], &told["place"], &told["phase"]),
        (&json!("eu"), &json!([50.0, 8.0]), &json!("serving"))
    );
    assert_eq!((&told["requests"]["finished"], &told["window"]["requests"]), (&json!(12), &json!(12)));
    let regions = told["regions"].as_array().unwrap();
    assert_eq!((regions.len(), &regions[0]["replicas"], &regions[0]["place"]), (2, &json!(2), &json!([50.0, 8.0])));
    assert_eq!((&regions[1]["region"], &regions[1]["place"]), (&json!("us"), &Value::Null), "no place is known for it");
    let rows = told["replicas"].as_array().unwrap();
    assert_eq!((rows.len(), &rows[0]["state"], &rows[0]["region"]), (3, &json!("up"), &json!("eu")));
    assert!(rows[0]["latency_ms"].is_number() && rows[0]["report_age_ms"].is_number());
    let sum = |key: &str| rows.iter().map(|row| row[key].as_f64().unwrap()).sum::<f64>();
    assert!((sum("requests_per_second") - told["requests"]["per_second"].as_f64().unwrap()).abs() < 1e-9);
    assert_eq!(sum("dispatched"), 12.0);
    for at in ["p50", "p90", "p99", "mean"] {
        let part = |key: &str| told["ttft"][at][key].as_f64().unwrap();
        let parts = part("network_ms") + part("queue_ms") + part("prefill_ms");
        assert!((part("ttft_ms") - parts).abs() < 1e-6, "{at}: {}", told["ttft"]);
        assert!(part("ttft_ms") >= 20.0, "the engine's prefill");
    }
    let hits = &told["hits"];
    let hit = |key: &str| hits[key].as_u64().unwrap();
    assert!(
        hit("best_anywhere") >= hit("expected") && hit("expected") > 0 && hit("prompt_tokens") > hit("best_anywhere")
    );
    let decision = &told["decisions"][0];
    assert_eq!((told["decisions"].as_array().unwrap().len(), &decision["status"]), (12, &json!("finished")));
    assert_eq!(decision["decision"]["candidates"].as_array().unwrap().len(), 3);
    let explained = world.get(&format!("/explain/{}", decision["request_id"].as_str().unwrap())).await.1;
    assert_eq!(explained["decisions"][0], decision["decision"], "the same as /explain");
    assert!(decision["decision"]["deciding"]["regret_ms"].is_number());
    let policies = told["policies"].as_array().unwrap();
    let brief = |i: usize| (&policies[i]["policy"], &policies[i]["shadow"], &policies[i]["decided"]);
    assert_eq!(brief(0), (&json!("gorgo"), &json!(false), &json!(12)));
    assert_eq!(brief(1), (&json!("random"), &json!(true), &json!(12)));
    assert!(policies[0]["hit_rate"].as_f64().unwrap() > 0.3 && policies[0]["mean_predicted_ttft_ms"].is_number());
}

#[tokio::test(start_paused = true)]
async fn a_request_without_a_stream_has_no_time_to_first_token() {
    let world = world(Script::default()).await;
    whole(world.send(chat("one piece", false)).await).await;
    let told = world.get("/overview").await.1;
    assert_eq!((&told["window"]["requests"], &told["ttft"]["requests"]), (&json!(1), &json!(0)));
}

#[tokio::test(start_paused = true)]
async fn streams_tell_each_second_are_bounded_and_end_when_the_router_drains() {
    let mut world = world(Script::default()).await;
    let mut body = world.send(get("/overview/stream")).await.into_body();
    let first = event(&mut body).await.unwrap();
    let second = event(&mut body).await.unwrap();
    let at = |told: &Value| told["at_unix_ms"].as_u64().unwrap();
    assert_eq!(at(&second) - at(&first), 1_000);
    let mut others = Vec::new();
    loop {
        let response = world.send(get("/overview/stream")).await;
        if response.status() != 200 {
            assert_eq!(response.status(), 429);
            break;
        }
        others.push(response);
    }
    assert_eq!(others.len(), 15);
    others.pop();
    ms(1_000).await; // the router writes, and notices
    assert_eq!(world.send(get("/overview/stream")).await.status(), 200, "a place was given back");
    drop(others);
    world.stop();
    let mut last = Value::Null;
    while let Some(told) = event(&mut body).await {
        last = told["phase"].clone();
    }
    assert_eq!(last, "settling");
    assert_eq!(tokio::time::timeout(Duration::from_secs(5), &mut world.server).await.unwrap().unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_stream_ends_when_its_key_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("read");
    std::fs::write(&key, "old").unwrap();
    let world = World::new(1, Script::default(), |config| {
        config.security.admin_key = Some("admin".into());
        config.security.read_key_file = Some(key.clone());
    })
    .await;
    let with = |shown: &str| {
        let request =
            Request::get("http://router:8000/overview/stream").header("authorization", format!("Bearer {shown}"));
        request.body(Full::<Bytes>::default()).unwrap()
    };
    assert_eq!(world.send(with("new")).await.status(), 401);
    let mut body = world.send(with("old")).await.into_body();
    assert!(event(&mut body).await.is_some() && event(&mut body).await.is_some());
    std::fs::write(&key, "new").unwrap();
    let config = gorgo_live::config::Config::clone(&world.state.config()).to_toml();
    let put = Request::put("http://router:8000/proxy/config").header("authorization", "Bearer admin");
    let put = put.header("content-type", "application/toml").body(Full::from(config)).unwrap();
    assert_eq!(world.send(put).await.status(), 200);
    assert_eq!(event(&mut body).await, None);
    assert_eq!(world.send(with("new")).await.status(), 200);
}

#[tokio::test(start_paused = true)]
async fn the_page_is_served_with_its_policy_if_the_program_has_one() {
    let world = world(Script::default()).await;
    let response = world.send(get("/dashboard")).await;
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-security-policy"], "default-src 'none'");
    assert_eq!(whole(response).await, "<p>page</p>");
    let bare = World::new(1, Script::default(), |_| {}).await;
    assert_eq!(bare.get("/dashboard").await.0, 404);
    assert_eq!(bare.get("/overview").await.1["place"], Value::Null);
}
