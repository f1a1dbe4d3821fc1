//! Paths, keys, encodings and pages of other sites: what reaches an engine, and what does not.

use crate::fixture::{World, chat, post, replica, whole};
use bytes::Bytes;
use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
use gorgo_live::config::{Config, Security};
use gorgo_live::testkit::{Engine, Listener, Net, Script};
use http::{Method, Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use serde_json::{Value, json};
use std::io::Write;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn with_keys(config: &mut Config) {
    config.security = Security { api_key: Some("ask".into()), admin_key: Some("rule".into()), ..Security::default() };
}

fn asked(world: &World) -> usize {
    world.engines.iter().map(|engine| engine.seen().len() + engine.flushed()).sum()
}

async fn send(world: &World, method: Method, path: &str, headers: &[(&str, &str)], body: &str) -> Response<Incoming> {
    let mut request = Request::builder().method(method).uri(format!("http://router:8000{path}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    world.send(request.body(Full::new(Bytes::from(body.to_owned()))).unwrap()).await
}

/// The status that a raw request line gets; clients' libraries resolve dots themselves.
async fn raw_status(world: &World, line: &str) -> String {
    let mut io = world.net.connect("router", 8000).unwrap();
    let text = format!("{line} HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    io.write_all(text.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    io.read_to_end(&mut answer).await.unwrap();
    String::from_utf8_lossy(&answer).split(' ').nth(1).unwrap_or_default().to_owned()
}

#[tokio::test(start_paused = true)]
async fn paths_that_others_read_differently_and_odd_methods_reach_no_engine() {
    let world = World::new(1, Script::default(), |_| {}).await;
    for path in ["/v1/../flush_cache", "/v1/%2e%2e/flush_cache", "/v1/..%2fflush_cache", "/v1//models", "/v1/..\\x"] {
        assert_eq!(raw_status(&world, &format!("POST {path}")).await, "400", "{path}");
    }
    assert_eq!(raw_status(&world, "CONNECT /v1/x").await, "405");
    assert_eq!(raw_status(&world, "CONNECT engine:80").await, "405");
    assert_eq!(raw_status(&world, "TRACE /v1/x").await, "405");
    assert_eq!(asked(&world), 0);
}

#[tokio::test(start_paused = true)]
async fn engines_administration_needs_the_admin_key_and_goes_to_all() {
    let world = World::new(2, Script::default(), with_keys).await;
    for path in ["/v1/load_lora_adapter", "/flush_cache", "/v1/flush_cache", "/update_weights_from_disk", "/sleep"] {
        for key in [&[][..], &[("authorization", "Bearer ask")]] {
            assert_eq!(send(&world, Method::POST, path, key, "{}").await.status(), 401, "{path}");
        }
    }
    assert_eq!(asked(&world), 0);
    let admin = [("authorization", "Bearer rule")];
    let response = send(&world, Method::POST, "/flush_cache", &admin, "").await;
    assert_eq!(response.status(), 200);
    let said: Value = serde_json::from_slice(&whole(response).await).unwrap();
    assert_eq!((&said["replicas"]["e0"]["status"], &said["replicas"]["e1"]["status"]), (&json!(200), &json!(200)));
    assert_eq!(world.engines.iter().map(Engine::flushed).collect::<Vec<_>>(), [1, 1]);
    send(&world, Method::POST, "/v1/load_lora_adapter", &admin, r#"{"lora_name":"x"}"#).await;
    for engine in &world.engines {
        let seen = engine.seen().pop().unwrap();
        assert_eq!((seen.path.as_str(), &seen.body[..]), ("/v1/load_lora_adapter", &br#"{"lora_name":"x"}"#[..]));
        assert!(!seen.headers.contains_key("authorization"));
    }
    // The router waits 30 s at most for an engine that accepts connections and answers nothing.
    let mut hung = world.net.listen("hung", 8080);
    tokio::spawn(async move {
        let mut open = Vec::new();
        while let Ok(accepted) = hung.accept().await {
            open.push(accepted);
        }
    });
    let body = r#"{"url": "http://hung:8080", "name": "hung"}"#;
    let json = [("authorization", "Bearer rule"), ("content-type", "application/json")];
    assert_eq!(send(&world, Method::POST, "/proxy/servers", &json, body).await.status(), 201);
    let began = tokio::time::Instant::now();
    let response = send(&world, Method::POST, "/flush_cache", &admin, "").await;
    assert!(began.elapsed().as_secs() <= 31 && response.status() == 502, "{:?} {response:?}", began.elapsed());
    let said: Value = serde_json::from_slice(&whole(response).await).unwrap();
    assert_eq!((&said["replicas"]["hung"]["status"], &said["replicas"]["e1"]["status"]), (&json!(504), &json!(200)));
    // Without an admin key no client administers engines through the router.
    let open = World::new(1, Script::default(), |_| {}).await;
    assert_eq!(send(&open, Method::POST, "/flush_cache", &[], "").await.status(), 404);
    assert_eq!(asked(&open), 0);
}

#[tokio::test(start_paused = true)]
async fn only_a_key_that_the_router_asked_for_is_taken_away() {
    let world = World::new(1, Script::default(), |config| {
        config.security = Security { admin_key: Some("rule".into()), ..Security::default() };
    })
    .await;
    for (key, passes) in [("Bearer engine", true), ("Bearer rule", false)] {
        let mut request = chat("x", false);
        request.headers_mut().insert("authorization", key.parse().unwrap());
        assert_eq!(world.send(request).await.status(), 200);
        assert_eq!(world.engines[0].seen().pop().unwrap().headers.contains_key("authorization"), passes, "{key}");
    }
}

/// A body as each encoding packs it.
fn packed(encoding: &str, body: &[u8]) -> Vec<u8> {
    match encoding {
        "gzip" => {
            let mut out = GzEncoder::new(Vec::new(), Compression::fast());
            out.write_all(body).unwrap();
            out.finish().unwrap()
        }
        "deflate" => {
            let mut out = ZlibEncoder::new(Vec::new(), Compression::fast());
            out.write_all(body).unwrap();
            out.finish().unwrap()
        }
        "zstd" => zstd::encode_all(body, 1).unwrap(),
        // As a sender that asks the receiver for 128 MiB of memory.
        "zstd-wide" => {
            let mut out = zstd::Encoder::new(Vec::new(), 1).unwrap();
            out.window_log(27).unwrap();
            out.write_all(body).unwrap();
            out.finish().unwrap()
        }
        _ => {
            let mut out = DeflateEncoder::new(Vec::new(), Compression::fast());
            out.write_all(body).unwrap();
            out.finish().unwrap()
        }
    }
}

async fn send_packed(world: &World, encoding: &str, body: Vec<u8>) -> Response<Incoming> {
    send_packed_to(world, "/v1/chat/completions", encoding, body).await
}

async fn send_packed_to(world: &World, path: &str, encoding: &str, body: Vec<u8>) -> Response<Incoming> {
    let mut request = post(path, "");
    request.headers_mut().insert("content-encoding", encoding.parse().unwrap());
    *request.body_mut() = Full::new(Bytes::from(body));
    world.send(request).await
}

#[tokio::test(start_paused = true)]
async fn packed_bodies_are_unpacked_within_the_limit_or_refused_by_name() {
    let world = World::new(1, Script::default(), |config| config.limits.body_bytes = 100_000).await;
    let body = json!({"model": "mock", "messages": [{"role": "user", "content": "word ".repeat(2_000)}]}).to_string();
    for (name, packing) in [
        ("gzip", "gzip"),
        ("x-gzip", "gzip"),
        ("deflate", "deflate"),
        ("deflate", "raw"),
        ("GZIP", "gzip"),
        ("zstd", "zstd"),
    ] {
        assert_eq!(send_packed(&world, name, packed(packing, body.as_bytes())).await.status(), 200, "{name}");
        let seen = world.engines[0].seen().pop().unwrap();
        assert!(seen.body == body && !seen.headers.contains_key("content-encoding"), "{name}");
    }
    let text = send_packed_to(&world, "/tokenize", "gzip", packed("gzip", body.as_bytes())).await;
    assert_eq!(whole(text).await, body, "bodies without a prompt are unpacked, too");
    let before = asked(&world);
    let mut damaged = packed("zstd", body.as_bytes());
    let middle = damaged.len() / 2;
    damaged[middle] ^= 0xff;
    for (name, body, status) in [
        ("br", vec![1, 2, 3], 415),
        ("gzip, gzip", vec![1, 2, 3], 415),
        ("gzip", body.clone().into_bytes(), 400),
        ("gzip", packed("gzip", &vec![b' '; 50_000_000]), 413),
        ("gzip", packed("gzip", body.as_bytes())[..50].to_vec(), 400),
        ("zstd", body.clone().into_bytes(), 400),
        ("zstd", packed("zstd", &vec![b' '; 50_000_000]), 413),
        ("zstd", packed("zstd", body.as_bytes())[..50].to_vec(), 400),
        ("zstd", packed("zstd-wide", body.as_bytes()), 400),
        ("zstd", damaged, 400),
    ] {
        let response = send_packed(&world, name, body).await;
        assert_eq!(response.status(), status, "{name}");
        let said = String::from_utf8(whole(response).await.to_vec()).unwrap();
        assert!(status != 415 || said.contains(&format!("`{name}`")), "{said}");
    }
    assert_eq!(asked(&world), before);
}

#[tokio::test(start_paused = true)]
async fn packed_bodies_of_administration_are_read_as_those_of_requests() {
    let world = World::new(1, Script::default(), |_| {}).await;
    let weight = |weight: f64| json!({ "ms_per_token": weight }).to_string().into_bytes();
    for (name, body, status) in [
        ("gzip", packed("gzip", &weight(0.5)), 200),
        ("identity", weight(0.25), 200),
        ("br", weight(0.75), 415),
        ("gzip", weight(0.75), 400),
        ("gzip", packed("gzip", &vec![b' '; 50_000_000]), 413),
    ] {
        assert_eq!(send_packed_to(&world, "/proxy/tune", name, body).await.status(), status, "{name}");
    }
    assert_eq!(world.get("/proxy/status").await.1["ms_per_token"], 0.25);
}

#[tokio::test(start_paused = true)]
async fn a_byte_order_mark_is_left_to_the_engine_and_counts_as_no_prompt() {
    let world = World::new(1, Script::default(), |_| {}).await;
    let body = json!({"model": "mock", "messages": [{"role": "user", "content": "hello"}]}).to_string();
    for mark in ["", "\u{feff}"] {
        let marked = format!("{mark}{body}");
        assert_eq!(world.send(post("/v1/chat/completions", &marked)).await.status(), 200);
        assert_eq!(world.engines[0].seen().pop().unwrap().body, marked);
    }
    let rows = world.state.request_log.entries();
    assert_eq!(rows[0].prompt_bytes, rows[1].prompt_bytes);
}

const PREFLIGHT: [(&str, &str); 3] = [
    ("origin", "https://page.example"),
    ("access-control-request-method", "POST"),
    ("access-control-request-headers", "authorization"),
];

#[tokio::test(start_paused = true)]
async fn preflights_need_no_key_and_refusals_can_be_read() {
    // The engines decide.
    let world = World::new(1, Script::default(), with_keys).await;
    let before = asked(&world);
    let response = send(&world, Method::OPTIONS, "/v1/chat/completions", &PREFLIGHT, "").await;
    assert_eq!((response.status().as_u16(), asked(&world) - before), (405, 0), "the mock engine's own answer");
    let refused = send(&world, Method::POST, "/v1/chat/completions", &PREFLIGHT[..1], "{}").await;
    assert_eq!(
        (refused.status().as_u16(), &refused.headers()["access-control-allow-origin"]),
        (401, &"*".parse().unwrap())
    );
    assert_eq!(send(&world, Method::OPTIONS, "/v1/chat/completions", &PREFLIGHT[..1], "").await.status(), 401);
    let open = World::new(1, Script::default(), |_| {}).await;
    for path in ["/v1/models", "/v1/models/mock"] {
        let list = send(&open, Method::GET, path, &PREFLIGHT[..1], "").await;
        assert_eq!(list.headers()["access-control-allow-origin"], "*", "{path}");
    }
    // The router decides.
    let world = World::new(1, Script::default(), |config| {
        with_keys(config);
        config.cors.origins = vec!["https://page.example".to_owned()];
    })
    .await;
    let response = send(&world, Method::OPTIONS, "/v1/chat/completions", &PREFLIGHT, "").await;
    assert_eq!(response.status(), 204);
    assert_eq!(response.headers()["access-control-allow-origin"], "https://page.example");
    assert_eq!(response.headers()["access-control-allow-headers"], "authorization");
    let mut request = chat("x", false);
    request.headers_mut().insert("origin", "https://page.example".parse().unwrap());
    request.headers_mut().insert("authorization", "Bearer ask".parse().unwrap());
    let response = world.send(request).await;
    assert_eq!((response.status().as_u16(), &response.headers()["vary"]), (200, &"Origin".parse().unwrap()));
    assert_eq!(response.headers()["access-control-allow-origin"], "https://page.example");
    let other = [("origin", "https://evil.example"), PREFLIGHT[1]];
    let refused = send(&world, Method::OPTIONS, "/v1/chat/completions", &other, "").await;
    assert!(refused.status() == 403 && !refused.headers().contains_key("access-control-allow-origin"));
}

#[tokio::test(start_paused = true)]
async fn every_answer_to_a_client_has_its_request_id() {
    let world = World::new(1, Script::default(), with_keys).await;
    let key = ("authorization", "Bearer ask");
    let id = ("x-request-id", "my-id-1");
    let text = ("content-type", "text/plain");
    for (method, path, headers, body, status) in [
        (Method::POST, "/v1/chat/completions", &[key, id][..], "{\"messages\":[]}", 200),
        (Method::POST, "/v1/chat/completions", &[key, id], "[1]", 400),
        (Method::POST, "/v1/chat/completions", &[id], "{}", 401),
        (Method::POST, "/nope", &[key, id], "{}", 404),
        (Method::POST, "/v1/chat/completions", &[key, id], "{\"model\":\"zz\",\"messages\":[]}", 404),
        (Method::POST, "/v1/chat/completions", &[key, id, text], "{}", 415),
        (Method::GET, "/v1/models", &[key, id], "", 200),
        (Method::POST, "/flush_cache", &[key, id], "", 401),
    ] {
        let response = send(&world, method, path, headers, body).await;
        assert_eq!(
            (response.status().as_u16(), &response.headers()["x-request-id"]),
            (status, &"my-id-1".parse().unwrap())
        );
    }
    let without = send(&world, Method::POST, "/nope", &[key], "").await;
    assert!(without.headers()["x-request-id"].len() > 16, "one of the router's");
}

#[tokio::test(start_paused = true)]
async fn a_replica_is_known_by_its_openai_base_url_too() {
    let net = Net::default();
    let engine = Engine::start(&net, "e0", Script::default());
    let mut one = replica("e0");
    one.url = "http://e0:8080/v1".to_owned();
    let world = World::with(net, vec![engine], Config { replicas: vec![one], ..Config::default() }, "router").await;
    assert_eq!(world.send(chat("x", false)).await.status(), 200);
    assert_eq!(world.engines[0].seen()[0].path, "/v1/chat/completions");
}

#[tokio::test(start_paused = true)]
async fn a_redirect_of_an_engine_names_no_engine() {
    let net = Net::default();
    let mut listener = net.listen("e0", 8080);
    tokio::spawn(async move {
        use gorgo_live::testkit::Listener;
        while let Ok((mut io, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut buf = [0; 8192];
                while let Ok(1..) = io.read(&mut buf).await {
                    let list = "HTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\n{\"data\":[]}";
                    let answer = "HTTP/1.1 307 Temporary Redirect\r\nlocation: http://e0:8080/v1/chat/completions\r\n\
                                  content-length: 0\r\n\r\n";
                    let answer = if buf.starts_with(b"GET") { list } else { answer };
                    let _ = io.write_all(answer.as_bytes()).await;
                }
            });
        }
    });
    let config = Config { replicas: vec![replica("e0")], ..Config::default() };
    let world = World::with(net, Vec::new(), config, "router").await;
    let body = json!({"model": "m", "messages": []}).to_string();
    let response = world.send(post("/v1/chat/completions/", &body)).await;
    assert_eq!(
        (response.status().as_u16(), &response.headers()["location"]),
        (307, &"/v1/chat/completions".parse().unwrap())
    );
}
