//! The router's timers, ordered by time and then by insertion, and what happens when one is due.

use super::queue::is_queued;
use super::{Action, EndReason, Router, State};
use crate::{ReplicaId, RequestId, Span, Time, TimeQueue};

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

impl Router {
    pub(super) fn timer(&mut self, now: Time, actions: &mut Vec<Action>) {
        while let Some(timer) = self.timers.pop(now) {
            match timer {
                Timer::Queue(id, ticket) if is_queued(&self.flights, id, ticket) => {
                    let reason = if self.is_down_for(id) { self.down_reason(id) } else { EndReason::QueueTimeout };
                    self.give_up(id, reason, actions);
                }
                Timer::Down(id, ticket) if is_queued(&self.flights, id, ticket) && self.is_down_for(id) => {
                    self.give_up(id, self.down_reason(id), actions);
                }
                Timer::Deadline(id) if !self.is_running(id) => {
                    self.give_up(id, EndReason::Deadline, actions);
                }
                Timer::Again(id, ticket) => self.resume(id, ticket),
                Timer::Queue(..) | Timer::Down(..) | Timer::Deadline(_) | Timer::Reopen(_) => {}
            }
        }
        self.drain_queue(now, actions);
        self.watch_slow_start(now);
    }

    /// Drops timers of ended requests, so that long deadlines do not accumulate.
    pub(super) fn sweep_timers(&mut self) {
        let flights = &self.flights;
        self.timers.sweep(flights.len(), |timer| match timer {
            Timer::Queue(id, stay) | Timer::Down(id, stay) | Timer::Again(id, stay) => is_queued(flights, *id, *stay),
            Timer::Deadline(id) => flights.contains_key(id),
            Timer::Reopen(_) => true,
        });
    }

    /// Sets a timer for the next step of a slow start while requests are queued: a gate that time opens causes no event.
    pub(super) fn watch_slow_start(&mut self, now: Time) {
        let gates = &self.config.gates;
        let slow = self.replicas.iter().position(|r| !r.removed && r.slow_start(now, gates).is_some());
        if let Some(slot) = slow.filter(|_| self.queued > 0) {
            let step = gates.slow_start_ms / f64::from(gates.slow_start_requests.max(1));
            self.timers.set(now + Span::from_ms(step.max(1.0)), Timer::Reopen(ReplicaId(slot as u16)));
        }
    }

    fn is_running(&self, id: RequestId) -> bool {
        self.flights.get(&id).is_none_or(|f| matches!(f.state, State::Sent { running: true, .. }))
    }
}
