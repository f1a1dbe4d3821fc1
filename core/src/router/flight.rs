//! A request in flight: its state, and the outcomes of its attempts so far.

use super::{Handling, Request};
use crate::fleet::{Booked, Started};
use crate::judgement::FailedAttempts;
use crate::network::Connection;
use crate::prefix::Stamp;
use crate::{ReplicaId, ReplicaSet, Time};

#[derive(Debug, Clone)]
pub(super) enum State {
    /// Arrived or taken back from a replica; placed before the event that caused it is processed.
    Unplaced,
    Queued {
        ticket: u64,
    },
    Sent {
        replica: ReplicaId,
        uncached: u32,
        cached: u32,
        stamp: Stamp,
        running: bool,
        /// The router's estimate of the connection that carries the request.
        connection: Connection,
        /// The terms of the prediction, as booked.
        booked: Booked,
        /// Set at the first token.
        started: Option<Started>,
    },
}

#[derive(Debug, Clone)]
pub(super) struct Flight {
    pub(super) request: Request,
    /// Replicas that are not asked again before a pause.
    pub(super) tried: ReplicaSet,
    pub(super) failed: FailedAttempts,
    /// The replicas inside its fence, kept up to date with the fleet; `None` without a fence.
    pub(super) inside: Option<ReplicaSet>,
    /// The client has got a part of a response, so that no other replica can answer.
    pub(super) committed: bool,
    pub(super) attempts: u8,
    /// Whether it was taken back from a replica that had gone silent.
    pub(super) moved: bool,
    pub(super) arrived: Time,
    pub(super) state: State,
}

impl Flight {
    pub(super) fn handling(&self) -> Handling {
        self.request.handling
    }

    /// Dispatches that may follow, of the `most` that are configured.
    pub(super) fn attempts_left(&self, most: u8) -> u8 {
        let allowed = self.request.attempts.map_or(most, |allowed| allowed.clamp(1, most.max(1)));
        allowed.saturating_sub(self.attempts)
    }

    /// Dispatches that a router may make which gets the request now: all that are left, or half of them if another
    /// replica is there for the rest. Without this bound routers in a row would multiply their attempts.
    pub(super) fn attempts_for_router(&self, most: u8, is_alone: bool) -> u8 {
        let left = self.attempts_left(most);
        if is_alone { left } else { left.div_ceil(2) }
    }
}
