//! What becomes of discovered replicas when operators, sources and restarts have their say.

use crate::fixture::{Log, World, chat, ms, replica, whole};
use gorgo_core::policy::PolicyConfig;
use gorgo_live::config::{Config, Discovery, Role};
use gorgo_live::testkit::{Engine, Net, Script};
use http::Method;
use serde_json::{Value, json};
use std::path::Path;

/// A router at `router:8000` that reads a file of endpoints.
async fn router(net: &Net, path: &Path, change: impl FnOnce(&mut Config)) -> World {
    let discovery = Discovery { file: Some(path.to_owned()), poll_ms: 100, ..Discovery::default() };
    let mut config = Config { discovery, policy: PolicyConfig::default(), ..Config::default() };
    change(&mut config);
    World::with(net.clone(), Vec::new(), config, "router").await
}

fn engines(net: &Net, names: &[&str]) -> Vec<Engine> {
    names.iter().map(|name| Engine::start(net, name, Script { cached: None, ..Script::default() })).collect()
}

fn write(path: &Path, entries: &[Value]) {
    let new = path.with_extension("new");
    std::fs::write(&new, json!({"endpoints": entries}).to_string()).unwrap();
    std::fs::rename(&new, path).unwrap();
}

fn entry(name: &str, more: &Value) -> Value {
    let mut entry = json!({"name": name, "address": name, "port": 8080});
    entry.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    entry
}

/// Names of the fleet; `-` before a drained one.
async fn fleet(world: &World) -> Vec<String> {
    let servers = world.get("/proxy/servers").await.1;
    let shown = |row: &Value| {
        let drained = if row["draining"] == true { "-" } else { "" };
        format!("{drained}{}", row["id"].as_str().unwrap())
    };
    let mut names: Vec<String> = servers.as_array().unwrap().iter().map(shown).collect();
    names.sort();
    names
}

async fn drain(world: &World, name: &str, draining: bool) -> Value {
    world.call(Method::POST, "/proxy/servers/drain", &json!({"id": name, "draining": draining})).await.1
}

#[tokio::test(start_paused = true)]
async fn what_an_operator_said_of_a_discovered_replica_holds_until_an_operator_takes_it_back() {
    let dir = tempfile::tempdir().unwrap();
    let (path, state) = (dir.path().join("endpoints.json"), dir.path().join("state.toml"));
    let net = Net::default();
    let _engines = engines(&net, &["a", "b", "c"]);
    let none = json!({});
    write(&path, &["a", "b", "c"].map(|name| entry(name, &none)));
    let mut world = router(&net, &path, |config| config.state = Some(state.clone())).await;
    assert_eq!(fleet(&world).await, ["a", "b", "c"]);
    drain(&world, "a", true).await;
    assert_eq!(world.call(Method::DELETE, "/proxy/servers?id=b", &Value::Null).await.0, 200);
    ms(500).await;
    assert_eq!(fleet(&world).await, ["-a", "c"], "the source lists both still");
    // Another label.
    write(&path, &["a", "b", "c"].map(|name| entry(name, &json!({"labels": {"rack": "7"}}))));
    ms(500).await;
    assert_eq!(fleet(&world).await, ["-a", "c"]);
    // Terminating, and ready again.
    write(&path, &["a", "b", "c"].map(|name| entry(name, &json!({"state": "terminating"}))));
    ms(500).await;
    assert_eq!(fleet(&world).await, ["-a", "-c"]);
    assert_eq!(drain(&world, "c", false).await["draining"], true, "the source's word stands");
    write(&path, &["a", "b", "c"].map(|name| entry(name, &none)));
    ms(500).await;
    assert_eq!(fleet(&world).await, ["-a", "c"]);
    assert_eq!(world.get("/proxy/status").await.1["removed_by_operator"], json!(["b"]));
    world.stop();
    (&mut world.server).await.unwrap();
    drop(world);
    let world = router(&net, &path, |config| config.state = Some(state.clone())).await;
    ms(500).await;
    assert_eq!(fleet(&world).await, ["-a", "c"], "after a restart");
    drain(&world, "a", false).await;
    let again = world.call(Method::POST, "/proxy/servers", &json!({"url": "http://b:8080", "name": "b"})).await;
    assert_eq!(again.0, 201);
    assert_eq!(fleet(&world).await, ["a", "b", "c"]);
    write(&path, &["a", "c"].map(|name| entry(name, &none)));
    ms(500).await;
    assert_eq!(fleet(&world).await, ["a", "c"], "it is the source's again");
}

#[tokio::test(start_paused = true)]
async fn another_label_region_or_rate_leaves_what_was_learned() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("endpoints.json");
    let net = Net::default();
    let _engines = engines(&net, &["a", "moved"]);
    write(&path, &[entry("a", &json!({}))]);
    let world = router(&net, &path, |_| {}).await;
    whole(world.send(chat(&"a prompt of some length ".repeat(40), true)).await).await;
    let row = async || world.get("/proxy/servers").await.1[0].clone();
    let before = row().await;
    assert!(before["index_tokens"].as_u64().unwrap() > 0 && before["dispatched"] == 1, "{before}");
    let other = json!({"labels": {"rack": "7"}, "region": "eu", "ms_per_token": 0.5, "models": ["alias"]});
    write(&path, &[entry("a", &other)]);
    ms(500).await;
    let after = row().await;
    assert_eq!((&after["region"], &after["labels"]), (&json!("eu"), &json!(["rack=7"])));
    assert_eq!(after["ms_per_token"], 0.5);
    for key in ["index_tokens", "dispatched", "health", "latency_ms"] {
        assert_eq!(after[key], before[key], "{key}");
    }
    let models = world.get("/v1/models").await.1;
    assert!(models.to_string().contains("alias"), "{models}");
    write(&path, &[entry("a", &json!({"address": "moved"}))]);
    ms(500).await;
    let moved = row().await;
    assert_eq!((&moved["index_tokens"], &moved["dispatched"]), (&json!(0), &json!(0)), "another engine");
}

#[tokio::test(start_paused = true)]
async fn a_rotated_key_is_used_and_settings_that_cannot_be_put_in_force_are_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let (path, key) = (dir.path().join("endpoints.json"), dir.path().join("engine.key"));
    let net = Net::default();
    let engine = Engine::start(&net, "a", Script { cached: None, ..Script::default() });
    write(&path, &[entry("a", &json!({}))]);
    std::fs::write(&key, "first").unwrap();
    let world = router(&net, &path, |config| config.discovery.api_key_file = Some(key.clone())).await;
    let shown = async || {
        whole(world.send(chat("hello", false)).await).await;
        engine.seen().last().unwrap().headers["authorization"].to_str().unwrap().to_owned()
    };
    assert_eq!(shown().await, "Bearer first");
    std::fs::write(&key, "second").unwrap();
    ms(500).await;
    assert_eq!(shown().await, "Bearer second", "the source's answer is as before");
    // What cannot be sent or read is not used.
    std::fs::write(&key, "a\u{1}b").unwrap();
    write(&path, &[entry("a", &json!({"region": "eu"}))]);
    ms(500).await;
    assert_eq!(shown().await, "Bearer second");
    std::fs::remove_file(&key).unwrap();
    ms(500).await;
    assert_eq!(shown().await, "Bearer second");
    let region = async || world.get("/proxy/servers").await.1[0]["region"].clone();
    assert_eq!(region().await, "eu", "it needs no key");
    std::fs::write(&key, "third").unwrap();
    write(&path, &[entry("a", &json!({"region": "us"}))]);
    ms(500).await;
    assert_eq!((shown().await.as_str(), region().await), ("Bearer third", json!("us")));
}

#[tokio::test(start_paused = true)]
async fn a_reload_changes_a_replica_at_the_same_address_in_place() {
    let world = World::new(2, Script { cached: None, ..Script::default() }, |_| {}).await;
    whole(world.send(chat(&"a prompt of some length ".repeat(40), true)).await).await;
    for name in ["e0", "e1"] {
        drain(&world, name, true).await;
    }
    let rows = async || world.get("/proxy/servers").await.1;
    let tokens = |rows: &Value| rows.as_array().unwrap().iter().map(|row| row["index_tokens"].as_u64().unwrap()).sum();
    let before: u64 = tokens(&rows().await);
    let put = async |text: &str| {
        let request = http::Request::put("http://router:8000/proxy/config").header("content-type", "application/toml");
        let request = request.body(http_body_util::Full::new(text.to_owned().into())).unwrap();
        String::from_utf8(whole(world.send(request).await).await.to_vec()).unwrap()
    };
    let listed =
        |name: &str, port: u16, more: &str| format!("{{url = \"http://{name}:{port}\", name = \"{name}\"{more}}}");
    let other = ", labels = [\"rack=7\"], region = \"eu\", api_key = \"another\"";
    let told =
        put(&format!("policy = \"gorgo\"\nreplicas = [{}, {}]", listed("e0", 8080, other), listed("e1", 8080, "")))
            .await;
    assert!(told.contains("changed e0") && !told.contains("e1"), "{told}");
    let after = rows().await;
    assert!(before > 0 && tokens(&after) == before, "{after}");
    assert_eq!((&after[0]["region"], fleet(&world).await), (&json!("eu"), vec!["-e0".to_owned(), "-e1".to_owned()]));
    assert_eq!(world.call(Method::DELETE, "/proxy/servers?id=e1", &Value::Null).await.0, 200);
    let told =
        put(&format!("policy = \"gorgo\"\nreplicas = [{}, {}]", listed("e0", 9090, ""), listed("e1", 8080, other)))
            .await;
    assert!(told.contains("removed e0") && told.contains("added e0"), "{told}");
    assert_eq!(fleet(&world).await, ["-e0"], "an operator has removed `e1`, and drained the name `e0`");
}

/// Puts this configuration in force, with a source of discovery at `path`; returns what changed.
async fn put(world: &World, path: &Path, replicas: &str) -> String {
    let text = format!("policy = \"gorgo\"\ndiscovery = {{file = {path:?}, poll_ms = 100}}\nreplicas = [{replicas}]");
    let request = http::Request::put("http://router:8000/proxy/config").header("content-type", "application/toml");
    let request = request.body(http_body_util::Full::new(text.into())).unwrap();
    String::from_utf8(whole(world.send(request).await).await.to_vec()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_moves_between_configuration_and_discovery_keeps_what_was_learned() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("endpoints.json");
    let net = Net::default();
    let _engines = engines(&net, &["a", "b"]);
    write(&path, &[entry("b", &json!({}))]);
    let world = router(&net, &path, |config| config.replicas = vec![replica("a")]).await;
    ms(500).await;
    drain(&world, "b", true).await;
    whole(world.send(chat(&"a prompt of some length ".repeat(40), true)).await).await;
    let row = async || {
        let rows = world.get("/proxy/servers").await.1;
        rows.as_array().unwrap().iter().find(|row| row["id"] == "a").unwrap().clone()
    };
    let before = row().await;
    assert!(before["index_tokens"].as_u64().unwrap() > 0 && before["dispatched"] == 1, "{before}");
    let is_kept = async |region: Value, by: &str| {
        let after = row().await;
        for key in ["index_tokens", "dispatched", "health", "latency_ms"] {
            assert_eq!(after[key], before[key], "{key} {by}: {after}");
        }
        assert_eq!(after["region"], region, "{by}");
    };
    // To discovery: the file lists it before the configuration lets it go.
    let discovered = json!({"region": "eu"});
    write(&path, &[entry("a", &discovered), entry("b", &json!({}))]);
    ms(500).await;
    let told = put(&world, &path, "").await;
    assert!(told.contains("a is kept, since discovery lists it") && !told.contains("removed"), "{told}");
    is_kept(json!("eu"), "from the configuration").await;
    ms(500).await;
    is_kept(json!("eu"), "after another answer").await;
    // Back: the configuration names it before the file lets it go.
    let own = "{url = \"http://a:8080\", name = \"a\", region = \"us\"}";
    let told = put(&world, &path, own).await;
    assert!(told.contains("changed a, which discovery listed"), "{told}");
    is_kept(json!("us"), "from discovery").await;
    write(&path, &[entry("b", &json!({}))]);
    ms(500).await;
    is_kept(json!("us"), "as the file lists it no more").await;
    // At another address it is another engine.
    write(&path, &[entry("a", &json!({"address": "b", "port": 9090})), entry("b", &json!({}))]);
    ms(500).await;
    let told = put(&world, &path, "").await;
    assert!(told.contains("removed a"), "{told}");
}

#[tokio::test(start_paused = true)]
async fn a_configured_replica_joins_when_the_discovered_one_at_its_address_leaves() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("endpoints.json");
    let net = Net::default();
    let _engines = engines(&net, &["a", "b"]);
    let none = json!({});
    write(&path, &["a", "b"].map(|name| entry(name, &none)));
    let world = router(&net, &path, |_| {}).await;
    assert_eq!(fleet(&world).await, ["a", "b"]);
    let text = format!(
        "policy = \"gorgo\"\ndiscovery = {{file = {path:?}, poll_ms = 100}}\nreplicas = [{{url = \"http://a:8080\", name = \"own\"}}]"
    );
    for _ in 0..2 {
        let request = http::Request::put("http://router:8000/proxy/config").header("content-type", "application/toml");
        let request = request.body(http_body_util::Full::new(text.clone().into())).unwrap();
        let told = String::from_utf8(whole(world.send(request).await).await.to_vec()).unwrap();
        assert!(told.contains("a replica is not added"), "each time: {told}");
    }
    assert_eq!(fleet(&world).await, ["a", "b"]);
    write(&path, &[entry("b", &none)]);
    ms(500).await;
    assert_eq!(fleet(&world).await, ["b", "own"]);
}

#[tokio::test(start_paused = true)]
async fn a_restart_while_the_source_is_away_begins_with_its_last_endpoints() {
    let dir = tempfile::tempdir().unwrap();
    let (path, state) = (dir.path().join("endpoints.json"), dir.path().join("state.toml"));
    let net = Net::default();
    let _engines = engines(&net, &["a", "b"]);
    write(&path, &[entry("a", &json!({})), entry("b", &json!({"state": "terminating", "region": "eu"}))]);
    let mut world = router(&net, &path, |config| config.state = Some(state.clone())).await;
    whole(world.send(chat(&"a prompt of some length ".repeat(40), true)).await).await;
    world.stop();
    (&mut world.server).await.unwrap();
    drop(world);
    std::fs::remove_file(&path).unwrap();
    let world = router(&net, &path, |config| config.state = Some(state.clone())).await;
    assert_eq!(fleet(&world).await, ["-b", "a"]);
    let status = world.get("/proxy/status").await.1;
    let (source, first) = (&status["discovery"][0], &status["servers"][0]);
    assert_eq!((&source["stale"], &source["endpoints"], &source["age_s"]), (&json!(true), &json!(2), &Value::Null));
    assert!(first["index_tokens"].as_u64().unwrap() > 0, "what was learned of it is there, too: {first}");
    assert_eq!(world.send(chat("hello", false)).await.status(), 200);
    // The source's next answer counts.
    write(&path, &[entry("b", &json!({}))]);
    ms(500).await;
    assert_eq!(fleet(&world).await, ["b"]);
}

#[tokio::test(start_paused = true)]
async fn of_too_many_endpoints_as_many_as_fit_are_used_and_the_rest_is_counted() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("endpoints.json");
    let net = Net::default();
    let many: Vec<Value> = (0..300).map(|n| entry(&format!("e{n:03}"), &json!({}))).collect();
    write(&path, &many);
    let world = router(&net, &path, |config| config.replicas = vec![replica("own")]).await;
    ms(500).await;
    let names = fleet(&world).await;
    assert_eq!((names.len(), names[0].as_str(), names[255].as_str()), (256, "e000", "own"));
    let status = world.get("/proxy/status").await.1;
    let source = &status["discovery"][0];
    assert_eq!((&source["endpoints"], &source["left_out"], &source["stale"]), (&json!(255), &json!(45), &json!(false)));
    let page = world.get("/metrics").await.1;
    let line = page.as_str().unwrap().lines().find(|line| line.starts_with("gorgo_discovery_left_out{"));
    assert!(line.unwrap().ends_with(" 45.0"), "{line:?}");
}

#[tokio::test(start_paused = true)]
async fn an_edge_that_discovers_itself_is_no_peer_of_itself() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("edges.json");
    let net = Net::default();
    let _engines = engines(&net, &["e"]);
    // On a real network it listens on 0.0.0.0 and cannot know its address.
    let edges = [("edge-0", "router"), ("edge-1", "other")];
    write(&path, &edges.map(|(name, host)| json!({"name": name, "address": host, "port": 8000})));
    let world = router(&net, &path, |config| {
        (config.role, config.replicas) = (Role::Edge, vec![replica("e")]);
    })
    .await;
    for _ in 0..5 {
        ms(1_000).await;
        let peers = world.get("/lb/peers").await.1;
        assert_eq!((&peers["count"], &peers["peers"][0]["id"]), (&json!(1), &json!("edge-1")), "{peers}");
    }
    assert_eq!(world.get("/lb/status").await.1["discovery"][0]["endpoints"], 1);
}

#[tokio::test(start_paused = true)]
async fn clients_are_told_why_there_is_no_replica_and_the_log_alone_names_files() {
    let log = Log::start();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("endpoints.json");
    let net = Net::default();
    let _engines = engines(&net, &["a", "b"]);
    let world = router(&net, &path, |config| config.router.down_timeout_ms = 100.0).await;
    let message = async || {
        let response = world.send(chat("hello", false)).await;
        assert_eq!(response.status(), 503);
        let body: Value = serde_json::from_slice(&whole(response).await).unwrap();
        body["error"]["message"].as_str().unwrap().to_owned()
    };
    let told = message().await;
    assert!(told.contains("discovery finds none") && !told.contains("endpoints.json"), "{told}");
    let logged = log.with("no replica is known to this router, since discovery from");
    assert!(logged.iter().any(|line| line.contains("endpoints.json") && line.contains("cannot be read")), "{logged:?}");
    write(&path, &["a", "b"].map(|name| entry(name, &json!({}))));
    ms(500).await;
    for name in ["a", "b"] {
        drain(&world, name, true).await;
    }
    let told = message().await;
    assert!(told.starts_with("all 2 replicas are drained"), "{told}");
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_with_a_configured_name_at_another_address_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("endpoints.json");
    let net = Net::default();
    let _engines = engines(&net, &["a", "b"]);
    let log = Log::start();
    write(&path, &[json!({"name": "b", "address": "a", "port": 8080})]);
    let world = router(&net, &path, |config| {
        config.replicas = vec![replica("b")];
    })
    .await;
    ms(1_000).await;
    assert_eq!(fleet(&world).await, ["b"]);
    let lines = log.with("endpoint b is not used: the fleet has another replica of its name");
    assert_eq!(lines.len(), 1, "{lines:?}");
    let source = &world.get("/proxy/status").await.1["discovery"][0];
    assert_eq!((&source["endpoints"], &source["left_out"]), (&json!(0), &json!(1)));
}
