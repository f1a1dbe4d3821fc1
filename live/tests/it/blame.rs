//! Whose fault failures are: what is retried, what opens a breaker, what is passed on.

use crate::fixture::{World, chat, ms, replica, whole};
use gorgo_core::router::Failure;
use gorgo_live::config::Config;
use gorgo_live::testkit::{Engine, Net, Script};
use http_body_util::BodyExt;
use serde_json::Value;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

fn tripped(world: &World) -> usize {
    world.state.driver.read(|router, _, _| router.replicas().iter().filter(|r| r.breaker.is_tripped()).count())
}

fn prefixes(world: &World) -> usize {
    world.state.driver.read(|router, _, _| router.index().nodes())
}

fn asked(world: &World) -> usize {
    world.engines.iter().map(|engine| engine.seen().len()).sum()
}

/// A fleet of three whose index holds something.
async fn warm() -> World {
    let world = World::new(3, Script::default(), |_| {}).await;
    whole(world.send(chat(&"what was said before ".repeat(50), false)).await).await;
    world
}

#[tokio::test(start_paused = true)]
async fn a_clients_mistake_told_in_a_200_goes_to_one_replica_and_blames_none() {
    let world = warm().await;
    let known = prefixes(&world);
    let error =
        r#"{"error":{"message":"at most 500 tokens","type":"invalid_request_error","code":"context_length_exceeded"}}"#;
    world.engines.iter().for_each(|engine| engine.script(|s| s.stream_error = Some(error.to_owned())));
    for (n, stream) in [true, false, true, false].into_iter().enumerate() {
        let before = asked(&world);
        let answer = world.send(chat(&format!("too long {n}"), stream)).await;
        assert_eq!(answer.status(), 200);
        assert!(String::from_utf8_lossy(&whole(answer).await).contains("context_length_exceeded"));
        assert_eq!(asked(&world), before + 1);
    }
    assert_eq!((tripped(&world), prefixes(&world)), (0, known));
}

#[tokio::test(start_paused = true)]
async fn a_request_that_every_replica_fails_alike_leaves_fleet_and_index_alone() {
    let world = warm().await;
    let known = prefixes(&world);
    let error = Some(r#"{"error":{"message":"boom","type":"InternalServerError","code":500}}"#.to_owned());
    for poison in [
        Script { status: 500, ..Script::default() },
        Script { status: 403, ..Script::default() },
        Script { stream_error: error, ..Script::default() },
    ] {
        world.engines.iter().for_each(|engine| engine.script(|s| *s = poison.clone()));
        for n in 0..4 {
            let before = asked(&world);
            whole(world.send(chat(&format!("poison {n}"), true)).await).await;
            assert!(asked(&world) - before <= 3, "{poison:?}");
        }
        assert!(tripped(&world) == 0 && prefixes(&world) >= known, "{poison:?}");
        world.engines.iter().for_each(|engine| engine.script(|s| *s = Script::default()));
        assert_eq!(world.send(chat("another client", true)).await.status(), 200, "{poison:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_refuses_the_key_is_set_aside_and_named_and_clients_do_not_notice() {
    let world = World::new(2, Script { prefill: Duration::from_millis(300), ..Script::default() }, |_| {}).await;
    world.engines[0].script(|s| (s.status, s.prefill) = (401, Duration::ZERO));
    for n in 0..40 {
        assert_eq!(world.send(chat(&format!("{n}"), false)).await.status(), 200);
    }
    assert!(world.engines[0].seen().len() <= 3, "{}", world.engines[0].seen().len());
    let servers = world.get("/proxy/servers").await.1;
    assert_eq!((&servers[0]["key_refused"], &servers[1]["key_refused"]), (&true.into(), &false.into()));
    assert_eq!(servers[0]["breaker"]["cause"], "key-refused");
}

#[tokio::test(start_paused = true)]
async fn a_client_whose_own_key_is_refused_gets_the_refusal_and_no_replica_the_blame() {
    let world = World::new(2, Script { status: 401, ..Script::default() }, |_| {}).await;
    for n in 0..5 {
        let mut request = chat(&format!("{n}"), false);
        request.headers_mut().insert("authorization", "Bearer mine".parse().unwrap());
        assert_eq!(world.send(request).await.status(), 401);
    }
    assert_eq!((asked(&world), tripped(&world)), (5, 0));
}

#[tokio::test(start_paused = true)]
async fn a_refusal_of_the_routers_own_key_is_not_the_clients() {
    let refusing = Script { status: 401, prefill: Duration::ZERO, ..Script::default() };
    let world = World::new(1, refusing, |config| config.replicas[0].api_key = Some("ours".into())).await;
    let answer = world.send(chat("x", false)).await;
    assert_eq!(answer.status(), 502);
    let said = String::from_utf8_lossy(&whole(answer).await).into_owned();
    assert!(said.contains("refuses this router's key") && !said.contains("says no"), "{said}");
}

#[tokio::test(start_paused = true)]
async fn a_replica_without_room_is_load_and_no_fault() {
    let world = World::new(2, Script::default(), |_| {}).await;
    world.engines[0].script(|s| (s.status, s.prefill) = (429, Duration::ZERO));
    for n in 0..40 {
        assert_eq!(world.send(chat(&format!("{n}"), false)).await.status(), 200);
    }
    assert!(world.engines[0].seen().len() <= 8, "it drew {} requests", world.engines[0].seen().len());
    assert_eq!(tripped(&world), 0);
}

/// Serves a raw answer to everything but probes, and keeps the connection open after it.
async fn raw_engine(net: &Net, name: &str, answer: &'static str, close: bool) {
    let mut listener = net.listen(name, 8080);
    tokio::spawn(async move {
        use gorgo_live::testkit::Listener;
        while let Ok((mut io, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = Vec::new();
                let mut buf = [0; 4096];
                loop {
                    let Ok(n @ 1..) = io.read(&mut buf).await else { return };
                    head.extend_from_slice(&buf[..n]);
                    if head.starts_with(b"GET") {
                        let models = "HTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\n{\"data\":[]}";
                        let _ = io.write_all(models.as_bytes()).await;
                        head.clear();
                    } else if head.ends_with(b"}") {
                        let _ = io.write_all(answer.as_bytes()).await;
                        if close {
                            return;
                        }
                        ms(3_600_000).await;
                    }
                }
            });
        }
    });
}

pub(crate) const CHUNKED: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";

/// A router before a raw engine `bad` and a good one `e0`, asked in turn.
pub(crate) async fn beside_good(answer: &'static str, close: bool, change: impl FnOnce(&mut Config)) -> World {
    let net = Net::default();
    raw_engine(&net, "bad", answer, close).await;
    let good = Engine::start(&net, "e0", Script::default());
    let mut config = Config { replicas: vec![replica("bad"), replica("e0")], ..Config::default() };
    config.policy = serde_json::from_str(r#"{"name": "round-robin"}"#).unwrap();
    change(&mut config);
    World::with(net, vec![good], config, "router").await
}

#[tokio::test(start_paused = true)]
async fn an_error_event_fails_over_at_once_though_the_stream_stays_open() {
    let answer: &'static str = Box::leak(
        format!("{CHUNKED}39\r\ndata: {{\"error\":{{\"message\":\"out of memory\",\"code\":500}}}}\n\n\r\n").into(),
    );
    let world = beside_good(answer, false, |_| {}).await;
    for n in 0..2 {
        let began = Instant::now();
        let answer = world.send(chat(&format!("{n}"), true)).await;
        assert_eq!(answer.headers()["x-gorgo-replica"], "e0");
        assert!(whole(answer).await.ends_with(b"data: [DONE]\n\n"));
        assert!(began.elapsed() < Duration::from_secs(1));
    }
    assert!(world.state.request_log.entries().iter().any(|row| row.attempts == 2));
}

#[tokio::test(start_paused = true)]
async fn an_error_whose_body_never_ends_is_ended_and_counted() {
    let answer =
        "HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n";
    let world = beside_good(answer, false, |config| {
        config.timeouts.idle_gap_ms = 1_000;
        config.limits.requests = 1;
        config.replicas.truncate(1);
    })
    .await;
    let mut body = world.send(chat("a", false)).await.into_body();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "x");
    assert_eq!(world.send(chat("b", false)).await.status(), 429, "the first is open still");
    let began = Instant::now();
    assert!(body.frame().await.unwrap().is_err());
    assert!(began.elapsed() <= Duration::from_millis(1_100));
    drop(body);
    assert_eq!(world.send(chat("c", false)).await.status(), 400);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_the_end_of_the_connection_cuts_is_never_a_complete_200() {
    for answer in [
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n{\"choices\":[{\"message\":{\"content\":\"he",
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n5\r\n{\"cho\r\n",
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: {\"choices\":[{\"delta\":{\"role\":\"assistant\"}}]}\n\n",
    ] {
        let world = beside_good(answer, true, |_| {}).await;
        for n in 0..2 {
            let response = world.send(chat(&format!("{n}"), answer.contains("event-stream"))).await;
            assert_eq!(
                (response.status().as_u16(), &response.headers()["x-gorgo-replica"]),
                (200, &"e0".parse().unwrap())
            );
            whole(response).await;
        }
        assert_eq!(world.engines[0].seen().len(), 2, "{answer}");
    }
    // Longer than what is held back: the client sees that it was cut.
    let long: &'static str = Box::leak(
        format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n{{\"x\":\"{}", "y".repeat(100_000)).into(),
    );
    let world = beside_good(long, true, |config| config.replicas.truncate(1)).await;
    let body = world.send(chat("x", false)).await.into_body().collect().await;
    assert!(body.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_switch_of_protocols_that_was_not_asked_for_is_an_error_and_two_lengths_cut_nothing() {
    let switch = "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n";
    let world = beside_good(switch, false, |config| config.replicas.truncate(1)).await;
    assert_eq!(world.send(chat("x", false)).await.status(), 502);
    let both = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n\
                e\r\n{\"choices\":[]}\r\n0\r\n\r\n";
    let world = beside_good(both, true, |config| config.replicas.truncate(1)).await;
    let response = world.send(chat("x", false)).await;
    let status = response.status().as_u16();
    assert!(status == 502 || (status == 200 && whole(response).await == "{\"choices\":[]}"), "{status}");
}

#[tokio::test(start_paused = true)]
async fn heartbeats_pass_at_once_and_another_replica_may_still_answer() {
    // The engine sends comments, then dies.
    let answer: &'static str = Box::leak(format!("{CHUNKED}b\r\n: working\n\n\r\n").into());
    let world = beside_good(answer, true, |_| {}).await;
    for n in 0..2 {
        let response = world.send(chat(&format!("{n}"), true)).await;
        assert_eq!(response.status(), 200);
        let text = whole(response).await;
        assert!(text.ends_with(b"data: [DONE]\n\n"), "{text:?}");
    }
    assert_eq!(world.engines[0].seen().len(), 2);
    assert!(world.state.request_log.entries().iter().any(|row| row.attempts == 2));
    // All others refuse: the refusal is an event of the stream that has begun.
    let world = beside_good(answer, true, |_| {}).await;
    world.engines[0].script(|s| s.status = 400);
    let texts = [whole(world.send(chat("a", true)).await).await, whole(world.send(chat("b", true)).await).await];
    let begun = texts.iter().find(|text| text.starts_with(b": working\n\n")).unwrap();
    let event = begun.strip_prefix(b": working\n\ndata: ").unwrap();
    assert!(serde_json::from_slice::<Value>(event).is_ok(), "{begun:?}");
    assert_eq!(world.left(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn blanks_before_a_whole_answer_pass_and_another_replica_may_still_answer() {
    // The engine sends an empty line, then nothing more.
    let answer = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n1\r\n\n\r\n";
    let silent = |config: &mut Config| config.timeouts.idle_gap_ms = 1_000;
    let world = beside_good(answer, false, silent).await;
    let mut blanks = 0;
    for n in 0..2 {
        let began = Instant::now();
        let mut response = world.send(chat(&format!("{n}"), false)).await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "application/json");
        let first = response.body_mut().frame().await.unwrap().unwrap().into_data().unwrap();
        let text = if first == "\n" {
            assert!(began.elapsed() < Duration::from_millis(100), "{:?}", began.elapsed());
            blanks += 1;
            whole(response).await.to_vec()
        } else {
            first.to_vec()
        };
        assert!(serde_json::from_slice::<Value>(&text).unwrap()["choices"].is_array(), "{text:?}");
    }
    assert!(blanks > 0);
    assert!(world.state.request_log.entries().iter().any(|row| row.attempts == 2));
    // All others refuse: the text is the refusal.
    let world = beside_good(answer, false, silent).await;
    world.engines[0].script(|s| s.status = 400);
    let texts = [whole(world.send(chat("a", false)).await).await, whole(world.send(chat("b", false)).await).await];
    let begun = texts.iter().find(|text| text.starts_with(b"\n")).unwrap_or_else(|| panic!("{texts:?}"));
    assert_eq!(serde_json::from_slice::<Value>(begun).unwrap()["message"], "e0 says no");
    assert_eq!(world.left(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_silent_engine_shows_its_heartbeats_and_preamble_before_the_first_token() {
    let script = Script { prefill: Duration::from_secs(5), early_head: true, ..Script::default() };
    let world = World::new(1, script, |_| {}).await;
    let began = Instant::now();
    let mut body = world.send(chat("x", true)).await.into_body();
    let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
    assert!(began.elapsed() < Duration::from_millis(100) && first.starts_with(b"data: {\"choices\""), "{first:?}");
    assert!(body.collect().await.unwrap().to_bytes().ends_with(b"data: [DONE]\n\n"));
    let row = world.state.request_log.entries().pop().unwrap();
    assert_eq!(row.ttft_ms().unwrap().round(), 5_000.0, "the preamble is no token");
    assert_eq!(world.left(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn our_own_lack_of_descriptors_is_not_the_replicas_fault() {
    use std::io;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    let net = Net::default();
    let _engine = Engine::start(&net, "e0", Script::default());
    let (lack, wires) = (Arc::new(AtomicBool::new(false)), net.clone());
    let lacks = Arc::clone(&lack);
    let dial: gorgo_live::Dial = Arc::new(move |host, port| {
        let connected = if lacks.load(Ordering::SeqCst) {
            Err(io::Error::from_raw_os_error(24))
        } else {
            wires.connect(&host, port)
        };
        Box::pin(async move { connected })
    });
    let mut config = Config { replicas: vec![replica("e0")], ..Config::default() };
    (config.timeouts.keep_alive_ms, config.probes.scrape_ms) = (0, 0);
    let state = gorgo_live::start(config, None, dial).unwrap();
    let listener = net.listen("router", 8000);
    let serving = Arc::clone(&state);
    tokio::spawn(async move { gorgo_live::serve(serving, listener, std::future::pending()).await });
    ms(100).await;
    lack.store(true, Ordering::SeqCst);
    let response = net.client().request(chat("x", false)).await.unwrap();
    assert_eq!(response.status(), 503);
    let breaker = state.driver.read(|router, _, _| router.replicas()[0].breaker.cause());
    assert_eq!(breaker, None::<Failure>);
    lack.store(false, Ordering::SeqCst);
    assert_eq!(net.client().request(chat("x", false)).await.unwrap().status(), 200);
}

/// Answers every request with `answer`, and notes the POSTs.
fn stranger(net: &Net, name: &str, answer: &'static str) -> std::sync::Arc<std::sync::atomic::AtomicUsize> {
    use gorgo_live::testkit::Listener;
    let posts = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let (mut listener, counted) = (net.listen(name, 8080), std::sync::Arc::clone(&posts));
    tokio::spawn(async move {
        while let Ok((mut io, _)) = listener.accept().await {
            let counted = std::sync::Arc::clone(&counted);
            tokio::spawn(async move {
                let mut buf = [0; 8192];
                while let Ok(1..) = io.read(&mut buf).await {
                    counted.fetch_add(usize::from(buf.starts_with(b"POST")), std::sync::atomic::Ordering::SeqCst);
                    let _ = io.write_all(answer.as_bytes()).await;
                }
            });
        }
    });
    posts
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_no_engine_is_down_and_draws_no_traffic() {
    for answer in [
        "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 302 Found\r\nlocation: https://login.example/\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 426 Upgrade Required\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 421 Misdirected Request\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 204 No Content\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 11\r\n\r\n{\"data\":[]}",
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\nok",
    ] {
        let net = Net::default();
        let posts = stranger(&net, "odd", answer);
        let good = Engine::start(&net, "e0", Script::default());
        let mut config = Config { replicas: vec![replica("odd"), replica("e0")], ..Config::default() };
        config.policy = serde_json::from_str(r#"{"name": "round-robin"}"#).unwrap();
        let world = World::with(net, vec![good], config, "router").await;
        ms(5_000).await;
        assert_eq!(world.state.usable().0, 1, "{answer}");
        for n in 0..10 {
            assert_eq!(world.send(chat(&format!("{n}"), false)).await.status(), 200, "{answer}");
        }
        assert_eq!(posts.load(std::sync::atomic::Ordering::SeqCst), 0, "{answer}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_redirect_is_no_answer_to_a_prompt() {
    let answer = "HTTP/1.1 302 Found\r\nlocation: https://login.example/?next=/\r\ncontent-length: 0\r\n\r\n";
    let world = beside_good(answer, true, |_| {}).await;
    for n in 0..6 {
        let response = world.send(chat(&format!("{n}"), false)).await;
        assert_eq!((response.status().as_u16(), &response.headers()["x-gorgo-replica"]), (200, &"e0".parse().unwrap()));
    }
    let world = beside_good(answer, true, |config| config.replicas.truncate(1)).await;
    let response = world.send(chat("x", false)).await;
    assert_eq!(response.status(), 502);
    let text = String::from_utf8_lossy(&whole(response).await).into_owned();
    assert!(text.contains("answered 302 Found to a prompt"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn a_request_at_which_engines_die_is_sent_to_few_of_them() {
    for (count, most) in [(2, 2), (6, 3)] {
        let world = World::new(count, Script { cut_after: Some(0), ..Script::default() }, |_| {}).await;
        let response = world.send(chat("the prompt that kills", false)).await;
        assert_eq!(response.status(), 502);
        assert!((2..=most).contains(&asked(&world)), "{} of {count}", asked(&world));
        world.engines.iter().for_each(|engine| engine.script(|s| *s = Script::default()));
        assert_eq!(world.send(chat("another", false)).await.status(), 200);
    }
}

#[tokio::test(start_paused = true)]
async fn errors_told_beside_the_error_are_a_clients_mistake_too() {
    let world = World::new(3, Script::default(), |_| {}).await;
    for error in [
        r#"{"error":"too long","code":400}"#,
        r#"{"error":"too long","type":"BadRequestError"}"#,
        r#"{"error":{"message":"x"},"status_code":422}"#,
        r#"{"error":{"message":"x"},"statusCode":"400"}"#,
        r#"{"error":{"message":"x","status":400}}"#,
        r#"{"error":{"message":"x","statusCode":400}}"#,
        r#"{"error":{"message":"x","status":"INVALID_ARGUMENT"}}"#,
        r#"{"error":{"message":"x","code":400.0}}"#,
        r#"{"error":{"error":{"message":"x","code":400}}}"#,
    ] {
        world.engines.iter().for_each(|engine| engine.script(|s| s.stream_error = Some(error.to_owned())));
        for stream in [true, false] {
            let before = asked(&world);
            whole(world.send(chat(error, stream)).await).await;
            assert_eq!((asked(&world) - before, tripped(&world)), (1, 0), "{error}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_broken_stream_ends_with_an_event_that_its_clients_read() {
    let world = World::new(1, Script { cut_after: Some(2), ..Script::default() }, |_| {}).await;
    for (path, start) in [
        ("/v1/messages", "event: error\ndata: {\"error\":{\"message\":"),
        ("/v1/responses", "event: error\ndata: {\"code\":\"upstream_broke\""),
        ("/v1/chat/completions", "data: {\"error\":{\"code\":\"upstream_broke\""),
    ] {
        let body = r#"{"model":"mock","stream":true,"messages":[{"role":"user","content":"x"}]}"#;
        let text =
            String::from_utf8_lossy(&whole(world.send(crate::fixture::post(path, body)).await).await).into_owned();
        let last = text.trim_end().rsplit("\n\n").next().unwrap();
        assert!(last.starts_with(start), "{path}: {last}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_made_once_and_what_waits_for_nothing_passes_closed_gates() {
    let world = World::new(2, Script { status: 500, ..Script::default() }, |config| {
        config.router.gates.max_running = Some(1);
    })
    .await;
    for path in ["/v1/batches", "/v1/fine_tuning/jobs"] {
        let before = asked(&world);
        let made = world.send(crate::fixture::post(path, "{\"input_file_id\": \"f\"}")).await;
        assert_eq!((made.status().as_u16(), asked(&world)), (500, before + 1), "{path}");
    }
    world.engines.iter().for_each(|e| e.script(|s| (s.status, s.prefill) = (200, Duration::from_secs(30))));
    let long: Vec<_> = (0..2).map(|n| tokio::spawn(world.client.request(chat(&format!("{n}"), true)))).collect();
    ms(100).await;
    let begun = Instant::now();
    assert_eq!(world.get("/v1/responses/resp_1").await.0, 200);
    assert_eq!(whole(world.send(crate::fixture::post("/tokenize", "{}")).await).await, "{}");
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    long.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test(start_paused = true)]
async fn an_engine_with_a_slow_list_of_models_serves() {
    let slow = Script { models_after: Duration::from_secs(3), ..Script::default() };
    let world = World::new(1, slow, |_| {}).await;
    ms(20_000).await;
    assert_eq!(world.send(chat("x", false)).await.status(), 200);
}
