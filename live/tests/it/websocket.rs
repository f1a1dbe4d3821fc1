//! Connections that switch to WebSocket.

use crate::fixture::{World, ms, replica};
use gorgo_live::config::Config;
use gorgo_live::testkit::{Io, Listener, Net};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

/// An engine that answers an upgrade with `answer` and then echoes what comes.
fn echo(net: &Net, name: &str, answer: &'static str) {
    let mut listener = net.listen(name, 8080);
    tokio::spawn(async move {
        while let Ok((mut io, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut buf = [0; 8192];
                while let Ok(n @ 1..) = io.read(&mut buf).await {
                    let text = String::from_utf8_lossy(&buf[..n]).to_lowercase();
                    if text.contains("upgrade: websocket") {
                        assert!(text.contains("connection: upgrade") && text.contains("sec-websocket-key: abc"));
                        let _ = io.write_all(answer.as_bytes()).await;
                    } else if text.starts_with("get ") {
                        let _ = io.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\n{\"data\":[]}").await;
                    } else {
                        let _ = io.write_all(&buf[..n]).await;
                    }
                }
            });
        }
    });
}

const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\
                      sec-websocket-accept: xyz\r\n\r\n";

async fn world(net: Net, replicas: &[&str]) -> World {
    let mut config = Config { replicas: replicas.iter().map(|name| replica(name)).collect(), ..Config::default() };
    config.timeouts.idle_gap_ms = 5_000;
    World::with(net, Vec::new(), config, "router").await
}

/// One engine that switches, behind a router with these settings.
async fn switching(change: impl FnOnce(&mut Config)) -> World {
    let net = Net::default();
    echo(&net, "e0", SWITCH);
    let mut config = Config { replicas: vec![replica("e0")], ..Config::default() };
    change(&mut config);
    World::with(net, Vec::new(), config, "router").await
}

/// Asks for a WebSocket; the connection and the head of the answer.
async fn ask(world: &World) -> (Io, String) {
    ask_with(world, "").await
}

/// The same with further header lines.
async fn ask_with(world: &World, more: &str) -> (Io, String) {
    let mut io = world.net.connect("router", 8000).unwrap();
    let head = format!(
        "GET /v1/realtime?model=m HTTP/1.1\r\nhost: a\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-key: abc\r\nsec-websocket-version: 13\r\n{more}\r\n"
    );
    io.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(io.read_u8().await.unwrap());
    }
    (io, String::from_utf8(answer).unwrap().to_lowercase())
}

#[tokio::test(start_paused = true)]
async fn a_websocket_passes_both_ways_and_ends_with_either_end() {
    let net = Net::default();
    echo(&net, "e0", SWITCH);
    let world = world(net, &["e0"]).await;
    let (mut io, head) = ask(&world).await;
    assert!(head.starts_with("http/1.1 101") && head.contains("sec-websocket-accept: xyz"), "{head}");
    assert!(head.contains("upgrade: websocket") && head.contains("connection: upgrade"), "{head}");
    for n in 0..20 {
        let sent = format!("frame {n}");
        io.write_all(sent.as_bytes()).await.unwrap();
        let mut back = vec![0; sent.len()];
        io.read_exact(&mut back).await.unwrap();
        assert_eq!(back, sent.as_bytes());
        ms(1_000).await; // longer than the gap in all, but never silent for so long
    }
    assert_eq!(world.left(), (1, 1));
    drop(io);
    ms(10).await;
    assert_eq!(world.left(), (0, 0));
    let row = world.state.request_log.entries().pop().unwrap();
    assert_eq!((row.status_code, row.end.status().as_str()), (101, "finished"));
}

#[tokio::test(start_paused = true)]
async fn a_page_of_another_site_opens_none_without_a_key() {
    let net = Net::default();
    echo(&net, "e0", SWITCH);
    let open = world(net, &["e0"]).await;
    assert!(ask_with(&open, "origin: https://evil.example\r\n").await.1.starts_with("http/1.1 403"));
    assert!(ask_with(&open, "origin: http://a\r\n").await.1.starts_with("http/1.1 101"));

    let keyed = switching(|config| config.security.api_key = Some("page-key".to_owned().into())).await;
    let with = |key: &str| {
        format!("origin: https://page.example\r\nsec-websocket-protocol: realtime, openai-insecure-api-key.{key}\r\n")
    };
    assert!(ask_with(&keyed, &with("page-key")).await.1.starts_with("http/1.1 101"));
    assert!(ask_with(&keyed, &with("guess")).await.1.starts_with("http/1.1 401"));
}

#[tokio::test(start_paused = true)]
async fn websockets_count_as_connections_and_administration_keeps_its_room() {
    let world = switching(|config| config.limits.connections = 3).await;
    let mut open = Vec::new();
    for n in 0..3 {
        let (io, head) = ask(&world).await;
        assert!(head.starts_with("http/1.1 101"), "{n}: {head}");
        open.push(io);
    }
    let (_, head) = ask(&world).await;
    assert!(head.starts_with("http/1.1 503"), "{head}");
    assert_eq!(world.get("/health").await.0, 200);
    drop(open);
    ms(10).await;
    let (_, head) = ask(&world).await;
    assert!(head.starts_with("http/1.1 101"), "{head}");
}

#[tokio::test(start_paused = true)]
async fn a_websocket_goes_on_while_the_router_drains_and_ends_with_the_drain() {
    let mut world = switching(|config| config.timeouts.drain_ms = 6_000).await;
    let settle = world.state.config().timeouts.settle_ms;
    let (mut io, _) = ask(&world).await;
    world.stop();
    let mut back = [0; 5];
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(settle + 5_000) {
        io.write_all(b"frame").await.unwrap();
        io.read_exact(&mut back).await.unwrap();
        ms(100).await;
    }
    assert_eq!((&mut world.server).await.unwrap(), 1, "it was cut when the time was over");
    assert_eq!(io.read(&mut back).await.unwrap_or(0), 0);
    let row = world.state.request_log.entries().pop().unwrap();
    assert_eq!(row.end.as_str(), "router-stopped");
}

#[tokio::test(start_paused = true)]
async fn a_silent_websocket_is_closed() {
    let net = Net::default();
    echo(&net, "e0", SWITCH);
    let world = world(net, &["e0"]).await;
    let (mut io, _) = ask(&world).await;
    let began = Instant::now();
    assert_eq!(io.read(&mut [0; 8]).await.unwrap_or(0), 0);
    assert!(began.elapsed() <= Duration::from_secs(6));
    assert_eq!(world.left(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_does_not_switch_is_told_and_one_that_is_gone_is_passed_over() {
    let net = Net::default();
    echo(&net, "e0", "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n");
    let refused = world(net, &["e0"]).await;
    assert!(ask(&refused).await.1.starts_with("http/1.1 404"));
    assert_eq!(refused.left(), (0, 0));
    let net = Net::default();
    echo(&net, "e1", SWITCH);
    let world = world(net, &["e0", "e1"]).await;
    for _ in 0..2 {
        assert!(ask(&world).await.1.starts_with("http/1.1 101"));
    }
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_answers_a_websocket_with_anything_else_is_passed_over() {
    for answer in ["401 Unauthorized", "403 Forbidden", "302 Found\r\nlocation: /login", "200 OK"] {
        let net = Net::default();
        echo(&net, "e0", format!("HTTP/1.1 {answer}\r\ncontent-length: 0\r\n\r\n").leak());
        echo(&net, "e1", SWITCH);
        let both = world(net, &["e0", "e1"]).await;
        for _ in 0..6 {
            let head = ask(&both).await.1;
            assert!(head.starts_with("http/1.1 101"), "{answer}: {head}");
        }
        let trips = both.state.driver.read(|router, _, _| router.replicas()[0].breaker.cause());
        assert_eq!(trips, None, "{answer}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_websocket_that_the_engine_closes_is_closed_for_the_client() {
    let net = Net::default();
    let mut listener = net.listen("e0", 8080);
    tokio::spawn(async move {
        while let Ok((mut io, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut buf = [0; 8192];
                while let Ok(n @ 1..) = io.read(&mut buf).await {
                    if String::from_utf8_lossy(&buf[..n]).to_lowercase().contains("upgrade: websocket") {
                        let _ = io.write_all(format!("{SWITCH}bye").as_bytes()).await;
                        return;
                    }
                    let _ = io.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\n{\"data\":[]}").await;
                }
            });
        }
    });
    let world = world(net, &["e0"]).await;
    let (mut io, _) = ask(&world).await;
    let (mut said, began) = (Vec::new(), Instant::now());
    io.read_to_end(&mut said).await.unwrap();
    assert_eq!(said, b"bye");
    assert!(began.elapsed() < Duration::from_secs(1), "the client stays open to no purpose");
    ms(10).await;
    assert_eq!(world.left(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn an_upgrade_that_asks_for_no_websocket_is_an_ordinary_request() {
    use gorgo_live::testkit::{Engine, Script};
    let net = Net::default();
    let engine = Engine::start(&net, "e0", Script::default());
    let config = Config { replicas: vec![replica("e0")], ..Config::default() };
    let world = World::with(net, vec![engine], config, "router").await;
    let mut request = crate::fixture::chat("x", false);
    request.headers_mut().insert("upgrade", "websocket".parse().unwrap());
    assert_eq!(world.send(request).await.status(), 200);
}
