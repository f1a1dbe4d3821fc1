use super::*;
use crate::judgement::Failure;
use crate::policy::Exclusion;
use crate::{ReplicaId, RequestId, Time};

fn replica(kind: Kind) -> Replica {
    Replica::new(ReplicaSpec::new("a", kind))
}

fn at(ms: u64) -> Time {
    Time(ms * 1_000_000)
}

#[test]
fn rtt_takes_the_first_sample_raw_then_smooths() {
    let mut rtt = Rtt::default();
    rtt.add(at(0), 100.0);
    rtt.add(at(1), 200.0);
    rtt.add(at(2), f64::NAN);
    rtt.add(at(2), -1.0);
    assert_eq!((rtt.smoothed_ms(), rtt.min_ms(), rtt.max_ms(), rtt.last_ms()), (130.0, 100.0, 200.0, 200.0));
    assert_eq!(rtt.updated(), Some(at(1)));
    for i in 0..100 {
        rtt.add(at(i), f64::from(i as u32));
    }
    assert_eq!(rtt.p95_ms(), 98.0, "nearest rank over the last 32");
}

#[test]
fn three_failures_bring_it_down_and_one_success_back() {
    let mut r = replica(Kind::Remote);
    assert!(!r.failed(3) && r.health == Health::Suspect && !r.failed(3) && r.failed(3) && !r.failed(3));
    assert_eq!(r.closed(at(1), &Gates::default()), Some(Exclusion::Unhealthy));
    assert!(r.succeeded(at(2), 3) && !r.succeeded(at(3), 3));
    assert_eq!(r.closed(at(3), &Gates::default()), None);
}

#[test]
fn slow_start_lets_a_returned_replica_take_more_and_more() {
    let mut r = replica(Kind::Remote);
    for _ in 0..3 {
        r.failed(3);
    }
    r.succeeded(at(0), 3);
    let gates = Gates { slow_start_ms: 1000.0, slow_start_requests: 10, ..Gates::default() };
    let room = |r: &Replica, ms| r.closed(at(ms), &gates).is_none();
    assert!(room(&r, 0));
    r.load.sent(5, 5);
    assert!(!room(&r, 0) && !room(&r, 99) && room(&r, 100));
    (0..20).for_each(|_| r.load.sent(5, 5));
    assert!(!room(&r, 999) && room(&r, 1000));
}

#[test]
fn breaker_opens_lets_one_trial_through_and_doubles_its_time() {
    let config = BreakerConfig { failures: 2, open_ms: 100.0, max_open_ms: 300.0, ..BreakerConfig::default() };
    let fail = |b: &mut Breaker, ms| b.failed(at(ms), Failure::Unreachable, true, true, &config);
    let mut b = Breaker::default();
    assert!(!fail(&mut b, 0) && fail(&mut b, 0));
    assert!(b.is_open(at(99), 0) && !b.is_open(at(100), 0) && b.is_open(at(100), 1));
    assert!(!fail(&mut b, 50), "late failures of the old batch change nothing");
    assert!(fail(&mut b, 100));
    assert_eq!(b.reopens(at(100)), Some(at(300)));
    assert!(fail(&mut b, 300));
    assert_eq!(b.reopens(at(300)), Some(at(600)), "bounded by max_open_ms");
    assert!(b.succeeded() && !b.is_open(at(300), 9));
}

#[test]
fn gates_close_on_own_count_engine_queue_and_kv_use() {
    let mut r = replica(Kind::Remote);
    let gates = Gates { max_running: Some(2), max_engine_queue: Some(3), ..Gates::default() };
    assert_eq!(r.closed(at(0), &gates), None);
    r.load.sent(10, 10);
    r.load.start_running(10);
    assert_eq!(r.closed(at(0), &gates), Some(Exclusion::Full));
    r.load = Load::default();
    r.engine = Some(EngineReading { report: EngineReport { queued: 3, ..EngineReport::default() }, at: at(0) });
    assert_eq!(r.closed(at(0), &gates), Some(Exclusion::Full));
    r.engine = Some(EngineReading {
        report: EngineReport { used_tokens: 95, kv_tokens: 100, ..EngineReport::default() },
        at: at(0),
    });
    assert_eq!(r.closed(at(0), &gates), Some(Exclusion::Full));
    r.engine = Some(EngineReading {
        report: EngineReport { used_tokens: 94, kv_tokens: 100, ..EngineReport::default() },
        at: at(0),
    });
    assert_eq!(r.closed(at(0), &gates), None);
}

#[test]
fn a_peer_shows_its_report_plus_what_we_forwarded_since() {
    let mut r = replica(Kind::Peer);
    r.book(at(10), RequestId(1), 100, 60, 0);
    r.book(at(20), RequestId(2), 50, 50, 0);
    assert_eq!(r.peer.load(at(30)).waiting_tokens, 150);
    let mut said = Load::default();
    said.sent(100, 60);
    r.peer.reported(PeerReport { load: said, healthy: true, ..PeerReport::default() }, at(15));
    assert_eq!((r.peer.load(at(30)).waiting_tokens, r.peer.load(at(30)).waiting_requests), (150, 2));
    // Its first token makes it a running request, not an absent one, until it ends or a report counts it.
    r.peer.started(RequestId(2));
    assert_eq!(
        (r.peer.load(at(30)).waiting_tokens, r.peer.load(at(30)).running_tokens, r.requests(at(30))),
        (100, 50, 2)
    );
    r.peer.ended(RequestId(2));
    r.peer.ended(RequestId(1));
    assert_eq!((r.peer.load(at(30)).waiting_tokens, r.peer.load(at(30)).running_tokens), (100, 0));
}

#[test]
fn the_largest_numbers_of_a_peer_never_make_it_look_idle() {
    let mut r = replica(Kind::Peer);
    let most = Load {
        waiting_requests: u32::MAX,
        waiting_tokens: u64::MAX,
        waiting_uncached_tokens: u64::MAX,
        running_requests: u32::MAX,
        running_tokens: u64::MAX,
    };
    r.peer.reported(PeerReport { load: most, queued: u32::MAX, healthy: true, ..PeerReport::default() }, at(0));
    r.book(at(1), RequestId(1), 100, 60, 0);
    let load = r.peer.load(at(30));
    assert_eq!((load, r.requests(at(30)), load.tokens()), (most, u32::MAX, u64::MAX));
    let candidate = r.candidate(ReplicaId(0), at(1), None, 0, 0, Learned::default());
    assert_eq!((candidate.requests(), candidate.tokens()), (u32::MAX, u64::MAX));
}

#[test]
fn a_peer_whose_reports_cannot_be_read_is_down_though_it_answers_probes() {
    let spec = ReplicaSpec::new("p", Kind::Peer);
    let mut never = Replica::new(spec.clone());
    assert!(never.scrape_failed(at(0), 3), "it has never said how loaded it is");
    never.succeeded(at(1), 3);
    assert_eq!(never.health, Health::Down, "a probe proves that it lives, not that it is idle");
    let mut once = Replica::new(spec);
    once.peer.reported(PeerReport { healthy: true, ..PeerReport::default() }, at(0));
    assert!(!once.scrape_failed(at(0), 3) && !once.scrape_failed(at(0), 3));
    once.succeeded(at(2), 3);
    assert!(once.scrape_failed(at(0), 3), "probes in between do not start the count anew");
    once.peer.reported(PeerReport { healthy: true, ..PeerReport::default() }, at(3));
    assert!(once.succeeded(at(3), 3) && once.health == Health::Up);
}
