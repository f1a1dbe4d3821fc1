//! A peer's report in compact form: 32-bit counts, so that an event fits into a cache line.

use gorgo_core::Time;
use gorgo_core::fleet::{Arrivals, Load, PeerRates, PeerReport};
use gorgo_core::router::Router;

/// The report that a router sends to a peer that asks for it. Counts beyond 32 bits saturate.
#[derive(Debug, Clone, Copy)]
pub struct PeerMessage {
    waiting: u32,
    waiting_tokens: u32,
    waiting_uncached: u32,
    running: u32,
    running_tokens: u32,
    queued: u32,
    healthy: bool,
    rates: Option<PeerRates>,
    arrivals: Option<Arrivals>,
}

impl PeerMessage {
    /// The report of `router` at `now`.
    #[inline]
    pub fn of(router: &Router, now: Time) -> Self {
        let PeerReport { load, queued, healthy, rates, arrivals } = router.report(now);
        let narrow = |tokens: u64| u32::try_from(tokens).unwrap_or(u32::MAX);
        Self {
            waiting: load.waiting_requests,
            waiting_tokens: narrow(load.waiting_tokens),
            waiting_uncached: narrow(load.waiting_uncached_tokens),
            running: load.running_requests,
            running_tokens: narrow(load.running_tokens),
            queued,
            healthy,
            rates,
            arrivals,
        }
    }

    /// The report in the form that the router's event takes.
    #[inline]
    pub fn report(self) -> PeerReport {
        let load = Load {
            waiting_requests: self.waiting,
            waiting_tokens: u64::from(self.waiting_tokens),
            waiting_uncached_tokens: u64::from(self.waiting_uncached),
            running_requests: self.running,
            running_tokens: u64::from(self.running_tokens),
        };
        PeerReport { load, queued: self.queued, healthy: self.healthy, rates: self.rates, arrivals: self.arrivals }
    }
}
