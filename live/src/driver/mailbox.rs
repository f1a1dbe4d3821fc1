//! The core's commands for one request, kept until the request's task reads them.

use crate::upstream::replica::Upstream;
use gorgo_core::router::{DecisionRecord, Dispatch, EndReason};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Poll, Waker};

/// A command to a request's task.
#[derive(Debug)]
pub(crate) enum Command {
    /// Send the request to a replica.
    Dispatch {
        /// The core's action.
        dispatch: Dispatch,
        /// The replica.
        upstream: Arc<Upstream>,
        /// The decision for this replica, if recorded.
        decision: Option<Arc<DecisionRecord>>,
        /// Decisions since the last command that chose no replica.
        undecided: Vec<Arc<DecisionRecord>>,
    },
    /// Wait: the request is in the queue.
    Queued,
    /// Abort the current attempt.
    Cancel,
    /// End the request: the router's time to drain is over.
    Stop,
    /// The request has ended.
    Done {
        /// Why.
        reason: EndReason,
        /// Decisions since the last command that chose no replica.
        undecided: Vec<Arc<DecisionRecord>>,
    },
}

#[derive(Debug, Default)]
struct Inner {
    /// The first command has a place of its own: there is rarely a second, so most requests need no queue.
    first: Option<Command>,
    more: VecDeque<Command>,
    waker: Option<Waker>,
}

/// One request's mailbox, shared by the driver and the request's task. It holds at most a few commands an attempt.
#[derive(Debug, Default)]
pub struct Mailbox(Mutex<Inner>);

impl Inner {
    fn is_empty(&self) -> bool {
        self.first.is_none() && self.more.is_empty()
    }

    fn take(&mut self) -> Option<Command> {
        self.first.take().or_else(|| self.more.pop_front())
    }
}

impl Mailbox {
    /// Adds a command and wakes the task that waits for one.
    pub(crate) fn put(&self, command: Command) {
        let mut inner = self.0.lock();
        if inner.is_empty() {
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

    /// Whether there is no command to read.
    pub(crate) fn is_quiet(&self) -> bool {
        self.0.lock().is_empty()
    }

    /// Commands wake the task no more until it waits again.
    pub(crate) fn stop_waking(&self) {
        self.0.lock().waker = None;
    }

    /// Registers the task to wake for the next command; false if there is one already.
    pub(crate) fn wake_on_command(&self, waker: &Waker) -> bool {
        let mut inner = self.0.lock();
        let is_empty = inner.is_empty();
        inner.waker = is_empty.then(|| waker.clone());
        is_empty
    }

    /// The next command, if there is one.
    pub(crate) fn try_next(&self) -> Option<Command> {
        self.0.lock().take()
    }

    /// Waits for the next command.
    pub(crate) async fn next(&self) -> Command {
        poll_fn(|cx| {
            let mut inner = self.0.lock();
            if let Some(command) = inner.take() {
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
    async fn commands_come_in_order_and_wake_the_task_that_waits() {
        let mailbox = Arc::new(Mailbox::default());
        let reasons = [EndReason::QueueFull, EndReason::Deadline, EndReason::ClientGone];
        for reason in reasons {
            mailbox.put(Command::Done { reason, undecided: Vec::new() });
        }
        for expected in reasons {
            assert!(matches!(mailbox.try_next(), Some(Command::Done { reason, .. }) if reason == expected));
        }
        assert!(mailbox.try_next().is_none());
        let waiting = tokio::spawn({
            let mailbox = Arc::clone(&mailbox);
            async move { mailbox.next().await }
        });
        tokio::task::yield_now().await;
        mailbox.put(Command::Queued);
        assert!(matches!(waiting.await.unwrap(), Command::Queued));
    }

    #[test]
    fn a_task_that_stopped_waking_finds_the_command_later() {
        struct Never;
        impl std::task::Wake for Never {
            fn wake(self: Arc<Self>) {
                panic!("woken");
            }
        }
        let (mailbox, waker) = (Mailbox::default(), Waker::from(Arc::new(Never)));
        let mut cx = std::task::Context::from_waker(&waker);
        assert!(std::pin::pin!(mailbox.next()).as_mut().poll(&mut cx).is_pending());
        mailbox.stop_waking();
        assert!(mailbox.is_quiet());
        mailbox.put(Command::Queued);
        assert!(!mailbox.is_quiet());
        assert!(std::pin::pin!(mailbox.next()).as_mut().poll(&mut cx).is_ready());
    }
}
