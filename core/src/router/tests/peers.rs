//! Peer reports beyond the load: learned rates, and the rate at which requests arrive.

use super::*;
use crate::fleet::{Arrivals, Learned, Load, PeerRates};

const PEER: ReplicaId = ReplicaId(1);

fn edge(config: RouterConfig) -> Router {
    router(config, &[Kind::Local, Kind::Peer])
}

fn reports(router: &mut Router, ms: u64, report: PeerReport) {
    tell(router, ms, ReplicaEvent::PeerReported { replica: PEER, report, seen: at(ms) });
}

fn learned(router: &Router) -> Learned {
    router.rates().learned(PEER.index(), None)
}

const TOLD: PeerRates = PeerRates { samples: 20, offset: -5.0, ttft: [240.0, 30.0, 4.0, 20.0], step: [30.0, 2.0] };

fn report(rates: PeerRates) -> PeerReport {
    PeerReport { healthy: true, rates: Some(rates), ..PeerReport::default() }
}

#[test]
fn a_peers_own_rates_stand_for_it_where_they_are_believed() {
    let mut r = edge(RouterConfig { peer_rates: true, ..RouterConfig::default() });
    let own = learned(&r);
    reports(&mut r, 1, report(PeerRates { samples: 19, ..TOLD }));
    assert_eq!(learned(&r), own, "too few samples");
    reports(&mut r, 2, report(TOLD));
    let Learned { offset_ms, ms_per_token, step_ms, step_ms_per_running, kappa, .. } = learned(&r);
    assert_eq!((offset_ms, step_ms, step_ms_per_running, kappa), (-5.0, 30.0, 2.0, own.kappa));
    assert!((ms_per_token - 0.24).abs() < 1e-9);
    assert_eq!(r.rates().learned(0, None), own, "the own engine has its own");
    reports(&mut r, 3, PeerReport { healthy: true, ..PeerReport::default() });
    assert_eq!(learned(&r), own, "the peer runs an earlier version now");
    let mut off = edge(RouterConfig::default());
    reports(&mut off, 2, report(TOLD));
    assert_eq!(learned(&off), own);
}

#[test]
fn a_peers_numbers_are_bounded_as_own_ones_are() {
    let mut r = edge(RouterConfig { peer_rates: true, ..RouterConfig::default() });
    reports(&mut r, 1, report(PeerRates { offset: 1e30, ttft: [0.0, -7.0, 1e9, 20.0], step: [-1.0, 3.0], ..TOLD }));
    let Learned { offset_ms, ms_per_token, ms_per_waiting_token, ms_per_running, step_ms, .. } = learned(&r);
    assert_eq!((offset_ms, ms_per_waiting_token, ms_per_running), (500.0, 0.0, 60.0));
    assert!((ms_per_token - 0.005).abs() < 1e-9 && (step_ms - 0.1).abs() < 1e-6);
    let before = learned(&edge(RouterConfig::default()));
    reports(&mut r, 2, report(PeerRates { ttft: [f32::NAN; 4], ..TOLD }));
    assert_eq!(learned(&r), before);
}

#[test]
fn reports_of_other_versions_are_read() {
    #[derive(serde::Serialize, serde::Deserialize)]
    struct Earlier {
        load: Load,
        queued: u32,
        healthy: bool,
    }
    let now = serde_json::to_string(&report(TOLD)).unwrap();
    let then: Earlier = serde_json::from_str(&now).unwrap();
    let read: PeerReport = serde_json::from_str(&serde_json::to_string(&then).unwrap()).unwrap();
    assert_eq!(read, PeerReport { rates: None, ..report(TOLD) });
}

#[test]
fn what_others_send_ages_a_report_until_the_next_one() {
    let arrivals = Arrivals { requests: 20.0, tokens: 20_000.0, uncached: 10_000.0 };
    let said = PeerReport { healthy: true, arrivals: Some(arrivals), ..PeerReport::default() };
    let load = |config: RouterConfig, forwarded: bool| {
        let mut r = edge(config);
        tell(&mut r, 0, ReplicaEvent::Probed { replica: PEER, rtt_ms: 100.0 });
        if forwarded {
            // One request in 10 s counts as 0.1/s.
            (1..=2).for_each(|id| drop(tell(&mut r, 1, ask(id, "a"))));
            (1..=2).for_each(|id| drop(tell(&mut r, 1, finish(id, 1))));
        }
        reports(&mut r, 1_000, said);
        [1_000, 1_150, 5_000].map(|ms| r.replicas()[PEER.index()].seen_load(at(ms)))
    };
    assert_eq!(load(RouterConfig::default(), false), [Load::default(); 3]);
    let aged = load(RouterConfig { age_loads: true, ..RouterConfig::default() }, false);
    assert_eq!(aged.map(|load| load.waiting_requests), [1, 4, 20], "half a round trip, 150 ms more, 1 s at most");
    assert_eq!((aged[1].waiting_tokens, aged[1].waiting_uncached_tokens, aged[1].running_requests), (4_000, 2_000, 0));
    let aged = load(RouterConfig { age_loads: true, ..RouterConfig::default() }, true);
    assert!(aged[2].waiting_tokens < 20_000 || aged[2].waiting_requests < 20, "own requests are not others': {aged:?}");
}
