//! How answers end: without a last line end, or in the middle.

use crate::blame::{CHUNKED, beside_good};
use crate::fixture::{World, chat, whole};
use http_body_util::BodyExt;
use std::time::Duration;
use tokio::time::Instant;

const TOKEN: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"hi\"}}]}\n\n";

/// A replica that sends these pieces and closes the connection, beside a good one.
async fn pieces(pieces: &[&str]) -> World {
    let chunks: String = pieces.iter().map(|piece| format!("{:x}\r\n{piece}\r\n", piece.len())).collect();
    beside_good(Box::leak(format!("{CHUNKED}{chunks}0\r\n\r\n").into()), true, |_| {}).await
}

/// The answers of both replicas to the same request.
async fn answers(world: &World) -> Vec<String> {
    let mut texts = Vec::new();
    for n in 0..2 {
        let response = world.send(chat(&format!("{n}"), true)).await;
        texts.push(String::from_utf8(whole(response).await.to_vec()).unwrap());
    }
    texts
}

/// The last line was read and put back without end, and the worker's thread with it was lost.
#[tokio::test(start_paused = true)]
async fn a_last_line_without_an_end_passes() {
    let (half, heartbeat) = (format!("{TOKEN}data: [DO"), format!(": hm\n\n{TOKEN}data: [DONE]"));
    let ends = [
        vec![TOKEN, "data: [DONE]"],
        vec![TOKEN, "data: [DONE]\n"],
        vec![TOKEN, "data: [DONE]\n\n", " "],
        vec![TOKEN, "data: [DONE]\n\n: x"],
        vec![&half, "NE]"],
        vec![&heartbeat],
        vec![": hm\n\n", TOKEN, "data: [DONE]"],
    ];
    for end in ends {
        let world = pieces(&end).await;
        let texts = answers(&world).await;
        assert!(texts.contains(&end.concat()), "{end:?}: {texts:?}");
        assert_eq!(world.left(), (0, 0));
    }
}

/// hyper drops what it has not sent when a body fails: the client saw a closed connection and no head.
#[tokio::test(start_paused = true)]
async fn an_answer_that_breaks_off_at_once_has_a_head() {
    let body = format!("{{\"a\":\"{}", "x".repeat(50_000));
    let json = format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100000\r\n\r\n{body}");
    let world = beside_good(Box::leak(json.into()), true, |_| {}).await;
    let mut cut = 0;
    for n in 0..2 {
        let response = world.send(chat(&format!("{n}"), false)).await;
        assert_eq!(response.status(), 200);
        cut += usize::from(response.into_body().collect().await.is_err());
    }
    assert_eq!(cut, 1, "and its client learns that it is not whole");
}

#[tokio::test(start_paused = true)]
async fn a_stream_with_a_length_that_breaks_off_ends_with_an_error_event() {
    let events = format!("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: 5000\r\n\r\n{TOKEN}");
    let world = beside_good(Box::leak(events.into()), true, |_| {}).await;
    let texts = answers(&world).await;
    let broken = texts.iter().find(|text| text.starts_with(TOKEN)).unwrap();
    assert!(broken.contains("upstream_broke"), "{broken}");
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_left_open_after_an_error_event_ends_soon() {
    let event = "data: {\"error\":{\"message\":\"boom\",\"code\":500}}\n\n";
    let chunk = |text: &str| format!("{:x}\r\n{text}\r\n", text.len());
    let open = format!("{CHUNKED}{}{}", chunk(TOKEN), chunk(event));
    let world = beside_good(Box::leak(open.into()), false, |_| {}).await;
    let began = Instant::now();
    let texts = answers(&world).await;
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert!(texts.contains(&format!("{TOKEN}{event}")), "{texts:?}");
    assert_eq!(world.left(), (0, 0));
}
