//! Servers that close idle connections, refuse an option, or do not stream.

use gorgo_benchmark::load::client::{Client, Outcome};
use gorgo_benchmark::load::target::Target;
use gorgo_core::record::Status;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

const STREAM: &str =
    "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"hi\"},\"finish_reason\":\"stop\"}]}\n\n";

fn answer(status: &str, kind: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

/// A client of a server that answers the nth request of a connection, counted from 1, with what `script` makes of its
/// body; without an answer it closes the connection.
async fn client(script: fn(usize, &str) -> Option<String>) -> Client {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                for n in 1.. {
                    let mut request = Vec::new();
                    while !request.ends_with(b"}") {
                        if socket.read_buf(&mut request).await.unwrap_or(0) == 0 {
                            return;
                        }
                    }
                    let Some(answer) = script(n, &String::from_utf8_lossy(&request)) else { return };
                    socket.write_all(answer.as_bytes()).await.unwrap();
                }
            });
        }
    });
    let target = Target::parse(&url).unwrap();
    Client::new(&target, "/v1/chat/completions", None, Duration::from_secs(60), None).unwrap()
}

async fn ask(client: &Client) -> Outcome {
    client.send(r#"{"messages":[],"stream_options":{"include_usage":true}}"#.into(), "test").await
}

#[tokio::test]
async fn an_idle_connection_that_the_server_closes_is_no_failure_and_one_that_never_answered_is() {
    let closing = client(|n, _| (n == 1).then(|| answer("200 OK", "text/event-stream", STREAM))).await;
    for _ in 0..3 {
        let told = ask(&closing).await;
        assert_eq!((told.status, told.error), (Status::Finished, None));
    }
    assert_eq!(ask(&client(|_, _| None).await).await.status, Status::Failed);
}

#[tokio::test]
async fn a_server_that_refuses_stream_options_is_asked_without_them() {
    let strict = client(|_, request| {
        Some(match request.contains("stream_options") {
            true => answer("422 Unprocessable Entity", "application/json", r#"{"message":"no stream_options here"}"#),
            false => answer("200 OK", "text/event-stream", STREAM),
        })
    })
    .await;
    for _ in 0..2 {
        let told = ask(&strict).await;
        assert_eq!((told.status, told.error), (Status::Finished, None));
    }
    let refusing = client(|_, _| Some(answer("400 Bad Request", "application/json", r#"{"message":"no"}"#))).await;
    assert_eq!(ask(&refusing).await.error.unwrap(), "400: no");
}

#[tokio::test]
async fn json_in_place_of_a_stream_is_named_so() {
    let whole = client(|_, _| Some(answer("200 OK", "application/json", r#"{"choices":[]}"#))).await;
    let error = "the server answered JSON in one piece and no stream; let it stream";
    assert_eq!(ask(&whole).await.error.as_deref(), Some(error));
    let failing = client(|_, _| Some(answer("200 OK", "application/json", r#"{"error":{"message":"boom"}}"#))).await;
    let told = ask(&failing).await;
    assert_eq!((told.status, told.error.as_deref()), (Status::Failed, Some("boom")));
}
