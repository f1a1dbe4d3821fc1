//! The body of a replica's error response: the part that was read for judgement, then the rest as it arrives.
//!
//! The request is over for the core by then. Its place in `limits.requests` is kept to the body's end, and a replica
//! that goes silent is not waited for longer than `timeouts.idle_gap_ms`.

use crate::idle_timer::IdleTimer;
use crate::request::error_json::BoxError;
use crate::upstream::connection::UpstreamBody;
use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

/// The rest of a replica's answer that needs no account.
#[derive(Debug)]
pub(crate) struct RestBody {
    held: VecDeque<Frame<Bytes>>,
    body: UpstreamBody,
    gap: Duration,
    last_piece: Instant,
    timer: IdleTimer,
    permit: Option<OwnedSemaphorePermit>,
}

impl RestBody {
    /// `held` and then `body`, which ends when nothing comes for `gap`.
    pub(crate) fn new(held: VecDeque<Frame<Bytes>>, body: UpstreamBody, gap: Duration) -> Self {
        Self { held, body, gap, last_piece: Instant::now(), timer: IdleTimer::default(), permit: None }
    }

    /// Keeps a request's place until the body's end. The client waits for the body from now on.
    pub(crate) fn hold(&mut self, permit: Option<OwnedSemaphorePermit>) {
        (self.permit, self.last_piece) = (permit, Instant::now());
    }

    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Some(frame) = self.held.pop_front() {
            return Poll::Ready(Some(Ok(frame)));
        }
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(frame) => {
                self.last_piece = Instant::now();
                Poll::Ready(frame.map(|frame| frame.map_err(BoxError::from)))
            }
            Poll::Pending if self.timer.poll(cx, || self.last_piece + self.gap).is_pending() => Poll::Pending,
            Poll::Pending => Poll::Ready(Some(Err("the replica sent nothing for too long".into()))),
        }
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        self.held.is_empty() && self.body.is_end_stream()
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        if self.held.is_empty() { self.body.size_hint() } else { SizeHint::new() }
    }
}
