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
    RequestEvent::Arrived(Request::new(RequestId(id), symbols, info))
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
    RequestEvent::Failed { id: RequestId(id), attempt, failure, dispatches: 1 }
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
fn other_settings_are_in_force_at_once() {
    let config = RouterConfig { queue_limit: 0, ..RouterConfig::default() };
    let mut r = router(config.clone(), &[REMOTE]);
    tell(&mut r, 1, ask(1, "ab"));
    let config = RouterConfig { gates: Gates { max_running: Some(1), ..Gates::default() }, ..config };
    tell(&mut r, 1, AdminEvent::ConfigSet(Box::new(config)));
    assert_eq!(tell(&mut r, 2, ask(2, "cd")), [done(2, EndReason::QueueFull)]);
}

mod admission;
mod digest;
mod faults;
mod fence;
mod forwarding;
mod kv_events;
mod learning;
mod peers;
mod queue;
mod retries;
mod sharing;
mod slots;
mod soak;
