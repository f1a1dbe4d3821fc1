//! A router reports the same to its peers in simulation and in production.

use gorgo_core::fleet::{EngineReport, Kind, PeerReport, ReplicaSpec};
use gorgo_core::policy::{PolicyConfig, RequestInfo};
use gorgo_core::rng::stream;
use gorgo_core::router::{
    AdminEvent, Event, Failure, ReplicaEvent, Request, RequestEvent, Router, RouterConfig, Usage,
};
use gorgo_core::{ReplicaId, RequestId};
use gorgo_live::testkit::{Clock, Driver, Endpoint, Observers, Upstream};
use gorgo_sim::world::PeerMessage;

const OWN: ReplicaId = ReplicaId(0);

/// Adds the edge's own engine and one peer to both worlds.
fn add_replicas(driver: &Driver, router: &mut Router) {
    for (slot, kind) in [(0, Kind::Local), (1, Kind::Peer)] {
        let spec = ReplicaSpec::new(format!("r{slot}"), kind);
        let endpoint = Endpoint::parse("http://127.0.0.1:1").unwrap();
        driver.add(&spec, |id| Upstream::new(id, spec.name.clone(), kind, endpoint)).unwrap();
        let event = ReplicaEvent::Added { replica: ReplicaId(slot), spec };
        router.handle(driver.clock().now(), event, &mut Vec::new());
    }
}

fn arrived(id: u64) -> Event {
    let info = RequestInfo { prompt_tokens: 100, ..RequestInfo::default() };
    RequestEvent::Arrived(Request { hops: 1, ..Request::new(RequestId(id), vec![id].into(), info) }).into()
}

fn scraped(used_tokens: u64) -> Event {
    let report = EngineReport { used_tokens, kv_tokens: 1_000, ..EngineReport::default() };
    ReplicaEvent::Scraped { replica: OWN, report }.into()
}

fn draining(draining: bool) -> Event {
    ReplicaEvent::Draining { replica: OWN, draining }.into()
}

fn probe_failed() -> Event {
    ReplicaEvent::ProbeFailed { replica: OWN, connected: false }.into()
}

fn finished(id: u64) -> Event {
    RequestEvent::Finished { id: RequestId(id), attempt: 1, usage: Usage::default(), answer: None }.into()
}

fn failed(id: u64) -> Event {
    RequestEvent::Failed { id: RequestId(id), attempt: 1, failure: Failure::Unreachable, dispatches: 1 }.into()
}

/// What an edge's own engine goes through, and whether its peers may forward to it afterwards.
fn states() -> Vec<(Event, bool)> {
    let mut breaker = RouterConfig { max_attempts: 1, ..RouterConfig::default() };
    breaker.gates.slow_start_ms = 0.0; // else the request after the recovery waits in the queue
    breaker.breaker.failures = 1;
    breaker.breaker.open_ms = 1e6;
    breaker.breaker.max_open_ms = 1e6;
    vec![
        (ReplicaEvent::Probed { replica: OWN, rtt_ms: 0.5 }.into(), true),
        (arrived(1), true),
        (RequestEvent::FirstToken { id: RequestId(1), attempt: 1 }.into(), true), // learns rates, which the report holds
        (arrived(2), true),
        (scraped(950), false),
        (scraped(949), true),
        (draining(true), false),
        (draining(false), true),
        (probe_failed(), true),
        (probe_failed(), true),
        (probe_failed(), false),
        (scraped(0), true),
        // Slow start lets one request through: the first one has to end before the third is dispatched.
        (finished(1), true),
        (AdminEvent::ConfigSet(Box::new(breaker)).into(), true),
        (arrived(3), true),
        (failed(3), false),
        (ReplicaEvent::Removed { replica: OWN }.into(), false),
    ]
}

#[test]
fn simulation_and_production_report_the_same_to_peers() {
    let (config, policy) = (RouterConfig::default(), PolicyConfig::default());
    let driver = Driver::new(config.clone(), policy.clone(), 1, Clock::start(), Observers::new(0, None, None));
    let mut router = Router::new(config, policy.build(), None, stream(1, "policy", 0));
    add_replicas(&driver, &mut router);
    let before = driver.peer_report().0.rates.unwrap();
    for (step, (event, healthy)) in states().into_iter().enumerate() {
        driver.handle(event.clone());
        router.handle(driver.clock().now(), event.clone(), &mut Vec::new());
        let (live, now) = driver.peer_report();
        let simulated = PeerMessage::of(&router, now).report();
        // Times of the two worlds differ by microseconds, and what is learned from them.
        let timeless = |report: PeerReport| PeerReport { rates: None, arrivals: None, ..report };
        assert_eq!(timeless(live), timeless(simulated), "step {step}: {event:?}");
        assert_eq!(live.rates.map(|r| r.samples), simulated.rates.map(|r| r.samples), "step {step}: {event:?}");
        let same = driver.read(|router, _, now| PeerMessage::of(router, now).report() == router.report(now));
        assert!(same, "step {step}: of one state, both tell the same");
        assert_eq!(live.healthy, healthy, "step {step}: {event:?}");
        // As the peer reads it.
        assert_eq!(serde_json::from_str::<PeerReport>(&serde_json::to_string(&live).unwrap()).unwrap(), live);
        if step == 2 {
            let rates = live.rates.unwrap();
            assert!(rates.samples == 1 && rates != before && live.arrivals.unwrap().requests > 0.0);
        }
    }
}
