//! Deadlines by time, then by order of setting.

use crate::{ReplicaId, RequestId, Time};
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// What may be due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
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
    heap: BinaryHeap<Reverse<(Time, u64, Timer)>>,
    sequence: u64,
    armed: Option<Time>,
}

impl Timers {
    pub(super) fn set(&mut self, at: Time, timer: Timer) {
        self.sequence += 1;
        self.heap.push(Reverse((at, self.sequence, timer)));
    }

    /// The next timer due at `now`.
    pub(super) fn pop(&mut self, now: Time) -> Option<Timer> {
        let &Reverse((at, _, timer)) = self.heap.peek()?;
        if at > now {
            return None;
        }
        self.heap.pop();
        Some(timer)
    }

    /// The instant to ask the host for, if it changed since it was last asked.
    pub(super) fn rearm(&mut self, now: Time) -> Option<Time> {
        let next = self.heap.peek().map(|Reverse((at, ..))| *at)?;
        let stands = self.armed.is_some_and(|armed| armed <= next && armed > now);
        if stands {
            return None;
        }
        self.armed = Some(next);
        Some(next)
    }

    /// Drops timers of requests that are over once they outnumber what can be live.
    pub(super) fn sweep(&mut self, live: usize, mut keep: impl FnMut(&Timer) -> bool) {
        if self.heap.len() > 4 * live + 256 {
            self.heap.retain(|Reverse((_, _, timer))| keep(timer));
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.heap.len()
    }
}
