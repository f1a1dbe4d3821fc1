//! What a reload of the configuration's file changes, and what it does not.

use crate::fixture::{World, replica, whole};
use bytes::Bytes;
use gorgo_core::policy::PolicyConfig;
use gorgo_live::ConfigSource;
use gorgo_live::config::Config;
use gorgo_live::testkit::{Engine, Net, Script};
use http::Method;
use http_body_util::Full;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};

async fn reload(world: &World) -> (u16, Value) {
    world.call(Method::POST, "/proxy/reload", &json!({})).await
}

async fn policy(world: &World) -> Value {
    world.get("/proxy/policy").await.1["current"].clone()
}

#[tokio::test(start_paused = true)]
async fn an_operators_policy_outlives_a_restart_and_reloads_of_a_file_that_says_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let net = Net::default();
    let _engine = Engine::start(&net, "e0", Script::default());
    let file = Config {
        replicas: vec![replica("e0")],
        policy: PolicyConfig::default(),
        state: Some(dir.path().join("state.toml")),
        ..Config::default()
    };
    let shared = Arc::new(Mutex::new(file.clone()));
    let start = || {
        let read = Arc::clone(&shared);
        let source = ConfigSource::new(move || Ok(read.lock().unwrap().clone()));
        World::reloading(net.clone(), Vec::new(), file.clone(), "router", Some(source))
    };
    let mut world = start().await;
    world.call(Method::POST, "/proxy/policy", &json!({"policy": "least-load"})).await;
    let mut config = (*world.state.config()).clone();
    config.timeouts.idle_gap_ms = 7_000;
    config.cors.origins = vec!["https://page.example".to_owned()];
    config.residency.rules = serde_json::from_value(json!([{"model": "m", "allow": ["eu"]}])).unwrap();
    let request = http::Request::put("http://router:8000/proxy/config").header("content-type", "application/toml");
    let put = request.body(Full::new(Bytes::from(toml::to_string(&config).unwrap()))).unwrap();
    let answer = world.send(put).await;
    assert_eq!((answer.status().as_u16(), String::from_utf8_lossy(&whole(answer).await).contains("cors")), (200, true));
    let put = |world: &World| {
        let config = world.state.config();
        (config.timeouts.idle_gap_ms, config.cors.origins.len(), config.residency.rules.len())
    };
    reload(&world).await;
    assert_eq!((policy(&world).await, put(&world)), (json!("least-load"), (7_000, 1, 1)));
    world.stop();
    let world = start().await;
    assert_eq!(put(&world), (7_000, 1, 1));
    assert_eq!(policy(&world).await, "least-load", "it is kept in the file of `state`");
    assert_eq!(reload(&world).await.0, 200);
    assert_eq!(policy(&world).await, "least-load", "after the restart, too");
    {
        let mut file = shared.lock().unwrap();
        file.policy = PolicyConfig::parse("random", serde_json::Map::new()).unwrap();
        file.timeouts.idle_gap_ms = 8_000;
    }
    reload(&world).await;
    assert_eq!((policy(&world).await, put(&world)), (json!("random"), (8_000, 1, 1)), "the file says something else");

    // A template that rendered an empty list.
    shared.lock().unwrap().replicas.clear();
    let (status, told) = reload(&world).await;
    assert!(status == 400 && told.to_string().contains("the 1 replicas of the file before"), "{status} {told}");
    assert_eq!(world.get("/proxy/servers").await.1.as_array().unwrap().len(), 1);
}
