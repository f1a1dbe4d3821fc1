//! What a replica sends in place of an answer: the client gets one of another replica.

use crate::blame::beside_good;
use crate::fixture::{World, chat, ms, post, whole};
use gorgo_live::config::{Config, ReplicaConfig};
use gorgo_live::testkit::{Engine, Listener, Net, Script};
use http_body_util::BodyExt;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn leaked(text: String) -> &'static str {
    Box::leak(text.into())
}

/// A stream of these bytes, whole.
fn stream(events: &str) -> &'static str {
    let chunk = if events.is_empty() { String::new() } else { format!("{:x}\r\n{events}\r\n", events.len()) };
    leaked(format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n{chunk}0\r\n\r\n"
    ))
}

fn with_type(status: &str, kind: &str, body: &str) -> &'static str {
    let kind = if kind.is_empty() { String::new() } else { format!("content-type: {kind}\r\n") };
    leaked(format!("HTTP/1.1 {status}\r\n{kind}content-length: {}\r\n\r\n{body}", body.len()))
}

/// Asks a bad replica and a good one in turn; all answers must be the good one's.
async fn goes_on(answer: &'static str, streams: bool) {
    let world = beside_good(answer, true, |_| {}).await;
    for n in 0..2 {
        let response = world.send(chat(&format!("{n}"), streams)).await;
        let served = response.headers().get("x-gorgo-replica").cloned();
        assert_eq!((response.status().as_u16(), served), (200, Some("e0".parse().unwrap())), "{answer}");
        assert!(whole(response).await.len() > 50, "{answer}");
    }
    assert!(world.state.request_log.entries().iter().any(|row| row.attempts == 2), "{answer}");
}

#[tokio::test(start_paused = true)]
async fn a_stream_without_an_answer_or_with_an_error_in_any_spelling_fails_over() {
    let told = r#"{"error":{"message":"boom","type":"InternalServerError","code":500}}"#;
    for events in [
        "",
        "data: [DONE]\n\n",
        "event: error\ndata: boom\n\n",
        "event: error\ndata: {\"message\":\"boom\"}\n\n",
        "event: error\ndata: {\"message\":\ndata: \"boom\"}\n\n",
        "error: {\"code\":500,\"message\":\"Compute error\",\"type\":\"server_error\"}\n\n",
        "data: {\"detail\":\"Internal Server Error\"}\n\n",
        "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"error\"}]}\n\n",
        "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"\"},\"finish_reason\":\"abort\"}]}\n\n",
        leaked(format!("data: {told}")),
        leaked(format!("data: {told}\n\ndata: [DONE]\n\n")),
    ] {
        goes_on(stream(events), true).await;
    }
    // Comments have passed by then; the answer follows them.
    let world = beside_good(stream(": hm\n\n"), true, |_| {}).await;
    for n in 0..2 {
        let text = whole(world.send(chat(&format!("{n}"), true)).await).await;
        assert!(text.ends_with(b"data: [DONE]\n\n"), "{}", String::from_utf8_lossy(&text));
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_in_one_piece_that_is_none_or_an_error_of_any_type_fails_over() {
    let told = r#"{"error":{"message":"queue full","code":503}}"#;
    for kind in ["application/json; charset=utf-8", "application/problem+json", "text/json", "Application/JSON", ""] {
        goes_on(with_type("200 OK", kind, told), false).await;
    }
    goes_on(with_type("200 OK", "application/json", ""), false).await;
    goes_on(with_type("200 OK", "application/json", "\n"), false).await;
    goes_on(with_type("200 OK", "text/html", "<html>Welcome to nginx!</html>"), false).await;
    let gave_up = r#"{"choices":[{"index":0,"message":{"role":"assistant","content":""},"finish_reason":"abort"}]}"#;
    goes_on(with_type("200 OK", "application/json", gave_up), false).await;
    // A single replica's is told as what it is.
    let world = beside_good(with_type("200 OK", "text/html", "<html>"), true, |c| c.replicas.truncate(1)).await;
    let response = world.send(chat("x", false)).await;
    assert_eq!(response.status(), 502);
    let text = String::from_utf8_lossy(&whole(response).await).into_owned();
    assert!(text.contains("200 OK with a page of HTML to a prompt"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn an_ingress_that_lost_its_engine_is_not_the_clients_mistake() {
    for (status, kind, body) in [
        ("404 Not Found", "text/plain", "default backend - 404"),
        ("404 Not Found", "text/plain", "404 page not found\n"),
        ("404 Not Found", "text/html", "<html>404 Not Found</html>"),
        ("405 Not Allowed", "text/html", "<html>405 Not Allowed</html>"),
        ("403 Forbidden", "text/html", "<html>403</html>"),
        ("400 Bad Request", "text/html", "<html>400 The plain HTTP request was sent to HTTPS port</html>"),
    ] {
        goes_on(with_type(status, kind, body), false).await;
    }
    // With no other replica its words are passed on.
    let world =
        beside_good(with_type("404 Not Found", "text/plain", "no backend"), true, |c| c.replicas.truncate(1)).await;
    let response = world.send(chat("x", false)).await;
    assert_eq!((response.status().as_u16(), &whole(response).await[..]), (404, &b"no backend"[..]));
}

#[tokio::test(start_paused = true)]
async fn an_empty_answer_that_the_engine_finished_is_one() {
    let ended = "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";
    let world = beside_good(stream(ended), true, |config| config.replicas.truncate(1)).await;
    let response = world.send(chat("x", true)).await;
    assert_eq!((response.status().as_u16(), &whole(response).await[..]), (200, ended.as_bytes()));
}

/// A replica that answers POSTs with `script` of the body, shows no list of models, and 404 for GETs of ids that it does
/// not have.
fn picky(net: &Net, name: &'static str, kept: &'static str, model: &'static str) {
    let mut listener = net.listen(name, 8080);
    tokio::spawn(async move {
        while let Ok((mut io, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = Vec::new();
                let mut buf = [0; 4096];
                while let Ok(n @ 1..) = io.read(&mut buf).await {
                    head.extend_from_slice(&buf[..n]);
                    let text = String::from_utf8_lossy(&head).into_owned();
                    let has = if text.starts_with("GET /v1/responses/") {
                        text.starts_with(&format!("GET /v1/responses/{kept} "))
                    } else if text.starts_with("GET /health") {
                        true
                    } else if text.starts_with("GET") {
                        false
                    } else if text.ends_with('}') {
                        text.contains(&format!("\"model\":\"{model}\"")) || text.contains(&format!("\"{kept}\""))
                    } else {
                        continue;
                    };
                    let answer = if has {
                        with_type(
                            "200 OK",
                            "application/json",
                            r#"{"id":"x","choices":[{"message":{"content":"hi"}}]}"#,
                        )
                    } else {
                        let error = r#"{"error":{"message":"It does not exist.","type":"NotFoundError","code":404}}"#;
                        with_type("404 Not Found", "application/json", error)
                    };
                    let _ = io.write_all(answer.as_bytes()).await;
                    head.clear();
                }
            });
        }
    });
}

async fn two_picky() -> World {
    let net = Net::default();
    picky(&net, "a", "resp_a", "one");
    picky(&net, "b", "resp_b", "two");
    let replicas: Vec<ReplicaConfig> = ["a", "b"].map(crate::fixture::replica).to_vec();
    let mut config = Config { replicas, ..Config::default() };
    config.probes.path = "/health".to_owned();
    config.policy = serde_json::from_str(r#"{"name": "round-robin"}"#).unwrap();
    World::with(net, Vec::new(), config, "router").await
}

#[tokio::test(start_paused = true)]
async fn an_id_or_model_that_one_engine_does_not_know_is_asked_of_another_and_kept() {
    let world = two_picky().await;
    for id in ["resp_a", "resp_b", "resp_a", "resp_b"] {
        assert_eq!(world.get(&format!("/v1/responses/{id}")).await.0, 200, "{id}");
        let body = json!({"model": "other", "input": "and?", "previous_response_id": id});
        assert_eq!(world.send(post("/v1/responses", &body.to_string())).await.status(), 200, "{id}");
    }
    for (n, model) in ["one", "two", "one", "two"].into_iter().enumerate() {
        let body = format!("{{\"model\":\"{model}\",\"messages\":[{{\"role\":\"user\",\"content\":\"{n}\"}}]}}");
        assert_eq!(world.send(post("/v1/chat/completions", &body)).await.status(), 200, "{model}");
    }
    let attempts: Vec<u8> = world.state.request_log.entries().iter().map(|row| row.attempts).collect();
    assert!(attempts.iter().filter(|&&attempts| attempts > 1).count() <= 4, "what was found is kept: {attempts:?}");
    // Nobody has it: the engine's own words.
    let (status, told) = world.get("/v1/responses/resp_c").await;
    assert_eq!((status, told["error"]["type"].as_str()), (404, Some("NotFoundError")));
    // A client that invents ids is answered by one engine in the end.
    for n in 0..100 {
        assert_eq!(world.get(&format!("/v1/responses/resp_{n}_")).await.0, 404);
    }
    assert_eq!(world.state.request_log.entries().last().unwrap().attempts, 1);
    assert_eq!(world.left(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_stays_open_after_its_end_mark_ends() {
    let events = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"}}]}\n\ndata: [DONE]\n\n";
    let answer = leaked(format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{events}\r\n",
        events.len()
    ));
    let world = beside_good(answer, false, |config| config.replicas.truncate(1)).await;
    let response = world.send(chat("x", true)).await;
    let began = tokio::time::Instant::now();
    assert_eq!(&whole(response).await[..], events.as_bytes());
    assert!(began.elapsed().as_secs() < 5 && world.left() == (0, 0));
    assert_eq!(world.state.request_log.entries()[0].status_code, 200);
}

#[tokio::test(start_paused = true)]
async fn a_torn_event_is_left_out_of_a_stream_that_breaks() {
    let world = World::new(1, Script { cut_after: Some(2), torn: true, ..Script::default() }, |_| {}).await;
    let text = String::from_utf8_lossy(&whole(world.send(chat("x", true)).await).await).into_owned();
    let events: Vec<&str> = text.split("\n\n").filter(|event| !event.trim().is_empty()).collect();
    for event in &events {
        let data = event.trim_start().strip_prefix("data: ").unwrap();
        assert!(serde_json::from_str::<serde_json::Value>(data).is_ok(), "{text}");
    }
    assert!(events.last().unwrap().contains("upstream_broke") && events.len() > 2, "{text}");
}

#[tokio::test(start_paused = true)]
async fn streams_of_other_paths_end_with_an_error_event_too() {
    let event = "event: x\ndata: {\"type\":\"response.output_text.delta\",\"delta\":\"a\"}\n\n";
    let torn = leaked(format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{event}\r\n",
        event.len()
    ));
    let world = beside_good(torn, true, |config| config.replicas.truncate(1)).await;
    let form = "--B\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nm\r\n--B--\r\n{}";
    let mut request = post("/v1/audio/transcriptions", form);
    request.headers_mut().insert("content-type", "multipart/form-data; boundary=B".parse().unwrap());
    let body = world.send(request).await.into_body().collect().await.expect("it is not cut").to_bytes();
    let text = String::from_utf8_lossy(&body);
    assert!(text.starts_with(event) && text.contains("upstream_broke"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn an_answer_with_many_header_lines_is_one() {
    let lines: String = (0..150).map(|n| format!("x-h{n}: v\r\n")).collect();
    let answer = leaked(format!(
        "HTTP/1.1 200 OK\r\n{lines}content-type: application/json\r\ncontent-length: 10\r\n\r\n{{\"id\":\"a\"}}"
    ));
    let world = beside_good(answer, true, |config| config.replicas.truncate(1)).await;
    let mut io = world.net.connect("router", 8000).unwrap();
    let body = "{\"messages\":[]}";
    let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\nconnection: close";
    io.write_all(format!("{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).as_bytes()).await.unwrap();
    let mut all = String::new();
    io.read_to_string(&mut all).await.unwrap();
    assert!(all.starts_with("HTTP/1.1 200 OK") && all.contains("\r\nx-h149: v\r\n"), "{all}");
}

#[tokio::test(start_paused = true)]
async fn an_adapter_is_served_and_listed_as_soon_as_it_is_loaded_through_the_router() {
    let world = World::new(2, Script { models: vec!["m".to_owned()], ..Script::default() }, |config| {
        config.security.admin_key = Some("rule".into());
    })
    .await;
    let lists = |names: &[&str]| {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        world.engines.iter().for_each(|engine: &Engine| engine.script(|s| s.models = names.clone()));
    };
    let administrate = async |path: &str| {
        let mut request = post(path, "{\"lora_name\":\"x\"}");
        request.headers_mut().insert("authorization", "Bearer rule".parse().unwrap());
        assert_eq!(world.send(request).await.status(), 200);
    };
    let ask = async || {
        let body = "{\"model\":\"x\",\"messages\":[]}";
        world.send(post("/v1/chat/completions", body)).await.status().as_u16()
    };
    assert_eq!(ask().await, 404);
    lists(&["m", "x"]);
    administrate("/v1/load_lora_adapter").await;
    assert_eq!(ask().await, 200);
    lists(&["m"]);
    administrate("/v1/unload_lora_adapter").await;
    assert_eq!(ask().await, 404);
    ms(1).await;
}

/// An engine that keeps one file.
fn keeper(net: &Net, name: &'static str, id: &'static str) {
    let mut listener = net.listen(name, 8080);
    tokio::spawn(async move {
        while let Ok((mut io, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut buf = [0; 4096];
                while let Ok(n @ 1..) = io.read(&mut buf).await {
                    let asked = String::from_utf8_lossy(&buf[..n]).into_owned();
                    let body = match asked.split(' ').nth(1).unwrap_or_default() {
                        "/v1/models" => json!({"data": [{"id": "m"}]}),
                        "/v1/files" => json!({"object": "list", "data": [{"id": id, "created_at": 1}]}),
                        _ if asked.contains(id) => json!({"id": id}),
                        _ => json!({"id": "of another engine"}),
                    };
                    let _ = io.write_all(with_type("200 OK", "application/json", &body.to_string()).as_bytes()).await;
                }
            });
        }
    });
}

#[tokio::test(start_paused = true)]
async fn a_list_of_files_is_the_union_of_the_engines_and_shows_where_each_is() {
    let net = Net::default();
    keeper(&net, "a", "file-a");
    keeper(&net, "b", "file-b");
    let replicas: Vec<ReplicaConfig> = ["a", "b", "down"].map(crate::fixture::replica).to_vec();
    let world = World::with(net, Vec::new(), Config { replicas, ..Config::default() }, "router").await;
    let (status, list) = world.get("/v1/files").await;
    let mut ids: Vec<_> = list["data"].as_array().unwrap().iter().map(|file| file["id"].as_str().unwrap()).collect();
    ids.sort_unstable();
    assert_eq!((status, ids), (200, vec!["file-a", "file-b"]));
    for id in ["file-a", "file-b", "file-a", "file-b"] {
        assert_eq!(world.get(&format!("/v1/files/{id}")).await.1["id"], id);
        assert_eq!(world.get(&format!("/v1/files?after={id}")).await.1["id"], id);
    }
}
