//! Streams a replica's answer to the client: bytes unaltered, flushed as they arrive, observed by the tap.
//!
//! If the replica breaks off, or the router stops, a stream of events ends with an error event; an answer of any other
//! kind is cut, since it has no place for an error.

use crate::idle_timer::IdleTimer;
use crate::request::error_json::{BoxError, Dialect};
use crate::request::guard::RequestGuard;
use crate::request::json_end::JsonEnd;
use crate::request::whole_lines::{WholeLines, ends_event};
use crate::state::Phase;
use crate::upstream::connection::UpstreamBody;
use crate::wire::answer_tap::AnswerTap;
use bytes::{Bytes, BytesMut};
use gorgo_core::router::{EndReason, Failure};
use http_body::{Body as _, Frame, SizeHint};
use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::time::Instant;

/// Pieces of an answer are joined up to about this many bytes.
const JOIN_BYTES: usize = 8 << 10;

/// How long an engine may leave a stream open after its end mark or an error event.
const AFTER_DONE: Duration = Duration::from_secs(1);

/// The code of errors that the replica caused.
pub(super) const BROKE: &str = "upstream_broke";
const TORN: &str = "the replica broke off in the middle of its answer";

/// The body of a replica's answer.
#[derive(Debug)]
pub(crate) struct ProxiedBody {
    /// Frames that were read before the answer was passed on.
    held: VecDeque<Frame<Bytes>>,
    body: UpstreamBody,
    tap: AnswerTap,
    /// `None` once the request's end is reported.
    guard: Option<Box<RequestGuard>>,
    ended: bool,
    /// Whether the body can carry an error event: it is a stream of events.
    carries_errors: bool,
    /// Whose events the stream has.
    dialect: Dialect,
    /// Whether the bytes that were passed on end with a whole event.
    at_event_end: bool,
    /// Longest time without a piece.
    gap: Duration,
    last_piece: Instant,
    timer: IdleTimer,
    /// The task that a stop of the router wakes.
    stop_wakes: Option<Waker>,
    broken: Option<hyper::Error>,
    /// Finds the end of a JSON text that only the end of the connection delimits.
    json_end: Option<JsonEnd>,
    /// Whether only the end of the connection ends the body.
    until_close: bool,
    /// Whether that cut the answer, and the client has not been told.
    torn: bool,
    /// The beginning of a line that has not come whole.
    lines: WholeLines,
    /// The error that cuts the answer, after what came before it has been sent.
    cut: Option<BoxError>,
    done_timer: IdleTimer,
}

impl ProxiedBody {
    pub(crate) fn new(
        held: VecDeque<Frame<Bytes>>,
        body: UpstreamBody,
        tap: AnswerTap,
        guard: Box<RequestGuard>,
        dialect: Dialect,
        gap: Duration,
        (json_end, until_close): (Option<JsonEnd>, bool),
    ) -> Self {
        let ended = body.is_end_stream();
        let carries_errors = guard.streamed;
        let guard = Some(guard);
        let last_piece = Instant::now();
        let (timer, stop_wakes, broken) = (IdleTimer::default(), None, None);
        let mut proxied = Self {
            held,
            body,
            tap,
            guard,
            ended,
            carries_errors,
            dialect,
            at_event_end: true,
            gap,
            last_piece,
            timer,
            stop_wakes,
            broken,
            json_end,
            until_close,
            torn: false,
            lines: WholeLines::default(),
            cut: None,
            done_timer: IdleTimer::default(),
        };
        if proxied.ended {
            proxied.end();
        }
        proxied
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        let is_cut = self.broken.is_some() || self.torn || self.cut.is_some();
        self.ended && self.held.is_empty() && !is_cut && self.lines.is_empty()
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        if self.carries_errors {
            return SizeHint::default(); // an error event may follow
        }
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
        if !self.carries_errors {
            return self.poll_until_cut(cx);
        }
        loop {
            let frame = match self.poll_any(cx) {
                Poll::Ready(Some(Ok(frame))) => frame,
                Poll::Ready(None) if !self.lines.is_empty() => {
                    // The last line of a complete answer may lack its end. No line ends in it, so it passes as it is.
                    return Poll::Ready(Some(Ok(Frame::data(self.lines.rest()))));
                }
                other => return other,
            };
            let frame = match frame.into_data() {
                Ok(data) => self.lines.pass(data),
                Err(frame) => return Poll::Ready(Some(Ok(frame))),
            };
            if !frame.is_empty() {
                self.at_event_end = ends_event(&frame);
                return Poll::Ready(Some(Ok(Frame::data(frame))));
            }
        }
    }

    /// The next frame; before an error one turn for hyper to send what it has, which an error makes it drop: the client
    /// would get a closed connection without a head.
    fn poll_until_cut(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Some(error) = self.cut.take() {
            return Poll::Ready(Some(Err(error)));
        }
        match self.poll_any(cx) {
            Poll::Ready(Some(Err(error))) => {
                self.cut = Some(error);
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            other => other,
        }
    }

    /// The next frame as it comes.
    fn poll_any(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Some(frame) = self.held.pop_front() {
            return Poll::Ready(Some(Ok(frame)));
        }
        if let Some(error) = self.broken.take() {
            return self.end_broken(error);
        }
        if std::mem::take(&mut self.torn) {
            return Poll::Ready(Some(self.error_event(BROKE, TORN, TORN.into())));
        }
        if self.ended {
            return Poll::Ready(None);
        }
        match self.read(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                self.note_piece();
                match frame.into_data() {
                    Ok(data) => Poll::Ready(Some(Ok(Frame::data(self.join_ready(data, cx))))),
                    Err(frame) => Poll::Ready(Some(Ok(frame))),
                }
            }
            Poll::Ready(Some(Err(error))) => self.end_broken(error),
            Poll::Ready(None) if std::mem::take(&mut self.torn) => {
                Poll::Ready(Some(self.error_event(BROKE, TORN, TORN.into())))
            }
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending if self.is_stopped(cx.waker()) => self.stop(),
            Poll::Pending => self.poll_gap(cx),
        }
    }

    /// Whether the router ends open requests. The core sends no command to a request that has its first token, so the
    /// registration in its mailbox stays until the router stops, and is repeated only when another task polls.
    fn is_stopped(&mut self, waker: &Waker) -> bool {
        let Some(guard) = &self.guard else { return false };
        if self.stop_wakes.as_ref().is_some_and(|known| known.will_wake(waker)) {
            return guard.context.state.phase() == Phase::Ending;
        }
        self.stop_wakes = Some(waker.clone());
        guard.is_stopped(waker)
    }

    /// Ends the answer because the router stops.
    fn stop(&mut self) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.ended = true;
        if let Some(mut guard) = self.guard.take() {
            guard.stop();
        }
        let why = "the router was stopped in the middle of the answer";
        Poll::Ready(Some(self.error_event(EndReason::RouterStopped.code(), why, why.into())))
    }

    /// Ends the answer because the replica's connection broke.
    fn end_broken(&mut self, error: hyper::Error) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.carries_errors && self.tap.done() {
            // The stream of events is complete; only the end of its transfer encoding is missing.
            self.end();
            return Poll::Ready(None);
        }
        self.fail(Failure::Connection, &format!("{TORN} ({error})"));
        Poll::Ready(Some(self.error_event(BROKE, TORN, error.into())))
    }

    /// Reads the next frame and feeds it to the tap.
    fn read(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(data) = frame.data_ref()
        {
            self.tap.feed(data);
            if let Some(end) = &mut self.json_end {
                end.feed(data);
            }
        }
        // With a content length hyper does not poll again after the last byte.
        if matches!(polled, Poll::Ready(None)) || self.body.is_end_stream() {
            if !self.is_torn() {
                self.end();
            } else if !self.ended {
                self.fail(Failure::Connection, TORN);
                self.torn = true;
            }
        }
        polled
    }

    /// Whether the connection ended the body before the answer's own end.
    fn is_torn(&mut self) -> bool {
        if self.until_close && self.carries_errors {
            self.tap.end(); // reads an event that nothing ends: it may be the last
        }
        self.until_close && (self.json_end.is_some_and(|end| !end.is_complete()) || self.tap.lacks_end())
    }

    /// Joins what has arrived meanwhile to a small piece: an engine that writes faster than this task reads sends many
    /// tokens at once, and a frame for each would cost more than the copy.
    fn join_ready(&mut self, first: Bytes, cx: &mut Context<'_>) -> Bytes {
        let mut more = BytesMut::new();
        while first.len() + more.len() < JOIN_BYTES && !self.ended && self.broken.is_none() {
            match self.read(cx) {
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => {
                        if more.is_empty() {
                            more.reserve(JOIN_BYTES + data.len());
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

    /// Ends the answer when the replica has sent nothing for too long. After the end mark of a stream or an
    /// error event, after which some leave it open, that is soon.
    fn poll_gap(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.carries_errors && self.tap.is_over() {
            let until = self.last_piece + self.gap.min(AFTER_DONE);
            return self.done_timer.poll(cx, || until).map(|()| {
                self.end();
                None
            });
        }
        if self.timer.poll(cx, || self.last_piece + self.gap).is_pending() {
            return Poll::Pending;
        }
        let why = "the replica sent nothing for too long";
        self.fail(Failure::Timeout, why);
        Poll::Ready(Some(self.error_event(BROKE, why, why.into())))
    }

    /// Notes the arrival of a piece, and of the first token.
    fn note_piece(&mut self) {
        if self.ended {
            return;
        }
        self.last_piece = Instant::now();
        if let Some(guard) = &mut self.guard
            && guard.row.first_token.is_none()
            && self.tap.content()
        {
            guard.row.first_token = Some(guard.now());
        }
    }

    /// The error event that ends an incomplete answer, or the error that cuts it.
    fn error_event(&mut self, code: &str, why: &str, error: BoxError) -> Result<Frame<Bytes>, BoxError> {
        if !self.carries_errors {
            return Err(error);
        }
        self.lines = WholeLines::default();
        // Ends an event that was begun, so that the error is an event of its own.
        let before = if self.at_event_end { "" } else { "\n\n" };
        Ok(Frame::data(Bytes::from(format!("{before}{}", self.dialect.event(code, why)))))
    }

    fn end(&mut self) {
        self.ended = true;
        self.tap.end();
        let Some(mut guard) = self.guard.take() else { return };
        if guard.row.first_token.is_none() && self.tap.content() {
            guard.row.first_token = Some(guard.now());
        }
        match self.tap.error() {
            Some(failure) => {
                guard.fail(failure, &format!("the replica sent an error in the middle of its answer: {failure}"));
            }
            None => guard.finish(&self.tap),
        }
    }

    fn fail(&mut self, failure: Failure, why: &str) {
        self.ended = true;
        if let Some(mut guard) = self.guard.take() {
            guard.fail(failure, why);
        }
    }
}

impl Drop for ProxiedBody {
    fn drop(&mut self) {
        // Clients close the connection after `[DONE]` without waiting for the body's end: the answer was complete.
        if self.tap.done() && self.tap.error().is_none() {
            self.end();
        } else if let Some(guard) = &mut self.guard {
            guard.stream_id = self.tap.id().map(str::to_owned);
        }
    }
}
