//! One attempt at one replica, up to the point where its answer can be passed on or has failed.
//!
//! Until the first content-bearing token the request can still be sent to another replica, so earlier bytes are
//! buffered: those of a stream for at most `timeouts.hold_ms` and 64 kB, an answer in one piece until it is complete,
//! up to 64 kB. Comments of an event stream are heartbeats: they are forwarded at once, and the request can still be
//! retried after them. So are blanks before an answer in one piece, which pass after `timeouts.hold_ms`.

use crate::request::absent;
use crate::request::body::Body;
use crate::request::client_request::ClientRequest;
use crate::request::foreign;
use crate::request::headers;
use crate::request::json_end::JsonEnd;
use crate::request::rest_body::RestBody;
use crate::request::retry_after::retry_after;
use crate::upstream::connection::{self, ConnectionError, UpstreamBody};
use crate::upstream::replica::Upstream;
use crate::wire::answer_tap::{AnswerTap, Framing};
use crate::wire::content_type;
use bytes::{Bytes, BytesMut};
use gorgo_core::router::{Dispatch, Failure};
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, HeaderMap, HeaderValue, TRANSFER_ENCODING};
use http::{Method, Response, StatusCode};
use http_body::{Body as _, Frame};
use http_body_util::BodyExt;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::time::{Instant, timeout_at};

/// Most bytes held back: of a stream before its first content-bearing token, or of an answer in one piece.
const HOLD: usize = 64 << 10;

/// An answer that can be passed on to the client, or the beginning of a stream.
pub(crate) struct Ready {
    pub(crate) head: http::response::Parts,
    /// The whole body, if it has arrived; `held` and `body` are empty then.
    pub(crate) whole: Option<Bytes>,
    pub(crate) held: VecDeque<Frame<Bytes>>,
    pub(crate) body: UpstreamBody,
    pub(crate) tap: AnswerTap,
    pub(crate) framing: Framing,
    /// Whether a part of it that is no comment has been passed on.
    pub(crate) is_committed: bool,
    /// Finds the end of a JSON text that only the end of the connection delimits.
    pub(crate) json_end: Option<JsonEnd>,
    /// Whether only the end of the connection ends the body.
    pub(crate) until_close: bool,
    /// When the first byte came that is held back.
    held_since: Option<Instant>,
    /// When the last byte came.
    last_piece: Option<Instant>,
}

/// How far an attempt has come.
pub(crate) enum Begun {
    /// The answer's first token, or its end, is here.
    Answer(Box<Ready>),
    /// A stream of which `held` must pass now, though its first token has not come.
    Stream(Box<Ready>),
}

/// An attempt that gave no answer to pass on.
pub(crate) struct FailedAttempt {
    pub(crate) failure: Failure,
    /// The replica's error, for the client if no other replica answers.
    pub(crate) response: Option<Response<Body>>,
    pub(crate) why: String,
}

impl FailedAttempt {
    /// Dispatches that it took: the number that a router in the replica's place reports, or 1.
    pub(crate) fn dispatches(&self) -> u8 {
        self.response.as_ref().and_then(|response| headers::attempts(response.headers())).unwrap_or(1)
    }
}

type Attempted<T> = Result<T, Box<FailedAttempt>>;

/// Sends a request to a replica, or goes on with a stream that has `begun` there. With a prompt the answer is read for
/// tokens and errors; else it is passed on at once.
pub(crate) async fn attempt(
    request: &ClientRequest,
    upstream: &Arc<Upstream>,
    dispatch: &Dispatch,
    begun: Option<Box<Ready>>,
) -> Attempted<Begun> {
    let ready = match begun {
        Some(ready) => ready,
        None => check_head(send(request, upstream, dispatch).await, upstream, request).await?,
    };
    match ready.framing {
        Framing::Events if request.has_prompt || request.makes_kept => hold_until_token(ready, upstream, request).await,
        // Most engines send such an answer at once, and it has no place for an error of the router's.
        Framing::Json if ready.body.size_hint().exact().is_none_or(|length| length <= HOLD as u64) => {
            read_whole(ready, upstream, request).await
        }
        _ => Ok(Begun::Answer(ready)),
    }
}

/// Sends the request, packed if the replica is a peer that reads zstd.
async fn send(
    request: &ClientRequest,
    upstream: &Arc<Upstream>,
    dispatch: &Dispatch,
) -> Result<Response<UpstreamBody>, ConnectionError> {
    let connector = &request.context.state.connector;
    let keep_alive = Duration::from_millis(request.config.timeouts.keep_alive_ms);
    let packed = request.packed_for(upstream).await;
    let make = || request.to_replica(upstream, dispatch, packed);
    let answer = connection::send(connector, upstream, keep_alive, make).await;
    if packed.is_none() || !answer.as_ref().is_ok_and(|a| a.status() == StatusCode::UNSUPPORTED_MEDIA_TYPE) {
        return answer;
    }
    // The peer was replaced since its last report by a version that does not read zstd.
    drop(answer);
    upstream.set_reads_zstd(false);
    let plain = || request.to_replica(upstream, dispatch, None);
    Box::pin(connection::send(connector, upstream, keep_alive, plain)).await
}

/// Fails the attempt if there is no answer, or its status is an error.
async fn check_head(
    answer: Result<Response<UpstreamBody>, ConnectionError>,
    upstream: &Upstream,
    request: &ClientRequest,
) -> Attempted<Box<Ready>> {
    let response = answer.map_err(|error| {
        let why = format!("no answer from replica `{}` ({error})", upstream.name);
        Box::new(FailedAttempt { failure: error.failure(), response: None, why })
    })?;
    let (mut head, body) = response.into_parts();
    if head.status == StatusCode::SWITCHING_PROTOCOLS {
        let why = format!("replica `{}` switched protocols, which the request had not asked for", upstream.name);
        return Err(Box::new(FailedAttempt { failure: Failure::Server(502), response: None, why }));
    }
    if request.has_prompt
        && let Some(what) = foreign::no_answer(&head, body.is_end_stream(), request.parts.uri.path())
    {
        return Err(no_answer(upstream, head.status, what));
    }
    if head.headers.contains_key(TRANSFER_ENCODING) {
        head.headers.remove(CONTENT_LENGTH); // RFC 9112, 6.3: it does not count, and the client would cut the body
    }
    if let Some(failure) = Failure::of_status(head.status.as_u16()) {
        let why = format!("replica `{}` answered {}", upstream.name, head.status);
        let failure = match failure {
            Failure::KeyRefused => request.refusal_of(upstream),
            Failure::Overloaded { .. } => {
                Failure::Overloaded { retry_after_s: retry_after(&head.headers, SystemTime::now()) }
            }
            other => other,
        };
        request.hide_engines(&mut head.headers, upstream);
        let (mut body, mut held) = (body, VecDeque::new());
        let is_about_path = is_about_path(&head, &mut body, &mut held, request).await;
        let failure = if is_about_path && absent::learn(&request.context.state, upstream, request.parts.uri.path()) {
            Failure::NoEndpoint
        } else if !is_about_path && request.has_prompt && foreign::is_foreign_refusal(&head) {
            Failure::Server(head.status.as_u16()) // it says nothing of the request
        } else if !(is_about_path && request.has_prompt) && request.is_sought_elsewhere(upstream, head.status) {
            Failure::NoEndpoint
        } else {
            failure
        };
        // The client's key is not at fault, and the client cannot do anything about ours.
        let is_ours = failure == Failure::KeyRefused && upstream.has_own_key();
        if is_ours {
            let why = match head.status {
                StatusCode::PAYMENT_REQUIRED => {
                    format!("replica `{}` answered {}: pay for the account of its api_key", upstream.name, head.status)
                }
                StatusCode::FORBIDDEN => format!(
                    "replica `{}` answered {}: it refuses this request, or its api_key is wrong",
                    upstream.name, head.status
                ),
                status => format!("replica `{}` refuses this router's key ({status}): set its api_key", upstream.name),
            };
            return Err(Box::new(FailedAttempt { failure, response: None, why }));
        }
        let response = Some(Response::from_parts(head, rest(held, body, request)));
        return Err(Box::new(FailedAttempt { failure, response, why }));
    }
    let framing = match framing(&head.headers) {
        Framing::Json if !request.has_prompt && !request.makes_kept => Framing::Opaque,
        framing => framing,
    };
    let tap = AnswerTap::new(framing, request.has_prompt).with_id(request.makes_kept);
    let is_delimited = body.is_of_stream() || head.headers.contains_key(TRANSFER_ENCODING);
    let until_close = !is_delimited && body.size_hint().exact().is_none();
    let json_end = (until_close && framing == Framing::Json).then(JsonEnd::default);
    Ok(Box::new(Ready {
        head,
        whole: None,
        held: VecDeque::new(),
        body,
        tap,
        framing,
        is_committed: false,
        json_end,
        until_close,
        held_since: None,
        last_piece: None,
    }))
}

/// Whether an error says that this engine does not have the path. What is read of the body goes to `held`.
async fn is_about_path(
    head: &http::response::Parts,
    body: &mut UpstreamBody,
    held: &mut VecDeque<Frame<Bytes>>,
    request: &ClientRequest,
) -> bool {
    let posted = request.parts.method == Method::POST;
    let may_be = head.status == StatusCode::NOT_FOUND || posted && head.status == StatusCode::METHOD_NOT_ALLOWED;
    if !may_be || body.size_hint().exact().is_none_or(|length| length > absent::LONGEST) {
        return false;
    }
    while !body.is_end_stream() {
        match timeout_at(Instant::now() + gap(request), body.frame()).await {
            Ok(Some(Ok(frame))) => held.push_back(frame),
            Ok(None) => break,
            Ok(Some(Err(_))) | Err(_) => return false,
        }
    }
    let told: Vec<u8> = held.iter().filter_map(Frame::data_ref).flatten().copied().collect();
    absent::is_about_path(head.status, &told)
}

/// The failure of an answer to a prompt that is none.
fn no_answer(upstream: &Upstream, status: StatusCode, what: &str) -> Box<FailedAttempt> {
    let why = format!(
        "replica `{}` answered {status}{what} to a prompt, which no engine does; see what listens at its URL",
        upstream.name
    );
    Box::new(FailedAttempt { failure: Failure::Server(status.as_u16()), response: None, why })
}

/// The body of an error: what was read of it, and the rest.
fn rest(held: VecDeque<Frame<Bytes>>, body: UpstreamBody, request: &ClientRequest) -> Body {
    Body::Rest(Box::new(RestBody::new(held, body, gap(request))))
}

fn gap(request: &ClientRequest) -> Duration {
    Duration::from_millis(request.config.timeouts.idle_gap_ms)
}

impl Ready {
    /// The next frame, read by the tap; `Err(None)` when none came until `limit`.
    async fn next(&mut self, limit: Option<Instant>) -> Result<Option<Frame<Bytes>>, Option<hyper::Error>> {
        let frame = match limit {
            Some(limit) => timeout_at(limit, self.body.frame()).await.map_err(|_| None)?,
            None => self.body.frame().await,
        };
        let frame = frame.transpose().map_err(Some)?;
        if let Some(data) = frame.as_ref().and_then(Frame::data_ref) {
            self.last_piece = Some(Instant::now());
            if let Some(end) = &mut self.json_end {
                end.feed(data);
            }
        }
        Ok(frame)
    }

    fn held_bytes(&self) -> usize {
        self.held.iter().filter_map(Frame::data_ref).map(Bytes::len).sum()
    }
}

/// Reads a JSON answer to its end, and judges it. A longer one than [`HOLD`], or one that an engine streams, is passed
/// on in pieces; so are the blanks before it, which servers send to keep a connection open.
async fn read_whole(mut ready: Box<Ready>, upstream: &Upstream, request: &ClientRequest) -> Attempted<Begun> {
    let (mut length, mut whole, gap) = (0, None, gap(request));
    // Only an answer without a length may be a stream in disguise.
    let streams = request.streams && ready.body.size_hint().exact().is_none();
    let hold = Duration::from_millis(request.config.timeouts.hold_ms);
    let mut is_blank = true;
    while !ready.body.is_end_stream() {
        let limit = ready.last_piece.map(|last| last + gap);
        let until = ready.held_since.filter(|_| streams || is_blank).map(|since| since + hold);
        match ready.next(until.or(limit)).await {
            Ok(Some(frame)) => {
                let Some(data) = frame.data_ref() else { continue };
                length += data.len();
                if length == data.len() && ready.body.is_end_stream() {
                    whole = frame.into_data().ok(); // nearly every answer is one piece
                    break;
                }
                is_blank &= data.trim_ascii_start().is_empty();
                ready.held_since = ready.held_since.or(ready.last_piece);
                ready.held.push_back(frame);
                if length > HOLD {
                    return Ok(begun(ready, is_blank));
                }
            }
            Ok(None) => break,
            Err(None) if until.is_some() => return Ok(begun(ready, is_blank)),
            Err(error) => return Err(connection_lost(upstream, error.as_ref())),
        }
    }
    let body = whole.unwrap_or_else(|| joined(std::mem::take(&mut ready.held)));
    let is_json = ready.tap.whole(&body);
    if !is_json && ready.until_close && ready.json_end.take().is_some_and(|end| !end.is_complete()) {
        let why = format!("replica `{}` closed the connection in the middle of its answer", upstream.name);
        return Err(Box::new(FailedAttempt { failure: Failure::Connection, response: None, why }));
    }
    if !is_json && request.has_prompt && ready.head.status.is_success() && foreign::is_no_json(&body) {
        return Err(no_answer(upstream, ready.head.status, " with a text that is no JSON, or half of one,"));
    }
    if let Some(failure) = ready.tap.error() {
        ready.held.push_back(Frame::data(body));
        return Err(error_in_answer(ready, upstream, request, failure));
    }
    if request.has_prompt && ready.head.status.is_success() && ready.tap.is_empty() {
        return Err(no_answer(upstream, ready.head.status, " without a body"));
    }
    ready.whole = Some(body);
    Ok(Begun::Answer(ready))
}

/// A JSON answer that is passed on in pieces after all, which the tap reads. After blanks alone another replica may
/// still be asked.
fn begun(mut ready: Box<Ready>, is_blank: bool) -> Begun {
    if is_blank {
        ready.held_since = None;
        return Begun::Stream(ready);
    }
    for frame in &ready.held {
        if let Some(data) = frame.data_ref() {
            ready.tap.feed(data);
        }
    }
    Begun::Answer(ready)
}

/// The frames' bytes; a single frame is not copied.
fn joined(mut held: VecDeque<Frame<Bytes>>) -> Bytes {
    if held.len() == 1 {
        return held.pop_front().and_then(|frame| frame.into_data().ok()).unwrap_or_default();
    }
    let mut all = BytesMut::new();
    held.iter().filter_map(Frame::data_ref).for_each(|data| all.extend_from_slice(data));
    all.freeze()
}

fn connection_lost(upstream: &Upstream, error: Option<&hyper::Error>) -> Box<FailedAttempt> {
    let (failure, why) = match error {
        Some(error) => (Failure::Connection, format!("broke off before anything was passed on ({error})")),
        None => (Failure::Timeout, "sent nothing for too long".to_owned()),
    };
    Box::new(FailedAttempt { failure, response: None, why: format!("replica `{}` {why}", upstream.name) })
}

/// Reads until the first token, an error, the end, or until what has come must be passed on.
async fn hold_until_token(mut ready: Box<Ready>, upstream: &Upstream, request: &ClientRequest) -> Attempted<Begun> {
    let hold = Duration::from_millis(request.config.timeouts.hold_ms);
    let mut bytes = ready.held_bytes();
    loop {
        let until = ready.held_since.map(|since| since + hold);
        let limit = ready.last_piece.map(|last| last + gap(request));
        match ready.next(until.or(limit)).await {
            Ok(Some(frame)) => {
                if let Some(data) = frame.data_ref() {
                    bytes += data.len();
                    ready.tap.feed(data);
                    ready.held_since = ready.held_since.or(ready.last_piece);
                }
                ready.held.push_back(frame);
            }
            Ok(None) => {
                ready.tap.end(); // reads an event that nothing ends
                if let Some(failure) = ready.tap.error() {
                    return Err(error_in_answer(ready, upstream, request, failure));
                }
                if request.has_prompt && ready.tap.is_empty() {
                    return Err(no_answer(upstream, ready.head.status, " with an empty stream"));
                }
                // A body that ends with its connection has told its end only if the stream has.
                if ready.until_close && ready.tap.lacks_end() {
                    let why = format!("replica `{}` closed the connection in the middle of its answer", upstream.name);
                    return Err(Box::new(FailedAttempt { failure: Failure::Connection, response: None, why }));
                }
                return Ok(Begun::Answer(ready));
            }
            Err(None) if until.is_some() => {
                ready.held_since = None;
                return Ok(Begun::Stream(ready));
            }
            Err(error) => return Err(connection_lost(upstream, error.as_ref())),
        }
        if let Some(failure) = ready.tap.error() {
            return Err(error_in_answer(ready, upstream, request, failure));
        }
        if request.has_prompt && ready.tap.done() && ready.tap.is_empty() && !ready.is_committed {
            return Err(no_answer(upstream, ready.head.status, " with an empty stream"));
        }
        if ready.tap.content() || ready.tap.done() {
            return Ok(Begun::Answer(ready));
        }
        if ready.tap.has_only_heartbeats() || ready.is_committed || bytes >= HOLD {
            ready.held_since = None;
            return Ok(Begun::Stream(ready));
        }
    }
}

/// The failure of an answer with status 200 that contains an error. The router does not wait for the rest of the
/// answer.
fn error_in_answer(
    ready: Box<Ready>,
    upstream: &Upstream,
    request: &ClientRequest,
    failure: Failure,
) -> Box<FailedAttempt> {
    let Ready { mut head, held, body, .. } = *ready;
    head.headers.remove(CONTENT_LENGTH);
    request.hide_engines(&mut head.headers, upstream);
    let failure = match failure {
        Failure::KeyRefused if request.passes_key(upstream) => Failure::Client,
        other => other,
    };
    Box::new(FailedAttempt {
        failure,
        response: Some(Response::from_parts(head, rest(held, body, request))),
        why: format!("replica `{}` sent an error in its answer: {failure}", upstream.name),
    })
}

fn framing(headers: &HeaderMap) -> Framing {
    // RFC 9110, 8.4.1: `identity` stands for no encoding.
    let is_plain = |value: &HeaderValue| matches!(value.as_bytes().trim_ascii(), b"" | b"identity" | b"Identity");
    if !headers.get_all(CONTENT_ENCODING).iter().all(is_plain) {
        return Framing::Opaque;
    }
    if content_type::is_events(headers) {
        Framing::Events
    } else if content_type::of(headers).is_empty() || content_type::is_json(headers) {
        Framing::Json
    } else {
        Framing::Opaque
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::header::CONTENT_TYPE;

    #[test]
    fn an_answer_without_an_encoding_is_read() {
        let of = |encoding: Option<&'static str>| {
            let mut headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/json"))]);
            encoding.map(|encoding| headers.insert(CONTENT_ENCODING, HeaderValue::from_static(encoding)));
            framing(&headers)
        };
        assert_eq!((of(None), of(Some("identity")), of(Some("gzip"))), (Framing::Json, Framing::Json, Framing::Opaque));
    }
}
