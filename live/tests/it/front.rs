use crate::fixture::{World, chat, ms, post, replica, whole};
use gorgo_live::Dial;
use gorgo_live::config::Config;
use gorgo_live::testkit::{Engine, Net, Script};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::time::Instant;

#[tokio::test(start_paused = true)]
async fn bodies_headers_and_answers_pass_byte_for_byte() {
    let world = World::new(1, Script::default(), |_| {}).await;
    let odd = "{ \"model\":\"m\", \"x_unknown\" : 0.30000000000000004,\n \"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"h\\u00e9\"}],\"odd\":1}], \"tools\":[] }";
    let mut request = post("/v1/chat/completions?a=b%20c", odd);
    request.headers_mut().insert("x-custom", "kept".parse().unwrap());
    request.headers_mut().insert("x-request-id", "my-id".parse().unwrap());
    request.headers_mut().insert("x-lb-hop", "0".parse().unwrap());
    request.headers_mut().insert("accept-encoding", "gzip, br".parse().unwrap());
    let response = world.send(request).await;
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["x-request-id"], "my-id");
    assert_eq!(response.headers()["x-gorgo-replica"], "e0");
    assert!(response.headers()["x-gorgo-decision"].to_str().unwrap().starts_with("gorgo e0 total="));
    assert!(whole(response).await.starts_with(b"{\"choices\""));
    let seen = &world.engines[0].seen()[0];
    assert_eq!((seen.path.as_str(), &seen.body[..]), ("/v1/chat/completions?a=b%20c", odd.as_bytes()));
    assert_eq!(
        (&seen.headers["x-custom"], &seen.headers["x-request-id"]),
        (&"kept".parse().unwrap(), &"my-id".parse().unwrap())
    );
    assert!(!seen.headers.contains_key("x-lb-hop"));
    assert!(!seen.headers.contains_key("accept-encoding"), "a packed answer could not be read");
    assert_eq!(world.left(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_stream_is_flushed_as_it_arrives_and_its_first_token_is_true() {
    let script = Script { prefill: Duration::from_millis(300), gap: Duration::from_millis(50), ..Script::default() };
    let world = World::new(1, script, |_| {}).await;
    let began = Instant::now();
    let mut body = world.send(chat("hello", true)).await.into_body();
    let mut times = Vec::new();
    let mut text = Vec::new();
    while let Some(frame) = body.frame().await {
        text.extend_from_slice(frame.unwrap().data_ref().unwrap());
        times.push(began.elapsed().as_millis());
    }
    assert!(text.ends_with(b"data: [DONE]\n\n"));
    // The role chunk comes with the first token (300 ms prefill, then 50 ms), then one every 50 ms.
    assert_eq!(times, [350, 350, 400, 450, 500, 550]);
    let row = world.state.request_log.entries().pop().unwrap();
    assert_eq!(row.ttft_ms().unwrap().round(), 350.0);
    assert_eq!((row.output_tokens, row.cached_tokens), (4, Some(0)));
}

#[tokio::test(start_paused = true)]
async fn every_endpoint_of_the_list_is_served() {
    let world = World::new(2, Script::default(), |_| {}).await;
    for (path, body) in [
        ("/v1/completions", json!({"prompt": "a"})),
        ("/v1/completions", json!({"prompt": [1, 2, 3]})),
        ("/v1/responses", json!({"input": "a"})),
        ("/v1/embeddings", json!({"input": ["a", "b"]})),
        ("/generate", json!({"text": "a", "sampling_params": {}})),
        ("/tokenize", json!({"prompt": "a"})),
    ] {
        let response = world.send(post(path, &body.to_string())).await;
        assert_eq!(response.status(), 200, "{path}");
    }
    assert_eq!(world.get("/v1/models/mock").await.1["id"], "mock");
    let (status, error) = world.get("/flush_cache").await;
    assert_eq!((status, &error["error"]["code"]), (404, &json!("unknown_endpoint")));
    assert_eq!(world.engines.iter().map(Engine::flushed).sum::<usize>(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_next_turn_of_a_conversation_goes_where_its_prefix_is() {
    let world = World::new(3, Script::default(), |_| {}).await;
    let question = "tell me about rivers ".repeat(200);
    let mut messages = vec![json!({"role": "user", "content": question})];
    let mut servers = Vec::new();
    for _ in 0..6 {
        let body = json!({"model": "mock", "messages": messages}).to_string();
        let response = world.send(post("/v1/chat/completions", &body)).await;
        servers.push(response.headers()["x-gorgo-replica"].to_str().unwrap().to_owned());
        let answer: Value = serde_json::from_slice(&whole(response).await).unwrap();
        messages.push(answer["choices"][0]["message"].clone());
        messages.push(json!({"role": "user", "content": "and then? ".repeat(30)}));
        // A stranger in between, who must not be sent to the same place by a tie.
        let other = chat(&format!("{} {}", servers.len(), "something else ".repeat(100)), false);
        whole(world.send(other).await).await;
    }
    assert!(servers.iter().all(|s| *s == servers[0]), "{servers:?}");
    let row = world.state.request_log.entries();
    assert!(
        row[10].predicted_cached_tokens > row[0].prompt_tokens,
        "the answers were learned: {}",
        row[10].predicted_cached_tokens
    );
}

#[tokio::test(start_paused = true)]
async fn failures_before_the_first_byte_go_elsewhere_and_are_told_when_no_replica_is_left() {
    let world = World::new(2, Script::default(), |_| {}).await;
    for broken in [
        Script { status: 500, ..Script::default() },
        Script { status: 503, ..Script::default() },
        Script { stream_error: Some("{\"error\":{\"message\":\"full\",\"code\":503}}".into()), ..Script::default() },
        Script { cut_after: Some(0), early_head: true, ..Script::default() },
    ] {
        world.engines[0].script(|s| *s = broken.clone());
        world.engines[1].script(|s| *s = Script::default());
        for n in 0..4 {
            let response = world.send(chat(&format!("{n}"), true)).await;
            assert_eq!(response.headers()["x-gorgo-replica"], "e1", "{broken:?}");
            assert!(whole(response).await.ends_with(b"[DONE]\n\n"));
        }
        ms(5_000).await;
    }
    world.engines.iter().for_each(|e| e.script(|s| s.status = 500));
    let response = world.send(chat("x", true)).await;
    assert_eq!(response.status(), 500);
    let told: Value = serde_json::from_slice(&whole(response).await).unwrap();
    assert!(told["message"].as_str().unwrap().ends_with("says no"), "the engine's own words: {told}");
    assert_eq!(world.left(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_whole_answer_that_breaks_halfway_or_is_an_error_comes_from_another_replica() {
    let world = World::new(2, Script::default(), |_| {}).await;
    let error = Some("{\"error\":{\"message\":\"full\",\"code\":503}}".to_owned());
    for n in 0..4 {
        let cut = n % 2 == 0;
        world.engines[0].script(|s| (s.cut_after, s.stream_error) = (cut.then_some(0), error.clone().filter(|_| !cut)));
        let response = world.send(chat(&format!("{n}"), false)).await;
        assert_eq!((response.status().as_u16(), &response.headers()["x-gorgo-replica"]), (200, &"e1".parse().unwrap()));
        let answer: Value = serde_json::from_slice(&whole(response).await).unwrap();
        assert_eq!(answer["served_by"], "e1");
        ms(5_000).await;
    }
    assert!(!world.engines[0].seen().is_empty(), "the other was tried");
    assert!(world.state.request_log.entries().iter().any(|row| row.attempts == 2));
    assert_eq!(world.left(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_clients_own_mistake_is_told_as_the_engine_said_it_and_not_retried() {
    let world = World::new(2, Script { status: 400, ..Script::default() }, |_| {}).await;
    let response = world.send(chat("x", false)).await;
    assert_eq!(response.status(), 400);
    assert!(String::from_utf8_lossy(&whole(response).await).contains("says no"));
    assert_eq!(world.engines.iter().map(|e| e.seen().len()).sum::<usize>(), 1);
    let healthy = world.state.usable();
    assert_eq!(healthy, (2, 2));
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_breaks_ends_with_an_error_event_and_is_never_repeated() {
    let gone_quiet = Script { gap: Duration::from_secs(100), ..Script::default() };
    for (script, why) in [
        (Script { cut_after: Some(2), ..Script::default() }, "broke off"),
        (Script { cut_after: Some(2), torn: true, ..Script::default() }, "broke off"),
        (gone_quiet, "sent nothing for too long"),
    ] {
        let world = World::new(2, script.clone(), |config| config.timeouts.idle_gap_ms = 3_000).await;
        let text = String::from_utf8(whole(world.send(chat("x", true)).await).await.to_vec()).unwrap();
        assert!(text.ends_with("\n\n") && !text.contains("[DONE]"), "{script:?}: {text}");
        let last = text.trim_end().rsplit("\n\n").next().unwrap();
        let error: serde_json::Value = serde_json::from_str(last.strip_prefix("data: ").unwrap()).unwrap();
        assert_eq!(error["error"]["code"], "upstream_broke", "{script:?}: {text}");
        assert!(error["error"]["message"].as_str().unwrap().contains(why), "{script:?}: {text}");
        assert_eq!(world.engines.iter().map(|e| e.seen().len()).sum::<usize>(), 1);
        let row = world.state.request_log.entries().pop().unwrap();
        assert_eq!((row.end.status().as_str(), row.end.as_str()), ("failed", "after-first-token"));
        let replica = world.state.find(&row.replica.as_ref().unwrap().name).unwrap();
        let told = replica.last_error().map_or(String::new(), |error| error.why);
        assert!(told.contains(why), "the log and `status` tell why, not `unknown`: {told}");
        assert_eq!(world.left(), (0, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_breaks_after_its_last_event_is_complete() {
    let script = Script { cut_after: Some(5), ..Script::default() };
    let world = World::new(1, script, |_| {}).await;
    let text = whole(world.send(chat("x", true)).await).await;
    assert!(text.ends_with(b"data: [DONE]\n\n"), "{text:?}");
    assert_eq!(world.state.request_log.entries().pop().unwrap().end.status().as_str(), "finished");
}

#[tokio::test(start_paused = true)]
async fn deadlines_idle_gaps_and_queues_end_in_time_and_in_openais_shape() {
    let slow = Script { prefill: Duration::from_secs(100), ..Script::default() };
    let world = World::new(1, slow, |config| {
        config.router.gates.max_running = Some(1);
        config.router.queue_limit = 1;
        config.router.queue_timeout_ms = 2_000.0;
        config.timeouts.idle_gap_ms = 3_000;
    })
    .await;
    let began = Instant::now();
    let mut request = chat("a", true);
    request.headers_mut().insert("x-request-timeout-ms", "5000".parse().unwrap());
    let (first, second, third) = tokio::join!(
        world.send(request),
        async {
            ms(10).await;
            world.send(chat("b", true)).await
        },
        async {
            ms(20).await;
            world.send(chat("c", true)).await
        }
    );
    assert_eq!((first.status().as_u16(), second.status().as_u16(), third.status().as_u16()), (504, 503, 429));
    assert_eq!(
        (second.headers()["retry-after"].clone(), third.headers()["retry-after"].clone()),
        ("1".parse().unwrap(), "1".parse().unwrap())
    );
    assert_eq!(began.elapsed().as_millis(), 5_000);
    let error: Value = serde_json::from_slice(&whole(third).await).unwrap();
    assert_eq!((&error["error"]["type"], &error["error"]["code"]), (&json!("rate_limit_error"), &json!("queue_full")));
    ms(10).await;
    assert_eq!(world.engines[0].counts(), (0, 1, 0), "the engine was told");
    world.engines[0].script(|s| *s = Script { gap: Duration::from_secs(10), ..Script::default() });
    let began = Instant::now();
    let response = world.send(chat("d", true)).await;
    let text = whole(response).await;
    assert!(
        String::from_utf8_lossy(&text).contains("upstream_broke") && began.elapsed() < Duration::from_secs(15),
        "a gap ends a stream"
    );
    assert_eq!(world.left(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_dead_engine_loses_nothing_and_is_used_within_three_seconds_of_its_return() {
    let mut world = World::new(2, Script::default(), |_| {}).await;
    let e0 = world.engines.remove(0);
    drop(e0);
    for n in 0..20 {
        let response = world.send(chat(&format!("{n} x"), true)).await;
        assert_eq!(response.status(), 200);
        whole(response).await;
        ms(200).await;
    }
    assert_eq!(world.state.usable(), (1, 2));
    let back = Engine::start(&world.net, "e0", Script::default());
    let began = Instant::now();
    while back.seen().is_empty() {
        whole(world.send(chat(&format!("{:?} y", began.elapsed()), true)).await).await;
        assert!(began.elapsed() < Duration::from_secs(3), "not used again");
    }
}

#[tokio::test(start_paused = true)]
async fn http2_clients_are_served_too() {
    let world = World::new(1, Script::default(), |_| {}).await;
    let response = world.http2().await.send_request(chat("hello", true)).await.unwrap();
    assert!(whole(response).await.ends_with(b"[DONE]\n\n"));
}

#[tokio::test(start_paused = true)]
async fn a_client_may_send_as_many_headers_over_http2_as_over_http1() {
    let world = World::new(1, Script::default(), |config| config.limits.headers = 20).await;
    for (headers, status) in [(10, 200), (30, 431)] {
        let mut request = chat("hello", false);
        for n in 0..headers {
            let name: http::HeaderName = format!("x-{n}").parse().unwrap();
            request.headers_mut().insert(name, "1".parse().unwrap());
        }
        assert_eq!(world.http2().await.send_request(request).await.unwrap().status(), status, "{headers}");
    }
}

/// A forward across an ocean must not pay a handshake because users were quiet for some seconds.
#[tokio::test(start_paused = true)]
async fn scrapes_keep_a_connection_open_for_requests() {
    let net = Net::default();
    let _engine = Engine::start(&net, "e0", Script::default());
    let dialled = Arc::new(AtomicUsize::new(0));
    let (count, wires) = (Arc::clone(&dialled), net.clone());
    let dial: Dial = Arc::new(move |host, port| {
        count.fetch_add(1, Ordering::SeqCst);
        let connected = wires.connect(&host, port);
        Box::pin(async move { connected })
    });
    let config = Config { replicas: vec![replica("e0")], ..Config::default() };
    let state = gorgo_live::start(config, None, dial).unwrap();
    let listener = net.listen("router", 8000);
    tokio::spawn(async move { gorgo_live::serve(state, listener, std::future::pending()).await });
    ms(100).await;
    let client = net.client();
    whole(client.request(chat("hello", true)).await.unwrap()).await;
    let before = dialled.load(Ordering::SeqCst);
    ms(20_000).await;
    whole(client.request(chat("hello again", true)).await.unwrap()).await;
    assert_eq!(dialled.load(Ordering::SeqCst), before);
}

#[tokio::test(start_paused = true)]
async fn errors_of_the_router_itself_are_counted_by_their_code() {
    let world = World::new(1, Script::default(), |_| {}).await;
    for (path, body) in [("/nowhere", "{}"), ("/v1/chat/completions", "no JSON"), ("/v1/chat/completions", "[")] {
        let answer = world.send(crate::fixture::post(path, body)).await;
        assert!(answer.status().is_client_error());
        whole(answer).await;
    }
    whole(world.send(chat("x", false)).await).await;
    let page = world.get("/metrics").await.1;
    let counted = |code: &str, count: u32| {
        let line = format!("gorgo_refusals_total{{code=\"{code}\"}} {count}");
        assert!(page.as_str().unwrap().lines().any(|one| one == line), "{line} is not in\n{page}");
    };
    counted("unknown_endpoint", 1);
    counted("invalid_body", 2);
}
