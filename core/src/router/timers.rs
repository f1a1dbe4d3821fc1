//! The router's timers, ordered by time and then by insertion.

use crate::{ReplicaId, RequestId, Time, TimeQueue};

/// A deadline that may be due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Timer {
    /// The queue timeout of a request; the ticket names the stay in the queue.
    Queue(RequestId, u64),
    /// A request that every open replica failed has paused long enough; the ticket names its stay.
    Again(RequestId, u64),
    /// A request has waited in the queue for as long as it may while every replica is down; the ticket names its stay.
    Down(RequestId, u64),
    /// The deadline of a request for its first token.
    Deadline(RequestId),
    /// An open breaker admits a trial request, or a rest ends.
    Reopen(ReplicaId),
}

#[derive(Debug, Clone, Default)]
pub(super) struct Timers {
    queue: TimeQueue<Timer>,
    armed: Option<Time>,
}

impl Timers {
    pub(super) fn set(&mut self, at: Time, timer: Timer) {
        self.queue.push(at, timer);
    }

    /// The next timer due at `now`.
    pub(super) fn pop(&mut self, now: Time) -> Option<Timer> {
        self.queue.pop_due(now).map(|entry| entry.item)
    }

    /// The next timer to set at the driver; `None` if it did not change since the last call.
    pub(super) fn rearm(&mut self, now: Time) -> Option<Time> {
        let next = self.queue.next_time()?;
        let stands = self.armed.is_some_and(|armed| armed <= next && armed > now);
        if stands {
            return None;
        }
        self.armed = Some(next);
        Some(next)
    }

    /// Drops timers of requests that are over once they outnumber what can be live.
    pub(super) fn sweep(&mut self, live: usize, keep: impl FnMut(&Timer) -> bool) {
        if self.queue.len() > 4 * live + 256 {
            self.queue.retain(keep);
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }
}
