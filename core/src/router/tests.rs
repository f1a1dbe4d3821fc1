use super::*;
use crate::fleet::{EngineReport, Gates, Kind, PeerReport, ReplicaSpec};
use crate::policy::{RequestInfo, Selection, least};
use crate::residency::Fence;
use crate::rng;
use rand::RngExt;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Least requests, ties at random: enough of a policy to exercise the machine.
#[derive(Debug)]
struct LeastRequests;

impl Policy for LeastRequests {
    fn name(&self) -> &'static str {
        "test"
    }
    fn choose(
        &mut self,
        _: &RequestInfo,
        candidates: &[Candidate],
        terms: &mut [CostTerms],
        rng: &mut ChaCha8Rng,
    ) -> Selection {
        for (candidate, term) in candidates.iter().zip(terms) {
            term.total = f64::from(candidate.requests());
        }
        Selection::own(least(candidates, rng, |_, c| f64::from(c.requests())))
    }
}

fn at(ms: u64) -> Time {
    Time(ms * 1_000_000)
}

fn spec(name: &str, kind: Kind) -> ReplicaSpec {
    ReplicaSpec { kv_tokens: Some(1_000), ..ReplicaSpec::new(name, kind) }
}

fn router(config: RouterConfig, kinds: &[Kind]) -> Router {
    let mut router = Router::new(config, Box::new(LeastRequests), Some(1), rng::stream(1, "ties", 0));
    for (i, &kind) in kinds.iter().enumerate() {
        let event = ReplicaEvent::Added { replica: ReplicaId(i as u16), spec: spec(&format!("r{i}"), kind) };
        router.handle(at(0), event, &mut Vec::new());
    }
    router
}

/// A prompt as symbols, one a character.
fn symbols(text: &str) -> Arc<[u64]> {
    text.bytes().map(u64::from).collect()
}

fn ask(id: u64, prompt: &str) -> RequestEvent {
    let symbols = symbols(prompt);
    let info = RequestInfo { prompt_tokens: symbols.len() as u32, ..RequestInfo::default() };
    RequestEvent::Arrived(Request {
        id: RequestId(id),
        symbols,
        info,
        hops: 0,
        deadline: None,
        only: None,
        fence: None,
    })
}

fn tell(router: &mut Router, ms: u64, event: impl Into<Event>) -> Vec<Action> {
    let mut actions = Vec::new();
    router.handle(at(ms), event, &mut actions);
    actions.retain(|a| !matches!(a, Action::SetTimer(_)));
    actions
}

fn sent(actions: &[Action]) -> Vec<(u64, u16, u8)> {
    let dispatch = |a: &Action| match a {
        Action::Dispatch(d) => Some((d.id.0, d.replica.0, d.attempt)),
        _ => None,
    };
    actions.iter().filter_map(dispatch).collect()
}

fn done(id: u64, reason: EndReason) -> Action {
    Action::Done { id: RequestId(id), reason }
}

fn finish(id: u64, attempt: u8) -> RequestEvent {
    RequestEvent::Finished { id: RequestId(id), attempt, usage: Usage::default(), answer: None }
}

fn fail(id: u64, attempt: u8, failure: Failure) -> RequestEvent {
    RequestEvent::Failed { id: RequestId(id), attempt, failure }
}

const REMOTE: Kind = Kind::Remote;

#[test]
fn counters_follow_a_request_and_return_to_zero() {
    let mut r = router(RouterConfig::default(), &[REMOTE]);
    assert_eq!(sent(&tell(&mut r, 1, ask(1, "abcd"))), [(1, 0, 1)]);
    assert_eq!((r.replicas()[0].load.waiting_tokens, r.replicas()[0].load.waiting_uncached_tokens), (4, 4));
    tell(&mut r, 2, RequestEvent::FirstToken { id: RequestId(1), attempt: 1 });
    tell(&mut r, 2, RequestEvent::FirstToken { id: RequestId(1), attempt: 1 });
    assert_eq!((r.replicas()[0].load.waiting_requests, r.replicas()[0].load.running_tokens), (0, 4));
    assert_eq!(tell(&mut r, 3, finish(1, 1)), [done(1, EndReason::Finished)]);
    assert_eq!(tell(&mut r, 4, finish(1, 1)), []);
    assert_eq!(r.replicas()[0].load, crate::fleet::Load::default());
    // The prompt was learned at the first token.
    tell(&mut r, 5, ask(2, "abcdef"));
    assert_eq!(r.replicas()[0].load.waiting_uncached_tokens, 2);
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
fn other_settings_are_in_force_at_once() {
    let config = RouterConfig { queue_limit: 0, ..RouterConfig::default() };
    let mut r = router(config.clone(), &[REMOTE]);
    tell(&mut r, 1, ask(1, "ab"));
    let config = RouterConfig { gates: Gates { max_running: Some(1), ..Gates::default() }, ..config };
    tell(&mut r, 1, AdminEvent::ConfigSet(Box::new(config)));
    assert_eq!(tell(&mut r, 2, ask(2, "cd")), [done(2, EndReason::QueueFull)]);
}

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
        tell(&mut r, i, ReplicaEvent::ProbeFailed { replica: ReplicaId(0) });
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
        (from..from + 3).for_each(|ms| drop(tell(r, ms, ReplicaEvent::ProbeFailed { replica: ReplicaId(replica) })));
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
        assert_eq!(tell(&mut r, ms, ReplicaEvent::ProbeFailed { replica: ReplicaId(0) }), []);
    }
    // Down: the one that waits here cannot go on; the one at the engine is called back and cannot either.
    let end = tell(&mut r, 5, ReplicaEvent::ProbeFailed { replica: ReplicaId(0) });
    assert!(end.contains(&done(2, EndReason::Unavailable)), "{end:?}");
    assert!(end.contains(&done(1, EndReason::Unavailable)), "{end:?}");
    assert_eq!(tell(&mut r, 6, forwarded(3)), [done(3, EndReason::Unavailable)]);
    assert_eq!(sent(&tell(&mut r, 7, ask(4, "a"))), [(4, 1, 1)], "its own requests go to the peer");
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
    (2..4).for_each(|ms| assert_eq!(tell(&mut r, ms, ReplicaEvent::ProbeFailed { replica: silent }), []));
    let called_back = tell(&mut r, 4, ReplicaEvent::ProbeFailed { replica: silent });
    assert!(matches!(called_back[0], Action::Cancel { id: RequestId(1), .. }), "{called_back:?}");
    assert_eq!(sent(&tell(&mut r, 5, finish(2, 1))), [(1, other, 2)]);
}

#[test]
fn usage_corrects_the_index_and_the_answer_is_learned() {
    let mut r = router(RouterConfig::default(), &[REMOTE]);
    tell(&mut r, 0, ask(1, "abcdefgh"));
    let answer = Some(Answer { keep: 8, tail: symbols("XYZ"), tokens: 11 });
    let usage = Usage { cached_tokens: Some(0), output_tokens: 3 };
    tell(&mut r, 1, RequestEvent::Finished { id: RequestId(1), attempt: 1, usage, answer });
    let mut matched = [0];
    r.index().lookup(&symbols("abcdefghXYZ!"), &mut matched);
    assert_eq!(matched, [11]);
    // The engine evicted all but two tokens meanwhile; the finished prompt is there again, the old answer is not.
    tell(&mut r, 2, ask(2, "abcdefgh"));
    let usage = Usage { cached_tokens: Some(2), output_tokens: 1 };
    tell(&mut r, 3, RequestEvent::Finished { id: RequestId(2), attempt: 1, usage, answer: None });
    r.index().lookup(&symbols("abcdefghXYZ!"), &mut matched);
    assert_eq!(matched, [8]);
    assert_eq!((r.stats().predicted_cached_tokens, r.stats().actual_cached_tokens), (8, 2));
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

mod admission;
mod faults;
mod fence;
mod kv_events;
mod peers;
mod sharing;
mod slots;
mod soak;

#[test]
fn an_answer_that_comes_whole_is_learned_with_its_prompt_in_one_piece() {
    let held = |prompt: &str, answer: Option<Answer>| {
        let mut router = router(RouterConfig::default(), &[Kind::Remote]);
        tell(&mut router, 1, ask(1, prompt));
        let usage = Usage { cached_tokens: None, output_tokens: 2 };
        tell(&mut router, 2, RequestEvent::Finished { id: RequestId(1), attempt: 1, usage, answer });
        let mut matched = [0];
        let cached = |key: &str, matched: &mut [u32]| {
            router.index().lookup(&symbols(key), matched);
            matched[0]
        };
        (router.index().nodes(), cached("abcdXYZ", &mut matched), cached("abcde", &mut matched))
    };
    let answer = |keep, tail: &str| Some(Answer { keep, tail: symbols(tail), tokens: 7 });
    assert_eq!(held("abcde", None), (1, 4, 5), "no answer: the prompt alone");
    assert_eq!(held("abcde", answer(4, "XYZ")), (1, 7, 4), "the block the prompt ended in is now the answer's");
    assert_eq!(held("abcde", answer(3, "dXYZ")), (3, 7, 5), "more than its last block is the prompt's alone");
    assert_eq!(held("e", answer(0, "abcdXYZ")), (2, 7, 4), "else nothing of a short prompt would be left");
}
