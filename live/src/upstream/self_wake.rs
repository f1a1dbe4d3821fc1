//! Polls a future again at once when it asked for that itself.
//!
//! The parts of a connection wake each other: the body wakes who reads it, who reads it wakes the wire. One task drives
//! them all, so such a wake reaches the task that is running already. Tokio then puts it behind all others and wakes
//! a second thread to look for work, which costs more than the poll. Connections to replicas are polled so by
//! themselves, lest each wake inside one has the client's connection polled as well.

use futures_util::task::AtomicWaker;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};

/// Polls in a row before the other tasks of the thread have their turn.
const ROUNDS: usize = 4;

thread_local! {
    static HERE: u8 = const { 0 };
}

/// A number that no other living thread has, and not 0.
fn thread() -> usize {
    HERE.with(|here| std::ptr::from_ref(here) as usize)
}

#[derive(Default)]
struct Bell {
    /// The thread that polls the future, or 0.
    polling: AtomicUsize,
    again: AtomicBool,
    task: AtomicWaker,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.polling.load(Ordering::Relaxed) == thread() {
            self.again.store(true, Ordering::Relaxed);
        } else {
            self.task.wake();
        }
    }
}

/// Polls something that wakes itself: where it does so during a poll, the wake goes no further.
pub(crate) struct Steadily {
    bell: Arc<Bell>,
    waker: Waker,
}

impl Steadily {
    pub(crate) fn new() -> Self {
        let bell = Arc::new(Bell::default());
        Self { waker: Waker::from(Arc::clone(&bell)), bell }
    }

    /// What `poll` gives once it wakes itself no more. When it is ready, its wakes were for nobody.
    pub(crate) fn poll<T>(&self, cx: &mut Context<'_>, mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
        self.bell.task.register(cx.waker());
        self.bell.polling.store(thread(), Ordering::Relaxed);
        let mut inner = Context::from_waker(&self.waker);
        for _ in 0..ROUNDS {
            self.bell.again.store(false, Ordering::Relaxed);
            let polled = poll(&mut inner);
            if polled.is_ready() || !self.bell.again.load(Ordering::Relaxed) {
                self.bell.polling.store(0, Ordering::Relaxed);
                return polled;
            }
        }
        self.bell.polling.store(0, Ordering::Relaxed);
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Wakes reach nobody until the next poll.
    pub(crate) fn rest(&self) {
        self.bell.task.take();
    }
}

/// See the module page.
pub(crate) struct Steady<F> {
    future: Pin<Box<F>>,
    steadily: Steadily,
}

impl<F: Future> Steady<F> {
    pub(crate) fn new(future: F) -> Self {
        Self { future: Box::pin(future), steadily: Steadily::new() }
    }
}

impl<F: Future> Future for Steady<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        this.steadily.poll(cx, |cx| this.future.as_mut().poll(cx))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use tokio::sync::mpsc;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// What one poll gives, and how often the task was woken by its end.
    fn poll_once<F: Future>(steady: &mut Steady<F>) -> (Poll<F::Output>, usize) {
        let count = Arc::new(Count::default());
        let polled = Pin::new(steady).poll(&mut Context::from_waker(&Waker::from(Arc::clone(&count))));
        (polled, count.0.load(Ordering::SeqCst))
    }

    /// Wakes itself that many times, then is ready with the number of polls.
    fn restless(times: usize) -> impl Future<Output = usize> {
        let mut polls = 0;
        poll_fn(move |cx| {
            polls += 1;
            if polls > times {
                return Poll::Ready(polls);
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        })
    }

    #[test]
    fn a_future_that_wakes_itself_is_polled_again_and_its_task_is_not_woken() {
        let mut steady = Steady::new(restless(ROUNDS - 1));
        assert_eq!(poll_once(&mut steady), (Poll::Ready(ROUNDS), 0));
    }

    #[test]
    fn a_future_that_never_rests_lets_others_go_first_and_loses_nothing() {
        let mut steady = Steady::new(restless(2 * ROUNDS));
        assert_eq!(poll_once(&mut steady), (Poll::Pending, 1));
        assert_eq!(poll_once(&mut steady), (Poll::Pending, 1));
        assert_eq!(poll_once(&mut steady), (Poll::Ready(2 * ROUNDS + 1), 0));
    }

    #[test]
    fn a_wake_by_another_thread_reaches_the_task_even_during_a_poll() {
        let mut steady = Steady::new(poll_fn(|cx| {
            let waker = cx.waker().clone();
            std::thread::spawn(move || waker.wake()).join().unwrap();
            Poll::<()>::Pending
        }));
        assert_eq!(poll_once(&mut steady), (Poll::Pending, 1));
    }

    #[test]
    fn a_wake_between_polls_reaches_the_task() {
        let (send, receive) = std::sync::mpsc::channel();
        let mut steady = Steady::new(poll_fn(move |cx| {
            send.send(cx.waker().clone()).unwrap();
            Poll::<()>::Pending
        }));
        let count = Arc::new(Count::default());
        let waker = Waker::from(Arc::clone(&count));
        assert!(Pin::new(&mut steady).poll(&mut Context::from_waker(&waker)).is_pending());
        receive.recv().unwrap().wake();
        assert_eq!(count.0.load(Ordering::SeqCst), 1);
    }

    /// Messages go round a ring of tasks on two threads, through two channels inside each task.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn no_wake_is_lost_between_tasks_and_within_them() {
        const TASKS: usize = 8;
        const LAPS: usize = 2_000;
        let (first, mut receive) = mpsc::channel::<usize>(1);
        for _ in 0..TASKS {
            let (out, next) = mpsc::channel(1);
            let mut from = std::mem::replace(&mut receive, next);
            tokio::spawn(Steady::new(async move {
                let (inner, mut turn) = mpsc::channel(1);
                let feed = async {
                    while let Some(message) = from.recv().await {
                        inner.send(message).await.unwrap();
                    }
                    drop(inner);
                };
                let pass = async {
                    while let Some(message) = turn.recv().await {
                        out.send(message).await.unwrap();
                    }
                };
                tokio::join!(feed, pass);
            }));
        }
        let laps = async {
            for lap in 0..LAPS {
                first.send(lap).await.unwrap();
                assert_eq!(receive.recv().await, Some(lap));
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(60), laps).await.expect("no wake was lost");
    }
}
