//! The body of a stream that was begun before its first token: heartbeats and preambles pass while the choice of the
//! replica, or its answer, is still open.
//!
//! The future that carries out the core's commands goes on inside the body. What it passes on early reaches the client
//! through [`Passed`]; its response is then the rest of the body. A refusal that comes in place of it becomes an error
//! event, since the head has been sent.

use crate::request::body::Body;
use crate::request::error_json::{BoxError, Dialect};
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

/// What passes before the response is decided. Both ends are polled by one task.
#[derive(Debug, Default)]
pub(crate) struct Passed(Mutex<Pieces>);

#[derive(Debug, Default)]
struct Pieces {
    frames: VecDeque<Frame<Bytes>>,
    /// Whether the bytes so far end within an event or comment.
    is_torn: bool,
}

impl Passed {
    pub(crate) fn new(frames: VecDeque<Frame<Bytes>>) -> Arc<Self> {
        let passed = Arc::new(Self::default());
        passed.push(frames);
        passed
    }

    /// Passes frames on.
    pub(crate) fn push(&self, frames: VecDeque<Frame<Bytes>>) {
        let mut pieces = self.0.lock();
        if let Some(last) = frames.iter().rev().find_map(Frame::data_ref) {
            pieces.is_torn = !(last.ends_with(b"\n\n") || last.ends_with(b"\r\n\r\n"));
        }
        pieces.frames.extend(frames);
    }

    /// Ends an event that was begun, so that what follows from another source is one of its own.
    pub(crate) fn end_event(&self) {
        let mut pieces = self.0.lock();
        if std::mem::take(&mut pieces.is_torn) {
            pieces.frames.push_back(Frame::data(Bytes::from_static(b"\n\n")));
        }
    }
}

/// The body; see the file.
pub(crate) struct EarlyBody {
    passed: Arc<Passed>,
    dialect: Dialect,
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
    pub(crate) fn new(
        passed: Arc<Passed>,
        dialect: Dialect,
        deciding: Pin<Box<dyn Future<Output = Response<Body>> + Send>>,
    ) -> Self {
        Self { passed, dialect, rest: Rest::Deciding(deciding) }
    }

    /// Whether a response's body can be the rest of a stream of events.
    pub(crate) fn can_carry(response: &Response<Body>) -> bool {
        content_type::is_events(response.headers())
    }

    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Some(frame) = self.passed.0.lock().frames.pop_front() {
            return Poll::Ready(Some(Ok(frame)));
        }
        if let Rest::Deciding(deciding) = &mut self.rest {
            let decided = deciding.as_mut().poll(cx);
            if let Poll::Ready(response) = decided {
                if !Self::can_carry(&response) {
                    self.passed.end_event();
                }
                self.rest = Rest::Decided(rest(response, self.dialect));
            }
            // What was passed on meanwhile comes first.
            if let Some(frame) = self.passed.0.lock().frames.pop_front() {
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
            Rest::Decided(body) => self.passed.0.lock().frames.is_empty() && body.is_end_stream(),
        }
    }
}

/// The body of the response, as the rest of a stream of events.
fn rest(response: Response<Body>, dialect: Dialect) -> Body {
    if EarlyBody::can_carry(&response) {
        return response.into_body();
    }
    match response.into_body() {
        Body::Full(whole) => Body::Full(Bytes::from(dialect.event_of(&String::from_utf8_lossy(&whole)))),
        other => other,
    }
}
