//! Edges that tell each other which prefixes their engines hold.

use super::*;

/// Users in San Francisco send long documents; half a minute later, users in Frankfurt ask something about each.
fn documents() -> Vec<TraceRequest> {
    let ask = |at_ms: f64, id: u64, document: u64, place| TraceRequest {
        session: id,
        ..request(at_ms, document, 6_000, 8, place)
    };
    let there = (0..8).map(|i| ask(i as f64 * 3_000.0, i, i, SAN_FRANCISCO));
    let here = (0..8).map(|i| ask(60_000.0 + i as f64 * 3_000.0, 8 + i, i, FRANKFURT));
    there.chain(here).collect()
}

fn edges(digest_ms: f64) -> WorldConfig {
    WorldConfig { digest_ms, decisions_of: 16, ..world(&TWO, Topology::Edge) }
}

/// How many of Frankfurt's requests found their document in a cache.
fn hits(outcome: &Outcome) -> usize {
    assert_eq!(finished(outcome), 16);
    outcome.records[8..].iter().filter(|record| record.cached_tokens > 5_000).count()
}

#[test]
fn a_prefix_that_only_a_peers_users_made_is_found_by_its_digest() {
    let without = go(&edges(0.0), "gorgo", &documents());
    assert_eq!((hits(&without), without.shared), (0, None));
    let with = go(&edges(2_000.0), "gorgo", &documents());
    assert_eq!(hits(&with), 8);
    let told = with.decisions.iter().filter(|one| one.router == 0 && one.record >= 8);
    for one in told {
        let peer = &one.decision.candidates[1].candidate;
        let digest = peer.digest.expect("its digest tells more than the own index");
        assert_eq!(peer.cached_tokens, digest.tokens);
        // Half a round trip when it arrives, and 2 s and half a round trip more before the next.
        assert!((75.0..=2_200.0).contains(&digest.age_ms), "{digest:?}");
        assert!((5_600..=6_000).contains(&digest.tokens), "{digest:?}");
    }
    let shared = with.shared.unwrap();
    assert!(shared.messages > 40 && shared.lost == 0, "{shared:?}");
    // 8 documents of 23 keys, each key told once in each direction, and the messages around them.
    let most = shared.messages / 2 * (2 * 400 + 180) + 2 * 8 * 24 * 11;
    assert!(shared.bytes < most, "{shared:?}, at most {most}");
    assert_eq!(go(&edges(2_000.0), "gorgo", &documents()), with, "equal seeds give equal runs");
}

#[test]
fn an_old_digest_counts_for_little() {
    let mut config = edges(2_000.0);
    config.router.digest_half_life_ms = 10.0;
    assert_eq!(hits(&go(&config, "gorgo", &documents())), 0);
}

#[test]
fn routers_of_the_same_replicas_ask_for_no_digest() {
    let config = WorldConfig { digest_ms: 2_000.0, ..world(&TWO, Topology::Proxy { site: 0 }) };
    assert_eq!(go(&config, "gorgo", &documents()).shared, None);
}
