//! One attempt at one replica, up to the point where its answer can be passed on or refused.

use crate::fleet::Upstream;
use crate::node::Node;
use crate::sse::{Framing, Tap};
use bytes::{Bytes, BytesMut};
use gorgo_core::router::Failure;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap};
use http::{Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use std::collections::VecDeque;
use std::sync::Arc;

use crate::body::Body;

/// Most bytes held back before the first content-bearing token.
const HOLD: usize = 64 << 10;

/// An answer that can go to the client.
pub(crate) struct Ready {
    pub(crate) head: http::response::Parts,
    pub(crate) held: VecDeque<Frame<Bytes>>,
    pub(crate) body: Incoming,
    pub(crate) tap: Tap,
    pub(crate) framing: Framing,
}

/// An answer that cannot, or none.
pub(crate) struct Refused {
    pub(crate) failure: Failure,
    /// What the replica said, for the client if nobody else answers.
    pub(crate) response: Option<Response<Body>>,
    pub(crate) why: String,
}

pub(crate) async fn attempt(
    node: Arc<Node>,
    upstream: Arc<Upstream>,
    request: Request<Full<Bytes>>,
    watched: bool,
) -> Result<Box<Ready>, Refused> {
    let response = node.pool.request(request).await.map_err(|error| {
        let source = std::error::Error::source(&error).map_or(String::new(), |source| format!(": {source}"));
        let why = format!("no answer from replica `{}` ({error}{source})", upstream.name);
        let failure = if is_timeout(&error) { Failure::Timeout } else { Failure::Connection };
        Refused { failure, response: None, why }
    })?;
    if let Some(failure) = failure_of(response.status()) {
        let why = format!("replica `{}` answered {}", upstream.name, response.status());
        return Err(Refused { failure, response: Some(response.map(Body::Plain)), why });
    }
    let (head, body) = response.into_parts();
    let framing = if watched { framing(&head.headers) } else { Framing::Opaque };
    let tap = Tap::new(framing, watched);
    let ready = Ready { head, held: VecDeque::new(), body, tap, framing };
    if framing == Framing::Events { hold(ready, &upstream).await } else { Ok(Box::new(ready)) }
}

/// Reads on until content, an error or the end has come.
async fn hold(mut ready: Ready, upstream: &Upstream) -> Result<Box<Ready>, Refused> {
    let mut bytes = 0;
    while !ready.tap.content() && bytes < HOLD {
        match ready.body.frame().await {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    bytes += data.len();
                    ready.tap.feed(data);
                }
                ready.held.push_back(frame);
            }
            Some(Err(error)) => {
                let why = format!("replica `{}` broke off before its first token ({error})", upstream.name);
                return Err(Refused { failure: Failure::Connection, response: None, why });
            }
            None => break,
        }
        if let Some(code) = ready.tap.error() {
            return Err(told_error(ready, upstream, code).await);
        }
    }
    Ok(Box::new(ready))
}

/// 200, but the stream's first words are an error.
async fn told_error(mut ready: Ready, upstream: &Upstream, code: u16) -> Refused {
    let mut whole = BytesMut::new();
    for frame in ready.held {
        whole.extend_from_slice(frame.data_ref().unwrap_or(&Bytes::new()));
    }
    while whole.len() < HOLD {
        match ready.body.frame().await {
            Some(Ok(frame)) => whole.extend_from_slice(frame.data_ref().unwrap_or(&Bytes::new())),
            _ => break,
        }
    }
    ready.head.headers.remove(CONTENT_LENGTH);
    let status = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    Refused {
        failure: failure_of(status).unwrap_or(Failure::Server),
        response: Some(Response::from_parts(ready.head, Body::Full(whole.freeze()))),
        why: format!("replica `{}` told an error in its stream (code {code})", upstream.name),
    }
}

fn failure_of(status: StatusCode) -> Option<Failure> {
    match status {
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => Some(Failure::Overloaded),
        StatusCode::GATEWAY_TIMEOUT => Some(Failure::Timeout),
        status if status.is_server_error() => Some(Failure::Server),
        status if status.is_client_error() => Some(Failure::Client),
        _ => None,
    }
}

fn framing(headers: &HeaderMap) -> Framing {
    if headers.contains_key(CONTENT_ENCODING) {
        return Framing::Opaque;
    }
    let kind = headers.get(CONTENT_TYPE).map_or(&b""[..], |value| value.as_bytes());
    let is = |word: &[u8]| kind.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word));
    if is(b"text/event-stream") {
        Framing::Events
    } else if is(b"application/json") {
        Framing::Json
    } else {
        Framing::Opaque
    }
}

fn is_timeout(error: &hyper_util::client::legacy::Error) -> bool {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = source {
        if error.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::TimedOut) {
            return true;
        }
        source = error.source();
    }
    false
}
