//! What the core wants of one request, kept until the request's task asks, and what it decided about it.

use crate::upstream::replica::Upstream;
use gorgo_core::router::{DecisionRecord, Dispatch, EndReason};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Poll, Waker};

/// Decisions kept of a request.
const DECISIONS: usize = 8;

/// What a request's task is told.
#[derive(Debug)]
pub enum Command {
    /// Send it there.
    Dispatch {
        /// The core's order.
        dispatch: Dispatch,
        /// The replica.
        upstream: Arc<Upstream>,
        /// What it was decided from, if recorded.
        decision: Option<Arc<DecisionRecord>>,
    },
    /// It waits in the queue.
    Queued,
    /// Abort this attempt.
    Cancel {
        /// Which.
        attempt: u8,
    },
    /// The router stops, and ends what is open.
    Stop,
    /// It is over.
    Done {
        /// Why.
        reason: EndReason,
    },
}

#[derive(Debug, Default)]
struct Inner {
    /// Mostly there is one command at a time; it needs no room of its own.
    first: Option<Command>,
    more: VecDeque<Command>,
    waker: Option<Waker>,
    last: Option<Arc<DecisionRecord>>,
    before: Vec<Arc<DecisionRecord>>,
}

/// A request's mailbox. At most a few commands an attempt are ever in it.
#[derive(Debug, Default)]
pub struct Mailbox(Mutex<Inner>);

/// Shared by the driver and the request's task.
pub type Mail = Arc<Mailbox>;

impl Mailbox {
    /// Tells the task.
    pub(crate) fn put(&self, command: Command) {
        let mut inner = self.0.lock();
        if inner.first.is_none() && inner.more.is_empty() {
            inner.first = Some(command);
        } else {
            inner.more.push_back(command);
        }
        let waker = inner.waker.take();
        drop(inner);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Notes a decision.
    pub(crate) fn decided(&self, record: Arc<DecisionRecord>) {
        let mut inner = self.0.lock();
        if let Some(before) = inner.last.replace(record) {
            if inner.before.len() + 1 >= DECISIONS {
                inner.before.remove(0);
            }
            inner.before.push(before);
        }
    }

    /// The latest decision.
    pub(crate) fn latest(&self) -> Option<Arc<DecisionRecord>> {
        self.0.lock().last.clone()
    }

    /// Takes all decisions but `known`.
    pub(crate) fn others(&self, known: Option<&Arc<DecisionRecord>>) -> Vec<Arc<DecisionRecord>> {
        let mut inner = self.0.lock();
        let unknown = |one: &Arc<DecisionRecord>| known.is_none_or(|known| !Arc::ptr_eq(one, known));
        let mut all = std::mem::take(&mut inner.before);
        all.retain(unknown);
        all.extend(inner.last.take().filter(unknown));
        all
    }

    /// Whether there is nothing to read. What comes from now on wakes nobody until they ask for it.
    pub(crate) fn is_quiet(&self) -> bool {
        let mut inner = self.0.lock();
        inner.waker = None;
        inner.first.is_none() && inner.more.is_empty()
    }

    /// The next command, if there is one.
    pub(crate) fn try_next(&self) -> Option<Command> {
        let mut inner = self.0.lock();
        inner.first.take().or_else(|| inner.more.pop_front())
    }

    /// Has the task woken by the next command; false if there is one already.
    pub(crate) fn wait(&self, waker: &Waker) -> bool {
        let mut inner = self.0.lock();
        let quiet = inner.first.is_none() && inner.more.is_empty();
        inner.waker = quiet.then(|| waker.clone());
        quiet
    }

    /// The next command.
    pub(crate) async fn next(&self) -> Command {
        poll_fn(|cx| {
            let mut inner = self.0.lock();
            if let Some(command) = inner.first.take().or_else(|| inner.more.pop_front()) {
                return Poll::Ready(command);
            }
            if inner.waker.as_ref().is_none_or(|waker| !waker.will_wake(cx.waker())) {
                inner.waker = Some(cx.waker().clone());
            }
            Poll::Pending
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::Future;

    #[tokio::test]
    async fn commands_come_in_order_and_wake_who_waits() {
        let mail = Mail::default();
        for attempt in 1..4 {
            mail.put(Command::Cancel { attempt });
        }
        for expected in 1..4 {
            assert!(matches!(mail.try_next(), Some(Command::Cancel { attempt }) if attempt == expected));
        }
        assert!(mail.try_next().is_none());
        let waiting = tokio::spawn({
            let mail = Arc::clone(&mail);
            async move { mail.next().await }
        });
        tokio::task::yield_now().await;
        mail.put(Command::Queued);
        assert!(matches!(waiting.await.unwrap(), Command::Queued));
    }

    #[test]
    fn who_has_turned_away_is_not_woken_and_finds_it_later() {
        struct Never;
        impl std::task::Wake for Never {
            fn wake(self: Arc<Self>) {
                panic!("woken");
            }
        }
        let (mail, waker) = (Mail::default(), Waker::from(Arc::new(Never)));
        let mut cx = std::task::Context::from_waker(&waker);
        assert!(std::pin::pin!(mail.next()).as_mut().poll(&mut cx).is_pending());
        assert!(mail.is_quiet());
        mail.put(Command::Queued);
        assert!(!mail.is_quiet());
        assert!(std::pin::pin!(mail.next()).as_mut().poll(&mut cx).is_ready());
    }
}
