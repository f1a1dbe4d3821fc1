//! Requests with a fence.

use super::*;
use crate::policy::Exclusion;

/// Replicas with these regions; "" for none. Each takes one request at a time.
fn fleet(regions: &[&str]) -> Router {
    let gates = Gates { max_running: Some(1), slow_start_ms: 0.0, ..Gates::default() };
    let config = RouterConfig { gates, record_decisions: true, unhealthy_after: 1, ..RouterConfig::default() };
    let mut router = router(config, &[]);
    for (i, region) in regions.iter().enumerate() {
        join(&mut router, i as u16, region);
    }
    router
}

fn join(router: &mut Router, slot: u16, region: &str) -> Vec<Action> {
    let region = Some(region.to_owned()).filter(|region| !region.is_empty());
    let spec = ReplicaSpec { region, ..spec(&format!("r{slot}"), REMOTE) };
    tell(router, 0, ReplicaEvent::Added { replica: ReplicaId(slot), spec })
}

fn fenced(id: u64, fence: &str) -> RequestEvent {
    let RequestEvent::Arrived(request) = ask(id, "ab") else { unreachable!() };
    RequestEvent::Arrived(Request { fence: Some(Fence::parse(fence).unwrap()), ..request })
}

fn ends(actions: &[Action]) -> Vec<&Action> {
    actions.iter().filter(|action| matches!(action, Action::Done { .. })).collect()
}

#[test]
fn retries_stay_inside_though_better_replicas_stand_outside() {
    let mut r = fleet(&["us", "eu", "", "eu"]);
    let first = sent(&tell(&mut r, 1, fenced(1, "eu")));
    assert!(matches!(first[..], [(1, 1 | 3, 1)]), "{first:?}");
    let second = sent(&tell(&mut r, 2, fail(1, 1, Failure::Unreachable)));
    assert_eq!(second, [(1, 4 - first[0].1, 2)]);
    let third = tell(&mut r, 3, fail(1, 2, Failure::Unreachable));
    assert_eq!((sent(&third), ends(&third)), (vec![], vec![]), "it waits for one inside");
    assert_eq!(sent(&tell(&mut r, 4, ask(2, "ab"))).len(), 1, "others do not wait behind it");
}

#[test]
fn without_a_replica_inside_it_ends_at_once_and_says_so() {
    let mut r = fleet(&["us", "", "eu"]);
    assert_eq!(ends(&tell(&mut r, 1, fenced(1, "mars"))), [&done(1, EndReason::Outside)]);
    tell(&mut r, 2, ReplicaEvent::Removed { replica: ReplicaId(2) });
    assert_eq!(ends(&tell(&mut r, 3, fenced(2, "eu"))), [&done(2, EndReason::Outside)]);
    let RequestEvent::Arrived(mut request) = fenced(3, "us") else { unreachable!() };
    let mut only = ReplicaSet::EMPTY;
    only.insert(ReplicaId(1));
    request.only = Some(only);
    let ended = tell(&mut r, 4, RequestEvent::Arrived(request));
    assert_eq!(ends(&ended), [&done(3, EndReason::Outside)], "only one outside serves its model");
    assert_eq!((EndReason::Outside.http_status(), r.in_flight()), (503, 0));
}

#[test]
fn while_all_inside_are_down_it_waits_as_long_as_for_a_dead_fleet() {
    let mut r = fleet(&["us", "eu"]);
    assert_eq!(sent(&tell(&mut r, 1, fenced(1, "eu"))), [(1, 1, 1)]);
    tell(&mut r, 2, fenced(2, "eu"));
    let called_back = tell(&mut r, 3, ReplicaEvent::ProbeFailed { replica: ReplicaId(1), connected: false });
    assert_eq!((sent(&called_back), r.queue_len()), (vec![], 1), "there is nowhere to call request 1 back to");
    tell(&mut r, 4, fenced(3, "eu"));
    assert_eq!(ends(&tell(&mut r, 2_003, Event::Timer)), [&done(2, EndReason::InsideDown)], "it waited already");
    assert_eq!(ends(&tell(&mut r, 2_004, Event::Timer)), [&done(3, EndReason::InsideDown)]);
    assert_eq!((EndReason::InsideDown.http_status(), EndReason::InsideDown.code()), (503, "residency_unavailable"));
    assert_eq!(r.replicas()[0].load.requests(), 0, "none went outside");
    // One that answers in time takes it, whatever its probes say.
    tell(&mut r, 3_000, fenced(4, "eu"));
    assert_eq!(sent(&tell(&mut r, 3_100, finish(1, 1))), [(4, 1, 1)]);
}

#[test]
fn a_replica_that_joins_is_judged_by_its_own_labels() {
    let mut r = fleet(&["eu"]);
    tell(&mut r, 1, fenced(1, "eu"));
    tell(&mut r, 1, fenced(2, "eu"));
    assert_eq!(sent(&join(&mut r, 1, "us")), [], "an idle replica outside");
    assert_eq!(sent(&join(&mut r, 2, "")), [], "and one of unknown region");
    assert_eq!(sent(&join(&mut r, 3, "eu")), [(2, 3, 1)]);
    // A slot that was inside belongs to one outside now.
    tell(&mut r, 2, fenced(3, "eu"));
    tell(&mut r, 3, ReplicaEvent::Removed { replica: ReplicaId(3) });
    tell(&mut r, 3, finish(2, 1));
    tell(&mut r, 3, finish(2, 2));
    assert_eq!(sent(&join(&mut r, 3, "us")), []);
    assert_eq!(sent(&tell(&mut r, 4, finish(1, 1))).first().map(|sent| sent.1), Some(0));
}

#[test]
fn the_decision_shows_the_fence_and_who_is_outside() {
    let mut r = fleet(&["us", "eu", ""]);
    let actions = tell(&mut r, 1, fenced(1, "eu"));
    let record = actions.iter().find_map(|action| match action {
        Action::Decided(record) => Some(record),
        _ => None,
    });
    let record = record.unwrap();
    assert_eq!(record.fence.as_ref().unwrap().to_string(), "eu");
    let excluded: Vec<_> = record.candidates.iter().map(|one| one.candidate.excluded).collect();
    assert_eq!(excluded, [Some(Exclusion::Outside), None, Some(Exclusion::Outside)]);
}

#[test]
fn a_fenced_prompt_is_told_to_no_other_router() {
    for learn_at in [LearnAt::FirstToken, LearnAt::Dispatch] {
        let told = |request: RequestEvent| {
            let mut r = fleet(&["eu"]);
            r.config.learn_at = learn_at;
            r.share_prefixes(true);
            let answer = Some(Answer { keep: 2, tail: symbols("xyz"), tokens: 5 });
            let first = RequestEvent::FirstToken { id: RequestId(1), attempt: 1 };
            let end = RequestEvent::Finished { id: RequestId(1), attempt: 1, usage: Usage::default(), answer };
            let actions: Vec<Action> =
                [request, first, end].into_iter().flat_map(|event| tell(&mut r, 1, event)).collect();
            assert!(r.index().tokens(ReplicaId(0)) > 0, "the router itself knows it");
            actions.iter().filter(|action| matches!(action, Action::Learned(_))).count()
        };
        assert_eq!((told(ask(1, "ab")), told(fenced(1, "eu"))), (2, 0), "{learn_at:?}");
    }
}

#[test]
fn a_replica_in_another_region_by_its_new_settings_is_inside_another_fence() {
    let mut r = fleet(&["us", "eu"]);
    assert_eq!(sent(&tell(&mut r, 1, fenced(1, "eu"))), [(1, 1, 1)]);
    tell(&mut r, 2, fenced(2, "eu"));
    let moved = ReplicaSpec { region: Some("eu".to_owned()), ..spec("r0", REMOTE) };
    let actions = tell(&mut r, 3, ReplicaEvent::Described { replica: ReplicaId(0), spec: Box::new(moved) });
    assert_eq!(sent(&actions), [(2, 0, 1)], "the request that waited goes there");
}
