//! Requests wait in order, in bounds, and for a bounded time.

use super::*;

#[test]
fn waits_in_order_behind_a_closed_gate_and_no_request_overtakes() {
    let mut config = RouterConfig { queue_limit: 2, ..RouterConfig::default() };
    config.gates.max_running = Some(1);
    let mut r = router(config, &[REMOTE]);
    tell(&mut r, 0, ask(1, "a"));
    assert_eq!(tell(&mut r, 1, ask(2, "b")), [Action::Queued { id: RequestId(2) }]);
    tell(&mut r, 2, ask(3, "c"));
    assert_eq!(tell(&mut r, 3, ask(4, "d")), [done(4, EndReason::QueueFull)]);
    assert_eq!(sent(&tell(&mut r, 4, finish(1, 1))), [(2, 0, 1)]);
    assert_eq!((r.queue_len(), r.in_flight()), (1, 2));
    assert_eq!(sent(&tell(&mut r, 5, RequestEvent::ClientGone { id: RequestId(2) })), [(3, 0, 1)]);
}

#[test]
fn a_queued_request_times_out_and_does_not_run_later() {
    let mut config = RouterConfig { queue_timeout_ms: 50.0, ..RouterConfig::default() };
    config.gates.max_running = Some(1);
    let mut r = router(config, &[REMOTE]);
    tell(&mut r, 0, ask(1, "a"));
    let mut actions = Vec::new();
    r.handle(at(10), ask(2, "b"), &mut actions);
    assert!(actions.contains(&Action::SetTimer(at(60))), "{actions:?}");
    assert_eq!(tell(&mut r, 59, Event::Timer), []);
    assert_eq!(tell(&mut r, 60, Event::Timer), [done(2, EndReason::QueueTimeout)]);
    assert_eq!(sent(&tell(&mut r, 61, finish(1, 1))), []);
}

#[test]
fn a_request_that_waited_for_dead_replicas_is_told_so() {
    let mut r = router(RouterConfig { queue_timeout_ms: 50.0, ..RouterConfig::default() }, &[REMOTE]);
    for i in 0..10 {
        tell(&mut r, i, ReplicaEvent::ProbeFailed { replica: ReplicaId(0), connected: false });
    }
    assert_eq!(sent(&tell(&mut r, 10, ask(1, "a"))), []);
    assert_eq!(tell(&mut r, 60, Event::Timer), [done(1, EndReason::NoHealthyReplica)]);
}

#[test]
fn requests_wait_shorter_for_a_dead_fleet_than_for_a_full_one() {
    let mut config = RouterConfig { down_timeout_ms: 20.0, ..RouterConfig::default() };
    config.gates.max_running = Some(1);
    let mut r = router(config, &[REMOTE, REMOTE]);
    (1..=3).for_each(|id| drop(tell(&mut r, 0, ask(id, "a"))));
    assert_eq!(r.queue_len(), 1);
    let fails = |r: &mut Router, from: u64, replica| {
        (from..from + 3).for_each(|ms| {
            drop(tell(r, ms, ReplicaEvent::ProbeFailed { replica: ReplicaId(replica), connected: false }));
        });
    };
    fails(&mut r, 1, 0);
    tell(&mut r, 10, ReplicaEvent::Draining { replica: ReplicaId(1), draining: true });
    assert_eq!(tell(&mut r, 29, Event::Timer), []);
    let queued = RequestId(3);
    assert!(tell(&mut r, 30, Event::Timer).contains(&Action::Done { id: queued, reason: EndReason::NoHealthyReplica }));
    // One that comes later waits as long, and not at all if a replica is back.
    tell(&mut r, 40, ask(4, "a"));
    tell(&mut r, 41, ReplicaEvent::Draining { replica: ReplicaId(1), draining: false });
    assert_eq!(tell(&mut r, 60, Event::Timer), [], "full, not dead");
}

#[test]
fn a_change_of_the_settings_dispatches_what_it_makes_room_for() {
    let mut config = RouterConfig::default();
    config.gates.max_running = Some(1);
    let mut r = router(config, &[REMOTE]);
    tell(&mut r, 0, ask(1, "a"));
    tell(&mut r, 1, ask(2, "b"));
    let open = AdminEvent::ConfigSet(Box::default());
    assert_eq!(sent(&tell(&mut r, 2, open)), [(2, 0, 1)]);
    tell(&mut r, 3, RequestEvent::FirstToken { id: RequestId(2), attempt: 1 });
    assert_ne!(r.index().nodes(), 0);
    tell(&mut r, 4, AdminEvent::IndexCleared);
    assert_eq!(r.index().nodes(), 0);
    tell(&mut r, 5, AdminEvent::PolicySet(crate::policy::PolicyConfig::default()));
    assert_eq!(r.policy(), "gorgo");
}

#[test]
fn what_waits_at_a_silent_replica_waits_for_a_full_one_rather() {
    let config = RouterConfig { gates: Gates { max_running: Some(1), ..Gates::default() }, ..RouterConfig::default() };
    let mut r = router(config, &[REMOTE, REMOTE]);
    let first = sent(&tell(&mut r, 1, ask(1, "ab")))[0].1;
    let other = sent(&tell(&mut r, 1, ask(2, "cd")))[0].1;
    assert_ne!(first, other);
    let silent = ReplicaId(first);
    (2..4).for_each(|ms| {
        assert_eq!(tell(&mut r, ms, ReplicaEvent::ProbeFailed { replica: silent, connected: false }), []);
    });
    let called_back = tell(&mut r, 4, ReplicaEvent::ProbeFailed { replica: silent, connected: false });
    assert!(matches!(called_back[0], Action::Cancel { id: RequestId(1), .. }), "{called_back:?}");
    assert_eq!(sent(&tell(&mut r, 5, finish(2, 1))), [(1, other, 2)]);
}

#[test]
fn a_deadline_passes_before_the_first_token_only() {
    let mut r = router(RouterConfig::default(), &[REMOTE]);
    for id in 1..=2 {
        let RequestEvent::Arrived(mut request) = ask(id, "a") else { unreachable!() };
        request.deadline = Some(at(100));
        tell(&mut r, 0, RequestEvent::Arrived(request));
    }
    tell(&mut r, 50, RequestEvent::FirstToken { id: RequestId(1), attempt: 1 });
    let cancel = Action::Cancel { id: RequestId(2), replica: ReplicaId(0), attempt: 1 };
    assert_eq!(tell(&mut r, 100, Event::Timer), [cancel, done(2, EndReason::Deadline)]);
    assert_eq!(tell(&mut r, 101, finish(1, 1)), [done(1, EndReason::Finished)]);
}

#[test]
fn deadlines_of_requests_that_are_over_do_not_pile_up() {
    let mut r = router(RouterConfig::default(), &[REMOTE]);
    for id in 1..=5_000 {
        let RequestEvent::Arrived(mut request) = ask(id, "ab") else { panic!("an arrival") };
        request.deadline = Some(at(600_000));
        tell(&mut r, id, RequestEvent::Arrived(request));
        tell(&mut r, id, finish(id, 1));
    }
    assert!(r.timers.len() < 1_000, "{}", r.timers.len());
}

#[test]
fn a_replica_that_has_answered_nothing_gets_requests_only_while_no_other_can_serve() {
    let mut r = router(RouterConfig::default(), &[]);
    let gates = Gates { max_running: Some(2), ..Gates::default() };
    let added = |slot: u16| ReplicaEvent::Added {
        replica: ReplicaId(slot),
        spec: ReplicaSpec { is_probed: true, ..spec(&format!("r{slot}"), REMOTE) },
    };
    let probed = |slot: u16| ReplicaEvent::Probed { replica: ReplicaId(slot), rtt_ms: 1.0 };
    tell(&mut r, 0, AdminEvent::ConfigSet(Box::new(RouterConfig { gates, ..RouterConfig::default() })));
    tell(&mut r, 0, added(0));
    assert_eq!(sent(&tell(&mut r, 1, ask(1, "a"))), [(1, 0, 1)], "the only one is tried");
    tell(&mut r, 1, added(1));
    tell(&mut r, 2, ReplicaEvent::ProbeFailed { replica: ReplicaId(1), connected: false });
    tell(&mut r, 2, probed(0));
    // A failed probe shows no more than none.
    assert_eq!(sent(&tell(&mut r, 3, ask(2, "b"))), [(2, 0, 1)], "though it has a request already");
    assert_eq!(sent(&tell(&mut r, 3, ask(3, "c"))), [], "it waits for the one that answers");
    assert_eq!(sent(&tell(&mut r, 4, probed(1))), [(3, 1, 1)], "and goes where it can as soon as it can");
    tell(&mut r, 5, added(2));
    // The request failed at those that answer: the new one is asked.
    let mut tried = BTreeSet::new();
    tell(&mut r, 6, finish(1, 1));
    tell(&mut r, 6, finish(2, 1));
    tell(&mut r, 6, finish(3, 1));
    let mut next = sent(&tell(&mut r, 7, ask(4, "d")))[0];
    while tried.insert(next.1) && tried.len() < 3 {
        next = sent(&tell(&mut r, 7, fail(4, next.2, Failure::Unreachable)))[0];
    }
    assert_eq!((next.1, tried.len()), (2, 3), "{tried:?}");
}

#[test]
fn what_a_busy_replica_holds_moves_once_and_its_prefixes_stay() {
    let mut r = router(RouterConfig::default(), &[REMOTE, REMOTE]);
    tell(&mut r, 0, ask(1, "a prompt"));
    let (_, first, _) = sent(&tell(&mut r, 1, ask(2, "a prompt")))[0];
    tell(&mut r, 1, finish(1, 1));
    let known = r.index().nodes();
    let silent = |r: &mut Router, replica: u16, ms: u64| {
        let failed = ReplicaEvent::ProbeFailed { replica: ReplicaId(replica), connected: true };
        (0..3).flat_map(|i| sent(&tell(r, ms + i, failed.clone()))).collect::<Vec<_>>()
    };
    assert_eq!(silent(&mut r, first, 10), [(2, 1 - first, 2)]);
    tell(&mut r, 14, ReplicaEvent::Probed { replica: ReplicaId(first), rtt_ms: 1.0 });
    // The other one is as busy with it.
    assert_eq!(silent(&mut r, 1 - first, 20), []);
    assert_eq!(r.index().nodes(), known, "the processes live");
    // An answer is health, whatever probes say.
    tell(&mut r, 30, RequestEvent::FirstToken { id: RequestId(2), attempt: 2 });
    assert_ne!(r.replicas()[usize::from(1 - first)].health, crate::fleet::Health::Down);
}

#[test]
fn what_takes_no_place_passes_full_replicas_and_what_one_keeps_reaches_it_while_it_drains() {
    let gates = Gates { max_running: Some(1), ..Gates::default() };
    let mut r = router(RouterConfig { gates, ..RouterConfig::default() }, &[REMOTE]);
    assert_eq!(sent(&tell(&mut r, 1, ask(1, "a"))).len(), 1);
    assert_eq!(sent(&tell(&mut r, 1, ask(2, "b"))), []);
    let with = |id: u64, handling: Handling| {
        let RequestEvent::Arrived(request) = ask(id, "x") else { unreachable!() };
        let mut only = ReplicaSet::EMPTY;
        only.insert(ReplicaId(0));
        RequestEvent::Arrived(Request { handling, only: Some(only), ..request })
    };
    let light = Handling { light: true, ..Handling::default() };
    assert_eq!(sent(&tell(&mut r, 2, with(3, light))), [(3, 0, 1)]);
    tell(&mut r, 3, ReplicaEvent::Draining { replica: ReplicaId(0), draining: true });
    assert_eq!(sent(&tell(&mut r, 4, with(4, light))), []);
    let pinned = Handling { pinned: true, ..Handling::default() };
    assert_eq!(sent(&tell(&mut r, 4, with(5, pinned))), [(5, 0, 1)]);
}

#[test]
fn a_report_that_is_not_renewed_keeps_no_request_waiting() {
    for event in [
        ReplicaEvent::Unreported { replica: ReplicaId(0) },
        ReplicaEvent::ScrapeFailed { replica: ReplicaId(0), connected: true },
    ] {
        let mut r = router(RouterConfig::default(), &[REMOTE]);
        let report = EngineReport { used_tokens: 99, kv_tokens: 100, ..EngineReport::default() };
        r.handle(at(0), ReplicaEvent::Scraped { replica: ReplicaId(0), report }, &mut Vec::new());
        assert!(sent(&tell(&mut r, 1, ask(1, "x"))).is_empty(), "its KV cache is full");
        let mut actions = Vec::new();
        for ms in 1..=3 {
            assert!(sent(&actions).is_empty(), "after {ms}");
            r.handle(at(ms * 1_000), event.clone(), &mut actions);
            // The probes in between succeed.
            r.handle(at(ms * 1_000 + 1), ReplicaEvent::Probed { replica: ReplicaId(0), rtt_ms: 1.0 }, &mut actions);
        }
        assert_eq!((sent(&actions).len(), r.queue_len()), (1, 0));
        assert!(r.replicas()[0].engine.is_none());
    }
}
