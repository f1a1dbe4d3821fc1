//! KV events of engines change the index.

use super::*;
use crate::fleet::EngineReport;
use crate::kv_events::CacheChange;

fn learned(text: &str, replica: ReplicaId) -> ReplicaEvent {
    ReplicaEvent::PathLearned { replica, symbols: symbols(text), tokens: text.len() as u32 }
}

fn told(r: &mut Router, replica: ReplicaId, changes: Vec<CacheChange>) {
    r.handle(Time::ZERO, ReplicaEvent::Cache { replica, changes }, &mut Vec::new());
}

#[test]
fn an_evicted_path_is_cut_for_that_replica_only() {
    let mut r = router(RouterConfig::default(), &[REMOTE; 2]);
    for replica in [ReplicaId(0), ReplicaId(1)] {
        r.handle(Time::ZERO, learned("abcdef", replica), &mut Vec::new());
        r.handle(Time::ZERO, learned("abXY", replica), &mut Vec::new());
    }
    told(&mut r, ReplicaId(0), vec![CacheChange::Evicted { symbols: symbols("abcdef"), keep: 3 }]);
    let held = |r: &Router, text: &str| {
        let mut matched = [0; 2];
        r.index().lookup(&symbols(text), &mut matched);
        matched
    };
    assert_eq!((held(&r, "abcdef"), held(&r, "abXY")), ([3, 6], [4, 4]));
    told(&mut r, ReplicaId(1), vec![CacheChange::Cleared]);
    assert_eq!(held(&r, "abcdef"), [3, 0]);
}

#[test]
fn a_measured_capacity_is_the_budget_until_it_is_not_known_any_more() {
    let mut r = router(RouterConfig::default(), &[REMOTE]);
    let replica = ReplicaId(0);
    let scraped =
        |kv_tokens| ReplicaEvent::Scraped { replica, report: EngineReport { kv_tokens, ..Default::default() } };
    r.handle(Time::ZERO, scraped(100), &mut Vec::new());
    for text in ["aaaaaaaaaa", "bbbbbbbbbb", "cccccccccc"] {
        r.handle(Time::ZERO, learned(text, replica), &mut Vec::new());
    }
    told(&mut r, replica, vec![CacheChange::Measured(Some(20))]);
    assert_eq!(r.index().tokens(replica), 20, "the least recently used path went");
    r.handle(Time::ZERO, scraped(90), &mut Vec::new());
    r.handle(Time::ZERO, learned("dddddddddd", replica), &mut Vec::new());
    assert_eq!(r.index().tokens(replica), 20, "what the engine reports does not replace what was measured");
    told(&mut r, replica, vec![CacheChange::Measured(None)]);
    for letter in "ABCDEFGHIJKL".chars() {
        r.handle(Time::ZERO, learned(&letter.to_string().repeat(10), replica), &mut Vec::new());
    }
    let tokens = r.index().tokens(replica);
    assert!((81..=90).contains(&tokens), "the reported capacity counts again: {tokens}");
}
