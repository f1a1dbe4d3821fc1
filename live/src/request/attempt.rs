//! One attempt at one replica, up to the point where its answer can be passed on or refused.

use crate::upstream::connect::Connector;
use crate::upstream::connection::{self, ConnectionError, UpstreamBody};
use crate::upstream::replica::Upstream;
use crate::wire::answer_tap::{Framing, Tap};
use bytes::{Bytes, BytesMut};
use gorgo_core::router::Failure;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap};
use http::{Request, Response};
use http_body::{Body as _, Frame};
use http_body_util::{BodyExt, Full};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crate::request::body::Body;

/// Most bytes held back: of a stream before its first content-bearing token, of an answer that comes whole.
const HOLD: usize = 64 << 10;

/// An answer that can go to the client.
pub(crate) struct Ready {
    pub(crate) head: http::response::Parts,
    /// The body, if it is here to its end; `held` and `body` have nothing more then.
    pub(crate) whole: Option<Bytes>,
    pub(crate) held: VecDeque<Frame<Bytes>>,
    pub(crate) body: UpstreamBody,
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

/// Sends what `request` makes.
pub(crate) async fn attempt(
    connector: &Connector,
    upstream: &Arc<Upstream>,
    keep_alive: Duration,
    request: impl Fn() -> Request<Full<Bytes>>,
    watched: bool,
) -> Result<Box<Ready>, Box<Refused>> {
    let answer = connection::send(connector, upstream, keep_alive, request).await;
    let ready = begun(answer, upstream, watched)?;
    match ready.framing {
        Framing::Events => hold(ready, upstream).await,
        // A whole answer is there at once, and an error could not be told inside it.
        Framing::Json if ready.body.size_hint().exact().is_some_and(|length| length <= HOLD as u64) => {
            whole(ready, upstream).await
        }
        _ => Ok(ready),
    }
}

/// What an answer's head says.
fn begun(
    answer: Result<Response<UpstreamBody>, ConnectionError>,
    upstream: &Upstream,
    watched: bool,
) -> Result<Box<Ready>, Box<Refused>> {
    let response = answer.map_err(|error| {
        let why = format!("no answer from replica `{}` ({error})", upstream.name);
        let failure = if error.is_timeout() { Failure::Timeout } else { Failure::Connection };
        Box::new(Refused { failure, response: None, why })
    })?;
    if let Some(failure) = Failure::of_status(response.status().as_u16()) {
        let why = format!("replica `{}` answered {}", upstream.name, response.status());
        return Err(Box::new(Refused { failure, response: Some(response.map(Body::Plain)), why }));
    }
    let (head, body) = response.into_parts();
    let framing = if watched { framing(&head.headers) } else { Framing::Opaque };
    let tap = Tap::new(framing, watched);
    Ok(Box::new(Ready { head, whole: None, held: VecDeque::new(), body, tap, framing }))
}

/// Reads the body to its end.
async fn whole(mut ready: Box<Ready>, upstream: &Upstream) -> Result<Box<Ready>, Box<Refused>> {
    let (mut first, mut more) = (Bytes::new(), BytesMut::new());
    while !ready.body.is_end_stream() {
        match ready.body.frame().await {
            Some(Ok(frame)) => {
                let Ok(data) = frame.into_data() else { continue };
                if first.is_empty() {
                    first = data;
                    continue;
                }
                if more.is_empty() {
                    more.extend_from_slice(&first);
                }
                more.extend_from_slice(&data);
            }
            Some(Err(error)) => return Err(broke_off(upstream, &error)),
            None => break,
        }
    }
    let body = if more.is_empty() { first } else { more.freeze() };
    ready.tap.whole(&body);
    if let Some(code) = ready.tap.error() {
        ready.held.push_back(Frame::data(body));
        return Err(Box::pin(told_error(*ready, upstream, code)).await); // rare, and large
    }
    ready.whole = Some(body);
    Ok(ready)
}

fn broke_off(upstream: &Upstream, error: &hyper::Error) -> Box<Refused> {
    let why = format!("replica `{}` broke off before anything was passed on ({error})", upstream.name);
    Box::new(Refused { failure: Failure::Connection, response: None, why })
}

/// Reads on until a token has come, enough bytes, an error, or the end.
async fn hold(mut ready: Box<Ready>, upstream: &Upstream) -> Result<Box<Ready>, Box<Refused>> {
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
            Some(Err(error)) => return Err(broke_off(upstream, &error)),
            None => break,
        }
        if let Some(code) = ready.tap.error() {
            return Err(Box::pin(told_error(*ready, upstream, code)).await); // rare, and large
        }
    }
    Ok(ready)
}

/// 200, but the first words are an error.
async fn told_error(mut ready: Ready, upstream: &Upstream, code: u16) -> Box<Refused> {
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
    Box::new(Refused {
        failure: Failure::of_status(code).unwrap_or(Failure::Server),
        response: Some(Response::from_parts(ready.head, Body::Full(whole.freeze()))),
        why: format!("replica `{}` told an error in its answer (code {code})", upstream.name),
    })
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
