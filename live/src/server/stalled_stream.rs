//! Ends HTTP/2 streams whose clients have stopped reading the answer.
//!
//! Such a client keeps its socket active, but sends no `WINDOW_UPDATE` for the stream. hyper then waits for the window
//! and does not poll the body, so the body cannot end the stream. But hyper runs each stream as a task of its own, and
//! that task gets a timeout: after the body has returned a frame, hyper must poll the body again within the limit.

use crate::idle_timer::IdleTimer;
use crate::supervise;
use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::Instant;

thread_local! {
    /// The body's last result within the current poll: true for a frame, false for pending or the end.
    static GAVE: Cell<Option<bool>> = const { Cell::new(None) };
}

/// Records that a body was polled, and whether it returned a frame.
pub(super) fn body_polled(frame: bool) {
    GAVE.set(Some(frame));
}

/// Spawns hyper's HTTP/2 streams, each with a limit on how long the client may take nothing.
#[derive(Debug, Clone, Copy)]
pub(super) struct StreamExecutor {
    pub(super) gap: Duration,
}

impl<F: Future<Output: Send> + Send + 'static> hyper::rt::Executor<F> for StreamExecutor {
    fn execute(&self, stream: F) {
        let gap = self.gap;
        tokio::spawn(supervise::logged("HTTP/2 stream", async move {
            let mut stream = pin!(stream);
            let mut stall = Stall::default();
            poll_fn(|cx| stall.poll(cx, stream.as_mut(), gap)).await;
        }));
    }
}

#[derive(Default)]
struct Stall {
    /// Since when a frame was given and no other asked for.
    since: Option<Instant>,
    timer: IdleTimer,
}

impl Stall {
    /// Polls the stream; ready when it is over or has stalled for `gap`.
    fn poll<T>(&mut self, cx: &mut Context<'_>, stream: Pin<&mut impl Future<Output = T>>, gap: Duration) -> Poll<()> {
        GAVE.set(None);
        if stream.poll(cx).is_ready() {
            return Poll::Ready(());
        }
        match GAVE.get() {
            Some(true) => self.since = Some(Instant::now()),
            Some(false) => self.since = None,
            None => {}
        }
        match self.since {
            Some(since) => self.timer.poll(cx, || since + gap),
            None => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_stream_ends_when_no_further_frame_is_asked_for() {
        let (start, gap) = (Instant::now(), Duration::from_secs(10));
        let mut stall = Stall::default();
        // Gives a frame at 0 s and 7 s, waits for the replica from 12 s to 60 s, gives a last frame there.
        let stream = async {
            for (at, frame) in [(0, true), (7, true), (12, false), (60, true)] {
                tokio::time::sleep_until(start + Duration::from_secs(at)).await;
                body_polled(frame);
            }
            std::future::pending::<()>().await;
        };
        let mut stream = pin!(stream);
        poll_fn(|cx| stall.poll(cx, stream.as_mut(), gap)).await;
        assert_eq!(start.elapsed().as_secs(), 70);
    }
}
