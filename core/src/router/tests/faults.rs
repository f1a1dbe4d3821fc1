//! Whose fault failures are, and that one client's requests leave the fleet to the others.

use super::*;
use proptest::prelude::*;

const BROKEN: Failure = Failure::Server(500);

fn open_breakers(router: &Router) -> usize {
    router.replicas().iter().filter(|r| r.breaker.is_tripped()).count()
}

fn refs(router: &Router) -> u64 {
    (0..router.replicas().len() as u16).map(|slot| router.index().tokens(ReplicaId(slot))).sum()
}

/// Fails each dispatch of request `id` with what `failure` says of its replica, until it ends or waits. Returns how
/// many dispatches there were, and how it ended.
fn fail_all(
    router: &mut Router,
    ms: u64,
    id: u64,
    mut actions: Vec<Action>,
    failure: impl Fn(u16) -> Failure,
) -> (usize, Option<EndReason>) {
    let mut dispatches = 0;
    loop {
        let Some(&(id, replica, attempt)) = sent(&actions).iter().find(|&&(sent, ..)| sent == id) else {
            let end = actions.iter().find_map(|action| match action {
                Action::Done { id: done, reason } if done.0 == id => Some(*reason),
                _ => None,
            });
            return (dispatches, end);
        };
        dispatches += 1;
        actions = tell(router, ms, fail(id, attempt, failure(replica)));
    }
}

/// A fleet in which every replica holds some prefix.
fn warm(replicas: usize) -> Router {
    let mut router = router(RouterConfig::default(), &vec![REMOTE; replicas]);
    for id in 1..=replicas as u64 {
        tell(&mut router, 0, ask(id, &format!("{id} a prompt")));
    }
    for id in 1..=replicas as u64 {
        tell(&mut router, 0, finish(id, 1));
    }
    router
}

#[test]
fn a_request_that_every_replica_answers_with_the_same_5xx_is_at_fault_itself() {
    let mut r = warm(4);
    let before = refs(&r);
    for id in 10..14 {
        let actions = tell(&mut r, 1, ask(id, "poison"));
        let (dispatches, end) = fail_all(&mut r, 1, id, actions, |_| BROKEN);
        assert_eq!((dispatches, end), (3, Some(EndReason::RequestFault(BROKEN))));
    }
    assert_eq!((open_breakers(&r), refs(&r)), (0, before));
    assert_eq!(sent(&tell(&mut r, 1, ask(20, "another"))).len(), 1, "others are served meanwhile");
}

#[test]
fn a_replica_whose_5xx_no_other_gives_is_set_aside_and_keeps_its_prefixes() {
    let mut r = warm(3);
    let before = refs(&r);
    let mut broken = 0;
    for id in 10..60 {
        let mut next = sent(&tell(&mut r, id * 30, ask(id, "fine")))[0];
        while next.1 == 0 {
            broken += 1;
            next = sent(&tell(&mut r, id * 30, fail(next.0, next.2, BROKEN)))[0];
        }
        tell(&mut r, id * 30, finish(id, next.2));
    }
    assert!(r.replicas()[0].breaker.is_tripped() && open_breakers(&r) == 1);
    assert!(broken <= 8, "a replica that fails fast drew {broken} of 50 requests");
    assert!(refs(&r) >= before);
}

#[test]
fn a_refused_key_sets_the_replica_aside_unless_every_replica_refuses_it() {
    let mut r = router(RouterConfig::default(), &[REMOTE; 2]);
    let (first, second) = (sent(&tell(&mut r, 1, ask(10, "x"))), |r: &mut Router, (id, _, attempt): (u64, u16, u8)| {
        sent(&tell(r, 1, fail(id, attempt, Failure::KeyRefused)))
    });
    let retry = second(&mut r, first[0])[0];
    tell(&mut r, 2, finish(10, retry.2));
    let refusing = usize::from(first[0].1);
    assert_eq!(r.replicas()[refusing].breaker.cause(), Some(Failure::KeyRefused));
    for ms in [100, 5_000, 29_000] {
        assert_eq!(sent(&tell(&mut r, ms, ask(ms, "y")))[0].1, retry.1);
    }
    let mut r = warm(2);
    let actions = tell(&mut r, 1, ask(10, "x"));
    let (dispatches, end) = fail_all(&mut r, 1, 10, actions, |_| Failure::KeyRefused);
    assert_eq!((dispatches, end), (2, Some(EndReason::RequestFault(Failure::KeyRefused))));
    assert_eq!(open_breakers(&r), 0);
}

/// Sends one prompt a second, of which replica 0 refuses its key to each. After each of them every replica answers another
/// prompt, if `others` are sent. Returns the breakers that are open after each refusal.
fn refusing(others: bool) -> Vec<usize> {
    let mut r = warm(2);
    let mut open = Vec::new();
    for id in 10..40 {
        let now = id * 1_000;
        let (_, replica, mut attempt) = sent(&tell(&mut r, now, ask(id, "x")))[0];
        if replica == 0 {
            attempt = sent(&tell(&mut r, now, fail(id, attempt, Failure::KeyRefused)))[0].2;
        }
        tell(&mut r, now, finish(id, attempt));
        open.extend((replica == 0).then(|| open_breakers(&r)));
        let both = [id + 100, id + 200].map(|id| (id, others.then(|| tell(&mut r, now + 500, ask(id, "y")))));
        for (id, actions) in both {
            if let Some(actions) = actions {
                tell(&mut r, now + 600, finish(id, sent(&actions)[0].2));
            }
        }
    }
    open
}

#[test]
fn a_replica_that_has_answered_is_set_aside_by_refusals_in_a_row_and_not_by_one() {
    assert_eq!(refusing(false)[..3], [0, 0, 1]);
    // A key that works for other prompts is right.
    let open = refusing(true);
    assert!(open.len() > 3 && open.iter().all(|&open| open == 0), "{open:?}");
}

#[test]
fn a_replica_without_room_is_asked_after_the_others_and_after_the_pause_it_asked_for() {
    let mut r = warm(2);
    let full = Failure::Overloaded { retry_after_s: Some(5) };
    let (id, refused, attempt) = sent(&tell(&mut r, 1_000, ask(10, "x")))[0];
    let (_, other, _) = sent(&tell(&mut r, 1_000, fail(id, attempt, full)))[0];
    assert_ne!(refused, other);
    // The other one is busier and still preferred until the pause is over.
    let asked: Vec<u16> = (11..15).map(|id| sent(&tell(&mut r, 1_000 + id, ask(id, "y")))[0].1).collect();
    assert_eq!(asked, [other; 4]);
    assert_eq!(sent(&tell(&mut r, 6_001, ask(20, "z")))[0].1, refused);
    assert_eq!(open_breakers(&r), 0);
}

#[test]
fn a_request_that_all_replicas_had_no_room_for_is_tried_again_after_a_pause_and_delays_no_other() {
    let mut r = warm(2);
    let full = Failure::Overloaded { retry_after_s: None };
    let actions = tell(&mut r, 1_000, ask(10, "x"));
    assert_eq!(fail_all(&mut r, 1_000, 10, actions, |_| full), (2, None), "not again at once");
    assert_eq!(sent(&tell(&mut r, 1_001, ask(11, "y"))).len(), 1, "no request waits behind it");
    assert_eq!(sent(&tell(&mut r, 1_200, Event::Timer)).len(), 1);
    // A pause longer than a client should wait for ends it with the replicas' own answer.
    let mut r = warm(2);
    let full = Failure::Overloaded { retry_after_s: Some(20) };
    let actions = tell(&mut r, 1_000, ask(10, "x"));
    assert_eq!(fail_all(&mut r, 1_000, 10, actions, |_| full), (2, Some(EndReason::Attempts(full))));
}

#[test]
fn a_part_that_has_passed_binds_the_request_to_its_replica() {
    let mut r = warm(2);
    let (id, replica, attempt) = sent(&tell(&mut r, 1, ask(10, "x")))[0];
    tell(&mut r, 2, RequestEvent::Committed { id: RequestId(id), attempt });
    let actions = tell(&mut r, 3, ReplicaEvent::Removed { replica: ReplicaId(replica) });
    assert!(actions.is_empty(), "not called back: {actions:?}");
    let end = tell(&mut r, 4, fail(id, attempt, Failure::Connection));
    assert_eq!(end, [done(id, EndReason::AfterFirstToken)]);
}

#[test]
fn our_own_lack_of_descriptors_is_no_replicas_fault() {
    let mut r = warm(1);
    for id in 10..20 {
        let actions = tell(&mut r, 1, ask(id, "x"));
        assert_eq!(fail_all(&mut r, 1, id, actions, |_| Failure::Local).1, None, "it waits");
    }
    assert_eq!((open_breakers(&r), r.replicas()[0].failed_in_row), (0, 0));
}

/// What a hostile client can make a dispatch of its own request end with. A refused connection is not among them:
/// nothing of the request was sent then.
fn ending() -> impl Strategy<Value = Option<Failure>> {
    prop_oneof![
        Just(None),
        Just(Some(Failure::Connection)),
        Just(Some(Failure::Timeout)),
        Just(Some(Failure::KeyRefused)),
        Just(Some(Failure::Client)),
        (500u16..504).prop_map(|status| Some(Failure::Server(status))),
        prop::option::of(0u32..100).prop_map(|retry_after_s| Some(Failure::Overloaded { retry_after_s })),
    ]
}

proptest! {
    #[test]
    fn whatever_one_clients_requests_meet_the_fleet_stays_open_for_the_others(
        replicas in 1usize..6,
        steps in prop::collection::vec((ending(), 0u64..400, any::<bool>()), 1..120),
    ) {
        let mut r = warm(replicas);
        let before = refs(&r);
        let (mut now, mut next) = (1, 100);
        let mut hostile: Vec<(u64, u16, u8)> = Vec::new();
        for (ending, pause, arrives) in steps {
            now += pause;
            // The hostile client's dispatches that timers or other events started count, too.
            let mut actions = tell(&mut r, now, Event::Timer);
            if arrives {
                next += 1;
                actions.extend(tell(&mut r, now, ask(next, "poison")));
            }
            hostile.extend(sent(&actions));
            if let Some((id, _, attempt)) = hostile.pop() {
                let event = match ending {
                    Some(failure) => fail(id, attempt, failure),
                    None => RequestEvent::FirstToken { id: RequestId(id), attempt },
                };
                let more = tell(&mut r, now, event);
                hostile.extend(sent(&more));
            }
            // Another client's request goes out in the same step, and its answer comes.
            next += 1;
            let actions = tell(&mut r, now, ask(next, "mine"));
            let mine: Vec<_> = sent(&actions).into_iter().filter(|&(id, ..)| id == next).collect();
            prop_assert_eq!(mine.len(), 1, "the other client's request was not sent at once: {:?}", actions);
            prop_assert!(2 * open_breakers(&r) <= replicas);
            hostile.extend(sent(&tell(&mut r, now, finish(next, 1))));
        }
        prop_assert!(refs(&r) >= before, "prefixes are kept");
    }
}

fn gone(id: u64) -> RequestEvent {
    RequestEvent::ClientGone { id: RequestId(id) }
}

#[test]
fn an_engine_that_hangs_is_set_aside_by_what_ends_there_unanswered() {
    for waited_ms in [1_500, 20_000] {
        let mut r = warm(2);
        let mut hung = 0;
        for id in 10..70 {
            let now = id * 2 * waited_ms;
            let (_, replica, attempt) = sent(&tell(&mut r, now, ask(id, "a prompt")))[0];
            if replica == 0 {
                hung += 1;
                tell(&mut r, now + waited_ms, gone(id));
            } else {
                tell(&mut r, now + 50, RequestEvent::FirstToken { id: RequestId(id), attempt });
                tell(&mut r, now + 60, finish(id, attempt));
            }
            // Its HTTP server answers probes all the time.
            tell(&mut r, now + waited_ms, ReplicaEvent::Probed { replica: ReplicaId(0), rtt_ms: 1.0 });
        }
        assert!(r.replicas()[0].breaker.is_tripped());
        assert!(hung <= 35, "{hung} of 60 requests after {waited_ms} ms each");
    }
}

#[test]
fn requests_that_come_together_leave_a_hung_engine_after_a_few() {
    let mut r = warm(2);
    let (mut hung, mut now) = (0, 1_000);
    for round in 0..12 {
        let ids = 100 + 4 * round..104 + 4 * round;
        let placed: Vec<_> = ids.map(|id| sent(&tell(&mut r, now, ask(id, "a prompt")))[0]).collect();
        for &(id, replica, attempt) in placed.iter().filter(|placed| placed.1 != 0) {
            assert_eq!(replica, 1);
            tell(&mut r, now + 50, finish(id, attempt));
        }
        for &(id, ..) in placed.iter().filter(|placed| placed.1 == 0) {
            hung += 1;
            tell(&mut r, now + 1_500, gone(id));
        }
        now += 1_600;
    }
    assert!(hung <= 16, "{hung} of 48");
}

#[test]
fn clients_that_leave_early_or_a_busy_engine_are_no_evidence() {
    let mut r = warm(2);
    for id in 10..40 {
        let now = id * 3_000;
        let (_, replica, _) = sent(&tell(&mut r, now, ask(id, "a prompt")))[0];
        tell(&mut r, now + 900, gone(id));
        // Others are answered meanwhile: it is slow, and does not hang.
        let other = sent(&tell(&mut r, now + 1_000, ask(1_000 + id, "another")));
        let next = sent(&tell(&mut r, now + 1_000, ask(2_000 + id, "a third")));
        for &(id, at, attempt) in other.iter().chain(&next) {
            tell(&mut r, now + 1_500, RequestEvent::FirstToken { id: RequestId(id), attempt });
            if at == replica {
                tell(&mut r, now + 2_900, gone(id));
            } else {
                tell(&mut r, now + 2_900, finish(id, attempt));
            }
        }
    }
    assert_eq!(open_breakers(&r), 0);
}

#[test]
fn a_replica_that_refuses_what_others_answer_draws_no_traffic() {
    let mut r = warm(2);
    let mut refused = 0;
    for id in 10..70 {
        let (_, replica, attempt) = sent(&tell(&mut r, id * 40, ask(id, "a prompt")))[0];
        if replica == 0 {
            refused += 1;
            tell(&mut r, id * 40, fail(id, attempt, Failure::Client));
        }
        if let Some((_, 1, attempt)) = Some((id, replica, attempt)) {
            tell(&mut r, id * 40 + 30, finish(id, attempt));
        }
    }
    assert!(refused <= 20, "{refused} of 60");
    assert_eq!(open_breakers(&r), 0, "it is nobody's fault");
    // One client's wrong requests, which every replica refuses, set no replica aside.
    let mut r = warm(2);
    for id in 10..40 {
        let (_, _, attempt) = sent(&tell(&mut r, id, ask(id, "wrong")))[0];
        tell(&mut r, id, fail(id, attempt, Failure::Client));
    }
    assert!(r.replicas().iter().filter(|r| r.rests_until.is_some_and(|until| until > at(39))).count() <= 1);
    assert_eq!(sent(&tell(&mut r, 40, ask(90, "right"))).len(), 1);
}

#[test]
fn a_replica_that_breaks_streams_which_others_finish_draws_little_traffic() {
    for failure in [BROKEN, Failure::Connection, Failure::Timeout] {
        let mut r = warm(2);
        let mut broken = 0;
        for id in 10..110 {
            let now = id * 100;
            let (_, replica, attempt) = sent(&tell(&mut r, now, ask(id, "a prompt")))[0];
            tell(&mut r, now + 10, RequestEvent::FirstToken { id: RequestId(id), attempt });
            if replica == 0 {
                broken += 1;
                tell(&mut r, now + 20, fail(id, attempt, failure));
            } else {
                tell(&mut r, now + 90, finish(id, attempt));
            }
        }
        assert!((3..=12).contains(&broken), "{broken} of 100 by {failure}");
    }
    // One client's streams, which break at every replica, set at most one of them aside.
    let mut r = warm(3);
    for id in 10..60 {
        let (_, _, attempt) = sent(&tell(&mut r, id, ask(id, "wrong")))[0];
        tell(&mut r, id, RequestEvent::FirstToken { id: RequestId(id), attempt });
        tell(&mut r, id, fail(id, attempt, BROKEN));
    }
    let resting = r.replicas().iter().filter(|r| r.breaks_until.is_some_and(|until| until > at(60)));
    assert!(resting.count() < 3);
    assert_eq!(sent(&tell(&mut r, 61, ask(90, "right"))).len(), 1);
}

#[test]
fn the_streams_that_one_crash_cuts_count_once() {
    let mut r = warm(2);
    let mut open = Vec::new();
    for id in 10..30 {
        let (_, replica, attempt) = sent(&tell(&mut r, 10, ask(id, "a prompt")))[0];
        tell(&mut r, 20, RequestEvent::FirstToken { id: RequestId(id), attempt });
        open.extend((replica == 0).then_some((id, attempt)));
    }
    assert!(open.len() > 5);
    for (i, (id, attempt)) in open.into_iter().enumerate() {
        tell(&mut r, 30 + i as u64, fail(id, attempt, Failure::Connection));
    }
    let crashed = &r.replicas()[0];
    assert_eq!((crashed.broken_in_row, crashed.breaks_until), (1, None));
}

fn handled(id: u64, handling: Handling) -> RequestEvent {
    let RequestEvent::Arrived(request) = ask(id, "x") else { unreachable!() };
    RequestEvent::Arrived(Request { handling, ..request })
}

#[test]
fn what_makes_something_is_sent_again_only_if_it_was_not_taken() {
    let once = Handling { once: true, ..Handling::default() };
    for (failure, dispatches) in [
        (Failure::Connection, 1),
        (Failure::Server(500), 1),
        (Failure::Timeout, 1),
        (Failure::Unreachable, 2),
        (Failure::KeyRefused, 2),
        (Failure::Overloaded { retry_after_s: None }, 2),
    ] {
        let mut r = warm(2);
        let actions = tell(&mut r, 1, handled(10, once));
        let found = fail_all(&mut r, 1, 10, actions, |_| failure);
        assert_eq!(found.0, dispatches, "{failure:?}: {:?}", found.1);
        if dispatches == 1 {
            assert_eq!(found.1, Some(EndReason::Attempts(failure)));
        }
    }
    let mut r = warm(2);
    let (_, silent, _) = sent(&tell(&mut r, 1, handled(10, once)))[0];
    for ms in 2..6 {
        let failed = ReplicaEvent::ProbeFailed { replica: ReplicaId(silent), connected: false };
        assert_eq!(sent(&tell(&mut r, ms, failed)), [], "it may be at work there");
    }
}
