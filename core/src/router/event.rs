//! The router's input: requests, and events about requests, replicas and the configuration.

use super::RouterConfig;
use crate::digest::Update;
use crate::fleet::{EngineReport, Load, PeerReport, ReplicaSpec, SavedRates};
use crate::judgement::Failure;
use crate::kv_events::CacheChange;
use crate::network::Transport;
use crate::policy::{PolicyConfig, RequestInfo};
use crate::residency::Fence;
use crate::{ReplicaId, ReplicaSet, RequestId, Time};
use std::sync::Arc;

/// A request at its arrival.
#[derive(Debug, Clone)]
pub struct Request {
    /// Unique among the requests in flight.
    pub id: RequestId,
    /// The prompt as symbols of the prefix index.
    pub symbols: Arc<[u64]>,
    /// Prompt tokens, session and head, as policies see them.
    pub info: RequestInfo,
    /// Routers that have forwarded it.
    pub hops: u8,
    /// The request ends when it has no first token by then.
    pub deadline: Option<Time>,
    /// The only replicas that can answer it; `None` for all.
    pub only: Option<ReplicaSet>,
    /// Where it may go; `None` for everywhere.
    pub fence: Option<Fence>,
    /// What sets it apart from a prompt.
    pub handling: Handling,
    /// Most dispatches that the router which sent it allows; `None` for the configured number.
    pub attempts: Option<u8>,
}

impl Request {
    /// A prompt from a client that any replica may answer, at any time.
    pub fn new(id: RequestId, symbols: Arc<[u64]>, info: RequestInfo) -> Self {
        Self {
            id,
            symbols,
            info,
            hops: 0,
            deadline: None,
            only: None,
            fence: None,
            handling: Handling::default(),
            attempts: None,
        }
    }
}

/// How a request is handled that is no plain prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Handling {
    /// It makes something: it is sent again only if the replica did not take it.
    pub once: bool,
    /// It takes no place at the engine, so full replicas get it, too.
    pub light: bool,
    /// It is about something that one replica keeps, which answers it while it drains, too.
    pub pinned: bool,
}

/// Token counts that the engine reported for a finished request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Prompt tokens found in the engine's cache; `None` when not reported.
    pub cached_tokens: Option<u32>,
    /// Tokens generated.
    pub output_tokens: u32,
}

/// The generated text as symbols of the prefix index: the engine caches it, too.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Symbols of the prompt that stay valid before `tail` (all but a partial last block).
    pub keep: usize,
    /// Symbols that follow them once the answer is appended.
    pub tail: Arc<[u64]>,
    /// Tokens of prompt and answer together, as far as `keep` and `tail` cover them.
    pub tokens: u32,
}

/// An event, the only input of the router.
#[derive(Debug, Clone)]
pub enum Event {
    /// To a request.
    Request(RequestEvent),
    /// To a replica.
    Replica(ReplicaEvent),
    /// The operator changed the router.
    Admin(AdminEvent),
    /// A timer set by [`Action::SetTimer`](super::Action::SetTimer) expired. Safe at any time.
    Timer,
}

impl From<RequestEvent> for Event {
    fn from(event: RequestEvent) -> Self {
        Self::Request(event)
    }
}

impl From<ReplicaEvent> for Event {
    fn from(event: ReplicaEvent) -> Self {
        Self::Replica(event)
    }
}

impl From<AdminEvent> for Event {
    fn from(event: AdminEvent) -> Self {
        Self::Admin(event)
    }
}

/// What happens to requests. `attempt` is the number of the dispatch meant; events of earlier ones change nothing.
#[derive(Debug, Clone)]
pub enum RequestEvent {
    /// A request arrived.
    Arrived(Request),
    /// The first content-bearing token passed the router.
    FirstToken {
        /// Which request.
        id: RequestId,
        /// Which dispatch of it.
        attempt: u8,
    },
    /// A part of the response has passed the router before any token, so that it cannot be sent to another replica.
    Committed {
        /// Which request.
        id: RequestId,
        /// Which dispatch of it.
        attempt: u8,
    },
    /// The response is complete.
    Finished {
        /// Which request.
        id: RequestId,
        /// Which dispatch of it.
        attempt: u8,
        /// The engine's token counts.
        usage: Usage,
        /// The answer as symbols, if the router read it.
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
        /// Dispatches that were made for it: 1 at an engine, any number by a router in the replica's place.
        dispatches: u8,
    },
    /// The client closed its connection.
    ClientGone {
        /// Which request.
        id: RequestId,
    },
}

/// What happens to replicas: results of scrapes, probes and peer reports, and changes of the fleet.
#[derive(Debug, Clone)]
pub enum ReplicaEvent {
    /// An engine's metrics were read.
    Scraped {
        /// Which replica.
        replica: ReplicaId,
        /// The metrics.
        report: EngineReport,
    },
    /// An engine's metrics, or a peer's report, could not be read.
    ScrapeFailed {
        /// Which replica.
        replica: ReplicaId,
        /// Whether it was connected.
        connected: bool,
    },
    /// An engine's metrics page lacked the metrics that the router reads.
    Unreported {
        /// Which replica.
        replica: ReplicaId,
    },
    /// A probe was answered.
    Probed {
        /// Which replica.
        replica: ReplicaId,
        /// Round trip without connection set-up, ms.
        rtt_ms: f64,
    },
    /// The driver measured how connections to a replica behave.
    TransportLearned {
        /// Which replica.
        replica: ReplicaId,
        /// What was learned.
        transport: Transport,
    },
    /// A probe was not answered.
    ProbeFailed {
        /// Which replica.
        replica: ReplicaId,
        /// Whether it was connected: the process is there, and too busy or hung.
        connected: bool,
    },
    /// A peer reported its load.
    PeerReported {
        /// Which peer.
        replica: ReplicaId,
        /// Its report.
        report: PeerReport,
        /// Requests forwarded up to this instant are counted in the report: [`super::Router::counted_until`]. Too late
        /// an instant hides requests, and all routers then choose the same peer.
        seen: Time,
    },
    /// A peer sent the digest of its own engines' prefixes: see [`crate::digest`].
    DigestReceived {
        /// Which peer.
        replica: ReplicaId,
        /// Its answer.
        update: Arc<Update>,
    },
    /// A replica joins the fleet. Requests that still refer to the slot's former replica end first.
    Added {
        /// Its slot: [`super::Router::free_slot`].
        replica: ReplicaId,
        /// Its name, kind and settings.
        spec: ReplicaSpec,
    },
    /// Other settings of a replica at the same address: the engine is the same, so what was learned of it stays.
    Described {
        /// Which replica.
        replica: ReplicaId,
        /// Its settings from now on; name, kind and what was learned of its connections stay.
        spec: Box<ReplicaSpec>,
    },
    /// A replica starts or stops draining.
    Draining {
        /// Which replica.
        replica: ReplicaId,
        /// True: no new requests from now on.
        draining: bool,
    },
    /// A replica leaves the fleet: waiting requests go elsewhere, running ones may finish.
    Removed {
        /// Which replica.
        replica: ReplicaId,
    },
    /// A replica's KV cache is empty now (flush or restart).
    Flushed {
        /// Which replica.
        replica: ReplicaId,
    },
    /// An engine published what happens in its KV cache: see [`crate::kv_events`].
    Cache {
        /// Which replica.
        replica: ReplicaId,
        /// What it changes, in order.
        changes: Vec<CacheChange>,
    },
    /// Another router of the same replicas reported its own requests there; it has none at replicas that it leaves out.
    PeerLoads {
        /// Number of the peer, below [`crate::sharing::MAX_PEERS`].
        peer: u8,
        /// Its requests by replica.
        loads: Vec<(ReplicaId, Load)>,
    },
    /// Another router learned that a replica holds a path: see [`crate::sharing`].
    PathLearned {
        /// Which replica.
        replica: ReplicaId,
        /// The path from the root.
        symbols: Arc<[u64]>,
        /// Its tokens.
        tokens: u32,
    },
}

impl ReplicaEvent {
    /// Whether it only renews what is known of replicas: no request is moved or queued by it.
    pub(super) fn is_news(&self) -> bool {
        match self {
            Self::Scraped { .. }
            | Self::Probed { .. }
            | Self::TransportLearned { .. }
            | Self::PeerReported { .. }
            | Self::DigestReceived { .. }
            | Self::Cache { .. }
            | Self::PeerLoads { .. }
            | Self::PathLearned { .. } => true,
            Self::ScrapeFailed { .. }
            | Self::Unreported { .. }
            | Self::ProbeFailed { .. }
            | Self::Added { .. }
            | Self::Described { .. }
            | Self::Draining { .. }
            | Self::Removed { .. }
            | Self::Flushed { .. } => false,
        }
    }
}

/// Changes an operator makes. They are events, so that a replay and shadow policies contain them.
#[derive(Debug, Clone)]
pub enum AdminEvent {
    /// Other settings are in force. The index keeps the sizes it started with.
    ConfigSet(Box<RouterConfig>),
    /// Another policy decides. Counters, beliefs and index stay.
    PolicySet(PolicyConfig),
    /// The prefix index is emptied.
    IndexCleared,
    /// Rates that were learned before a restart are taken over.
    RatesRestored(Box<SavedRates>),
    /// What a router learned before a restart, or another router of the same replicas, is taken over.
    Restored(Arc<super::Snapshot>),
}
