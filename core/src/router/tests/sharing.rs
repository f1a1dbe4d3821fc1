//! Learned paths are sent to other routers, and received paths enter the index.

use super::*;
use crate::fleet::Load;

#[test]
fn what_one_router_learned_another_finds_once_told() {
    let mut first = router(RouterConfig::default(), &[REMOTE; 2]);
    first.share_prefixes(true);
    let mut actions = Vec::new();
    first.handle(Time::ZERO, ask(1, "abcdef"), &mut actions);
    assert!(!actions.iter().any(|a| matches!(a, Action::Learned(_))), "nothing is cached before the first token");
    let mut events = vec![RequestEvent::FirstToken { id: RequestId(1), attempt: 1 }];
    let answer = Some(Answer { keep: 5, tail: symbols("xyz"), tokens: 8 });
    events.push(RequestEvent::Finished { id: RequestId(1), attempt: 1, usage: Usage::default(), answer });
    events.into_iter().for_each(|event| first.handle(Time::ZERO, event, &mut actions));
    let learned: Vec<_> =
        actions.iter().filter_map(|a| if let Action::Learned(p) = a { Some(p) } else { None }).collect();
    assert_eq!(learned.iter().map(|p| p.symbols.len()).collect::<Vec<_>>(), [6, 8]);
    let mut second = router(RouterConfig::default(), &[REMOTE; 2]);
    for path in learned {
        let (replica, symbols, tokens) = (path.replica, Arc::clone(&path.symbols), path.tokens);
        second.handle(Time::ZERO, ReplicaEvent::PathLearned { replica, symbols, tokens }, &mut Vec::new());
    }
    for prompt in [symbols("abcdef"), symbols("abcdexyz")] {
        let (mut a, mut b) = ([0; 2], [0; 2]);
        first.index().lookup(&prompt, &mut a);
        second.index().lookup(&prompt, &mut b);
        assert_eq!(a, b);
        assert!(a.iter().any(|&tokens| tokens > 0));
    }
}

#[test]
fn nothing_is_believed_of_replicas_that_are_gone_or_down() {
    let mut r = router(RouterConfig::default(), &[REMOTE; 2]);
    (0..3).for_each(|_| {
        r.handle(Time::ZERO, ReplicaEvent::ProbeFailed { replica: ReplicaId(0), connected: false }, &mut Vec::new());
    });
    r.handle(Time::ZERO, ReplicaEvent::Removed { replica: ReplicaId(1) }, &mut Vec::new());
    for replica in [0, 1, 7].map(ReplicaId) {
        r.handle(
            Time::ZERO,
            ReplicaEvent::PathLearned { replica, symbols: symbols("abc"), tokens: 3 },
            &mut Vec::new(),
        );
        assert_eq!(r.index().tokens(replica), 0);
    }
}

#[test]
fn requests_of_peers_count_for_gates_and_policies_until_they_are_told_to_be_gone() {
    let mut config = RouterConfig::default();
    config.gates.max_running = Some(4);
    let mut r = router(config, &[REMOTE; 2]);
    let told = |loads: Vec<(ReplicaId, Load)>| ReplicaEvent::PeerLoads { peer: 0, loads };
    let busy = Load { waiting_requests: 3, running_requests: 1, waiting_tokens: 900, ..Load::default() };
    r.handle(Time::ZERO, told(vec![(ReplicaId(0), busy)]), &mut Vec::new());
    assert_eq!((r.replicas()[0].seen_load(Time::ZERO), r.replicas()[0].load), (busy, Load::default()));
    for id in 0..4 {
        let mut actions = Vec::new();
        r.handle(Time::ZERO, ask(id, "a"), &mut actions);
        let to = actions.iter().find_map(|a| if let Action::Dispatch(d) = a { Some(d.replica) } else { None });
        assert_eq!(to, Some(ReplicaId(1)), "replica 0 is full by the peer's requests");
    }
    assert_eq!(r.own_loads().len(), 1, "what a peer told is not told on");
    r.handle(Time::ZERO, told(Vec::new()), &mut Vec::new());
    assert_eq!(r.replicas()[0].requests(Time::ZERO), 0);
}
