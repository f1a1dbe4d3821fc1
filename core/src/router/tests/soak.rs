//! The promises of the router under random events and faults.

use super::*;
use crate::Span;
use crate::kv_events::CacheChange;

/// A replica whose region and labels depend on a number.
fn labelled(name: &str, kind: Kind, number: usize) -> ReplicaSpec {
    let region = ["eu", "us", "asia"].get(number % 4).map(|&region| region.to_owned());
    let labels = if number.is_multiple_of(2) { vec!["big".to_owned()] } else { Vec::new() };
    ReplicaSpec { region, labels, ..spec(name, kind) }
}

/// Drives a router with random events and faults and checks its promises at every step. Returns a digest of all
/// actions.
fn soak(seed: u64, steps: u32, edge: bool) -> u64 {
    let mut rng = rng::stream(seed, "soak", 0);
    let mut config = RouterConfig {
        queue_limit: 30,
        queue_timeout_ms: 300.0,
        index_bytes: 60_000,
        record_decisions: true,
        explore: 0.1,
        shared_replicas: true,
        ..RouterConfig::default()
    };
    config.gates = Gates { max_running: Some(6), slow_start_ms: 40.0, ..Gates::default() };
    let kinds = if edge { vec![Kind::Local, Kind::Peer, Kind::Peer] } else { vec![REMOTE; 4] };
    let mut router = Router::new(config, Box::new(LeastRequests), Some(1), rng::stream(1, "ties", 0));
    for (i, &kind) in kinds.iter().enumerate() {
        let spec = labelled(&format!("r{i}"), kind, i);
        router.handle(at(0), ReplicaEvent::Added { replica: ReplicaId(i as u16), spec }, &mut Vec::new());
    }
    let mut fences: BTreeMap<u64, Fence> = BTreeMap::new();
    router.share_prefixes(true);
    let (mut now, mut next, mut armed, mut digest) = (Time::ZERO, 0u64, Time::NEVER, 0u64);
    let mut open: BTreeMap<u64, Option<(u16, u8, bool)>> = BTreeMap::new(); // id -> where it is
    let mut actions = Vec::new();
    let mut peak = 0;
    for step in 0..steps {
        now += Span::from_ms(f64::from(rng.random_range(0..8u32)));
        let draining = step > steps - 2_000; // let everything end
        let slots = router.replicas().len() as u16;
        let replica = ReplicaId(rng.random_range(0..slots));
        let pick = |open: &BTreeMap<u64, Option<(u16, u8, bool)>>, n: usize| {
            open.iter().filter_map(|(&id, &s)| s.map(|s| (id, s))).nth(n % open.len().max(1))
        };
        let nth = rng.random_range(0..64usize);
        let event: Event = match rng.random_range(0..100u32) {
            0..30 if !draining => {
                next += 1;
                open.insert(next, None);
                let prompt = format!("{}{}", "sys".repeat(rng.random_range(0..9)), rng.random_range(0..40u32));
                let RequestEvent::Arrived(mut request) = ask(next, &prompt) else { unreachable!() };
                request.hops = u8::from(rng.random_range(0..10u32) == 0);
                request.fence = [None, None, Some("eu"), Some("us,eu;big"), Some("moon")][rng.random_range(0..5usize)]
                    .map(|text| Fence::parse(text).unwrap());
                fences.extend(request.fence.clone().map(|fence| (next, fence)));
                request.deadline = (rng.random_range(0..5u32) == 0).then(|| now + Span::from_ms(200.0));
                RequestEvent::Arrived(request).into()
            }
            30..50 => match pick(&open, nth) {
                Some((id, (_, attempt, _))) => RequestEvent::FirstToken { id: RequestId(id), attempt }.into(),
                None => Event::Timer,
            },
            50..72 => match pick(&open, nth) {
                Some((id, (_, attempt, _))) => {
                    let usage = Usage { cached_tokens: Some(rng.random_range(0..20)), output_tokens: 3 };
                    let answer = Some(Answer { keep: 2, tail: symbols("zz"), tokens: 4 });
                    RequestEvent::Finished { id: RequestId(id), attempt, usage, answer }.into()
                }
                None => Event::Timer,
            },
            72..77 => match pick(&open, nth) {
                Some((id, (_, attempt, _))) => {
                    let kinds = [
                        Failure::Unreachable,
                        Failure::Connection,
                        Failure::Timeout,
                        Failure::Server(500),
                        Failure::Overloaded { retry_after_s: Some(1) },
                        Failure::KeyRefused,
                        Failure::Local,
                        Failure::Client,
                    ];
                    fail(id, attempt, kinds[rng.random_range(0..kinds.len())]).into()
                }
                None => Event::Timer,
            },
            77..79 => match open.keys().nth(nth % open.len().max(1)) {
                Some(&id) => RequestEvent::ClientGone { id: RequestId(id) }.into(),
                None => Event::Timer,
            },
            79..82 if !draining => ReplicaEvent::ProbeFailed { replica, connected: false }.into(),
            82..86 => ReplicaEvent::Probed { replica, rtt_ms: f64::from(rng.random_range(1..300u32)) }.into(),
            86..89 => {
                let report = EngineReport {
                    queued: 1,
                    used_tokens: rng.random_range(0..1000),
                    kv_tokens: 1000,
                    running: 2,
                    kv_share: None,
                };
                ReplicaEvent::Scraped { replica, report }.into()
            }
            89 if !draining => ReplicaEvent::Draining { replica, draining: rng.random_range(0..3u32) == 0 }.into(),
            89 => ReplicaEvent::Draining { replica, draining: false }.into(),
            90 if step % 997 == 0 => ReplicaEvent::Removed { replica }.into(),
            91 if step % 499 == 0 => match router.free_slot().filter(|free| free.0 < 12) {
                Some(replica) => ReplicaEvent::Added { replica, spec: labelled("new", REMOTE, nth) }.into(),
                None => Event::Timer,
            },
            92 => ReplicaEvent::Flushed { replica }.into(),
            93 if nth.is_multiple_of(2) => ReplicaEvent::Cache { replica, changes: cache_changes(nth) }.into(),
            93 => {
                let report = PeerReport { healthy: draining || rng.random_range(0..4u32) > 0, ..PeerReport::default() };
                ReplicaEvent::PeerReported { replica, report, seen: now }.into()
            }
            94 => ReplicaEvent::PathLearned { replica, symbols: symbols(&"sys".repeat(nth % 9)), tokens: nth as u32 }
                .into(),
            _ => {
                now = now.max(if armed == Time::NEVER { now } else { armed });
                Event::Timer
            }
        };
        actions.clear();
        router.handle(now, event, &mut actions);
        for action in &actions {
            let text = format!("{action:?}");
            digest = xxhash_rust::xxh3::xxh3_64_with_seed(text.as_bytes(), digest);
            match action {
                Action::Dispatch(d) => {
                    let target = &router.replicas()[d.replica.index()];
                    assert!(!target.removed && !target.draining, "step {step}: dispatched to a leaving replica");
                    assert!(target.health != crate::fleet::Health::Down, "step {step}: dispatched to a dead replica");
                    assert!(d.attempt <= router.config().max_attempts);
                    assert_eq!(d.forward, target.spec.kind == Kind::Peer);
                    if let Some(fence) = fences.get(&d.id.0) {
                        assert!(fence.admits_replica(&target.spec), "step {step}: {fence} left for {:?}", target.spec);
                    }
                    let place = open.get_mut(&d.id.0).expect("dispatch of a request that is over");
                    *place = Some((d.replica.0, d.attempt, false));
                }
                Action::Queued { id } => *open.get_mut(&id.0).expect("queued after its end") = None,
                Action::Done { id, .. } => assert!(open.remove(&id.0).is_some(), "step {step}: {id:?} ended twice"),
                Action::SetTimer(at) => armed = *at,
                Action::Cancel { .. } | Action::Decided(_) | Action::Learned(_) => {}
            }
        }
        assert_eq!(router.in_flight(), open.len(), "step {step}");
        assert_eq!(router.queue_len(), open.values().filter(|p| p.is_none()).count(), "step {step}");
        let booked: u32 = router.replicas().iter().map(|r| r.load.requests()).sum();
        assert_eq!(booked as usize, open.values().filter(|p| p.is_some()).count(), "step {step}");
        assert!(router.index().bytes() <= 60_000);
        peak = peak.max(open.len());
        assert!(router.queue.len() <= 2 * peak + 65);
        assert!(router.timers.len() <= 4 * peak + 300, "timers are bounded");
    }
    assert!(next > u64::from(steps) / 10, "the run was busy");
    // What is left has a way out: time alone ends the queued, the host ends the rest.
    let left: Vec<_> = open.iter().filter_map(|(&id, s)| s.map(|s| (id, s.1))).collect();
    for (id, attempt) in left {
        router.handle(now, finish(id, attempt), &mut Vec::new());
    }
    now += Span::from_ms(1_000_000.0);
    let mut rounds = 0;
    while router.in_flight() > 0 && rounds < 1000 {
        actions.clear();
        router.handle(now, Event::Timer, &mut actions);
        for (id, _, attempt) in sent(&actions) {
            router.handle(now, finish(id, attempt), &mut Vec::new());
        }
        rounds += 1;
    }
    assert_eq!((router.in_flight(), router.queue_len()), (0, 0));
    for replica in router.replicas() {
        assert_eq!(replica.load, crate::fleet::Load::default());
    }
    assert_eq!(router.stats().ended.iter().sum::<u64>(), router.stats().arrived);
    digest
}

/// Changes as an engine's cache events cause them.
fn cache_changes(nth: usize) -> Vec<CacheChange> {
    let evicted = CacheChange::Evicted { symbols: symbols(&"sys".repeat(nth % 5)), keep: nth % 7 };
    let measured = CacheChange::Measured((!nth.is_multiple_of(3)).then_some(nth as u64 * 10));
    match nth % 5 {
        0 => vec![CacheChange::Cleared, measured],
        _ => vec![evicted, measured],
    }
}

#[test]
fn keeps_its_promises_under_random_events_and_faults() {
    // No attempt leaves its request's fence is one of them.
    for seed in 0..4 {
        soak(seed, 50_000, seed % 2 == 1);
    }
}

#[test]
fn same_seed_same_actions() {
    assert_eq!(soak(9, 100_000, false), soak(9, 100_000, false));
    assert_ne!(soak(9, 5_000, false), soak(10, 5_000, false));
}
