//! Load reports between peer routers: the content of a report, and which forwarded requests it already counts.
//!
//! The simulator and the live router call the same functions, so the rule is the same in both.

use crate::fleet::{Arrivals, Kind, Load, PeerReport};
use crate::router::Router;
use crate::{ReplicaId, Span, Time};

impl Router {
    /// The report of this router's own engines that its peers get at `now`. It is healthy while one of them takes new
    /// requests: not down, breaker not open, not draining, KV use below `max_kv_use`.
    #[inline]
    pub fn report(&self, now: Time) -> PeerReport {
        let gates = &self.config().gates;
        let (mut load, mut healthy) = (Load::default(), false);
        let (mut arrivals, mut engines) = (Arrivals::default(), (0, 0));
        for (slot, own) in self.replicas().iter().enumerate().filter(|(_, r)| !r.removed && r.spec.kind != Kind::Peer) {
            load = load.plus(&own.load);
            healthy = healthy || (own.is_usable(now, gates) && !own.is_kv_full(gates));
            arrivals = arrivals.plus(&own.sending.rate(now));
            engines = (engines.0 + 1, slot);
        }
        // Of several engines, a peer does not know which will get its request.
        let rates = if let (1, only) = engines { self.rates().tells(only) } else { None };
        let queued = u32::try_from(self.queue_len()).unwrap_or(u32::MAX);
        PeerReport { load, queued, healthy, rates, arrivals: Some(arrivals) }
    }

    /// This router's own requests at each replica that has some, as it reports them to other routers of those replicas.
    pub fn own_loads(&self) -> Vec<(ReplicaId, Load)> {
        let busy =
            self.replicas().iter().enumerate().filter(|(_, r)| r.spec.kind != Kind::Peer && r.load.requests() > 0);
        busy.map(|(slot, r)| (ReplicaId(slot as u16), r.load)).collect()
    }

    /// The instant up to which requests forwarded to `peer` are counted in the report that was asked for at `asked`:
    /// one round trip earlier. A request may need a new connection, and so arrive a round trip later than a question
    /// that was sent at the same time.
    #[inline]
    pub fn counted_until(&self, peer: ReplicaId, asked: Time) -> Time {
        let rtt_ms = self.replicas().get(peer.index()).map_or(0.0, |r| r.rtt.smoothed_ms());
        Time(asked.0.saturating_sub(Span::from_ms(rtt_ms).0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::{EngineReport, Gates, ReplicaSpec};
    use crate::policy::PolicyConfig;
    use crate::rng::stream;
    use crate::router::{ReplicaEvent, RouterConfig};

    fn edge() -> Router {
        let config =
            RouterConfig { gates: Gates { slow_start_ms: 0.0, ..Gates::default() }, ..RouterConfig::default() };
        let mut router = Router::new(config, PolicyConfig::default().build(), None, stream(1, "policy", 0));
        for (replica, kind) in [(ReplicaId(0), Kind::Local), (ReplicaId(1), Kind::Peer)] {
            let spec = ReplicaSpec::new("r", kind);
            router.handle(Time(0), ReplicaEvent::Added { replica, spec }, &mut Vec::new());
        }
        router
    }

    #[test]
    fn a_report_is_healthy_while_the_own_engine_takes_new_requests() {
        let (mut router, own) = (edge(), ReplicaId(0));
        let mut after = |event: ReplicaEvent| {
            router.handle(Time(1), event, &mut Vec::new());
            router.report(Time(1)).healthy
        };
        let used = |used_tokens| EngineReport { used_tokens, kv_tokens: 100, ..EngineReport::default() };
        assert!(after(ReplicaEvent::Probed { replica: own, rtt_ms: 1.0 }));
        assert!(!after(ReplicaEvent::Scraped { replica: own, report: used(95) }), "KV pool full");
        assert!(after(ReplicaEvent::Scraped { replica: own, report: used(94) }));
        assert!(!after(ReplicaEvent::Draining { replica: own, draining: true }));
        assert!(after(ReplicaEvent::Draining { replica: own, draining: false }));
        assert!(
            after(ReplicaEvent::ProbeFailed { replica: ReplicaId(1), connected: false }),
            "a peer's health is not its own"
        );
        (0..2).for_each(|_| assert!(after(ReplicaEvent::ProbeFailed { replica: own, connected: false })));
        assert!(!after(ReplicaEvent::ProbeFailed { replica: own, connected: false }));
        assert!(!after(ReplicaEvent::Removed { replica: own }));
    }

    #[test]
    fn a_report_counts_what_was_sent_a_round_trip_before_the_question() {
        let (mut router, peer) = (edge(), ReplicaId(1));
        router.handle(Time(0), ReplicaEvent::Probed { replica: peer, rtt_ms: 80.0 }, &mut Vec::new());
        assert_eq!(router.counted_until(peer, Time::from_ms(100.0)), Time::from_ms(20.0));
        assert_eq!(router.counted_until(peer, Time::from_ms(50.0)), Time::ZERO);
    }
}
