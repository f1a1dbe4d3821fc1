//! Closes a client connection on which no request head arrives in time.
//!
//! hyper sets a timer for every head, and hardly any fires. [`HyperTimer`] gives it timers that only note the deadline;
//! one [`IdleTimer`] a connection does the waiting. The first deadline stands from the start: hyper sets none until it
//! knows which version of HTTP the client speaks.

use crate::idle_timer::IdleTimer;
use hyper::rt::{Sleep, Timer};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant as StdInstant};
use tokio::time::Instant;

/// No head is waited for.
const NEVER: u64 = u64::MAX;

/// State shared by the connection's timer and hyper's single pending wait.
#[derive(Debug)]
struct Shared {
    /// What `due` is counted from.
    start: Instant,
    /// When the pending wait ends, ns.
    due: AtomicU64,
    expired: AtomicBool,
}

/// The connection's side: must be polled beside the connection.
pub(super) struct HeaderTimeout {
    shared: Arc<Shared>,
    limit: Duration,
    timer: IdleTimer,
}

/// hyper's side; one wait at a time.
#[derive(Debug, Clone)]
pub(super) struct HyperTimer(Arc<Shared>);

impl HeaderTimeout {
    /// A timeout for waits of at least `limit`, and the timer that hyper starts them with.
    pub(super) fn new(limit: Duration) -> (Self, HyperTimer) {
        let due = AtomicU64::new(u64::try_from(limit.as_nanos()).unwrap_or(NEVER));
        let shared = Arc::new(Shared { start: Instant::now(), due, expired: AtomicBool::new(false) });
        (Self { shared: Arc::clone(&shared), limit, timer: IdleTimer::default() }, HyperTimer(shared))
    }

    /// Completes when a head is late; hyper then finds its wait over.
    pub(super) async fn expired(&mut self) {
        let Self { shared, limit, timer } = self;
        let due = || match shared.due.load(Ordering::Relaxed) {
            // A wait that begins later lasts at least as long.
            NEVER => Instant::now() + *limit,
            due => shared.start + Duration::from_nanos(due),
        };
        poll_fn(|cx| timer.poll(cx, due)).await;
        shared.expired.store(true, Ordering::Relaxed);
        shared.due.store(NEVER, Ordering::Relaxed);
    }
}

impl HyperTimer {
    fn wait_until(&self, deadline: StdInstant) {
        let due = deadline.saturating_duration_since(self.0.start.into_std());
        self.0.expired.store(false, Ordering::Relaxed);
        self.0.due.store(u64::try_from(due.as_nanos()).unwrap_or(NEVER), Ordering::Relaxed);
    }
}

impl Timer for HyperTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        self.sleep_until(self.now() + duration)
    }

    fn sleep_until(&self, deadline: StdInstant) -> Pin<Box<dyn Sleep>> {
        self.wait_until(deadline);
        Box::pin(Wait(Arc::clone(&self.0)))
    }

    fn now(&self) -> StdInstant {
        Instant::now().into_std()
    }

    fn reset(&self, _: &mut Pin<Box<dyn Sleep>>, deadline: StdInstant) {
        self.wait_until(deadline);
    }
}

struct Wait(Arc<Shared>);

impl Sleep for Wait {}

impl Future for Wait {
    type Output = ();

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        if self.0.expired.load(Ordering::Relaxed) { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        self.0.due.store(NEVER, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// When the first of these waits expires, ms after the start: each begins and is given up at these times.
    async fn expiry(waits: &[(u32, u32)]) -> Option<u32> {
        let start = Instant::now();
        let (mut timeout, timer) = HeaderTimeout::new(10 * MS);
        drop(timer.sleep(10 * MS)); // the first is over
        let work = async {
            for &(begin, end) in waits {
                tokio::time::sleep_until(start + begin * MS).await;
                let wait = timer.sleep(10 * MS);
                tokio::select! {
                    () = wait => return,
                    () = tokio::time::sleep_until(start + end * MS) => {}
                }
            }
            std::future::pending::<()>().await;
        };
        tokio::pin!(work);
        let expired = async {
            loop {
                tokio::select! {
                    biased;
                    () = &mut work => return,
                    () = timeout.expired() => {}
                }
            }
        };
        tokio::time::timeout(200 * MS, expired).await.ok()?;
        Some(start.elapsed().as_millis() as u32)
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_ends_when_it_is_due_however_often_it_was_set_before() {
        assert_eq!(expiry(&[(0, 1_000)]).await, Some(10));
        assert_eq!(expiry(&[(7, 1_000)]).await, Some(17));
        assert_eq!(expiry(&[(0, 3), (3, 9), (12, 21), (40, 1_000)]).await, Some(50));
        assert_eq!(expiry(&[(95, 1_000)]).await, Some(105));
    }

    #[tokio::test(start_paused = true)]
    async fn it_expires_once_for_a_client_that_sends_nothing() {
        let (start, (mut timeout, timer)) = (Instant::now(), HeaderTimeout::new(10 * MS));
        timeout.expired().await;
        assert_eq!(start.elapsed(), 10 * MS);
        assert!(tokio::time::timeout(100 * MS, timeout.expired()).await.is_err());
        let wait = timer.sleep(10 * MS);
        timeout.expired().await;
        wait.await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_that_is_given_up_never_expires() {
        assert_eq!(expiry(&[(0, 9), (10, 19), (25, 34)]).await, None);
        assert_eq!(expiry(&[]).await, None);
    }
}
