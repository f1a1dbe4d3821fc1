use crate::fixture::{World, chat, ms, whole};
use gorgo_live::testkit::Script;
use http::Request;
use http_body_util::Full;
use std::time::Duration;

#[tokio::test(start_paused = true)]
async fn told_to_stop_it_is_unready_first_serves_on_and_finishes_every_stream() {
    let script = Script { tokens: 400, gap: Duration::from_millis(10), ..Script::default() };
    let mut world = World::new(2, script, |_| {}).await;
    let mut streams = Vec::new();
    for n in 0..8 {
        let response = world.send(chat(&format!("{n}"), true)).await;
        streams.push(tokio::spawn(whole(response)));
    }
    assert_eq!(world.get("/ready").await.0, 200);
    world.stop();
    ms(10).await;
    let (status, text) = world.get("/ready").await;
    assert_eq!((status, text), (503, "not ready: stopping\n".into()));
    assert_eq!(world.get("/health").await.0, 200, "the port is open and the process alive");
    let models = world.send(Request::get("http://router:8000/v1/models").body(Full::default()).unwrap()).await;
    assert_eq!(models.status(), 200, "and it still serves");
    assert_eq!(models.headers()["connection"], "close", "a kept connection ends with its next answer");
    ms(1_500).await;
    assert!(world.net.connect("router", 8000).is_err(), "no new connections once it has settled");
    for stream in streams {
        assert!(stream.await.unwrap().ends_with(b"data: [DONE]\n\n"));
    }
    assert_eq!(world.server.await.unwrap(), 0, "no connection was cut");
}

#[tokio::test(start_paused = true)]
async fn streams_that_take_too_long_end_with_an_error_event_and_are_counted() {
    let script = Script { tokens: 100_000, ..Script::default() };
    let mut world = World::new(1, script, |config| config.timeouts.drain_ms = 2_000).await;
    let stream = tokio::spawn(whole(world.send(chat("x", true)).await));
    let client = world.client.clone();
    let waiting = tokio::spawn(async move { client.request(chat("x", false)).await.unwrap() });
    ms(10).await;
    world.stop();
    assert_eq!((&mut world.server).await.unwrap(), 2);
    assert_eq!(waiting.await.unwrap().status(), 503, "who waits for a whole answer is told, too");
    let said = String::from_utf8(stream.await.unwrap().to_vec()).unwrap();
    let last = said.trim_end().rsplit("\n\n").next().unwrap();
    assert!(last.starts_with("data: {\"error\":") && last.contains("router_stopped"), "{last}");
    let rows = world.state.request_log.entries();
    let mut ends: Vec<_> = rows.iter().map(|row| (row.status_code, row.end.as_str())).collect();
    ends.sort_unstable();
    assert_eq!(ends, [(200, "router-stopped"), (503, "router-stopped")]);
}

/// Each stream of an HTTP/2 connection is a task of its own, which nothing but its own request wakes.
#[tokio::test(start_paused = true)]
async fn streams_and_waiting_requests_over_http2_are_told_why_they_end() {
    // One token at once, then silence.
    let gap = Duration::from_secs(600);
    let script = Script { prefill: Duration::ZERO, tokens: 2, gap, early_head: true, ..Script::default() };
    let mut world = World::new(1, script, |config| config.timeouts.drain_ms = 2_000).await;
    let mut sender = world.http2().await;
    let stream = tokio::spawn(whole(sender.send_request(chat("a stream", true)).await.unwrap()));
    let waiting = tokio::spawn(sender.send_request(chat("an answer in one piece", false)));
    ms(10).await;
    world.stop();
    assert_eq!((&mut world.server).await.unwrap(), 1, "one connection was cut");
    let response = waiting.await.unwrap().unwrap();
    assert_eq!(response.status(), 503);
    assert!(String::from_utf8_lossy(&whole(response).await).contains("router_stopped"));
    let said = String::from_utf8(stream.await.unwrap().to_vec()).unwrap();
    let last = said.trim_end().rsplit("\n\n").next().unwrap();
    assert!(last.starts_with("data: {\"error\":") && last.contains("router_stopped"), "{last}");
    let rows = world.state.request_log.entries();
    let mut ends: Vec<_> = rows.iter().map(|row| (row.status_code, row.end.as_str())).collect();
    ends.sort_unstable();
    assert_eq!(ends, [(200, "router-stopped"), (503, "router-stopped")]);
    assert_eq!(world.left(), (0, 0));
}
