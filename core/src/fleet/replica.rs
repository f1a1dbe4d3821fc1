//! One replica of the fleet: its state in the router, its view for policies, and the accounting of its requests.

use super::{Breaker, EngineReading, Health, Kind, Learned, Load, Others, Peer, ReplicaSpec, Rtt, Sending};
use crate::digest::ReceivedDigest;
use crate::egress::Egress;
use crate::network::{Connection, Connections, HEAD_BYTES, Path};
use crate::policy::{Candidate, EngineView, Exclusion};
use crate::{ReplicaId, RequestId, Span, Time};
use std::sync::Arc;

/// One replica of the fleet.
#[derive(Debug, Clone)]
pub struct Replica {
    /// Its configuration.
    pub spec: ReplicaSpec,
    /// What data costs between the router and it.
    pub egress: Egress,
    /// Round-trip statistics.
    pub rtt: Rtt,
    /// This router's idle connections to it, as far as its requests tell.
    pub connections: Connections,
    /// This router's requests at it.
    pub load: Load,
    /// How fast this router sends requests to it.
    pub(crate) sending: Sending,
    /// Requests of other routers at it, as far as known.
    pub(crate) others: Others,
    /// The engine's last report and when it was received; `None` before the first, and when none has come for too long.
    pub engine: Option<EngineReading>,
    /// Scrapes without a report since then.
    pub(crate) unread: u32,
    /// Tokens of prefixes that fit into its cache, as its KV events measured; `None` without them.
    pub measured_tokens: Option<u64>,
    /// For a peer: its report and the requests forwarded since.
    pub peer: Peer,
    /// For a peer: the prefixes that its own engines hold, if it tells.
    pub(crate) digest: Option<Arc<ReceivedDigest>>,
    /// Health by probes and scrapes.
    pub health: Health,
    /// Consecutive failures of probes and scrapes.
    pub failures: u32,
    /// Whether a probe, a scrape or a request has succeeded.
    pub has_answered: bool,
    /// Circuit breaker fed by request failures.
    pub breaker: Breaker,
    /// Draining: it finishes its requests and gets no new ones.
    pub draining: bool,
    /// Removed from the fleet. Its slot is free once its last request ended.
    pub removed: bool,
    /// When it last came back from [`Health::Down`] or from a breaker that was open because it was unreachable.
    pub recovered: Option<Time>,
    /// Gets no request before then if others are open: it failed or had no room a moment ago.
    pub rests_until: Option<Time>,
    /// When a request got its first token here, or ended, last.
    pub last_answer: Option<Time>,
    /// Requests refused as wrong since then.
    pub refused_in_row: u32,
    /// Failures of requests since the last success, whether or not the replica was at fault.
    pub failed_in_row: u32,
    /// Streams that broke since one was finished; those that one crash cuts count once.
    pub broken_in_row: u32,
    /// When the last of them broke.
    pub last_break: Option<Time>,
    /// Gets no request before then if others are open: it breaks streams that others finish.
    pub breaks_until: Option<Time>,
}

impl Replica {
    /// Creates a replica that was not probed yet.
    pub fn new(spec: ReplicaSpec) -> Self {
        Self {
            spec,
            egress: Egress::default(),
            rtt: Rtt::default(),
            connections: Connections::default(),
            load: Load::default(),
            sending: Sending::default(),
            others: Others::default(),
            engine: None,
            unread: 0,
            measured_tokens: None,
            peer: Peer::default(),
            digest: None,
            health: Health::Unknown,
            failures: 0,
            has_answered: false,
            breaker: Breaker::default(),
            draining: false,
            removed: false,
            recovered: None,
            rests_until: None,
            last_answer: None,
            refused_in_row: 0,
            failed_in_row: 0,
            broken_in_row: 0,
            last_break: None,
            breaks_until: None,
        }
    }

    /// A slot without a replica.
    pub(crate) fn vacant() -> Self {
        Self { removed: true, ..Self::new(ReplicaSpec::new("", Kind::Remote)) }
    }

    /// Load that policies see: this router's and that of others, for a peer that of its report.
    pub fn seen_load(&self, now: Time) -> Load {
        match self.spec.kind {
            Kind::Peer => self.peer.load(now),
            Kind::Local | Kind::Remote => self.load.plus(self.others.load()),
        }
    }

    /// Requests that the gates count: those of [`Self::seen_load`].
    pub fn requests(&self, now: Time) -> u32 {
        self.seen_load(now).requests()
    }

    /// The replica as a policy sees it, for a request of `bytes` with `cached_tokens` there.
    pub fn candidate(
        &self,
        id: ReplicaId,
        now: Time,
        excluded: Option<Exclusion>,
        cached_tokens: u32,
        bytes: u64,
        learned: Learned,
    ) -> Candidate {
        let load = self.seen_load(now);
        let sent = self.spec.transport.sent(bytes);
        Candidate {
            id,
            excluded,
            rtt_ms: self.rtt.smoothed_ms(),
            path: self.path(now, bytes),
            packed_bytes: (sent != bytes).then_some(sent),
            cached_tokens,
            load,
            engine: self.engine.map(|EngineReading { report, at }| EngineView {
                running: report.running,
                queued: report.queued,
                used_tokens: report.used_tokens,
                kv_tokens: report.kv_tokens,
                age_ms: (now - at).ms(),
            }),
            ms_per_token: self.spec.ms_per_token,
            egress_ms: self.egress.ms(sent, learned.output_tokens),
            learned,
            digest: None,
            truth: None,
        }
    }

    /// Round trips of a request of `bytes` sent at `now`.
    #[inline]
    fn path(&self, now: Time, bytes: u64) -> Path {
        self.connections.path(&self.spec.transport, bytes, now, self.rtt.smoothed_ms())
    }

    /// Counts a request of `tokens` and `bytes` dispatched to this replica; returns the connection that carries it.
    pub fn book(&mut self, now: Time, id: RequestId, tokens: u32, uncached: u32, bytes: u64) -> Connection {
        self.load.sent(tokens, uncached);
        self.sending.sent(now, tokens, uncached);
        if self.spec.kind == Kind::Peer {
            self.peer.forwarded(now, id, tokens, uncached);
        }
        self.connections.send(&self.spec.transport, bytes, now, self.rtt.smoothed_ms()).1
    }

    /// A scrape or a peer's report was answered: they use the connections of requests and so keep one open.
    #[inline]
    pub fn asked(&mut self, now: Time) {
        let (_, used) = self.connections.send(&self.spec.transport, HEAD_BYTES, now, self.rtt.smoothed_ms());
        self.connections.put(used, now);
    }

    /// When the open breaker admits a trial request; the router sets a timer for it.
    pub fn reopens(&self, now: Time) -> Option<Time> {
        self.breaker.reopens(now)
    }

    /// A peer's digest; `None` before its first answer, and for an engine.
    pub fn digest(&self) -> Option<&ReceivedDigest> {
        self.digest.as_deref()
    }

    /// Age of the smoothed RTT, `None` before the first probe.
    pub fn rtt_age(&self, now: Time) -> Option<Span> {
        self.rtt.updated().map(|at| now - at)
    }
}
