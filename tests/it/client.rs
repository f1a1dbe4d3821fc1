//! A client that sees every byte: one request a connection, read to its end.

use serde_json::Value;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// One answer.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    /// 0 if no complete head arrived.
    pub(crate) status: u16,
    pub(crate) head: String,
    /// The body without its chunks' frames.
    pub(crate) body: String,
    /// Whether the body is complete by its own framing.
    pub(crate) whole: bool,
    /// Whether the connection was still open at the limit.
    pub(crate) hung: bool,
    /// When its first byte arrived.
    pub(crate) first_byte: Option<Instant>,
}

impl Answer {
    /// A header's value; names in lower case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    /// Data of its events.
    pub(crate) fn events(&self) -> impl Iterator<Item = &str> {
        self.body.split("\n\n").filter_map(|event| event.trim_start().strip_prefix("data: "))
    }

    /// Whether an event carries an error.
    pub(crate) fn tells_error(&self) -> bool {
        self.events().any(|data| serde_json::from_str::<Value>(data).is_ok_and(|v| v["error"]["message"].is_string()))
    }

    /// The text of `/v1/completions`, streamed or not.
    pub(crate) fn text(&self) -> String {
        let text =
            |data: &str| serde_json::from_str::<Value>(data).ok()?["choices"][0]["text"].as_str().map(str::to_owned);
        if self.body.starts_with("data: ") {
            self.events().filter_map(text).collect()
        } else {
            text(&self.body).unwrap_or_default()
        }
    }
}

/// Sends one request and reads the answer to the end of the connection.
pub(crate) async fn send(to: SocketAddr, method: &str, path: &str, body: &str, limit: Duration) -> Answer {
    let mut bytes = Vec::new();
    let mut answer = Answer::default();
    let exchange = async {
        let mut io = TcpStream::connect(to).await?;
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: {to}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
             connection: close\r\n\r\n{body}",
            body.len()
        );
        io.write_all(request.as_bytes()).await?;
        while io.read_buf(&mut bytes).await? > 0 {
            answer.first_byte.get_or_insert_with(Instant::now);
        }
        std::io::Result::Ok(())
    };
    answer.hung = tokio::time::timeout(limit, exchange).await.is_err();
    let split = bytes.windows(4).position(|w| w == b"\r\n\r\n");
    let Some(split) = split else { return answer };
    answer.head = String::from_utf8_lossy(&bytes[..split]).to_ascii_lowercase();
    answer.status = answer.head.get(9..12).and_then(|code| code.parse().ok()).unwrap_or(0);
    let raw = &bytes[split + 4..];
    let (body, whole) = if answer.header("transfer-encoding") == Some("chunked") {
        dechunked(raw)
    } else {
        let length = answer.header("content-length").and_then(|n| n.parse::<usize>().ok());
        (raw.to_vec(), length.is_none_or(|length| raw.len() == length))
    };
    answer.body = String::from_utf8_lossy(&body).into_owned();
    answer.whole = whole;
    answer
}

/// The data of a chunked body, and whether its last chunk arrived.
fn dechunked(mut raw: &[u8]) -> (Vec<u8>, bool) {
    let mut out = Vec::new();
    loop {
        let Some(end) = raw.windows(2).position(|w| w == b"\r\n") else { return (out, false) };
        let length = std::str::from_utf8(&raw[..end]).ok().and_then(|text| usize::from_str_radix(text, 16).ok());
        match length {
            Some(0) => return (out, true),
            Some(length) if raw.len() >= end + 4 + length => {
                out.extend_from_slice(&raw[end + 2..end + 2 + length]);
                raw = &raw[end + 4 + length..];
            }
            _ => {
                out.extend_from_slice(&raw[(end + 2).min(raw.len())..]);
                return (out, false);
            }
        }
    }
}

/// Sum of a metric over its labels.
pub(crate) async fn metric(router: SocketAddr, name: &str) -> f64 {
    let page = send(router, "GET", "/metrics", "", Duration::from_secs(10)).await.body;
    let value = |line: &str| {
        let rest = line.strip_prefix(name).filter(|rest| rest.starts_with([' ', '{']))?;
        rest.rsplit(' ').next()?.parse::<f64>().ok()
    };
    page.lines().filter_map(value).sum()
}
