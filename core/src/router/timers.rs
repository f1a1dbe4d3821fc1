//! Deadlines by time, then by order of setting.

use crate::{ReplicaId, RequestId, Time, TimeQueue};

/// What may be due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Timer {
    /// A request has waited in the queue for too long; the ticket names its stay.
    Queue(RequestId, u64),
    /// A request has no first token yet.
    Deadline(RequestId),
    /// A breaker lets a trial through.
    Reopen(ReplicaId),
}

#[derive(Debug, Default)]
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

    /// The instant to ask the host for, if it changed since it was last asked.
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
