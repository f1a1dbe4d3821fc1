//! Digests of peers' prefixes in decisions, and what a router's own digest tells.

use super::*;
use crate::Span;
use crate::decide::{ReplicaState, State as Recorded, decide};
use crate::digest::{DigestView, Edition, ReceivedDigest, Update};
use crate::policy::PolicyConfig;

const PEER: ReplicaId = ReplicaId(1);

/// A prompt as symbols, one a character, each of which names all before it, too.
fn symbols(text: &str) -> Arc<[u64]> {
    let chain = |chain: &mut u64, byte: u8| {
        *chain = chain.wrapping_mul(0x517c_c1b7_2722_0a95).wrapping_add(u64::from(byte));
        Some(*chain)
    };
    text.bytes().scan(1, chain).collect()
}

fn ask(id: u64, prompt: &str) -> RequestEvent {
    let RequestEvent::Arrived(request) = super::ask(id, prompt) else { unreachable!() };
    RequestEvent::Arrived(Request { symbols: symbols(prompt), ..request })
}

fn edge() -> Router {
    router(RouterConfig { record_decisions: true, ..RouterConfig::default() }, &[Kind::Local, Kind::Peer])
}

fn told(keys: &[u64]) -> ReplicaEvent {
    let edition = Edition { author: 1, number: 1 };
    let update = Update { edition, since: None, every: 1, age: Span(0), added: keys.to_vec(), removed: Vec::new() };
    ReplicaEvent::DigestReceived { replica: PEER, update: Arc::new(update) }
}

fn decision(actions: &[Action]) -> Arc<DecisionRecord> {
    let record = |action: &Action| if let Action::Decided(record) = action { Some(Arc::clone(record)) } else { None };
    actions.iter().find_map(record).unwrap()
}

/// Tokens that the peer is believed to have of `prompt` at `ms`, and what its digest says of it.
fn believed(r: &mut Router, ms: u64, id: u64, prompt: &str) -> (u32, Option<DigestView>) {
    let record = decision(&tell(r, ms, ask(id, prompt)));
    let of_peer = &record.candidates[PEER.index()].candidate;
    (of_peer.cached_tokens, of_peer.digest)
}

#[test]
fn a_peers_digest_counts_where_it_tells_more_than_the_own_index() {
    let mut r = edge();
    tell(&mut r, 0, ReplicaEvent::Probed { replica: PEER, rtt_ms: 200.0 });
    assert_eq!(believed(&mut r, 0, 1, "abcdefgh"), (0, None));
    tell(&mut r, 1_000, told(&symbols("abcd")));
    assert_eq!(r.replicas()[PEER.index()].digest().map(ReceivedDigest::keys), Some(4));
    let view = |tokens, age_ms| (tokens, Some(DigestView { tokens, age_ms }));
    assert_eq!(believed(&mut r, 1_000, 2, "abcdefgh"), view(3, 100.0), "half a round trip old");
    assert_eq!(believed(&mut r, 30_900, 3, "abcdefgh"), view(2, 30_000.0));
    assert_eq!(believed(&mut r, 31_000, 4, "xbcdefgh"), (0, None));
    // The own index tells as much by now.
    let insert = ReplicaEvent::PathLearned { replica: PEER, symbols: symbols("abc"), tokens: 3 };
    tell(&mut r, 31_000, insert);
    assert_eq!(believed(&mut r, 31_000, 5, "abcdefgh"), (3, None));
    tell(&mut r, 32_000, told(&symbols("abcdef")));
    assert_eq!(believed(&mut r, 32_000, 6, "abcdefgh").0, 5);
    (0..3).for_each(|_| drop(tell(&mut r, 33_000, ReplicaEvent::ProbeFailed { replica: PEER, connected: false })));
    assert!(r.replicas()[PEER.index()].digest().is_none(), "nothing is known of a peer that is down");
    tell(&mut r, 34_000, ReplicaEvent::Removed { replica: PEER });
    tell(&mut r, 34_000, told(&symbols("abcdef")));
    assert!(r.replicas()[PEER.index()].digest().is_none());
}

#[test]
fn only_peers_have_digests() {
    let mut r = router(RouterConfig::default(), &[Kind::Local, Kind::Remote]);
    tell(&mut r, 0, told(&symbols("abcd")));
    assert!(r.replicas().iter().all(|replica| replica.digest().is_none()));
}

#[test]
fn a_decision_by_a_digest_replays_from_its_record() {
    let policy = PolicyConfig::default();
    let config = RouterConfig { record_decisions: true, ..RouterConfig::default() };
    let mut r = Router::new(config, policy.build(), None, rng::stream(1, "ties", 0));
    for (slot, kind) in [Kind::Local, Kind::Peer].into_iter().enumerate() {
        let event = ReplicaEvent::Added { replica: ReplicaId(slot as u16), spec: spec(&format!("r{slot}"), kind) };
        tell(&mut r, 0, event);
    }
    let report = PeerReport { healthy: true, ..PeerReport::default() };
    tell(&mut r, 0, ReplicaEvent::PeerReported { replica: PEER, report, seen: at(0) });
    tell(&mut r, 0, told(&symbols(&"a".repeat(500))));
    let record = decision(&tell(&mut r, 700, ask(1, &"a".repeat(900))));
    assert_eq!(record.chosen, Some(PEER.index()), "its cache decides");
    let state = |one: &ScoredCandidate| ReplicaState::of(record.name(one.candidate.id).to_owned(), &one.candidate);
    let recorded = Recorded {
        id: "1".to_owned(),
        prompt_tokens: record.info.prompt_tokens,
        replicas: record.candidates.iter().map(state).collect(),
        ..Recorded::default()
    };
    let read = Recorded::parse(&serde_json::to_string(&recorded).unwrap()).unwrap();
    assert_eq!(read, recorded);
    assert_eq!(read.replicas[PEER.index()].digest.map(|view| view.age_ms), Some(700.0));
    let decided = decide(&mut *policy.build(), &mut rng::stream(2, "ties", 0), &read);
    assert_eq!(decided.chosen.as_deref(), Some("r1"));
    let terms = decided.candidates.iter().zip(&record.candidates);
    assert!(terms.into_iter().all(|(again, one)| again.terms == one.terms));
}

/// The keys of a router's digest at `ms`.
fn digest(r: &mut Router, ms: u64) -> BTreeSet<u64> {
    r.digest_since(at(ms), None).unwrap().added.into_iter().collect()
}

fn serve(r: &mut Router, ms: u64, request: RequestEvent) {
    let RequestEvent::Arrived(Request { id, .. }) = request else { unreachable!() };
    tell(r, ms, request);
    tell(r, ms, RequestEvent::FirstToken { id, attempt: 1 });
    let answer = Some(Answer { keep: 2, tail: symbols("yz"), tokens: 4 });
    tell(r, ms, RequestEvent::Finished { id, attempt: 1, usage: Usage::default(), answer });
}

#[test]
fn the_digest_has_the_own_engines_prompts_and_answers_and_forgets_with_the_index() {
    for learn_at in [LearnAt::Dispatch, LearnAt::FirstToken] {
        let mut r = router(RouterConfig { learn_at, ..RouterConfig::default() }, &[Kind::Local]);
        assert_eq!(r.digest_since(at(0), None), None, "nothing is told before it is switched on");
        r.tell_digest(7, 1);
        serve(&mut r, 0, ask(1, "abcd"));
        assert_eq!(digest(&mut r, 1_000), symbols("abcd").iter().chain(symbols("yz").iter()).copied().collect());
        tell(&mut r, 2_000, ReplicaEvent::Flushed { replica: ReplicaId(0) });
        assert_eq!(digest(&mut r, 3_000), BTreeSet::new());
    }
}

#[test]
fn what_peers_hold_is_not_told_on() {
    let mut r = router(RouterConfig::default(), &[Kind::Peer]);
    r.tell_digest(7, 1);
    let report = PeerReport { healthy: true, ..PeerReport::default() };
    tell(&mut r, 0, ReplicaEvent::PeerReported { replica: ReplicaId(0), report, seen: at(0) });
    serve(&mut r, 0, ask(1, "abcd"));
    assert!(r.index().tokens(ReplicaId(0)) > 0);
    assert_eq!(digest(&mut r, 1_000), BTreeSet::new());
}

#[test]
fn the_keys_of_a_fenced_prompt_never_leave() {
    let mut r = router(RouterConfig { index_tokens: 200, ..RouterConfig::default() }, &[]);
    let spec = ReplicaSpec { region: Some("eu".to_owned()), ..spec("r0", Kind::Local) };
    tell(&mut r, 0, ReplicaEvent::Added { replica: ReplicaId(0), spec });
    r.tell_digest(7, 1);
    // Each prompt begins with words that all have; symbols of the rest are its own.
    let prompt = |id: u64, length: u64| -> Arc<[u64]> { (0..3).chain((3..length).map(|at| id << 8 | at)).collect() };
    let (mut may_be_told, mut told) = (BTreeSet::new(), 0);
    for id in 1..200u64 {
        let RequestEvent::Arrived(mut request) = ask(id, "") else { unreachable!() };
        // Some conversations have turns with and without a fence.
        request.symbols = prompt(id / 3 * 3, 4 + id * 7 % 23);
        request.info.prompt_tokens = request.symbols.len() as u32;
        request.fence = (id % 2 == 0).then(|| Fence::parse("eu").unwrap());
        if request.fence.is_none() {
            may_be_told.extend(request.symbols.iter().copied());
        }
        tell(&mut r, id * 1_000, RequestEvent::Arrived(request));
        tell(&mut r, id * 1_000, RequestEvent::FirstToken { id: RequestId(id), attempt: 1 });
        tell(&mut r, id * 1_000, finish(id, 1));
        let keys = digest(&mut r, id * 1_000);
        assert!(keys.is_subset(&may_be_told), "request {id}: {:?}", keys.difference(&may_be_told));
        told = told.max(keys.len());
    }
    assert!(told > 50, "{told}");
}
