//! One attempt at one replica, up to the point where its answer can be passed on or has failed.
//!
//! Until the first content-bearing token the request can still be retried elsewhere, so what arrives before is held
//! back, up to 64 kB. An answer in one piece is held to its end if it is as short.

use crate::request::body::Body;
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

/// Most bytes held back: of a stream before its first content-bearing token, or of an answer in one piece.
const HOLD: usize = 64 << 10;

/// An answer that can be passed on to the client.
pub(crate) struct Ready {
    pub(crate) head: http::response::Parts,
    /// The whole body, if it has arrived; `held` and `body` are empty then.
    pub(crate) whole: Option<Bytes>,
    pub(crate) held: VecDeque<Frame<Bytes>>,
    pub(crate) body: UpstreamBody,
    pub(crate) tap: Tap,
    pub(crate) framing: Framing,
}

/// An attempt that gave no answer to pass on.
pub(crate) struct FailedAttempt {
    pub(crate) failure: Failure,
    /// The replica's error, for the client if no other replica answers.
    pub(crate) response: Option<Response<Body>>,
    pub(crate) why: String,
}

/// Sends a request to a replica. `request` makes it, once for each connection that is tried. With `has_prompt` the
/// answer is read for tokens and errors; else it is passed on unread.
pub(crate) async fn attempt(
    connector: &Connector,
    upstream: &Arc<Upstream>,
    keep_alive: Duration,
    request: impl Fn() -> Request<Full<Bytes>>,
    has_prompt: bool,
) -> Result<Box<Ready>, Box<FailedAttempt>> {
    let answer = connection::send(connector, upstream, keep_alive, request).await;
    let ready = check_head(answer, upstream, has_prompt)?;
    match ready.framing {
        Framing::Events => hold_until_token(ready, upstream).await,
        // An engine sends such an answer at once, and it has no place for an error of the router's.
        Framing::Json if ready.body.size_hint().exact().is_some_and(|length| length <= HOLD as u64) => {
            read_whole(ready, upstream).await
        }
        _ => Ok(ready),
    }
}

/// Fails the attempt if there is no answer, or its status is an error.
fn check_head(
    answer: Result<Response<UpstreamBody>, ConnectionError>,
    upstream: &Upstream,
    has_prompt: bool,
) -> Result<Box<Ready>, Box<FailedAttempt>> {
    let response = answer.map_err(|error| {
        let why = format!("no answer from replica `{}` ({error})", upstream.name);
        let failure = if error.is_timeout() { Failure::Timeout } else { Failure::Connection };
        Box::new(FailedAttempt { failure, response: None, why })
    })?;
    if let Some(failure) = Failure::of_status(response.status().as_u16()) {
        let why = format!("replica `{}` answered {}", upstream.name, response.status());
        return Err(Box::new(FailedAttempt { failure, response: Some(response.map(Body::Plain)), why }));
    }
    let (head, body) = response.into_parts();
    let framing = if has_prompt { framing(&head.headers) } else { Framing::Opaque };
    let tap = Tap::new(framing, has_prompt);
    Ok(Box::new(Ready { head, whole: None, held: VecDeque::new(), body, tap, framing }))
}

/// Reads the body to its end.
async fn read_whole(mut ready: Box<Ready>, upstream: &Upstream) -> Result<Box<Ready>, Box<FailedAttempt>> {
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
            Some(Err(error)) => return Err(connection_lost(upstream, &error)),
            None => break,
        }
    }
    let body = if more.is_empty() { first } else { more.freeze() };
    ready.tap.whole(&body);
    if let Some(code) = ready.tap.error() {
        ready.held.push_back(Frame::data(body));
        return Err(Box::pin(error_in_answer(*ready, upstream, code)).await); // rare, and large
    }
    ready.whole = Some(body);
    Ok(ready)
}

fn connection_lost(upstream: &Upstream, error: &hyper::Error) -> Box<FailedAttempt> {
    let why = format!("replica `{}` broke off before anything was passed on ({error})", upstream.name);
    Box::new(FailedAttempt { failure: Failure::Connection, response: None, why })
}

/// Reads until the first token, an error, the end, or [`HOLD`] bytes.
async fn hold_until_token(mut ready: Box<Ready>, upstream: &Upstream) -> Result<Box<Ready>, Box<FailedAttempt>> {
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
            Some(Err(error)) => return Err(connection_lost(upstream, &error)),
            None => break,
        }
        if let Some(code) = ready.tap.error() {
            return Err(Box::pin(error_in_answer(*ready, upstream, code)).await); // rare, and large
        }
    }
    Ok(ready)
}

/// The failure of an answer with status 200 that begins with an error.
async fn error_in_answer(mut ready: Ready, upstream: &Upstream, code: u16) -> Box<FailedAttempt> {
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
    Box::new(FailedAttempt {
        failure: Failure::of_status(code).unwrap_or(Failure::Server),
        response: Some(Response::from_parts(ready.head, Body::Full(whole.freeze()))),
        why: format!("replica `{}` sent an error in its answer (code {code})", upstream.name),
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
