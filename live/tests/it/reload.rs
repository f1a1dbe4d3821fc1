//! What a reload of the configuration's file changes, and what it does not.

use crate::fixture::{World, replica};
use gorgo_core::policy::PolicyConfig;
use gorgo_live::ConfigSource;
use gorgo_live::config::Config;
use gorgo_live::testkit::{Engine, Net, Script};
use http::Method;
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
    reload(&world).await;
    assert_eq!(policy(&world).await, "least-load");
    world.stop();
    let world = start().await;
    assert_eq!(policy(&world).await, "least-load", "it is kept in the file of `state`");
    assert_eq!(reload(&world).await.0, 200);
    assert_eq!(policy(&world).await, "least-load", "after the restart, too");
    shared.lock().unwrap().policy = PolicyConfig::parse("random", serde_json::Map::new()).unwrap();
    reload(&world).await;
    assert_eq!(policy(&world).await, "random", "the file says something else");

    // A template that rendered an empty list.
    shared.lock().unwrap().replicas.clear();
    let (status, told) = reload(&world).await;
    assert!(status == 400 && told.to_string().contains("the 1 replicas of the file before"), "{status} {told}");
    assert_eq!(world.get("/proxy/servers").await.1.as_array().unwrap().len(), 1);
}
