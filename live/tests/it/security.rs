use crate::fixture::{Log, World, chat, ms, replica, whole};
use gorgo_live::config::{Config, Security};
use gorgo_live::testkit::{Engine, Net, Script};
use gorgo_live::tls_client_config;
use http::{HeaderValue, Method};
use serde_json::{Value, json};

fn keys(config: &mut Config) {
    config.security = Security { api_key: Some("ask".into()), admin_key: Some("rule".into()), ..Security::default() };
}

#[tokio::test(start_paused = true)]
async fn keys_are_asked_for_compared_and_kept_from_engines() {
    let world = World::new(1, Script::default(), keys).await;
    for (key, status) in
        [(None, 401), (Some("Bearer wrong"), 401), (Some("Bearer ask"), 200), (Some("bearer rule"), 200)]
    {
        let mut request = chat("x", false);
        if let Some(key) = key {
            request.headers_mut().insert("authorization", HeaderValue::from_static(key));
        }
        let response = world.send(request).await;
        assert_eq!(response.status().as_u16(), status, "{key:?}");
        whole(response).await;
    }
    assert!(world.engines[0].seen().iter().all(|seen| !seen.headers.contains_key("authorization")));
    let (status, error) = world.call(Method::POST, "/proxy/cache/clear", &Value::Null).await;
    assert_eq!((status, &error["error"]["type"]), (401, &json!("authentication_error")));
    assert_eq!(world.get("/metrics").await.0, 401);
    assert_eq!((world.get("/health").await.0, world.get("/ready").await.0), (200, 200));
}

#[tokio::test(start_paused = true)]
async fn a_key_beside_another_one_is_enough_and_the_other_is_passed_on() {
    let world = World::new(1, Script::default(), keys).await;
    for (bearer, key, status) in [
        ("Bearer engine", "ask", 200),
        ("Basic abc", "ask", 200),
        ("Bearer ask", "engine", 200),
        ("Bearer engine", "wrong", 401),
        ("ask", "wrong", 401),
    ] {
        let mut request = chat("x", false);
        request.headers_mut().insert("authorization", bearer.parse().unwrap());
        request.headers_mut().insert("x-api-key", key.parse().unwrap());
        assert_eq!(world.send(request).await.status().as_u16(), status, "{bearer} {key}");
        if status == 200 {
            let seen = world.engines[0].seen().pop().unwrap().headers;
            let passed: Vec<_> = ["authorization", "x-api-key"].iter().filter_map(|name| seen.get(*name)).collect();
            assert_eq!(passed, [if key == "ask" { bearer } else { key }], "{bearer} {key}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn refused_administrators_and_clients_are_logged_without_their_keys_and_cannot_fill_the_log() {
    let log = Log::start();
    let world = World::new(1, Script::default(), keys).await;
    for path in ["/proxy/policy?key=guess", "/flush_cache?key=guess", "/v1/models?key=guess"] {
        assert_eq!(ask(&world, Method::POST, path, "guess", "").await.0, 401, "{path}");
    }
    ms(10).await;
    let why = "is refused: its key is wrong or missing";
    let told = log.with(why);
    assert_eq!(told.len(), 3, "{told:?}");
    for (line, what) in told.iter().zip(["from 127.0.0.1 for `/proxy/policy`", "for `/flush_cache`", "from 127.0.0.1"])
    {
        assert!(line.contains(what) && line.contains("WARN"), "{line}");
    }
    for n in 0..200 {
        ask(&world, Method::DELETE, &format!("/proxy/servers/{n}"), "guess", "").await;
        ask(&world, Method::GET, "/v1/models", "guess", "").await;
    }
    ms(10).await;
    assert!(log.with(why).len() < 20, "{:?}", log.with(why));
    ms(20_000).await;
    ask(&world, Method::GET, "/metrics", "guess", "").await;
    ms(10).await;
    let last = log.with(why).pop().unwrap();
    assert!(last.contains("/metrics") && last.contains("like it not shown"), "{last}");
    assert_eq!(log.with("guess").len(), 0, "a key is logged: {:?}", log.with("guess"));
    // Names that a page can rebind, against a router without keys.
    let open = World::new(1, Script::default(), |_| {}).await;
    let request = http::Request::get("http://router:8000/proxy/status").header("origin", "http://evil.example");
    assert_eq!(open.send(request.body(http_body_util::Full::default()).unwrap()).await.status(), 403);
    ms(10).await;
    assert_eq!(log.with("is refused: its Host or Origin is not this router's").len(), 1);
}

async fn ask(world: &World, method: Method, path: &str, key: &str, body: &str) -> (u16, String) {
    let request = http::Request::builder().method(method).uri(format!("http://router:8000{path}"));
    let request = request.header("authorization", format!("Bearer {key}")).header("content-type", "application/toml");
    let response = world.send(request.body(http_body_util::Full::new(body.to_owned().into())).unwrap()).await;
    (response.status().as_u16(), String::from_utf8(whole(response).await.to_vec()).unwrap())
}

#[tokio::test(start_paused = true)]
async fn a_configuration_that_is_read_and_written_back_leaves_every_key_as_it_was() {
    let world = World::new(1, Script::default(), |config| {
        keys(config);
        config.replicas[0].api_key = Some("engine".into());
    })
    .await;
    let (status, shown) = ask(&world, Method::GET, "/proxy/config", "rule", "").await;
    assert!(status == 200 && shown.contains("(set)"), "{shown}");
    assert!(["ask", "rule", "engine"].iter().all(|key| !shown.contains(&format!("\"{key}\""))), "{shown}");
    let (status, told) = ask(&world, Method::PUT, "/proxy/config", "rule", &shown).await;
    assert_eq!((status, told.as_str()), (200, "{\"changes\":[],\"success\":true}"));
    assert_eq!(ask(&world, Method::GET, "/proxy/status", "(set)", "").await.0, 401);
    // Silence about keys opens nothing; a new key takes the place of the old.
    let silent = "replicas = [{url = \"http://e0:8080\", name = \"e0\"}]\n";
    assert_eq!(ask(&world, Method::PUT, "/proxy/config", "rule", silent).await.0, 200);
    assert_eq!(world.get("/proxy/status").await.0, 401);
    assert_eq!(world.send(chat("x", false)).await.status(), 401);
    let rotated = format!("{silent}[security]\nadmin_key = \"new\"\nread_key = \"look\"\n");
    assert_eq!(ask(&world, Method::PUT, "/proxy/config", "rule", &rotated).await.0, 200);
    let status = async |key| ask(&world, Method::GET, "/proxy/status", key, "").await.0;
    assert_eq!((status("rule").await, status("new").await, status("look").await), (401, 200, 200));
    assert_eq!(ask(&world, Method::PUT, "/proxy/config", "look", silent).await.0, 401);
    let mut request = chat("x", false);
    request.headers_mut().insert("authorization", HeaderValue::from_static("Bearer ask"));
    assert_eq!(world.send(request).await.status(), 200);
    assert_eq!(world.engines[0].seen().last().unwrap().headers["authorization"], "Bearer engine");
}

#[tokio::test(start_paused = true)]
async fn a_body_of_the_admin_api_has_the_time_and_length_of_other_bodies() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let world = World::new(1, Script::default(), |_| {}).await;
    for (length, status) in [("1000", "408"), ("99999999", "413")] {
        let mut io = world.net.connect("router", 8000).unwrap();
        let head = format!(
            "POST /proxy/tune HTTP/1.1\r\nhost: router\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{{"
        );
        io.write_all(head.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        io.read_to_end(&mut answer).await.unwrap();
        assert!(answer.starts_with(format!("HTTP/1.1 {status} ").as_bytes()), "{}", String::from_utf8_lossy(&answer));
    }
}

#[tokio::test(start_paused = true)]
async fn tls_listens_and_reaches_replicas_and_unknown_roots_are_refused() {
    use gorgo_live::testkit::{Connector, Io};
    use std::time::Duration;
    let dir = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(vec!["router".to_owned()]).unwrap();
    let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    std::fs::write(&cert, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let world = World::new(1, Script::default(), |config| {
        config.tls.cert = Some(cert.clone());
        config.tls.key = Some(key.clone());
    })
    .await;
    let connect = |ca: Option<std::path::PathBuf>, insecure: bool| {
        let trust =
            tls_client_config(&gorgo_live::config::Tls { upstream_ca: ca, insecure, ..Default::default() }).unwrap();
        let connector = Connector::new(world.net.dial(), trust, Duration::from_secs(5));
        async move { connector.connect(true, "router", 8000).await }
    };
    let talk = |io: Io| async move {
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(io)).await.unwrap();
        tokio::spawn(connection);
        let mut request = chat("x", false);
        request.headers_mut().insert("host", HeaderValue::from_static("router"));
        sender.send_request(request).await.unwrap().status().as_u16()
    };
    assert_eq!(talk(connect(Some(cert.clone()), false).await.unwrap()).await, 200);
    assert_eq!(talk(connect(None, true).await.unwrap()).await, 200);
    assert!(connect(None, false).await.is_err(), "an unknown root is refused");
    let missing = tls_client_config(&gorgo_live::config::Tls { upstream_ca: Some(key), ..Default::default() });
    assert!(missing.unwrap_err().to_string().ends_with("holds no PEM certificate"));
}

#[tokio::test(start_paused = true)]
async fn a_reload_shows_new_connections_the_renewed_certificate() {
    use gorgo_live::testkit::Connector;
    use std::time::Duration;
    let dir = tempfile::tempdir().unwrap();
    let (cert, key, root) = (dir.path().join("cert.pem"), dir.path().join("key.pem"), dir.path().join("root.pem"));
    let renew = || {
        let made = rcgen::generate_simple_self_signed(vec!["router".to_owned()]).unwrap();
        std::fs::write(&cert, made.cert.pem()).unwrap();
        std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        made.cert.pem()
    };
    std::fs::write(&root, renew()).unwrap();
    let world = World::new(1, Script::default(), |config| {
        (config.tls.cert, config.tls.key) = (Some(cert.clone()), Some(key.clone()));
    })
    .await;
    let connect = async || {
        let tls = gorgo_live::config::Tls { upstream_ca: Some(root.clone()), ..Default::default() };
        let connector = Connector::new(world.net.dial(), tls_client_config(&tls).unwrap(), Duration::from_secs(5));
        let io = connector.connect(true, "router", 8000).await.ok()?;
        let io = hyper_util::rt::TokioIo::new(io);
        let made = hyper::client::conn::http1::handshake::<_, http_body_util::Full<bytes::Bytes>>(io).await;
        let (sender, connection) = made.unwrap();
        tokio::spawn(connection);
        Some(sender)
    };
    let mut kept = connect().await.unwrap();
    let mut reload = async || {
        let text = format!(
            "policy = \"gorgo\"\ntls = {{cert = {cert:?}, key = {key:?}}}\nreplicas = [{{url = \"http://e0:8080\", name = \"e0\"}}]"
        );
        let put =
            http::Request::put("/proxy/config").header("host", "router").header("content-type", "application/toml");
        let answer = kept.send_request(put.body(http_body_util::Full::new(text.into())).unwrap()).await.unwrap();
        (answer.status().as_u16(), String::from_utf8(whole(answer).await.to_vec()).unwrap())
    };
    let renewed = renew();
    assert!(connect().await.is_some(), "not before a reload");
    let (status, told) = reload().await;
    assert!(status == 200 && told.contains("tls: other certificates"), "{told}");
    assert!(connect().await.is_none(), "the old root does not sign the new certificate");
    std::fs::write(&root, renewed).unwrap();
    assert!(connect().await.is_some());
    std::fs::write(&cert, "no certificate").unwrap();
    let (status, told) = reload().await;
    assert!(status == 400 && told.contains("cert.pem"), "{told}");
    assert!(connect().await.is_some(), "the one in force stays");
}

/// Routers at these hosts, each with the replicas named beside it.
async fn routers(net: &Net, hosts: &[(&str, &[&str])]) -> Vec<World> {
    let mut all = Vec::new();
    for (host, replicas) in hosts {
        let replicas = replicas.iter().map(|name| gorgo_live::config::ReplicaConfig {
            url: if name.starts_with('e') { format!("http://{name}:8080") } else { format!("http://{name}:8000") },
            ..replica(name)
        });
        let config = Config { replicas: replicas.collect(), ..Config::default() };
        all.push(World::with(net.clone(), Vec::new(), config, host).await);
    }
    all
}

/// What a router says of its replica at this place.
async fn server(world: &World, host: &str, place: usize) -> Value {
    let request = http::Request::get(format!("http://{host}:8000/proxy/servers"));
    let response = world.send(request.body(http_body_util::Full::default()).unwrap()).await;
    serde_json::from_slice::<Value>(&whole(response).await).unwrap()[place].clone()
}

#[tokio::test(start_paused = true)]
async fn loops_of_routers_are_found_and_named() {
    let net = Net::default();
    let _engine = Engine::start(&net, "e0", Script::default());
    // A router as its own replica, two that are each other's, three in a circle; each but the first has an engine too.
    let hosts: [(&str, &[&str]); 7] = [
        ("self", &["self"]),
        ("a", &["b", "e0"]),
        ("b", &["a", "e0"]),
        ("x", &["y", "e0"]),
        ("y", &["z", "e0"]),
        ("z", &["x", "e0"]),
        ("above", &["a"]),
    ];
    let worlds = routers(&net, &hosts).await;
    ms(5_000).await;
    for (world, (host, _)) in worlds.iter().zip(&hosts) {
        let shown = server(world, host, 0).await;
        let is_loop = *host != "above";
        assert_eq!(shown["health"] == "down", is_loop, "{host}: {shown}");
        if is_loop {
            assert!(shown["last_error"].as_str().unwrap().contains("leads back to this router"), "{host}: {shown}");
        }
    }
    // Requests go to the engines, also from a router above.
    for host in ["a", "b", "x", "above"] {
        let mut request = chat("hello", false);
        *request.uri_mut() = format!("http://{host}:8000/v1/chat/completions").parse().unwrap();
        assert_eq!(worlds[0].send(request).await.status(), 200, "{host}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_comes_back_is_refused_before_any_probe_has_shown_the_loop() {
    let net = Net::default();
    let replicas = vec![gorgo_live::config::ReplicaConfig { url: "http://router:8000".into(), ..replica("myself") }];
    let mut config = Config { replicas, ..Config::default() };
    config.probes.period_ms = 0;
    let world = World::with(net, Vec::new(), config, "router").await;
    let response = world.send(chat("hello", false)).await;
    assert_eq!(response.status(), 508);
    assert!(String::from_utf8_lossy(&whole(response).await).contains("router_loop"));
    assert_eq!(world.left(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_router_without_replicas_is_alive_and_not_ready() {
    let mut world = World::new(1, Script::default(), |_| {}).await;
    world.engines.clear();
    ms(5_000).await;
    assert_eq!((world.get("/health").await.0, world.get("/ready").await.0), (200, 503));
    let began = tokio::time::Instant::now();
    let response = world.send(chat("x", false)).await;
    assert_eq!(response.status(), 503);
    assert!(String::from_utf8_lossy(&whole(response).await).contains("no_healthy_replica"));
    assert_eq!(began.elapsed().as_secs(), 2, "router.down_timeout_ms");
    let (_, servers) = world.get("/proxy/servers").await;
    assert!(servers[0]["last_error"].as_str().unwrap().starts_with("cannot connect"), "{servers}");
}
