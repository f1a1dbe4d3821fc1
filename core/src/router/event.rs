//! What the router is told and what it wants done.

use crate::fleet::{EngineReport, PeerReport, ReplicaSpec};
use crate::policy::{Ask, Candidate, Terms};
use crate::{ReplicaId, RequestId, Time};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// A request at its arrival.
#[derive(Debug, Clone)]
pub struct Request {
    /// Unique among the requests in flight.
    pub id: RequestId,
    /// The prompt as symbols of the prefix index.
    pub symbols: Arc<[u64]>,
    /// What policies may know: prompt tokens, session, head.
    pub ask: Ask,
    /// Routers it has already been forwarded by.
    pub hops: u8,
    /// No first token by then: it is given up.
    pub deadline: Option<Time>,
}

/// What the engine said of a finished request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Prompt tokens found in the engine's cache; `None` when not reported.
    pub cached_tokens: Option<u32>,
    /// Tokens generated.
    pub output_tokens: u32,
}

/// The generated text as symbols, when the router saw it: the engine caches it too.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Symbols of the prompt that stay valid before `tail` (all but a partial last block).
    pub keep: usize,
    /// Symbols that follow them once the answer is appended.
    pub tail: Arc<[u64]>,
    /// Tokens of prompt and answer together, as far as `keep` and `tail` cover them.
    pub tokens: u32,
}

/// Whose fault a failure is, which decides about retry and breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Failure {
    /// No connection, or it broke.
    Connection,
    /// No answer in time.
    Timeout,
    /// The engine answered 5xx, or 200 with an error event.
    Server,
    /// 429 or 503: the engine is full, not broken.
    Overloaded,
    /// 4xx: the request itself is wrong; no other replica will like it better.
    Client,
}

impl Failure {
    /// The failure that an HTTP status stands for; `None` for a status that is no failure.
    pub fn of_status(status: u16) -> Option<Self> {
        match status {
            429 | 503 => Some(Self::Overloaded),
            504 => Some(Self::Timeout),
            500..=599 => Some(Self::Server),
            400..=499 => Some(Self::Client),
            _ => None,
        }
    }

    /// Status of the response that a client gets for it: a replica's own response is passed on, and 502 stands for
    /// the lack of one.
    pub fn http_status(self) -> u16 {
        match self {
            Self::Connection | Self::Timeout | Self::Server => 502,
            Self::Overloaded => 503,
            Self::Client => 400,
        }
    }

    /// Whether it counts for the replica's circuit breaker.
    pub fn is_replica_fault(self) -> bool {
        matches!(self, Self::Connection | Self::Timeout | Self::Server)
    }

    /// Whether another replica may succeed where this one failed.
    pub fn may_retry(self) -> bool {
        self != Self::Client
    }
}

/// Something happened.
#[derive(Debug, Clone)]
pub enum Event {
    /// A request arrived.
    Arrived(Request),
    /// The first content-bearing token of an attempt passed the router.
    FirstToken {
        /// Which request.
        id: RequestId,
        /// Which dispatch of it.
        attempt: u8,
    },
    /// The answer is complete.
    Finished {
        /// Which request.
        id: RequestId,
        /// Which dispatch of it.
        attempt: u8,
        /// What the engine reported.
        usage: Usage,
        /// The answer as symbols, if seen.
        answer: Option<Answer>,
    },
    /// A dispatch failed.
    Failed {
        /// Which request.
        id: RequestId,
        /// Which dispatch of it.
        attempt: u8,
        /// How.
        failure: Failure,
    },
    /// The client left.
    ClientGone {
        /// Which request.
        id: RequestId,
    },
    /// An engine's metrics were read.
    Scraped {
        /// Whose.
        replica: ReplicaId,
        /// What they said.
        report: EngineReport,
    },
    /// They could not be read.
    ScrapeFailed {
        /// Whose.
        replica: ReplicaId,
    },
    /// A light request came back.
    Probed {
        /// From where.
        replica: ReplicaId,
        /// Round trip without connection set-up, ms.
        rtt_ms: f64,
    },
    /// It did not.
    ProbeFailed {
        /// From where.
        replica: ReplicaId,
    },
    /// A peer told its own load.
    PeerReported {
        /// Which peer.
        replica: ReplicaId,
        /// What it said.
        report: PeerReport,
        /// What was sent from here up to this instant is surely counted in it: when it was made, less the time a request
        /// may take to get there (a handshake included). Too late a guess hides requests and invites a herd.
        seen: Time,
    },
    /// A replica joins. Whatever still refers to a former replica of that slot ends first.
    ReplicaAdded {
        /// Its slot: [`super::Router::free_slot`].
        replica: ReplicaId,
        /// What it is.
        spec: ReplicaSpec,
    },
    /// It shall take nothing new (`true`) or may again (`false`).
    ReplicaDraining {
        /// Which.
        replica: ReplicaId,
        /// Whether to drain.
        draining: bool,
    },
    /// It leaves the fleet: waiting requests go elsewhere, running ones may finish.
    ReplicaRemoved {
        /// Which.
        replica: ReplicaId,
    },
    /// Its KV cache is empty now (flush or restart).
    ReplicaFlushed {
        /// Which.
        replica: ReplicaId,
    },
    /// A timer asked for by [`Action::SetTimer`] went off (or any moment: it is always safe).
    Timer,
}

/// Something is to be done.
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
    /// The request is over, said exactly once for each. When it did not finish, tell the client.
    Done {
        /// Which request.
        id: RequestId,
        /// Why, and so how.
        reason: super::EndReason,
    },
    /// Call back with [`Event::Timer`] at this instant; replaces any earlier wish.
    SetTimer(Time),
    /// Everything that went into a decision; only when `record_decisions` is on.
    Decided(Arc<DecisionRecord>),
}

/// Where a request goes.
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
    /// Prompt tokens believed cached there.
    pub cached_tokens: u32,
    /// Time to first token the policy expects, ms from now; `None` when its score is no time.
    pub predicted_ttft_ms: Option<f64>,
    /// The fallback that decided, if the policy's own rule did not.
    pub reason: Option<&'static str>,
}

/// One decision with everything it was made from; replays through `gorgo decide`.
#[derive(Debug, Clone, PartialEq)]
pub struct DecisionRecord {
    /// Which request.
    pub id: RequestId,
    /// When.
    pub at: Time,
    /// The request as the policy saw it.
    pub ask: Ask,
    /// The policy's name.
    pub policy: &'static str,
    /// Index into `candidates`, `None` if all were excluded.
    pub chosen: Option<usize>,
    /// The fallback that decided, if any.
    pub reason: Option<&'static str>,
    /// Names of all slots at that time: a slot may belong to another replica later.
    pub names: Arc<[Arc<str>]>,
    /// Each candidate, its terms, and the age of its RTT in ms (`None` before the first probe).
    pub candidates: Vec<(Candidate, Terms, Option<f64>)>,
}

impl DecisionRecord {
    /// The name that `slot` had then.
    pub fn name(&self, slot: ReplicaId) -> &str {
        self.names.get(slot.index()).map_or("", |name| name)
    }
}
