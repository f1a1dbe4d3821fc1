//! Which replicas a request may use at all: those inside its fence that can answer it.

use super::queue::is_queued;
use super::{EndReason, Router, Timer};
use crate::fleet::{Health, Replica};
use crate::residency::Fence;
use crate::{ReplicaId, ReplicaSet, RequestId, Span, Time};

impl Router {
    /// The replicas of the fleet that a fence admits.
    pub(super) fn inside(&self, fence: &Fence) -> ReplicaSet {
        self.slots(|r| !r.removed && fence.admits_replica(&r.spec))
    }

    /// The slots of which `has` is true.
    pub(super) fn slots(&self, has: impl Fn(&Replica) -> bool) -> ReplicaSet {
        let mut set = ReplicaSet::EMPTY;
        for (slot, _) in self.replicas.iter().enumerate().filter(|(_, replica)| has(replica)) {
            set.insert(ReplicaId(slot as u16));
        }
        set
    }

    /// Judges again, for every request with a fence, a slot whose replica has joined or left.
    pub(super) fn fence_again(&mut self, replica: ReplicaId) {
        let Some(at) = self.replicas.get(replica.index()) else { return };
        for flight in self.flights.values_mut() {
            let (Some(inside), Some(fence)) = (&mut flight.inside, &flight.request.fence) else { continue };
            if !at.removed && fence.admits_replica(&at.spec) {
                inside.insert(replica);
            } else {
                inside.remove(replica);
            }
        }
    }

    /// The only replicas that a request may use; `None` for all.
    pub(super) fn allowed(&self, id: RequestId) -> Option<ReplicaSet> {
        let flight = self.flights.get(&id)?;
        match (flight.inside, flight.request.only) {
            (Some(inside), Some(only)) => Some(inside.and(&only)),
            (inside, only) => inside.or(only),
        }
    }

    /// Whether no replica of the fleet is inside the request's fence and can answer it.
    pub(super) fn is_outside(&self, id: RequestId) -> bool {
        let fenced = self.flights.get(&id).is_some_and(|flight| flight.inside.is_some());
        fenced && self.allowed(id).is_some_and(|allowed| allowed.is_empty())
    }

    /// Replicas that are not down, draining or gone: the others take no requests again by themselves.
    pub(super) fn working(&self) -> ReplicaSet {
        self.slots(|r| !r.removed && !r.draining && r.health != Health::Down)
    }

    /// Whether no replica works that the request may use.
    pub(super) fn is_down_for(&self, id: RequestId) -> bool {
        let pinned = self.flights.get(&id).is_some_and(|flight| flight.handling().pinned);
        let working = if pinned { self.slots(|r| !r.removed && r.health != Health::Down) } else { self.working() };
        lacks(&working, self.allowed(id))
    }

    /// Why a request ends that waited for a replica while none works that it may use.
    pub(super) fn down_reason(&self, id: RequestId) -> EndReason {
        let fenced = self.flights.get(&id).is_some_and(|flight| flight.inside.is_some());
        if fenced { EndReason::InsideDown } else { EndReason::NoHealthyReplica }
    }

    /// Limits the wait of the queued requests for which the event before this made the last replica unusable; `before` are
    /// the replicas that worked until then.
    pub(super) fn watch_down(&mut self, now: Time, before: &ReplicaSet) {
        let working = self.working();
        if self.queued == 0 || before.minus(&working).is_empty() {
            return;
        }
        let at = now + Span::from_ms(self.config.down_timeout_ms);
        for &(id, ticket) in &self.queue {
            let allowed = self.allowed(id);
            if is_queued(&self.flights, id, ticket) && lacks(&working, allowed) && !lacks(before, allowed) {
                self.timers.set(at, Timer::Down(id, ticket));
            }
        }
    }

    /// Recomputes the price of data between this router and each replica.
    pub(super) fn price_egress(&mut self) {
        let (egress, region) = (&self.config.egress, &self.config.region);
        for replica in &mut self.replicas {
            replica.egress = egress.between(region, replica.spec.region.as_deref());
        }
    }
}

/// Whether none of the `allowed` replicas is in the set.
pub(super) fn lacks(set: &ReplicaSet, allowed: Option<ReplicaSet>) -> bool {
    allowed.map_or(*set, |allowed| allowed.and(set)).is_empty()
}
