//! A timer that is set anew with every request and hardly ever rings: how long a connection may wait for a head.
//!
//! The runtime's own timer takes a lock, an allocation and a place in its wheel each time. Here a connection has one
//! alarm for all its life. When that rings, it is asked whether something is due, and set again for when it will be.
//! The first wait is there from the start: until a client has said which HTTP it speaks, hyper has set none.

use hyper::rt::{Sleep, Timer};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant as StdInstant};
use tokio::time::{Instant, sleep_until};

/// Nothing is waited for.
const NEVER: u64 = u64::MAX;

/// What the alarm and the one wait that may be under way tell each other.
#[derive(Debug)]
struct Shared {
    /// What times are counted from.
    start: StdInstant,
    /// When the wait ends, ns.
    due: AtomicU64,
    rung: AtomicBool,
}

impl Shared {
    fn ns(&self, at: StdInstant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.start).as_nanos()).unwrap_or(NEVER)
    }
}

/// The connection's side: must be awaited beside the connection.
pub(crate) struct Alarm {
    shared: Arc<Shared>,
    most: Duration,
    sleep: Pin<Box<tokio::time::Sleep>>,
    /// Whether the sleep knows whom to wake.
    set: bool,
}

/// hyper's side; one wait at a time.
#[derive(Debug, Clone)]
pub(crate) struct AlarmTimer(Arc<Shared>);

impl Alarm {
    /// An alarm for waits of at least `most`, and the timer that makes them.
    pub(crate) fn new(most: Duration) -> (Self, AlarmTimer) {
        let now = Instant::now();
        let (due, rung) = (AtomicU64::new(0), AtomicBool::new(false));
        let shared = Arc::new(Shared { start: now.into_std(), due, rung });
        let sleep = Box::pin(sleep_until(now + most));
        (Self { shared: Arc::clone(&shared), most, sleep, set: false }, AlarmTimer(shared))
    }

    /// When the wait is over; it must be polled then.
    pub(crate) async fn rings(&mut self) {
        poll_fn(|cx| self.poll(cx)).await;
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // A sleep that has been told whom to wake need not be told again: it is always the same task.
        if self.set && !self.sleep.is_elapsed() {
            return Poll::Pending;
        }
        while self.sleep.as_mut().poll(cx).is_ready() {
            self.set = false;
            let now = Instant::now();
            let left = self.shared.due.load(Ordering::Relaxed).saturating_sub(self.shared.ns(now.into_std()));
            if left == 0 {
                self.shared.rung.store(true, Ordering::Relaxed);
                self.shared.due.store(NEVER, Ordering::Relaxed);
                self.sleep.as_mut().reset(now + self.most);
                return Poll::Ready(());
            }
            self.sleep.as_mut().reset(now + Duration::from_nanos(left).min(self.most));
        }
        self.set = true;
        Poll::Pending
    }
}

impl AlarmTimer {
    fn wait_until(&self, deadline: StdInstant) {
        self.0.rung.store(false, Ordering::Relaxed);
        self.0.due.store(self.0.ns(deadline), Ordering::Relaxed);
    }
}

impl Timer for AlarmTimer {
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
        if self.0.rung.load(Ordering::Relaxed) { Poll::Ready(()) } else { Poll::Pending }
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

    /// When the first of these waits that is not over in time rings: each begins and lasts so many ms after the start.
    async fn ringing(waits: &[(u32, u32)]) -> Option<u32> {
        let start = Instant::now();
        let (mut alarm, timer) = Alarm::new(10 * MS);
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
        let rung = async {
            loop {
                tokio::select! {
                    biased;
                    () = &mut work => return,
                    () = alarm.rings() => {}
                }
            }
        };
        tokio::time::timeout(200 * MS, rung).await.ok()?;
        Some(start.elapsed().as_millis() as u32)
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_rings_when_it_is_due_however_often_it_was_set_before() {
        assert_eq!(ringing(&[(0, 1_000)]).await, Some(10));
        assert_eq!(ringing(&[(7, 1_000)]).await, Some(17));
        assert_eq!(ringing(&[(0, 3), (3, 9), (12, 21), (40, 1_000)]).await, Some(50));
        assert_eq!(ringing(&[(95, 1_000)]).await, Some(105));
    }

    #[tokio::test(start_paused = true)]
    async fn it_rings_once_for_who_never_begins() {
        let (start, (mut alarm, timer)) = (Instant::now(), Alarm::new(10 * MS));
        alarm.rings().await;
        assert_eq!(start.elapsed(), 10 * MS);
        assert!(tokio::time::timeout(100 * MS, alarm.rings()).await.is_err());
        let wait = timer.sleep(10 * MS);
        alarm.rings().await;
        wait.await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_that_is_given_up_never_rings() {
        assert_eq!(ringing(&[(0, 9), (10, 19), (25, 34)]).await, None);
        assert_eq!(ringing(&[]).await, None);
    }
}
