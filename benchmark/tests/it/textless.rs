//! Answers whose tokens have no text, as engines give for special tokens and parts of a character.

use gorgo_benchmark::load::client::{Client, Outcome};
use gorgo_benchmark::load::target::Target;
use gorgo_core::record::Status;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// What the client makes of one stream.
async fn outcome(events: &'static str) -> Outcome {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"{}") {
            socket.read_buf(&mut request).await.unwrap();
        }
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";
        socket.write_all(format!("{head}{events}").as_bytes()).await.unwrap();
    });
    let target = Target::parse(&url).unwrap();
    let client = Client::new(&target, "/v1/completions", None, Duration::from_secs(60), None).unwrap();
    client.send("{}".into(), "test").await
}

/// vLLM's stream of one special token.
#[tokio::test]
async fn a_token_without_text_is_an_answer() {
    let told = outcome(
        "data: {\"choices\":[{\"index\":0,\"text\":\"\",\"finish_reason\":\"length\"}]}\n\n\
         data: {\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":1}}\n\ndata: [DONE]\n\n",
    )
    .await;
    assert_eq!((told.status, told.error.as_deref(), told.counts.output), (Status::Finished, None, Some(1)));
    assert!(told.first.is_some_and(|first| told.sent <= first && first <= told.done) && told.first == told.last);
}

#[tokio::test]
async fn an_answer_without_a_token_is_none() {
    let told = outcome(
        "data: {\"choices\":[{\"index\":0,\"text\":\"\",\"finish_reason\":\"stop\"}]}\n\n\
         data: {\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":0}}\n\ndata: [DONE]\n\n",
    )
    .await;
    assert_eq!((told.status, told.error.as_deref()), (Status::Failed, Some("the answer holds no token")));
}
