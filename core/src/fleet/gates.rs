//! Conditions under which a replica gets no new requests: draining, unhealthy, a closed capacity gate, slow start, or
//! the pause after a failure.

use super::{EngineReading, Health, Replica};
use crate::Time;
use crate::policy::Exclusion;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Capacity gates. A replica beyond any of them gets no new requests; they wait in the router's queue.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Gates {
    /// Most requests of this router at a replica (gotoni's `max_running_per_server`); no limit when absent.
    pub max_running: Option<u32>,
    /// Closed when the engine reported this many queued requests; no limit when absent.
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

impl Replica {
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
        let rests = [self.rests_until, self.breaks_until].into_iter().flatten().any(|until| now < until);
        rests.then_some(Exclusion::Resting)
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

    /// Request limit of slow start at `now`; `None` when the replica is not in slow start.
    pub fn slow_start(&self, now: Time, gates: &Gates) -> Option<u32> {
        let share = (now - self.recovered?).ms() / gates.slow_start_ms;
        // 0/0 is NaN when slow start is off, and NaN is not below 1 either.
        (share < 1.0).then(|| 1 + (share * f64::from(gates.slow_start_requests)) as u32)
    }

    /// Whether it works: a closed capacity gate or a rest ends by itself, other exclusions may not.
    pub fn is_usable(&self, now: Time, gates: &Gates) -> bool {
        self.closed(now, gates).is_none_or(Exclusion::is_brief)
    }

    /// Whether the engine's last report closes the gate on KV use.
    pub fn is_kv_full(&self, gates: &Gates) -> bool {
        self.engine.is_some_and(|reading| reading.report.kv_use().is_some_and(|used| used >= gates.max_kv_use))
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
}
