//! The body of an answer that was begun before its first token: heartbeats and preambles pass while the choice of the
//! replica, or its answer, is still open.
//!
//! The future that carries out the core's commands goes on inside the body. What it passes on early reaches the client
//! through [`Passed`]; its response is then the rest of the body. A refusal that comes in place of it becomes an error
//! event of a stream of events, or the text of a JSON answer, since the head has been sent.

use crate::request::body::Body;
use crate::request::error_json::{BoxError, Dialect};
use crate::request::whole_lines::ends_event;
use crate::wire::content_type;
use bytes::Bytes;
use http::Response;
use http_body::{Body as _, Frame};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

/// What an answer of which the head has been sent can carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// Events of this dialect.
    Events(Dialect),
    /// One JSON text, after blanks.
    Json,
}

/// What passes before the response is decided. Both ends are polled by one task.
#[derive(Debug)]
pub(crate) struct Passed {
    form: Form,
    pieces: Mutex<Pieces>,
}

#[derive(Debug, Default)]
struct Pieces {
    frames: VecDeque<Frame<Bytes>>,
    /// Whether the bytes so far end within an event or comment.
    is_torn: bool,
}

impl Passed {
    pub(crate) fn new(form: Form, frames: VecDeque<Frame<Bytes>>) -> Arc<Self> {
        let passed = Arc::new(Self { form, pieces: Mutex::default() });
        passed.push(frames);
        passed
    }

    /// Whether a response's body can be the rest.
    pub(crate) fn can_carry(&self, response: &Response<Body>) -> bool {
        match self.form {
            Form::Events(_) => content_type::is_events(response.headers()),
            Form::Json => content_type::is_json(response.headers()),
        }
    }

    /// Passes frames on.
    pub(crate) fn push(&self, frames: VecDeque<Frame<Bytes>>) {
        let mut pieces = self.pieces.lock();
        if let Some(last) = frames.iter().rev().find_map(Frame::data_ref) {
            pieces.is_torn = self.form != Form::Json && !ends_event(last);
        }
        pieces.frames.extend(frames);
    }

    /// Ends an event that was begun, so that what follows from another source is one of its own.
    pub(crate) fn end_event(&self) {
        let mut pieces = self.pieces.lock();
        if std::mem::take(&mut pieces.is_torn) {
            pieces.frames.push_back(Frame::data(Bytes::from_static(b"\n\n")));
        }
    }
}

/// The body; see the file.
pub(crate) struct EarlyBody {
    passed: Arc<Passed>,
    rest: Rest,
}

enum Rest {
    Deciding(Pin<Box<dyn Future<Output = Response<Body>> + Send>>),
    Decided(Body),
}

impl fmt::Debug for EarlyBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EarlyBody").finish_non_exhaustive()
    }
}

impl EarlyBody {
    /// What has `passed`, and then the body of the response that `deciding` ends with.
    pub(crate) fn new(passed: Arc<Passed>, deciding: Pin<Box<dyn Future<Output = Response<Body>> + Send>>) -> Self {
        Self { passed, rest: Rest::Deciding(deciding) }
    }

    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Some(frame) = self.passed.pieces.lock().frames.pop_front() {
            return Poll::Ready(Some(Ok(frame)));
        }
        if let Rest::Deciding(deciding) = &mut self.rest {
            let decided = deciding.as_mut().poll(cx);
            if let Poll::Ready(response) = decided {
                if !self.passed.can_carry(&response) {
                    self.passed.end_event();
                }
                self.rest = Rest::Decided(rest(response, &self.passed));
            }
            // What was passed on meanwhile comes first.
            if let Some(frame) = self.passed.pieces.lock().frames.pop_front() {
                return Poll::Ready(Some(Ok(frame)));
            }
        }
        match &mut self.rest {
            Rest::Deciding(_) => Poll::Pending,
            Rest::Decided(body) => Pin::new(body).poll_frame(cx),
        }
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        match &self.rest {
            Rest::Deciding(_) => false,
            Rest::Decided(body) => self.passed.pieces.lock().frames.is_empty() && body.is_end_stream(),
        }
    }
}

/// The body of the response, as the rest of what has passed.
fn rest(response: Response<Body>, passed: &Passed) -> Body {
    let Form::Events(dialect) = passed.form else { return response.into_body() };
    if passed.can_carry(&response) {
        return response.into_body();
    }
    match response.into_body() {
        Body::Full(whole) => Body::Full(Bytes::from(dialect.event_of(&String::from_utf8_lossy(&whole)))),
        other => other,
    }
}
