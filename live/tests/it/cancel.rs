use crate::fixture::{World, chat, ms};
use gorgo_live::testkit::Script;
use http_body_util::BodyExt;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

async fn leaves_before(stream: bool, early_head: bool) {
    let script = Script { prefill: Duration::from_secs(10), early_head, ..Script::default() };
    let world = World::new(1, script, |_| {}).await;
    let answer = async { world.client.request(chat("x", stream)).await.unwrap().into_body().collect().await };
    assert!(tokio::time::timeout(Duration::from_millis(300), answer).await.is_err());
    ms(50).await;
    assert_eq!(world.engines[0].counts(), (0, 1, 0), "stream {stream}, early head {early_head}");
    assert_eq!(world.left(), (0, 0));
    let row = world.state.request_log.entries().pop().unwrap();
    assert_eq!((row.end.status().as_str(), row.status_code), ("cancelled", 499));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_before_the_first_token_aborts_the_engine_within_50_ms() {
    leaves_before(true, false).await;
    leaves_before(true, true).await;
    leaves_before(false, false).await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_in_mid_answer_aborts_the_engine_within_50_ms_and_by_id() {
    let world = World::new(1, Script { tokens: 1_000, ..Script::default() }, |_| {}).await;
    ms(2_000).await; // a scrape has shown it to be SGLang
    let mut body = world.send(chat("x", true)).await.into_body();
    body.frame().await.unwrap().unwrap();
    drop(body);
    ms(50).await;
    assert_eq!(world.engines[0].counts(), (0, 1, 0));
    assert_eq!(world.engines[0].aborted(), ["0123456789abcdef0123456789abcdef"]);
    assert_eq!(world.left(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_the_queue_never_reaches_an_engine() {
    let script = Script { prefill: Duration::from_secs(5), ..Script::default() };
    let world = World::new(1, script, |config| config.router.gates.max_running = Some(1)).await;
    let first = world.client.request(chat("a", true));
    let first = tokio::spawn(first);
    ms(10).await;
    let queued = world.client.request(chat("b", true));
    assert!(tokio::time::timeout(Duration::from_millis(100), queued).await.is_err());
    first.await.unwrap().unwrap().into_body().collect().await.unwrap();
    ms(100).await;
    assert_eq!(world.engines[0].seen().len(), 1);
    assert_eq!(world.left(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_behind_unread_bytes_aborts_the_engine_within_50_ms() {
    let body = r#"{"model":"mock","messages":[{"role":"user","content":"x"}]}"#;
    let ask = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: router\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    let ahead = [("a line break", "\r\n".to_owned()), ("the next request", ask.clone()), ("many", ask.repeat(100))];
    for (what, behind) in ahead {
        let script = Script { prefill: Duration::from_secs(10), ..Script::default() };
        let world = World::new(1, script, |_| {}).await;
        let mut io = world.net.connect("router", 8000).unwrap();
        io.write_all(ask.as_bytes()).await.unwrap();
        io.write_all(behind.as_bytes()).await.unwrap();
        ms(100).await;
        assert_eq!(world.engines[0].seen().len(), 1, "{what}");
        drop(io);
        ms(50).await;
        assert_eq!(world.engines[0].counts(), (0, 1, 0), "{what}");
        assert_eq!(world.left(), (0, 0), "{what}");
    }
}

#[tokio::test(start_paused = true)]
async fn requests_that_are_sent_ahead_are_answered_in_turn() {
    let ask = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: router\r\n\r\n");
    let world = World::new(1, Script { prefill: Duration::from_secs(1), ..Script::default() }, |_| {}).await;
    let body = r#"{"model":"mock","messages":[{"role":"user","content":"x"}]}"#;
    let mut all = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: router\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}\r\n",
        body.len()
    );
    for _ in 0..3_000 {
        all += &ask("/health");
    }
    all += "GET /health HTTP/1.1\r\nhost: router\r\nconnection: close\r\n\r\n";
    assert!(all.len() > 96 << 10, "more than the router's own buffers hold");
    let (mut read, mut write) = tokio::io::split(world.net.connect("router", 8000).unwrap());
    let sending = tokio::spawn(async move {
        write.write_all(all.as_bytes()).await.unwrap();
        write
    });
    let mut answers = String::new();
    read.read_to_string(&mut answers).await.unwrap();
    assert_eq!(answers.matches("HTTP/1.1 200").count(), 3_002);
    drop(sending.await.unwrap());
}
