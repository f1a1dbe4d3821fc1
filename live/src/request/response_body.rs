//! An engine's answer on its way to the client: bytes unaltered, flushed as they come, watched by the tap.
//!
//! What arrived before the first content-bearing token is held back (up to 64 kB), since until then the request can
//! still go elsewhere; so is an answer that comes whole, if it is as short. From then on the answer goes through. If
//! it breaks, a stream of events ends with an error event that says so; an answer of any other kind is cut, since
//! nothing can be said inside it.

use crate::idle_timer::IdleTimer;
use crate::request::errors::{self, BoxError};
use crate::request::guard::Exchange;
use crate::state::Phase;
use crate::upstream::connection::UpstreamBody;
use crate::wire::answer_tap::Tap;
use bytes::{Bytes, BytesMut};
use gorgo_core::Time;
use gorgo_core::router::{EndReason, Failure};
use http_body::{Body as _, Frame, SizeHint};
use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::time::Instant;

/// Pieces of an answer are put together up to about this many bytes.
const SMALL: usize = 8 << 10;

/// The error's code when it is the replica's.
const BROKE: &str = "upstream_broke";

/// See the module page.
#[derive(Debug)]
pub struct Relay {
    held: VecDeque<Frame<Bytes>>,
    body: UpstreamBody,
    tap: Tap,
    exchange: Option<Box<Exchange>>,
    ended: bool,
    /// Whether an error can be told inside the body: it is a stream of events of no announced length.
    can_tell: bool,
    /// Whether what has passed ends with a whole event.
    whole: bool,
    gap: Duration,
    last: Instant,
    timer: IdleTimer,
    /// Whom the order to stop wakes.
    stop_wakes: Option<Waker>,
    broken: Option<hyper::Error>,
}

impl Relay {
    pub(crate) fn new(
        held: VecDeque<Frame<Bytes>>,
        body: UpstreamBody,
        tap: Tap,
        exchange: Box<Exchange>,
        gap: Duration,
    ) -> Self {
        let ended = body.is_end_stream();
        let can_tell = exchange.streamed && body.size_hint().exact().is_none();
        let whole = held.iter().rev().find_map(Frame::data_ref).is_none_or(|data| ends_event(data));
        let exchange = Some(exchange);
        let last = Instant::now();
        let (timer, stop_wakes, broken) = (IdleTimer::default(), None, None);
        let mut relay =
            Self { held, body, tap, exchange, ended, can_tell, whole, gap, last, timer, stop_wakes, broken };
        if relay.ended {
            relay.end();
        }
        relay
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        self.ended && self.held.is_empty() && self.broken.is_none()
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
        if let Some(error) = self.broken.take() {
            return self.cut(error);
        }
        if self.ended {
            return Poll::Ready(None);
        }
        match self.read(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                self.seen();
                match frame.into_data() {
                    Ok(data) => Poll::Ready(Some(Ok(Frame::data(self.gather(data, cx))))),
                    Err(frame) => Poll::Ready(Some(Ok(frame))),
                }
            }
            Poll::Ready(Some(Err(error))) => self.cut(error),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending if self.is_stopped(cx.waker()) => self.stop(),
            Poll::Pending => self.poll_gap(cx),
        }
    }

    /// Whether the router ends what is open. The core has no commands for a request that has its first token, so the
    /// mailbox wakes this task for nothing else, and need not be asked again until another task polls.
    fn is_stopped(&mut self, waker: &Waker) -> bool {
        let Some(exchange) = &self.exchange else { return false };
        if self.stop_wakes.as_ref().is_some_and(|known| known.will_wake(waker)) {
            return exchange.context.state.phase() == Phase::Ending;
        }
        self.stop_wakes = Some(waker.clone());
        exchange.is_stopped(waker)
    }

    /// The router stops before the replica has.
    fn stop(&mut self) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.ended = true;
        if let Some(mut exchange) = self.exchange.take() {
            exchange.stopped();
        }
        let why = "the router was stopped in the middle of the answer";
        Poll::Ready(Some(self.last_word(EndReason::RouterStopped.code(), why, why.into())))
    }

    /// The replica's connection broke.
    fn cut(&mut self, error: hyper::Error) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.can_tell && self.tap.done() {
            // Only the frame around a complete stream is missing.
            self.end();
            return Poll::Ready(None);
        }
        self.broke(Failure::Connection);
        Poll::Ready(Some(self.last_word(BROKE, "the replica broke off in the middle of its answer", error.into())))
    }

    /// The next frame of the answer, fed to the tap.
    fn read(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(data) = frame.data_ref()
        {
            self.whole = ends_event(data);
            self.tap.feed(data);
        }
        // With a content-length hyper does not ask again after the last byte.
        if matches!(polled, Poll::Ready(None)) || self.body.is_end_stream() {
            self.end();
        }
        polled
    }

    /// Puts what has come in the meantime to a small piece: an engine that writes faster than this reads sends many
    /// tokens at once, and each piece for itself would cost more than to copy it.
    fn gather(&mut self, first: Bytes, cx: &mut Context<'_>) -> Bytes {
        let mut more = BytesMut::new();
        while first.len() + more.len() < SMALL && !self.ended && self.broken.is_none() {
            match self.read(cx) {
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => {
                        if more.is_empty() {
                            more.reserve(SMALL + data.len());
                            more.extend_from_slice(&first);
                        }
                        more.extend_from_slice(&data);
                    }
                    Err(frame) => {
                        self.held.push_back(frame);
                        break;
                    }
                },
                Poll::Ready(Some(Err(error))) => self.broken = Some(error),
                Poll::Ready(None) | Poll::Pending => break,
            }
        }
        if more.is_empty() { first } else { more.freeze() }
    }

    /// Ends the answer when the replica has sent nothing for too long.
    fn poll_gap(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.timer.poll(cx, || self.last + self.gap).is_pending() {
            return Poll::Pending;
        }
        self.broke(Failure::Timeout);
        let why = "the replica sent nothing for too long";
        Poll::Ready(Some(self.last_word(BROKE, why, why.into())))
    }

    /// Something came.
    fn seen(&mut self) {
        if self.ended {
            return;
        }
        self.last = Instant::now();
        if let Some(exchange) = &mut self.exchange
            && exchange.row.first_token == Time::NEVER
            && self.tap.content()
        {
            exchange.row.first_token = exchange.now();
        }
    }

    /// What a client gets after the replica's last bytes, for it to know that the answer is no whole one.
    fn last_word(&self, code: &str, why: &str, error: BoxError) -> Result<Frame<Bytes>, BoxError> {
        if !self.can_tell {
            return Err(error);
        }
        // An event that was begun ends here, so that ours is one of its own.
        let before = if self.whole { "" } else { "\n\n" };
        let told = errors::body("server_error", code, why);
        Ok(Frame::data(Bytes::from(format!("{before}data: {told}\n\n"))))
    }

    fn end(&mut self) {
        self.ended = true;
        self.tap.end();
        let Some(mut exchange) = self.exchange.take() else { return };
        if exchange.row.first_token == Time::NEVER && self.tap.content() {
            exchange.row.first_token = exchange.now();
        }
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
