//! An idle timeout that is postponed far more often than it fires: for heads, bodies and answers that may stop
//! arriving.
//!
//! Resetting a tokio timer takes a lock and an insertion into the timer wheel each time, which would cost more than the
//! piece of data that caused the reset. This timer is not reset when its deadline moves. When it fires early, it reads
//! the current deadline and sleeps until then. It is created at the first wait: usually the data has arrived already
//! and no timer is needed.

use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use tokio::time::{Instant, Sleep, sleep_until};

/// A lazily created, lazily postponed timer. Its deadline may only move later.
#[derive(Debug, Default)]
pub(crate) struct IdleTimer {
    sleep: Option<Pin<Box<Sleep>>>,
    /// The task that the sleep wakes.
    wakes: Option<Waker>,
}

impl IdleTimer {
    /// Ready once the deadline has passed; until then the task is woken for it.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, deadline: impl Fn() -> Instant) -> Poll<()> {
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(deadline())));
        if !sleep.is_elapsed() && self.wakes.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            return Poll::Pending;
        }
        while sleep.as_mut().poll(cx).is_ready() {
            self.wakes = None;
            let deadline = deadline();
            if sleep.deadline() >= deadline {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline);
        }
        self.wakes = Some(cx.waker().clone());
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::future::poll_fn;
    use std::time::Duration;

    const MS: Duration = Duration::from_millis(1);

    #[tokio::test(start_paused = true)]
    async fn it_fires_at_the_deadline_in_force_however_often_that_was_moved() {
        let start = Instant::now();
        let (mut timer, last, mut polls) = (IdleTimer::default(), Cell::new(start), 0);
        let pieces = [7, 12, 19, 27].map(|ms| start + ms * MS);
        for piece in pieces {
            let fired = poll_fn(|cx| {
                polls += 1;
                timer.poll(cx, || last.get() + 10 * MS)
            });
            assert!(tokio::time::timeout_at(piece, fired).await.is_err());
            last.set(piece);
        }
        poll_fn(|cx| timer.poll(cx, || last.get() + 10 * MS)).await;
        assert_eq!(start.elapsed(), 37 * MS);
    }

    #[tokio::test(start_paused = true)]
    async fn it_wakes_the_task_that_polled_last() {
        let start = Instant::now();
        let mut timer = IdleTimer::default();
        let first = poll_fn(|cx| Poll::Ready(timer.poll(cx, || start + 10 * MS)));
        assert!(first.await.is_pending());
        let other = tokio::spawn(async move { poll_fn(|cx| timer.poll(cx, || start + 10 * MS)).await });
        other.await.unwrap();
        assert_eq!(start.elapsed(), 10 * MS);
    }
}
