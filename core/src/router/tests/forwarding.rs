//! Edges that forward requests to peers, and requests that were forwarded.

use super::*;

#[test]
fn an_edge_forwards_once_and_never_twice() {
    let mut config = RouterConfig::default();
    config.gates.max_running = Some(1);
    let mut r = router(config, &[Kind::Local, Kind::Peer]);
    let report = PeerReport { healthy: true, ..PeerReport::default() };
    tell(&mut r, 0, ReplicaEvent::PeerReported { replica: ReplicaId(1), report, seen: at(0) });
    let mut targets = BTreeSet::new();
    for id in 1..=2 {
        let actions = tell(&mut r, 1, ask(id, "a"));
        let Action::Dispatch(d) = actions[0] else { panic!("{actions:?}") };
        assert_eq!(d.forward, d.replica == ReplicaId(1));
        targets.insert(d.replica);
    }
    assert_eq!(targets.len(), 2);
    let RequestEvent::Arrived(mut request) = ask(3, "a") else { unreachable!() };
    request.hops = 1;
    // Both full; then the peer frees, which does not help a request that was forwarded already.
    assert_eq!(tell(&mut r, 2, RequestEvent::Arrived(request)), [Action::Queued { id: RequestId(3) }]);
    tell(&mut r, 2, ask(4, "b"));
    let (peer_request, local_request) = if r.replicas()[0].load.requests() == 1 { (2, 1) } else { (1, 2) };
    let moved = [peer_request, local_request].map(|id| sent(&tell(&mut r, 3, finish(id, 1))));
    let all: Vec<_> = moved.concat();
    for (id, replica, _) in all {
        assert!(id != 3 || replica == 0);
    }
    assert_eq!(r.queue_len(), 0);
}

#[test]
fn a_forwarded_request_goes_back_when_the_engine_here_is_dead() {
    let forwarded = |id| {
        let RequestEvent::Arrived(mut request) = ask(id, "a") else { unreachable!() };
        request.hops = 1;
        RequestEvent::Arrived(request)
    };
    let mut config = RouterConfig::default();
    config.gates.max_running = Some(1);
    let mut r = router(config, &[Kind::Local, Kind::Peer]);
    tell(&mut r, 0, forwarded(1));
    assert_eq!(tell(&mut r, 1, forwarded(2)), [Action::Queued { id: RequestId(2) }]);
    for ms in 2..4 {
        assert_eq!(tell(&mut r, ms, ReplicaEvent::ProbeFailed { replica: ReplicaId(0), connected: false }), []);
    }
    // Down: the one that waits here cannot go on; the one at the engine is called back and cannot either.
    let end = tell(&mut r, 5, ReplicaEvent::ProbeFailed { replica: ReplicaId(0), connected: false });
    assert!(end.contains(&done(2, EndReason::Unavailable)), "{end:?}");
    assert!(end.contains(&done(1, EndReason::Unavailable)), "{end:?}");
    assert_eq!(tell(&mut r, 6, forwarded(3)), [done(3, EndReason::Unavailable)]);
    assert_eq!(sent(&tell(&mut r, 7, ask(4, "a"))), [(4, 1, 1)], "its own requests go to the peer");
}
