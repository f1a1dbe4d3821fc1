//! An engine's answer on its way to the client: bytes unaltered, flushed as they come, watched by the tap.
//!
//! What arrived before the first content-bearing token is held back (up to 64 kB), since until then the request can
//! still go elsewhere. From then on the answer goes through. If it breaks, a stream of events ends with an error event
//! that says so; an answer of any other kind is cut, since nothing can be said inside it.

use crate::body::BoxError;
use crate::errors;
use crate::exchange::Exchange;
use crate::sse::Tap;
use bytes::Bytes;
use gorgo_core::Time;
use gorgo_core::router::Failure;
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, Sleep};

/// See the module page.
#[derive(Debug)]
pub struct Relay {
    held: VecDeque<Frame<Bytes>>,
    body: Incoming,
    tap: Tap,
    exchange: Option<Exchange>,
    ended: bool,
    /// Whether an error can be told inside the body: it is a stream of events of no announced length.
    can_tell: bool,
    /// Whether what has passed ends with a whole event.
    whole: bool,
    gap: Duration,
    last: Instant,
    alarm: Pin<Box<Sleep>>,
}

impl Relay {
    pub(crate) fn new(
        held: VecDeque<Frame<Bytes>>,
        body: Incoming,
        tap: Tap,
        exchange: Exchange,
        gap: Duration,
    ) -> Self {
        let ended = body.is_end_stream();
        let can_tell = exchange.streamed && body.size_hint().exact().is_none();
        let whole = held.iter().rev().find_map(Frame::data_ref).is_none_or(|data| ends_event(data));
        let alarm = Box::pin(tokio::time::sleep(gap));
        let last = Instant::now();
        let mut relay = Self { held, body, tap, exchange: Some(exchange), ended, can_tell, whole, gap, last, alarm };
        if relay.ended {
            relay.end();
        }
        relay
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        self.ended && self.held.is_empty()
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        let held: u64 = self.held.iter().filter_map(Frame::data_ref).map(|data| data.len() as u64).sum();
        let rest = self.body.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower() + held);
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper + held);
        }
        hint
    }

    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Some(frame) = self.held.pop_front() {
            return Poll::Ready(Some(Ok(frame)));
        }
        if self.ended {
            return Poll::Ready(None);
        }
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(data) = frame.data_ref() {
                    self.passing(data);
                }
                // With a content-length hyper does not ask again after the last byte.
                if self.body.is_end_stream() {
                    self.end();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            // Only the frame around a complete stream is missing.
            Poll::Ready(Some(Err(_))) if self.can_tell && self.tap.done() => {
                self.end();
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(error))) => {
                self.broke(Failure::Connection);
                Poll::Ready(Some(self.last_word("the replica broke off in the middle of its answer", error.into())))
            }
            Poll::Ready(None) => {
                self.end();
                Poll::Ready(None)
            }
            Poll::Pending => self.poll_gap(cx),
        }
    }

    /// The alarm is set again only when it rings: setting it for every piece would cost more than the piece.
    fn poll_gap(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        while self.alarm.as_mut().poll(cx).is_ready() {
            let due = self.last + self.gap;
            if Instant::now() >= due {
                self.broke(Failure::Timeout);
                let why = "the replica sent nothing for too long";
                return Poll::Ready(Some(self.last_word(why, why.into())));
            }
            self.alarm.as_mut().reset(due);
        }
        Poll::Pending
    }

    fn passing(&mut self, data: &[u8]) {
        self.last = Instant::now();
        self.whole = ends_event(data);
        self.tap.feed(data);
        if let Some(exchange) = &mut self.exchange
            && exchange.row.first_token == Time::NEVER
            && self.tap.content()
        {
            exchange.row.first_token = exchange.now();
        }
    }

    /// What a client gets after the replica's last bytes, for it to know that the answer is no whole one.
    fn last_word(&self, why: &str, error: BoxError) -> Result<Frame<Bytes>, BoxError> {
        if !self.can_tell {
            return Err(error);
        }
        // An event that was begun ends here, so that ours is one of its own.
        let before = if self.whole { "" } else { "\n\n" };
        let told = errors::body("server_error", "upstream_broke", why);
        Ok(Frame::data(Bytes::from(format!("{before}data: {told}\n\n"))))
    }

    fn end(&mut self) {
        self.ended = true;
        self.tap.end();
        let Some(mut exchange) = self.exchange.take() else { return };
        if self.tap.error().is_some() {
            exchange.broke(Failure::Server);
        } else {
            exchange.finished(&self.tap);
        }
    }

    fn broke(&mut self, failure: Failure) {
        self.ended = true;
        if let Some(mut exchange) = self.exchange.take() {
            exchange.broke(failure);
        }
    }
}

fn ends_event(data: &[u8]) -> bool {
    data.ends_with(b"\n\n") || data.ends_with(b"\r\n\r\n")
}

impl Drop for Relay {
    fn drop(&mut self) {
        // Clients hang up after `[DONE]` without waiting for the end of the body: that is no abort.
        if self.tap.done() && self.tap.error().is_none() {
            self.end();
        } else if let Some(exchange) = &mut self.exchange {
            exchange.rid = exchange.rid.take().or_else(|| self.tap.id().map(str::to_owned));
        }
    }
}
