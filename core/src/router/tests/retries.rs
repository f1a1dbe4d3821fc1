//! Retries before the first token, and requests that a dead or removed replica gives back.

use super::*;

#[test]
fn retries_elsewhere_before_the_first_token_and_never_after() {
    let mut r = router(RouterConfig::default(), &[REMOTE, REMOTE]);
    let first = sent(&tell(&mut r, 0, ask(1, "a")))[0].1;
    assert_eq!(sent(&tell(&mut r, 1, fail(1, 1, Failure::Connection))), [(1, 1 - first, 2)]);
    assert_eq!(tell(&mut r, 2, fail(1, 1, Failure::Connection)), [], "news of an old attempt");
    tell(&mut r, 3, RequestEvent::FirstToken { id: RequestId(1), attempt: 2 });
    let end = tell(&mut r, 4, fail(1, 2, Failure::Connection));
    assert_eq!(end, [done(1, EndReason::AfterFirstToken)]);
    tell(&mut r, 5, ask(2, "b"));
    assert_eq!(tell(&mut r, 6, fail(2, 1, Failure::Client)), [done(2, EndReason::ClientError)]);
}

#[test]
fn a_dead_replica_is_left_alone_then_tried_with_one_request() {
    let mut r = router(RouterConfig::default(), &[REMOTE]);
    for (i, id) in (1..=3).enumerate() {
        tell(&mut r, i as u64, ask(id, "a"));
    }
    // Three failures in a row open the breaker; the requests wait, none is lost.
    for id in 1..=3 {
        tell(&mut r, 10, fail(id, 1, Failure::Unreachable));
    }
    for id in 1..=2 {
        tell(&mut r, 10, fail(id, 2, Failure::Unreachable));
    }
    assert_eq!(tell(&mut r, 400, ask(4, "a")), [Action::Queued { id: RequestId(4) }]);
    let trial = sent(&tell(&mut r, 600, Event::Timer));
    assert_eq!(trial.len(), 1, "half open: one trial, {trial:?}");
    let (id, _, attempt) = trial[0];
    let more = sent(&tell(&mut r, 700, RequestEvent::FirstToken { id: RequestId(id), attempt }));
    assert!(more.is_empty(), "slow start: one request first, {more:?}");
    assert!(!sent(&tell(&mut r, 2_700, Event::Timer)).is_empty(), "then more");
}

#[test]
fn removing_a_replica_calls_its_waiting_requests_back() {
    let mut r = router(RouterConfig::default(), &[REMOTE]);
    tell(&mut r, 0, ask(1, "a"));
    tell(&mut r, 0, ReplicaEvent::Added { replica: ReplicaId(1), spec: spec("b", REMOTE) });
    let actions = tell(&mut r, 1, ReplicaEvent::Removed { replica: ReplicaId(0) });
    assert_eq!(actions[0], Action::Cancel { id: RequestId(1), replica: ReplicaId(0), attempt: 1 });
    assert_eq!(sent(&actions), [(1, 1, 2)]);
    tell(&mut r, 2, ReplicaEvent::Removed { replica: ReplicaId(1) });
    let end = tell(&mut r, 3, ask(2, "b"));
    assert_eq!(end, [done(2, EndReason::NoReplicas)]);
}

#[test]
fn a_request_that_is_called_back_again_and_again_ends_after_max_attempts() {
    let mut r = router(RouterConfig { max_attempts: 3, ..RouterConfig::default() }, &[REMOTE]);
    let mut dispatched = sent(&tell(&mut r, 0, ask(1, "a"))).len();
    for ms in 1..400 {
        let replica = ReplicaId(0);
        let called_back = tell(&mut r, ms, ReplicaEvent::Removed { replica });
        if r.in_flight() == 0 {
            let cancel = Action::Cancel { id: RequestId(1), replica, attempt: 3 };
            assert_eq!(called_back, [cancel, done(1, EndReason::Attempts(Failure::Unreachable))]);
            break;
        }
        dispatched += sent(&tell(&mut r, ms, ReplicaEvent::Added { replica, spec: spec("next", REMOTE) })).len();
    }
    assert_eq!((dispatched, r.in_flight()), (3, 0));
}

/// What a router in the replica's place may make of each dispatch.
fn allowed(actions: &[Action]) -> Vec<u8> {
    let dispatch = |a: &Action| match a {
        Action::Dispatch(d) => Some(d.allowed),
        _ => None,
    };
    actions.iter().filter_map(dispatch).collect()
}

#[test]
fn dispatches_by_routers_behind_a_replica_count_as_this_routers() {
    let mut r = router(RouterConfig { max_attempts: 5, ..RouterConfig::default() }, &[REMOTE, REMOTE, REMOTE]);
    let failed = |attempt, dispatches| {
        let overloaded = Failure::Overloaded { retry_after_s: None };
        RequestEvent::Failed { id: RequestId(1), attempt, failure: overloaded, dispatches }
    };
    assert_eq!(allowed(&tell(&mut r, 0, ask(1, "a"))), [3], "half of five, since others can answer");
    let second = tell(&mut r, 1, failed(1, 3));
    assert_eq!((sent(&second)[0].2, allowed(&second)), (4, vec![1]));
    let third = tell(&mut r, 2, failed(4, 200));
    assert_eq!(third, [done(1, EndReason::Attempts(Failure::Overloaded { retry_after_s: None }))]);

    let mut alone = router(RouterConfig { max_attempts: 5, ..RouterConfig::default() }, &[REMOTE]);
    assert_eq!(allowed(&tell(&mut alone, 0, ask(1, "a"))), [5], "all of five");
    let RequestEvent::Arrived(request) = ask(2, "b") else { unreachable!() };
    let forwarded = RequestEvent::Arrived(Request { attempts: Some(2), ..request });
    assert_eq!(allowed(&tell(&mut alone, 1, forwarded)), [2], "what its sender allows");
    for (told, most) in [(0, 1), (200, 5)] {
        let RequestEvent::Arrived(request) = ask(u64::from(told) + 10, "c") else { unreachable!() };
        let forwarded = RequestEvent::Arrived(Request { attempts: Some(told), ..request });
        assert_eq!(allowed(&tell(&mut alone, 2, forwarded)), [most], "told {told}");
    }
}
