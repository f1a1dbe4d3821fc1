//! A small client.

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{HeaderMap, Method, Request, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;

pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    /// What came before the end, and whether the end did.
    pub(crate) body: String,
    pub(crate) whole: bool,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.body))
    }

    /// The events of a stream, parsed; the end mark is `null`.
    pub(crate) fn events(&self) -> Vec<Value> {
        self.body
            .split_terminator("\n\n")
            .map(|event| match event.strip_prefix("data: ").unwrap() {
                "[DONE]" => Value::Null,
                json => serde_json::from_str(json).unwrap(),
            })
            .collect()
    }
}

pub(crate) async fn send(method: Method, url: &str, body: impl Into<Bytes>) -> Answer {
    let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    let request = Request::builder()
        .method(method)
        .uri(url)
        .header("content-type", "application/json")
        .body(Full::new(body.into()))
        .unwrap();
    let answer = client.request(request).await.unwrap();
    let (status, headers) = (answer.status(), answer.headers().clone());
    let (mut text, mut whole, mut body) = (Vec::new(), true, answer.into_body());
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => text.extend_from_slice(frame.data_ref().unwrap()),
            Err(_) => {
                whole = false;
                break;
            }
        }
    }
    Answer { status, headers, body: String::from_utf8(text).unwrap(), whole }
}

pub(crate) async fn get(url: &str) -> Answer {
    send(Method::GET, url, "").await
}

pub(crate) async fn post(url: &str, body: &Value) -> Answer {
    send(Method::POST, url, body.to_string()).await
}
