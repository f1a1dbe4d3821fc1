//! Slots of the fleet: who has which, and when one is free again.

use super::*;
use proptest::prelude::*;

fn add(router: &mut Router, ms: u64, name: &str) -> Option<u16> {
    let replica = router.free_slot()?;
    tell(router, ms, ReplicaEvent::Added { replica, spec: spec(name, REMOTE) });
    Some(replica.0)
}

fn remove(router: &mut Router, ms: u64, slot: u16) -> Vec<Action> {
    tell(router, ms, ReplicaEvent::Removed { replica: ReplicaId(slot) })
}

#[test]
fn a_fleet_takes_any_number_of_replicas_one_after_the_other() {
    let mut r = router(RouterConfig::default(), &[REMOTE]);
    for n in 0..1_000 {
        assert_eq!(add(&mut r, n, &format!("n{n}")), Some(1));
        remove(&mut r, n, 1);
    }
    (1..MAX_REPLICAS as u16).for_each(|slot| assert_eq!(add(&mut r, 2_000, "x"), Some(slot)));
    assert_eq!(r.free_slot(), None);
}

#[test]
fn a_new_replica_inherits_nothing_of_the_old_one_in_its_slot() {
    let config = RouterConfig { record_decisions: true, index_tokens: 7, ..RouterConfig::default() };
    let mut r = router(config, &[REMOTE]);
    let names = |actions: &[Action]| match &actions[0] {
        Action::Decided(record) => record.clone(),
        other => panic!("{other:?}"),
    };
    let old = names(&tell(&mut r, 1, ask(1, "abcdef")));
    tell(&mut r, 2, RequestEvent::FirstToken { id: RequestId(1), attempt: 1 });
    tell(&mut r, 3, ReplicaEvent::Probed { replica: ReplicaId(0), rtt_ms: 80.0 });
    remove(&mut r, 4, 0);
    assert_eq!(r.free_slot(), Some(ReplicaId(1)), "its request still runs");
    // The answer of a removed replica is not learned: no later event would forget it.
    let answer = Answer { keep: 6, tail: symbols("gh"), tokens: 8 };
    let finished =
        RequestEvent::Finished { id: RequestId(1), attempt: 1, usage: Usage::default(), answer: Some(answer) };
    tell(&mut r, 5, finished);
    assert_eq!((r.free_slot(), r.index().nodes()), (Some(ReplicaId(0)), 0));
    let unlimited = ReplicaSpec { kv_tokens: None, ..spec("new", REMOTE) };
    tell(&mut r, 6, ReplicaEvent::Added { replica: ReplicaId(0), spec: unlimited });
    let fresh = &r.replicas()[0];
    assert_eq!((fresh.spec.name.as_str(), fresh.load, fresh.rtt.updated()), ("new", Default::default(), None));
    let new = names(&tell(&mut r, 7, ask(2, "abcdefghi")));
    assert_eq!((old.name(ReplicaId(0)), new.name(ReplicaId(0))), ("r0", "new"));
    tell(&mut r, 8, RequestEvent::FirstToken { id: RequestId(2), attempt: 1 });
    assert!(r.index().tokens(ReplicaId(0)) <= 7, "the budget is the router's again, not the old replica's");
}

#[test]
fn other_settings_of_a_replica_leave_what_was_learned_of_it() {
    let mut r = router(RouterConfig { record_decisions: true, ..RouterConfig::default() }, &[REMOTE]);
    tell(&mut r, 1, ask(1, "abcdef"));
    tell(&mut r, 2, RequestEvent::FirstToken { id: RequestId(1), attempt: 1 });
    tell(&mut r, 3, ReplicaEvent::Probed { replica: ReplicaId(0), rtt_ms: 80.0 });
    tell(&mut r, 4, ReplicaEvent::Draining { replica: ReplicaId(0), draining: true });
    let (nodes, health) = (r.index().nodes(), r.replicas()[0].health);
    assert!(nodes > 0);
    let region = Some("eu".to_owned());
    let other = ReplicaSpec { region, ms_per_token: Some(0.2), kv_tokens: Some(1_000), ..spec("another name", REMOTE) };
    tell(&mut r, 5, ReplicaEvent::Described { replica: ReplicaId(0), spec: Box::new(other) });
    let at = &r.replicas()[0];
    assert_eq!((at.spec.name.as_str(), at.spec.region.as_deref()), ("r0", Some("eu")));
    assert_eq!((at.spec.ms_per_token, at.spec.kv_tokens), (Some(0.2), Some(1_000)));
    assert!(at.draining && at.load.requests() == 1 && at.health == health && at.rtt.smoothed_ms() == 80.0);
    assert!(r.index().tokens(ReplicaId(0)) > 0, "its part of the index");
    let gone = ReplicaSpec { region: Some("us".to_owned()), ..spec("gone", REMOTE) };
    remove(&mut r, 6, 0);
    tell(&mut r, 7, ReplicaEvent::Described { replica: ReplicaId(0), spec: Box::new(gone) });
    assert_eq!(r.replicas()[0].spec.region.as_deref(), Some("eu"), "a removed replica has no settings");
}

#[test]
fn a_request_that_tried_the_old_replica_may_go_to_the_new_one() {
    let mut r = router(RouterConfig::default(), &[REMOTE]);
    tell(&mut r, 1, ask(1, "abc"));
    assert_eq!(remove(&mut r, 2, 0).last(), Some(&Action::Queued { id: RequestId(1) }));
    let replica = r.free_slot().unwrap();
    let actions = tell(&mut r, 3, ReplicaEvent::Added { replica, spec: spec("new", REMOTE) });
    assert_eq!((replica.0, sent(&actions)), (0, vec![(1, 0, 2)]));
}

#[test]
fn a_router_that_missed_events_ends_what_the_old_replica_ran() {
    let mut r = router(RouterConfig::default(), &[REMOTE]);
    tell(&mut r, 1, ask(1, "abc"));
    tell(&mut r, 2, RequestEvent::FirstToken { id: RequestId(1), attempt: 1 });
    let actions = tell(&mut r, 3, ReplicaEvent::Added { replica: ReplicaId(0), spec: spec("new", REMOTE) });
    assert_eq!(actions.last(), Some(&done(1, EndReason::ReplicaGone)));
    assert_eq!((r.in_flight(), r.replicas()[0].load.requests()), (0, 0));
    tell(&mut r, 4, ReplicaEvent::Added { replica: ReplicaId(3), spec: spec("far", REMOTE) });
    assert_eq!((r.replicas().len(), r.free_slot()), (4, Some(ReplicaId(1))));
}

#[derive(Debug, Clone)]
enum Step {
    Add,
    Remove(usize),
    RequestInfo,
    First(usize),
    Finish(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let nth = 0usize..1_000;
    prop_oneof![
        2 => Just(Step::Add),
        2 => nth.clone().prop_map(Step::Remove),
        4 => Just(Step::RequestInfo),
        3 => nth.clone().prop_map(Step::First),
        3 => nth.prop_map(Step::Finish),
    ]
}

proptest! {
    #[test]
    fn slots_in_use_are_distinct_and_free_only_when_drained(steps in proptest::collection::vec(step(), 1..300)) {
        let mut r = router(RouterConfig { learn_at: LearnAt::Dispatch, ..RouterConfig::default() }, &[]);
        // The model: names by slot, and where each open request is.
        let (mut fleet, mut open) = (BTreeMap::<u16, String>::new(), BTreeMap::<u64, Option<(u16, u8)>>::new());
        for (n, step) in steps.into_iter().enumerate() {
            let now = n as u64 + 1;
            let actions = match step {
                Step::Add => {
                    let busy: BTreeSet<u16> = open.values().flatten().map(|(slot, _)| *slot).collect();
                    let expected = (0..).find(|slot| !fleet.contains_key(slot) && !busy.contains(slot));
                    let replica = r.free_slot().unwrap();
                    prop_assert_eq!(Some(replica.0), expected);
                    fleet.insert(replica.0, format!("n{n}"));
                    tell(&mut r, now, ReplicaEvent::Added { replica, spec: spec(&format!("n{n}"), REMOTE) })
                }
                Step::Remove(nth) if !fleet.is_empty() => {
                    let slot = *fleet.keys().nth(nth % fleet.len()).unwrap();
                    fleet.remove(&slot);
                    remove(&mut r, now, slot)
                }
                Step::RequestInfo => {
                    open.insert(now, None);
                    tell(&mut r, now, ask(now, &"abcdefgh"[..1 + n % 8]))
                }
                Step::First(nth) | Step::Finish(nth) if !open.is_empty() => {
                    let (&id, &place) = open.iter().nth(nth % open.len()).unwrap();
                    match (place, step) {
                        (Some((_, attempt)), Step::Finish(_)) => tell(&mut r, now, finish(id, attempt)),
                        (Some((_, attempt)), _) => {
                            tell(&mut r, now, RequestEvent::FirstToken { id: RequestId(id), attempt })
                        }
                        _ => Vec::new(),
                    }
                }
                _ => Vec::new(),
            };
            for action in actions {
                match action {
                    Action::Dispatch(d) => {
                        prop_assert!(fleet.contains_key(&d.replica.0), "dispatched to a slot without a replica");
                        open.insert(d.id.0, Some((d.replica.0, d.attempt)));
                    }
                    Action::Queued { id } => drop(open.insert(id.0, None)),
                    Action::Done { id, .. } => drop(open.remove(&id.0)),
                    _ => {}
                }
            }
            for (slot, replica) in r.replicas().iter().enumerate() {
                let slot = slot as u16;
                prop_assert_eq!(fleet.get(&slot), (!replica.removed).then_some(&replica.spec.name));
                prop_assert!(!replica.removed || r.index().tokens(ReplicaId(slot)) == 0);
                let here = open.values().flatten().filter(|(at, _)| *at == slot).count();
                prop_assert_eq!(here, replica.load.requests() as usize);
            }
        }
    }
}
