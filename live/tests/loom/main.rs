//! Model check of the waker in `src/upstream/self_wake.rs`: loom runs the threads below in every order, with its
//! own atomics in place of the standard ones. A lost wake is a deadlock, which loom reports.
#![allow(clippy::unwrap_used)]

mod sync;

#[path = "../../src/upstream/self_wake.rs"]
mod self_wake;

use loom::future::block_on;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;
use self_wake::{PollSelfWaking, ROUNDS, SelfWakePoller};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use sync::AtomicWaker;

/// Runs every interleaving with at most three preemptions, where bugs of two or three threads show; all of them would
/// take minutes.
fn check(model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(model);
}

/// A counter that wakes its reader: the socket of a connection, or a channel.
#[derive(Default)]
struct Source {
    events: AtomicUsize,
    reader: AtomicWaker,
}

impl Source {
    fn send(&self) {
        self.events.fetch_add(1, Ordering::Release);
        self.reader.wake();
    }

    /// Ready after `wanted` events.
    fn poll(&self, wanted: usize, cx: &Context<'_>) -> Poll<()> {
        self.reader.register(cx.waker());
        if self.events.load(Ordering::Acquire) >= wanted { Poll::Ready(()) } else { Poll::Pending }
    }
}

#[test]
fn a_wake_by_another_thread_is_never_lost() {
    check(|| {
        let source = Arc::new(Source::default());
        let sender = thread::spawn({
            let source = Arc::clone(&source);
            move || {
                source.send();
                source.send();
            }
        });
        block_on(PollSelfWaking::new(poll_fn(|cx| source.poll(2, cx))));
        sender.join().unwrap();
    });
}

#[test]
fn a_future_that_wakes_itself_still_gets_the_wakes_of_others() {
    check(|| {
        let source = Arc::new(Source::default());
        let sender = thread::spawn({
            let source = Arc::clone(&source);
            move || source.send()
        });
        let mut own = 0;
        block_on(PollSelfWaking::new(poll_fn(|cx| {
            if own < ROUNDS + 1 {
                own += 1;
                cx.waker().wake_by_ref();
            }
            source.poll(1, cx)
        })));
        sender.join().unwrap();
    });
}

#[test]
fn a_connection_that_changes_threads_wakes_the_one_that_polls_it_now() {
    check(|| {
        let source = Arc::new(Source::default());
        let poller = SelfWakePoller::new();
        // The first thread polls once and sends from there, too: its number must not pass for the new one's.
        let mut cx = Context::from_waker(Waker::noop());
        let first = poller.poll(&mut cx, |cx| source.poll(2, cx));
        assert!(first.is_pending());
        let next = thread::spawn({
            let source = Arc::clone(&source);
            move || {
                let mut polls = pin!(poll_fn(|cx| poller.poll(cx, |cx| source.poll(2, cx))));
                block_on(poll_fn(|cx| polls.as_mut().poll(cx)));
            }
        });
        source.send();
        source.send();
        next.join().unwrap();
    });
}

#[test]
fn an_event_while_wakes_are_stopped_is_found_by_the_next_poll() {
    check(|| {
        let source = Arc::new(Source::default());
        let poller = SelfWakePoller::new();
        let mut cx = Context::from_waker(Waker::noop());
        let idle = poller.poll(&mut cx, |cx| source.poll(1, cx));
        assert!(idle.is_pending());
        let sender = thread::spawn({
            let source = Arc::clone(&source);
            move || source.send()
        });
        poller.stop_waking();
        block_on(poll_fn(|cx| poller.poll(cx, |cx| source.poll(1, cx))));
        sender.join().unwrap();
    });
}
