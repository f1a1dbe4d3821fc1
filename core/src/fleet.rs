//! State of each replica as the router knows it: RTT, load, engine report, peer report, health, breaker.

use crate::egress::Egress;
use crate::judgement::Failure;
use crate::network::{Connection, Connections, HEAD_BYTES, Path, Transport};
use crate::policy::{Candidate, EngineView, Exclusion};
use crate::{ReplicaId, RequestId, Span, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

mod breaker;
mod others;
mod peer;
mod rates;
mod rls;
mod rtt;
mod told;
pub use breaker::{Breaker, BreakerConfig, SavedBreaker};
pub(crate) use others::{Others, Typical};
pub use peer::{Peer, PeerReport};
pub(crate) use rates::{Booked, Started};
pub use rates::{Learned, Number, QUANTILES, Rates, SavedKind, SavedOffset, SavedRates};
pub use rtt::Rtt;
pub(crate) use told::{Ageing, Sending};
pub use told::{Arrivals, PeerRates};

/// Type of a replica, seen from this router.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Beside this router (an edge's own engine).
    Local,
    /// An engine this router talks to over the network.
    Remote,
    /// Another router, which dispatches to its own engine.
    Peer,
}

/// The configuration of a replica.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReplicaSpec {
    /// Name in records and reports.
    pub name: String,
    /// Own engine, remote engine or peer router.
    pub kind: Kind,
    /// Prefill rate of this replica, ms per token; overrides the policy's.
    #[serde(default)]
    pub ms_per_token: Option<f64>,
    /// KV capacity, tokens: the budget of the replica in the prefix index; `None` until a scrape reports it.
    #[serde(default)]
    pub kv_tokens: Option<u64>,
    /// How connections to it behave.
    #[serde(default)]
    pub transport: Transport,
    /// Region, for residency and egress prices; `None` when unknown.
    #[serde(default)]
    pub region: Option<String>,
    /// Labels, for residency.
    #[serde(default)]
    pub labels: Vec<String>,
}

impl ReplicaSpec {
    /// A replica of which nothing but name and kind is known.
    pub fn new(name: impl Into<String>, kind: Kind) -> Self {
        Self {
            name: name.into(),
            kind,
            ms_per_token: None,
            kv_tokens: None,
            transport: Transport::default(),
            region: None,
            labels: Vec::new(),
        }
    }
}

/// Requests of this router at a replica and their prompt tokens, by phase. Each request is subtracted exactly once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Load {
    /// Requests dispatched that have no first token yet.
    pub waiting_requests: u32,
    /// Prompt tokens of those: W.
    pub waiting_tokens: u64,
    /// Those of the waiting tokens that were predicted not cached at dispatch.
    pub waiting_uncached_tokens: u64,
    /// Requests past their first token.
    pub running_requests: u32,
    /// Prompt tokens of those: D.
    pub running_tokens: u64,
}

impl Load {
    /// Counts a dispatched request.
    pub fn sent(&mut self, tokens: u32, uncached: u32) {
        self.waiting_requests += 1;
        self.waiting_tokens += u64::from(tokens);
        self.waiting_uncached_tokens += u64::from(uncached);
    }

    /// Subtracts a waiting request.
    pub fn stop_waiting(&mut self, tokens: u32, uncached: u32) {
        self.waiting_requests -= 1;
        self.waiting_tokens -= u64::from(tokens);
        self.waiting_uncached_tokens -= u64::from(uncached);
    }

    /// Adds a running request.
    pub fn start_running(&mut self, tokens: u32) {
        self.running_requests += 1;
        self.running_tokens += u64::from(tokens);
    }

    /// Subtracts a running request.
    pub fn stop_running(&mut self, tokens: u32) {
        self.running_requests -= 1;
        self.running_tokens -= u64::from(tokens);
    }

    /// Requests in either phase.
    pub fn requests(&self) -> u32 {
        self.waiting_requests.saturating_add(self.running_requests)
    }

    /// Prompt tokens in either phase.
    pub fn tokens(&self) -> u64 {
        self.waiting_tokens.saturating_add(self.running_tokens)
    }

    /// The sum of two loads. It saturates: the numbers of a peer's report are not checked, and a sum that wraps would
    /// make a loaded peer look idle.
    #[must_use]
    #[inline]
    pub fn plus(&self, other: &Self) -> Self {
        Self {
            waiting_requests: self.waiting_requests.saturating_add(other.waiting_requests),
            waiting_tokens: self.waiting_tokens.saturating_add(other.waiting_tokens),
            waiting_uncached_tokens: self.waiting_uncached_tokens.saturating_add(other.waiting_uncached_tokens),
            running_requests: self.running_requests.saturating_add(other.running_requests),
            running_tokens: self.running_tokens.saturating_add(other.running_tokens),
        }
    }
}

/// An engine's metrics.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct EngineReport {
    /// `num_running_reqs`
    pub running: u32,
    /// `num_queue_reqs`
    pub queued: u32,
    /// `num_used_tokens`
    pub used_tokens: u64,
    /// `max_total_num_tokens`, 0 if not reported.
    pub kv_tokens: u64,
}

/// An engine's report and the time it was received.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EngineReading {
    /// The report.
    pub report: EngineReport,
    /// When it was received.
    pub at: Time,
}

/// Result of the last probes and scrapes of a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Health {
    /// No probe or scrape has ended yet; it may be used.
    #[default]
    Unknown,
    /// The last probe or scrape succeeded.
    Up,
    /// Some failed, fewer than the limit; it may be used.
    Suspect,
    /// As many failed in a row as the limit says; it is not used.
    Down,
}

/// Capacity gates. A replica beyond any of them gets no new requests; they wait in the router's queue.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Gates {
    /// Most requests of this router at a replica (gotoni's `max_running_per_server`); `None` never gates.
    pub max_running: Option<u32>,
    /// Closed when the engine reported this many queued requests; `None` never gates.
    pub max_engine_queue: Option<u32>,
    /// Closed when the engine reported at least this share of its KV tokens in use.
    pub max_kv_use: f64,
    /// Duration of slow start, ms: a recovered replica may hold 1 request at first, then linearly more, up to
    /// `slow_start_requests` at the end; 0 turns slow start off.
    pub slow_start_ms: f64,
    /// Requests that a replica may hold at the end of slow start.
    pub slow_start_requests: u32,
}

impl Default for Gates {
    fn default() -> Self {
        Self {
            max_running: None,
            max_engine_queue: None,
            max_kv_use: 0.95,
            slow_start_ms: 10_000.0,
            slow_start_requests: 16,
        }
    }
}

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
    /// The engine's last report and when it was received.
    pub engine: Option<EngineReading>,
    /// Tokens of prefixes that fit into its cache, as its KV events measured; `None` without them.
    pub measured_tokens: Option<u64>,
    /// For a peer: its report and the requests forwarded since.
    pub peer: Peer,
    /// Health by probes and scrapes.
    pub health: Health,
    /// Consecutive failures of probes and scrapes.
    pub failures: u32,
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
    /// Failures of requests since the last success, whether or not the replica was at fault.
    pub failed_in_row: u32,
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
            measured_tokens: None,
            peer: Peer::default(),
            health: Health::Unknown,
            failures: 0,
            breaker: Breaker::default(),
            draining: false,
            removed: false,
            recovered: None,
            rests_until: None,
            failed_in_row: 0,
        }
    }

    /// A slot without a replica.
    pub(crate) fn vacant() -> Self {
        Self { removed: true, ..Self::new(ReplicaSpec::new("", Kind::Remote)) }
    }

    /// A probe or scrape succeeded; true if the replica was down before. Probes alone do not bring back a peer whose
    /// reports cannot be read, `limit` of them in a row.
    #[inline]
    pub fn succeeded(&mut self, now: Time, limit: u32) -> bool {
        self.failures = 0;
        if self.spec.kind == Kind::Peer && self.peer.is_unread(limit) {
            return false;
        }
        let was_down = self.health == Health::Down;
        self.health = Health::Up;
        if was_down {
            self.recovered = Some(now);
        }
        was_down
    }

    /// A probe failed; true if this made it down.
    pub fn failed(&mut self, limit: u32) -> bool {
        self.failures = self.failures.saturating_add(1);
        let is_down = self.failures >= limit || self.health == Health::Down;
        self.set_failed(is_down)
    }

    /// A scrape failed, or a peer's report could not be read; true if this made it down.
    pub fn scrape_failed(&mut self, limit: u32) -> bool {
        if self.spec.kind != Kind::Peer {
            return self.failed(limit);
        }
        self.peer.not_read();
        let is_down = self.peer.is_unread(limit) || self.health == Health::Down;
        self.set_failed(is_down)
    }

    fn set_failed(&mut self, is_down: bool) -> bool {
        let was = self.health;
        self.health = if is_down { Health::Down } else { Health::Suspect };
        is_down && was != Health::Down
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

    /// Why no request may be sent to it at `now`; exclusions of single requests (tried, hops) are not considered.
    #[inline]
    pub fn closed(&self, now: Time, gates: &Gates) -> Option<Exclusion> {
        if self.draining {
            return Some(Exclusion::Draining);
        }
        if self.health == Health::Down || self.is_open_breaker(now) {
            return Some(Exclusion::Unhealthy);
        }
        if self.is_full(now, gates) {
            return Some(Exclusion::Full);
        }
        self.rests_until.is_some_and(|until| now < until).then_some(Exclusion::Resting)
    }

    /// The same for a fleet of which no replica is open: what is only known from failed requests does not count, since
    /// one client's requests must not close the fleet for the others.
    pub fn closed_for_all(&self, now: Time, gates: &Gates) -> Option<Exclusion> {
        if self.draining {
            return Some(Exclusion::Draining);
        }
        if self.health == Health::Down || (self.breaker.is_unreachable() && self.is_open_breaker(now)) {
            return Some(Exclusion::Unhealthy);
        }
        self.is_full(now, gates).then_some(Exclusion::Full)
    }

    fn is_open_breaker(&self, now: Time) -> bool {
        self.breaker.is_open(now, self.load.requests())
    }

    /// A dispatch failed: the replica rests, whether or not it was at fault. Returns when the rest ends; `None` without one.
    pub fn rest(&mut self, now: Time, failure: Failure, longest_ms: f64) -> Option<Time> {
        let in_row = self.failed_in_row.saturating_add(1);
        let until = now + failure.rest(in_row, longest_ms)?;
        self.failed_in_row = in_row;
        self.rests_until = Some(self.rests_until.map_or(until, |before| before.max(until)));
        self.rests_until
    }

    /// A request got its first token.
    pub fn answered(&mut self, now: Time) {
        (self.rests_until, self.failed_in_row) = (None, 0);
        if self.breaker.succeeded() {
            self.recovered = Some(now);
        }
    }

    /// Request limit of slow start at `now`; `None` when the replica is not in slow start.
    pub fn slow_start(&self, now: Time, gates: &Gates) -> Option<u32> {
        let share = (now - self.recovered?).ms() / gates.slow_start_ms;
        // 0/0 is NaN when slow start is off, and NaN is not below 1 either.
        (share < 1.0).then(|| 1 + (share * f64::from(gates.slow_start_requests)) as u32)
    }

    /// Whether it works: a closed capacity gate opens again by itself, other exclusions may not.
    pub fn is_usable(&self, now: Time, gates: &Gates) -> bool {
        matches!(self.closed(now, gates), None | Some(Exclusion::Full | Exclusion::Resting))
    }

    /// Whether the engine's last report closes the gate on KV use.
    pub fn is_kv_full(&self, gates: &Gates) -> bool {
        self.engine.is_some_and(|EngineReading { report: engine, .. }| {
            engine.kv_tokens > 0 && engine.used_tokens as f64 >= gates.max_kv_use * engine.kv_tokens as f64
        })
    }

    fn is_full(&self, now: Time, gates: &Gates) -> bool {
        let requests = self.requests(now);
        if gates.max_running.is_some_and(|most| requests >= most) {
            return true;
        }
        if self.slow_start(now, gates).is_some_and(|allowed| requests >= allowed) {
            return true;
        }
        let Some(EngineReading { report: engine, .. }) = self.engine else { return false };
        gates.max_engine_queue.is_some_and(|most| engine.queued >= most) || self.is_kv_full(gates)
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
        Candidate {
            id,
            excluded,
            rtt_ms: self.rtt.smoothed_ms(),
            path: self.path(now, bytes),
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
            egress_ms: self.egress.ms(bytes, learned.output_tokens),
            learned,
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

    /// Age of the smoothed RTT, `None` before the first probe.
    pub fn rtt_age(&self, now: Time) -> Option<Span> {
        self.rtt.updated().map(|at| now - at)
    }
}

#[cfg(test)]
mod tests;
