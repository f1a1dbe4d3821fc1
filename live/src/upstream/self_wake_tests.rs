//! Unit tests of [`super::self_wake`]. Not inside it, since the model check compiles that file with loom's atomics.

use super::self_wake::{PollSelfWaking, ROUNDS};
use std::future::Future;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use tokio::sync::mpsc;

#[derive(Default)]
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// What one poll gives, and how often the task was woken by its end.
fn poll_once<F: Future>(polling: &mut PollSelfWaking<F>) -> (Poll<F::Output>, usize) {
    let count = Arc::new(Count::default());
    let polled = Pin::new(polling).poll(&mut Context::from_waker(&Waker::from(Arc::clone(&count))));
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
    let mut polling = PollSelfWaking::new(restless(ROUNDS - 1));
    assert_eq!(poll_once(&mut polling), (Poll::Ready(ROUNDS), 0));
}

#[test]
fn a_future_that_never_rests_lets_others_go_first_and_loses_nothing() {
    let mut polling = PollSelfWaking::new(restless(2 * ROUNDS));
    assert_eq!(poll_once(&mut polling), (Poll::Pending, 1));
    assert_eq!(poll_once(&mut polling), (Poll::Pending, 1));
    assert_eq!(poll_once(&mut polling), (Poll::Ready(2 * ROUNDS + 1), 0));
}

#[test]
fn a_wake_by_another_thread_reaches_the_task_even_during_a_poll() {
    let mut polling = PollSelfWaking::new(poll_fn(|cx| {
        let waker = cx.waker().clone();
        std::thread::spawn(move || waker.wake()).join().unwrap();
        Poll::<()>::Pending
    }));
    assert_eq!(poll_once(&mut polling), (Poll::Pending, 1));
}

#[test]
fn a_wake_between_polls_reaches_the_task() {
    let (send, receive) = std::sync::mpsc::channel();
    let mut polling = PollSelfWaking::new(poll_fn(move |cx| {
        send.send(cx.waker().clone()).unwrap();
        Poll::<()>::Pending
    }));
    let count = Arc::new(Count::default());
    let waker = Waker::from(Arc::clone(&count));
    assert!(Pin::new(&mut polling).poll(&mut Context::from_waker(&waker)).is_pending());
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
        tokio::spawn(PollSelfWaking::new(async move {
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
