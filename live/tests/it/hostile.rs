//! Clients that mean harm or are broken.

use crate::fixture::{World, chat, ms, post, whole};
use gorgo_live::testkit::Script;
use serde_json::Value;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

async fn raw(world: &World, text: &str) -> String {
    let mut io = world.net.connect("router", 8000).unwrap();
    io.write_all(text.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(60), io.read_to_end(&mut answer)).await;
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test(start_paused = true)]
async fn bad_bodies_are_refused_in_openais_shape_and_reach_no_engine() {
    let world = World::new(1, Script::default(), |config| config.limits.body_bytes = 10_000).await;
    let deep = format!("{{\"messages\":{}", "[".repeat(5_000));
    let long = format!("{{\"prompt\":\"{}\"}}", "x".repeat(20_000));
    for (body, status, code) in [
        ("{\"prompt\": \"cut", 400, "invalid_body"),
        ("", 400, "invalid_body"),
        ("[]", 400, "invalid_body"),
        (deep.as_str(), 400, "invalid_body"),
        (long.as_str(), 413, "body_too_large"),
    ] {
        let response = world.send(post("/v1/completions", body)).await;
        assert_eq!(response.status().as_u16(), status);
        let error: Value = serde_json::from_slice(&whole(response).await).unwrap();
        assert_eq!(error["error"]["code"], code);
        assert!(error["error"]["message"].is_string() && error["error"]["type"] == "invalid_request_error");
    }
    let mut text = post("/v1/completions", "prompt=x");
    text.headers_mut().insert("content-type", "application/x-www-form-urlencoded".parse().unwrap());
    assert_eq!(world.send(text).await.status(), 415);
    let chunked = "POST /v1/completions HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
    let chunk = format!("4e20\r\n{}\r\n0\r\n\r\n", "x".repeat(20_000));
    assert!(raw(&world, &format!("{chunked}{chunk}")).await.starts_with("HTTP/1.1 413"), "also without a length");
    assert!(world.engines[0].seen().is_empty());
}

#[tokio::test(start_paused = true)]
async fn smuggled_requests_stay_inside_their_body() {
    let world = World::new(1, Script::default(), |_| {}).await;
    let inner = "GET /admin HTTP/1.1\r\nhost: a\r\n\r\n";
    // Both a length and chunks: either refused, or the chunks rule and nothing after them is a second body.
    for head in [
        format!("content-length: 6\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n{inner}"),
        format!("transfer-encoding: chunked\r\ncontent-length: {}\r\n\r\n0\r\n\r\n{inner}", 5 + inner.len()),
        format!("content-length: 5\r\ncontent-length: 6\r\n\r\nhello{inner}"),
        format!("transfer-encoding: xchunked\r\n\r\n0\r\n\r\n{inner}"),
        format!("content-length: +5\r\n\r\nhello{inner}"),
    ] {
        let answer = raw(&world, &format!("POST /v1/completions HTTP/1.1\r\nhost: a\r\n{head}")).await;
        assert!(answer.starts_with("HTTP/1.1 4"), "{head:?} got {answer:?}");
    }
    assert!(world.engines[0].seen().is_empty());
}

#[tokio::test(start_paused = true)]
async fn headers_cannot_be_injected_or_be_too_many_or_too_long() {
    let world = World::new(1, Script::default(), |config| config.limits.header_bytes = 8_192).await;
    let many: String = (0..150).map(|i| format!("x-{i}: y\r\n")).collect();
    let long = format!("x: {}\r\n", "y".repeat(20_000));
    for (headers, expected) in [
        (many.as_str(), "HTTP/1.1 431"),
        (long.as_str(), "HTTP/1.1 431"),
        ("x-bad\u{1}: y\r\n", "HTTP/1.1 400"),
        ("x-request-id: a\nb: c\r\n", "HTTP/1.1 "),
    ] {
        let answer =
            raw(&world, &format!("GET /v1/models HTTP/1.1\r\nhost: a\r\n{headers}connection: close\r\n\r\n")).await;
        assert!(answer.starts_with(expected), "{answer:?}");
    }
    let mut request = chat("x", false);
    request.headers_mut().insert("x-request-id", http::HeaderValue::from_bytes(b"\xff\xfe").unwrap());
    let response = world.send(request).await;
    assert_eq!(response.status(), 200);
    assert!(response.headers()["x-request-id"].to_str().is_ok(), "an id that is no text is replaced");
}

#[tokio::test(start_paused = true)]
async fn slow_clients_are_given_up() {
    let world = World::new(1, Script::default(), |_| {}).await;
    let answer = raw(&world, "POST /v1/completions HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\n{").await;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer:?}");
    let mut io = world.net.connect("router", 8000).unwrap();
    io.write_all(b"POST /v1/comp").await.unwrap();
    let mut rest = Vec::new();
    let closed = tokio::time::timeout(Duration::from_secs(20), io.read_to_end(&mut rest)).await;
    assert!(closed.is_ok(), "a head that does not come closes the connection");
    // Nothing at all, and words with which HTTP/2 begins.
    for said in ["", "PRI * HT"] {
        let mut io = world.net.connect("router", 8000).unwrap();
        io.write_all(said.as_bytes()).await.unwrap();
        let closed = tokio::time::timeout(Duration::from_secs(20), io.read_to_end(&mut rest)).await;
        assert!(closed.is_ok(), "a client that says {said:?} and no more is not kept");
    }
    // A body that drips within the gap, but for longer than a body may take.
    let mut io = world.net.connect("router", 8000).unwrap();
    io.write_all(b"POST /v1/completions HTTP/1.1\r\nhost: a\r\ncontent-length: 1000\r\n\r\n").await.unwrap();
    for _ in 0..30 {
        ms(5_000).await;
        let _ = io.write_all(b" ").await;
    }
    let mut answer = vec![0; 12];
    io.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, b"HTTP/1.1 408");
}

#[tokio::test(start_paused = true)]
async fn too_many_connections_and_requests_are_told_to_come_back() {
    let slow = Script { prefill: Duration::from_secs(5), ..Script::default() };
    let world = World::new(1, slow, |config| config.limits.connections = 2).await;
    let _held = [world.net.connect("router", 8000).unwrap(), world.net.connect("router", 8000).unwrap()];
    ms(1).await;
    let answer = raw(&world, "").await;
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("retry-after: 1"), "{answer:?}");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains(&format!("content-length: {}", body.len())));
    assert!(serde_json::from_str::<Value>(body).is_ok());
    let world = World::new(1, Script { prefill: Duration::from_secs(5), ..Script::default() }, |config| {
        config.limits.requests = 1;
    })
    .await;
    let (first, second) = tokio::join!(world.send(chat("a", false)), async {
        ms(10).await;
        world.send(chat("b", false)).await
    });
    assert_eq!((first.status().as_u16(), second.status().as_u16()), (200, 429));
}

/// A client that asks and then reads nothing.
#[tokio::test(start_paused = true)]
async fn clients_that_read_nothing_are_given_up() {
    let flood = Script { tokens: 100_000, gap: Duration::ZERO, ..Script::default() };
    let world = World::new(1, flood, |config| config.timeouts.idle_gap_ms = 3_000).await;
    let body = "{\"prompt\":\"x\",\"stream\":true}";
    let ask = format!(
        "POST /v1/completions HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut io = world.net.connect("router", 8000).unwrap();
    io.write_all(ask.as_bytes()).await.unwrap();
    ms(1_000).await;
    assert_eq!(world.left().1, 1);
    ms(10_000).await;
    assert_eq!(world.left(), (0, 0), "the stream was ended");
    assert_eq!(world.state.request_log.entries().pop().unwrap().end.as_str(), "client-gone");
    // Over HTTP/2 the socket is read, but the stream gets no window.
    let io = hyper_util::rt::TokioIo::new(world.net.connect("router", 8000).unwrap());
    let (mut sender, connection) = hyper::client::conn::http2::Builder::new(hyper_util::rt::TokioExecutor::new())
        .initial_stream_window_size(1_000)
        .handshake(io)
        .await
        .unwrap();
    tokio::spawn(connection);
    let unread = sender.send_request(chat("x", true)).await.unwrap();
    ms(1_000).await;
    assert_eq!(world.left().1, 1);
    ms(10_000).await;
    assert_eq!(world.left(), (0, 0), "the stream was reset");
    drop(unread);
}

#[tokio::test(start_paused = true)]
async fn idle_connections_have_a_limit_of_their_own() {
    let world = World::new(1, Script::default(), |config| config.timeouts.idle_ms = 40_000).await;
    let ask = "GET /health HTTP/1.1\r\nhost: a\r\n\r\n";
    let mut io = world.net.connect("router", 8000).unwrap();
    let mut answer = vec![0; 1_000];
    for pause in [0, 15_000, 39_000] {
        ms(pause).await; // longer than a head may take
        io.write_all(ask.as_bytes()).await.unwrap();
        let length = io.read(&mut answer).await.unwrap();
        assert!(answer[..length].starts_with(b"HTTP/1.1 200"), "after {pause} ms");
    }
    let began = tokio::time::Instant::now();
    assert_eq!(io.read(&mut answer).await.unwrap(), 0);
    assert_eq!(began.elapsed().as_secs(), 40);
    // A head that was begun has the limit of heads.
    let mut io = world.net.connect("router", 8000).unwrap();
    io.write_all(ask.as_bytes()).await.unwrap();
    assert!(io.read(&mut answer).await.unwrap() > 0);
    ms(20_000).await;
    io.write_all(&ask.as_bytes()[..10]).await.unwrap();
    let began = tokio::time::Instant::now();
    let _ = io.read(&mut answer).await;
    assert_eq!(began.elapsed().as_secs(), 10);
}

#[tokio::test(start_paused = true)]
async fn idle_http2_connections_are_pinged_and_then_closed() {
    let world = World::new(1, Script::default(), |config| config.timeouts.idle_ms = 40_000).await;
    let io = hyper_util::rt::TokioIo::new(world.net.connect("router", 8000).unwrap());
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(hyper_util::rt::TokioExecutor::new(), io).await.unwrap();
    let driven = tokio::spawn(connection);
    whole(sender.send_request(chat("x", false)).await.unwrap()).await;
    ms(35_000).await;
    assert!(!driven.is_finished(), "it answers pings, and is idle for less than the limit");
    ms(10_000).await;
    assert!(driven.is_finished(), "closed though it answers pings");
    // A peer that vanished answers nothing.
    let mut gone = world.net.connect("router", 8000).unwrap();
    let frames = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\0\0\x0e\x01\x05\0\0\0\x01\x82\x86\x04\x07/health\x01\x01a";
    gone.write_all(frames).await.unwrap();
    let began = tokio::time::Instant::now();
    let mut rest = Vec::new();
    let closed = tokio::time::timeout(Duration::from_secs(60), gone.read_to_end(&mut rest)).await;
    assert!(closed.is_ok() && rest.windows(7).any(|said| said == b"healthy"), "{closed:?} {rest:?}");
    assert!((10..=21).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn operators_have_room_when_all_connections_are_taken() {
    let world = World::new(1, Script::default(), |config| config.limits.connections = 2).await;
    let held: Vec<_> = (0..60).map(|_| world.net.connect("router", 8000).unwrap()).collect();
    ms(1).await;
    for path in ["/health", "/proxy/status", "/metrics"] {
        let answer = raw(&world, &format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{path}: {answer}");
    }
    let answer = raw(&world, "GET /v1/models HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("too_many_connections"), "{answer}");
    drop(held);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_sends_all_before_it_reads_gets_the_refusal() {
    let world = World::new(1, Script::default(), |config| {
        config.limits.body_bytes = 1 << 20;
        config.security.api_key = Some("ask".into());
        config.security.admin_key = Some("rule".into());
    })
    .await;
    for (path, key, length, status) in [
        ("/v1/completions", "authorization: Bearer ask\r\n", 2_000_000, "413"),
        ("/v1/completions", "", 1_000_000, "401"),
        ("/nowhere", "authorization: Bearer ask\r\n", 1_000_000, "404"),
        ("/proxy/tune", "", 1_000_000, "401"),
    ] {
        let mut io = world.net.connect("router", 8000).unwrap();
        let head = format!("POST {path} HTTP/1.1\r\nhost: a\r\n{key}content-length: {length}\r\n\r\n");
        io.write_all(head.as_bytes()).await.unwrap();
        for _ in 0..length / 10_000 {
            io.write_all(&[b' '; 10_000]).await.unwrap_or_else(|error| panic!("{path} {status}: {error}"));
        }
        let mut answer = [0; 1_000];
        let read = io.read(&mut answer).await.unwrap();
        let answer = String::from_utf8_lossy(&answer[..read]);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{path}: {answer}");
    }
    // One that sends without an end, or stops sending, is not read for ever.
    let head = "POST /v1/completions HTTP/1.1\r\nhost: a\r\ncontent-length: 999999999\r\n\r\n";
    let mut io = world.net.connect("router", 8000).unwrap();
    io.write_all(head.as_bytes()).await.unwrap();
    let mut sent = 0;
    while sent < 4 << 20 && io.write_all(&[b' '; 10_000]).await.is_ok() {
        sent += 10_000;
    }
    assert!(sent < 4 << 20, "{sent}");
    let mut io = world.net.connect("router", 8000).unwrap();
    io.write_all(head.as_bytes()).await.unwrap();
    io.read_to_end(&mut Vec::new()).await.unwrap();
    io.write_all(b"some of it").await.expect("it may send more");
    ms(10_000).await;
    assert!(io.write_all(b"more").await.is_err(), "the connection is closed");
}

#[tokio::test(start_paused = true)]
async fn heads_that_others_may_read_in_another_way_are_refused() {
    let world = World::new(1, Script::default(), |_| {}).await;
    let body = "{\"prompt\":\"x\"}";
    let chunk = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
    let plain = format!("content-length: {}\r\n\r\n{body}", body.len());
    for (head, status) in [
        (plain.clone(), "400"),
        (format!("host: a\r\nhost: b\r\n{plain}"), "400"),
        (format!("host: a\r\ntransfer-encoding: gzip, chunked\r\n\r\n{chunk}"), "501"),
        (format!("host: a\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n{chunk}"), "200"),
    ] {
        let text = format!("POST /v1/completions HTTP/1.1\r\ncontent-type: application/json\r\n{head}");
        let answer = raw(&world, &text).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{head}: {answer}");
    }
    let old = raw(&world, &format!("POST /v1/completions HTTP/1.0\r\ncontent-type: application/json\r\n{plain}")).await;
    assert!(old.contains(" 200 OK"), "HTTP/1.0 has no Host: {old}");
    assert_eq!(world.engines[0].seen().len(), 2);
}
