//! Wall-clock time as the core's integer time, and precise alarms.
//!
//! The async runtime's own timers round up to the next millisecond, which is a large share of a 10 ms decode step and
//! the whole tolerance of a load generator. [`Alarms`] is one thread that sleeps on a condition variable, accurate to
//! about 0.1 ms.

use gorgo_core::{Span, Time, TimeQueue};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// Real time since a start, optionally run faster.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    start: Instant,
    speed: f64,
}

impl Clock {
    /// Starts now; `speed` 2 makes two seconds of its time pass in each real one. Values that are no speed count as 1.
    pub fn start(speed: f64) -> Self {
        Self { start: Instant::now(), speed: if speed.is_finite() && speed > 0.0 { speed } else { 1.0 } }
    }

    /// Time since the start.
    pub fn now(&self) -> Time {
        let elapsed = self.start.elapsed();
        if self.speed == 1.0 {
            return Time(u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX));
        }
        Time((elapsed.as_secs_f64() * self.speed * 1e9) as u64)
    }

    /// When the clock will show `at`; [`Time::NEVER`] is a century away.
    pub fn instant(&self, at: Time) -> Instant {
        const CENTURY: Duration = Duration::from_secs(100 * 365 * 86_400);
        let ns = if self.speed == 1.0 { at.0 } else { (at.0 as f64 / self.speed).ceil() as u64 };
        self.start + Duration::from_nanos(ns).min(CENTURY)
    }

    /// What the clock showed at `instant`.
    pub fn at(&self, instant: Instant) -> Time {
        let since = instant.saturating_duration_since(self.start);
        Time((Span(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)).0 as f64 * self.speed) as u64)
    }
}

/// A thread that wakes tasks at instants. Cloning shares it; it ends with its last clone.
#[derive(Debug, Clone)]
pub struct Alarms {
    shared: Arc<Handle>,
}

#[derive(Debug, Default)]
struct Board {
    state: Mutex<State>,
    rung: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: TimeQueue<oneshot::Sender<()>, Instant>,
    ended: bool,
}

#[derive(Debug)]
struct Handle(Arc<Board>);

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.lock().ended = true;
        self.0.rung.notify_one();
    }
}

impl Board {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        let mut state = self.lock();
        while !state.ended {
            let now = Instant::now();
            if let Some(entry) = state.waiting.pop_due(now) {
                let _ = entry.item.send(()); // a sleeper that was dropped does not mind
                continue;
            }
            match state.waiting.next_time() {
                Some(at) => state = self.rung.wait_timeout(state, at - now).unwrap_or_else(PoisonError::into_inner).0,
                None => state = self.rung.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }
}

impl Alarms {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start() -> std::io::Result<Self> {
        let board = Arc::new(Board::default());
        let thread = Arc::clone(&board);
        std::thread::Builder::new().name("alarms".to_owned()).spawn(move || thread.run())?;
        Ok(Self { shared: Arc::new(Handle(board)) })
    }

    /// Returns at `at`, or at once if that is past.
    pub async fn sleep_until(&self, at: Instant) {
        if at <= Instant::now() {
            return;
        }
        let (wake, woken) = oneshot::channel();
        {
            let mut state = self.shared.0.lock();
            let first = state.waiting.next_time().is_none_or(|next| at < next);
            state.waiting.push(at, wake);
            if first {
                self.shared.0.rung.notify_one();
            }
        }
        let _ = woken.await; // the thread ends only with the last handle, which is borrowed here
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speed_scales_both_ways() {
        let clock = Clock::start(20.0);
        let real = clock.instant(Time::from_ms(1000.0)) - clock.start;
        assert_eq!(real, Duration::from_millis(50));
        assert_eq!(clock.at(clock.start + Duration::from_millis(50)), Time::from_ms(1000.0));
        assert!(clock.instant(Time::NEVER) > clock.start);
        assert!(Clock::start(f64::NAN).speed == 1.0);
    }

    #[tokio::test]
    async fn alarms_ring_in_order_and_never_early() {
        let alarms = Alarms::start().unwrap();
        let start = Instant::now();
        let order = Arc::new(Mutex::new(Vec::new()));
        let sleepers = [30u64, 10, 20, 0].map(|ms| {
            let (alarms, order) = (alarms.clone(), Arc::clone(&order));
            let at = start + Duration::from_millis(ms);
            tokio::spawn(async move {
                alarms.sleep_until(at).await;
                assert!(Instant::now() >= at);
                order.lock().unwrap().push(ms);
            })
        });
        for sleeper in sleepers {
            sleeper.await.unwrap();
        }
        assert_eq!(*order.lock().unwrap(), [0, 10, 20, 30]);
    }
}
