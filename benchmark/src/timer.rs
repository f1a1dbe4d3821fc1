//! A timer that is accurate to about 0.1 ms.
//!
//! Tokio's timers round up to the next millisecond, which is a large share of a 10 ms decode step and the whole
//! tolerance of a load generator. [`PreciseTimer`] is one thread that sleeps on a condition variable.

use gorgo_core::TimeQueue;
use parking_lot::{Condvar, Mutex};
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::oneshot;

/// A thread that wakes tasks at given times. Clones share the thread; it ends with the last clone.
#[derive(Debug, Clone)]
pub struct PreciseTimer {
    shared: Arc<Handle>,
}

/// State of the timer's thread and the tasks that wait for it.
#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// Notified when an earlier time is added, or the timer ends.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: TimeQueue<oneshot::Sender<()>, Instant>,
    ended: bool,
}

/// Ends the thread when the last clone of the timer is dropped.
#[derive(Debug)]
struct Handle(Arc<Shared>);

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.state.lock().ended = true;
        self.0.changed.notify_one();
    }
}

impl State {
    /// Wakes the tasks whose time has come, in order, and returns the next time.
    fn wake_due(&mut self, now: Instant) -> Option<Instant> {
        while let Some(entry) = self.waiting.pop_due(now) {
            let _ = entry.item.send(()); // fails if the task stopped waiting
        }
        self.waiting.next_time()
    }
}

impl Shared {
    fn run(&self) {
        let mut state = self.state.lock();
        while !state.ended {
            match state.wake_due(Instant::now()) {
                Some(at) => {
                    self.changed.wait_until(&mut state, at);
                }
                None => self.changed.wait(&mut state),
            }
        }
    }
}

impl PreciseTimer {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system has no thread left.
    pub fn start() -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let thread = Arc::clone(&shared);
        std::thread::Builder::new().name("timer".to_owned()).spawn(move || thread.run())?;
        Ok(Self { shared: Arc::new(Handle(shared)) })
    }

    /// Returns at `at`, or at once if that is past.
    pub async fn sleep_until(&self, at: Instant) {
        if at <= Instant::now() {
            return;
        }
        let (wake, woken) = oneshot::channel();
        {
            let mut state = self.shared.0.state.lock();
            let first = state.waiting.next_time().is_none_or(|next| at < next);
            state.waiting.push(at, wake);
            if first {
                self.shared.0.changed.notify_one();
            }
        }
        let _ = woken.await; // the thread ends only with the last clone, which is borrowed here
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn sleepers_return_and_never_early() {
        let timer = PreciseTimer::start().unwrap();
        let start = Instant::now();
        let sleepers = [30u64, 10, 20, 0].map(|ms| {
            let (timer, at) = (timer.clone(), start + Duration::from_millis(ms));
            tokio::spawn(async move {
                timer.sleep_until(at).await;
                assert!(Instant::now() >= at);
            })
        });
        for sleeper in sleepers {
            sleeper.await.unwrap();
        }
    }

    #[test]
    fn those_that_are_due_are_woken_and_no_others() {
        let (mut state, start) = (State::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        let mut woken = [30, 10, 20].map(|ms| {
            let (wake, woken) = oneshot::channel();
            state.waiting.push(at(ms), wake);
            woken
        });
        assert_eq!(state.wake_due(at(9)), Some(at(10)));
        assert!(woken.iter_mut().all(|w| w.try_recv().is_err()));
        assert_eq!(state.wake_due(at(20)), Some(at(30)));
        assert_eq!(woken.each_mut().map(|w| w.try_recv().is_ok()), [false, true, true]);
        assert_eq!(state.wake_due(at(99)), None);
        assert!(woken[0].try_recv().is_ok());
    }
}
