//! The router's queue: requests wait in order of arrival and leave when a replica has room. A request that pauses
//! before a retry waits outside the order.

use super::flight::{Flight, State};
use super::{Action, Router, Timer};
use crate::fleet::Gates;
use crate::policy::Exclusion;
use crate::{ReplicaId, ReplicaSet, RequestId, Span, Time};
use rustc_hash::FxHashMap;

/// How often a request that failed at every replica but full ones looks for room at those.
const RECHECK: Span = Span(200_000_000);

impl Router {
    pub(super) fn enqueue(&mut self, now: Time, id: RequestId, front: bool, actions: &mut Vec<Action>) {
        self.ticket += 1;
        let ticket = self.ticket;
        let Some(flight) = self.flights.get_mut(&id) else { return };
        flight.state = State::Queued { ticket };
        self.queued_tokens += u64::from(flight.request.info.prompt_tokens);
        if front {
            self.queue.push_front((id, ticket));
        } else {
            self.queue.push_back((id, ticket));
        }
        self.queued += 1;
        self.stats.queued += 1;
        if self.queue.len() > 2 * self.queued + 64 {
            let flights = &self.flights;
            self.queue.retain(|&(id, ticket)| is_queued(flights, id, ticket));
        }
        self.timers.set(now + Span::from_ms(self.config.queue_timeout_ms), Timer::Queue(id, ticket));
        if self.is_down_for(id) {
            self.timers.set(now + Span::from_ms(self.config.down_timeout_ms), Timer::Down(id, ticket));
        }
        self.sweep_timers();
        actions.push(Action::Queued { id });
        self.watch_slow_start(now);
    }

    /// Lets a request wait outside the queue's order until `again`, so that no other request waits behind it.
    pub(super) fn pause(&mut self, now: Time, id: RequestId, again: Time, actions: &mut Vec<Action>) {
        self.ticket += 1;
        let ticket = self.ticket;
        let Some(flight) = self.flights.get_mut(&id) else { return };
        flight.state = State::Queued { ticket };
        self.queued_tokens += u64::from(flight.request.info.prompt_tokens);
        self.queued += 1;
        self.timers.set(again, Timer::Again(id, ticket));
        self.timers.set(now + Span::from_ms(self.config.queue_timeout_ms), Timer::Queue(id, ticket));
        self.sweep_timers();
        actions.push(Action::Queued { id });
    }

    /// Counts a request out of the queue.
    pub(super) fn leave_queue(&mut self, id: RequestId) {
        self.queued -= 1;
        self.queued_tokens -= self.flights.get(&id).map_or(0, |f| u64::from(f.request.info.prompt_tokens));
    }

    /// Puts a request whose pause is over at the head of the queue.
    pub(super) fn resume(&mut self, id: RequestId, ticket: u64) {
        if is_queued(&self.flights, id, ticket) {
            self.queue.push_front((id, ticket));
        }
    }

    /// Dispatches waiting requests in order for as long as there is room.
    pub(super) fn drain_queue(&mut self, now: Time, actions: &mut Vec<Action>) {
        if self.queued == 0 {
            self.queue.clear();
            return;
        }
        let gates = &self.config.gates;
        let gates = gates.clone();
        let mut open = self.open_replicas(now, &gates);
        if open.is_empty() {
            return;
        }
        let mut kept = Vec::new();
        while let Some((id, ticket)) = self.queue.pop_front() {
            if !is_queued(&self.flights, id, ticket) {
                continue;
            }
            // Requests that only closed replicas can answer wait without a decision, and hold up no others.
            let only = self.allowed(id);
            if only.is_some_and(|only| only.and(&open).is_empty()) {
                kept.push((id, ticket));
                continue;
            }
            if self.route(now, id, actions) || self.route_again(now, id, actions) {
                self.leave_queue(id);
                open = self.open_replicas(now, &gates);
                continue;
            }
            if self.has_candidate(Exclusion::Tried) {
                // Nobody waits behind a request that only a full replica may still answer.
                self.timers.set(now + RECHECK, Timer::Again(id, ticket));
                continue;
            }
            kept.push((id, ticket));
            // If this request may use any replica, no request behind it can be dispatched either.
            if only.is_none() && !self.has_candidate(Exclusion::Hops) {
                break;
            }
        }
        for entry in kept.into_iter().rev() {
            self.queue.push_front(entry);
        }
    }

    /// Routes a queued request to a replica at which it failed before it waited, if no other can take it later.
    fn route_again(&mut self, now: Time, id: RequestId, actions: &mut Vec<Action>) -> bool {
        if !self.has_candidate(Exclusion::Tried) || self.has_candidate(Exclusion::Full) {
            return false;
        }
        if let Some(flight) = self.flights.get_mut(&id) {
            flight.tried = ReplicaSet::EMPTY;
        }
        self.route(now, id, actions)
    }

    /// Replicas that may take a request now, those included that only failed requests have closed.
    fn open_replicas(&self, now: Time, gates: &Gates) -> ReplicaSet {
        let mut open = ReplicaSet::EMPTY;
        let here = self.replicas.iter().enumerate();
        for (slot, _) in here.filter(|(_, r)| !r.removed && r.closed_for_all(now, gates).is_none()) {
            open.insert(ReplicaId(slot as u16));
        }
        open
    }
}

/// Whether the request waits in this stay in the queue.
pub(super) fn is_queued(flights: &FxHashMap<RequestId, Flight>, id: RequestId, stay: u64) -> bool {
    flights.get(&id).is_some_and(|f| matches!(f.state, State::Queued { ticket } if ticket == stay))
}
