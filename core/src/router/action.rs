//! The router's output: actions for the driver to carry out, and the record of a decision.

use crate::policy::{Candidate, CostTerms, RequestInfo};
use crate::residency::Fence;
use crate::{ReplicaId, RequestId, Time};
use std::sync::Arc;

/// An action that the driver carries out.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Send the request to a replica's engine, or forward it to a peer router with one hop more.
    Dispatch(Dispatch),
    /// It waits in the router's queue.
    Queued {
        /// Which request.
        id: RequestId,
    },
    /// Abort that dispatch upstream.
    Cancel {
        /// Which request.
        id: RequestId,
        /// Where it was sent.
        replica: ReplicaId,
        /// Which dispatch of it.
        attempt: u8,
    },
    /// The request ended. Emitted exactly once a request; the driver answers the client when it did not finish.
    Done {
        /// Which request.
        id: RequestId,
        /// Why, and so how.
        reason: super::EndReason,
    },
    /// Send [`Event::Timer`](super::Event::Timer) at this instant; replaces the timer set before.
    SetTimer(Time),
    /// The index learned that a replica holds a path: to be sent to other routers; only after
    /// [`super::Router::share_prefixes`].
    Learned(crate::sharing::Path),
    /// The inputs and scores of a decision; only when `record_decisions` is on.
    Decided(Arc<DecisionRecord>),
}

/// A dispatch of a request to a replica.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dispatch {
    /// Which request.
    pub id: RequestId,
    /// To which replica.
    pub replica: ReplicaId,
    /// 1 for the first dispatch of the request.
    pub attempt: u8,
    /// Whether the replica is a peer router.
    pub forward: bool,
    /// Dispatches that a router in the replica's place may make, 1 or more.
    pub allowed: u8,
    /// Prompt tokens predicted to be cached there.
    pub cached_tokens: u32,
    /// Time to first token that the policy predicts, ms from now; `None` when its score is not a time.
    pub predicted_ttft_ms: Option<f64>,
    /// The fallback that decided, if the policy's own rule did not.
    pub reason: Option<&'static str>,
}

/// One decision with all of its inputs; `gorgo decide` replays it.
#[derive(Debug, Clone, PartialEq)]
pub struct DecisionRecord {
    /// Which request.
    pub id: RequestId,
    /// When.
    pub at: Time,
    /// The request as the policy saw it.
    pub info: RequestInfo,
    /// Where it may go; `None` for everywhere.
    pub fence: Option<Fence>,
    /// The policy's name.
    pub policy: &'static str,
    /// Index into `candidates`, `None` if all were excluded.
    pub chosen: Option<usize>,
    /// The fallback that decided, if any.
    pub reason: Option<&'static str>,
    /// The policy's own choice; another than `chosen` when the router explored.
    pub own: Option<usize>,
    /// Probability with which `chosen` was chosen: below 1 only when the router explores.
    pub odds: f64,
    /// Names of all slots at that time: a slot may belong to another replica later.
    pub names: Arc<[Arc<str>]>,
    /// Every replica of the fleet with its score.
    pub candidates: Vec<ScoredCandidate>,
}

/// One candidate of a recorded decision.
#[derive(Debug, Clone, PartialEq)]
pub struct ScoredCandidate {
    /// The replica as the policy saw it.
    pub candidate: Candidate,
    /// The parts of its score.
    pub terms: CostTerms,
    /// Age of its RTT, ms; `None` before the first probe.
    pub rtt_age_ms: Option<f64>,
}

impl DecisionRecord {
    /// The name that `slot` had then.
    pub fn name(&self, slot: ReplicaId) -> &str {
        self.names.get(slot.index()).map_or("", |name| name)
    }
}
