//! Several proxies: which one a request enters at, and what they know of each other's requests.

use super::*;

/// Conversations of six turns, each turn a second after the one before; every prompt begins with one of four system
/// prompts of 512 tokens.
fn conversations(n: u64) -> Vec<TraceRequest> {
    let mut trace = Vec::new();
    for session in 0..n {
        for turn in 0..6u64 {
            let system = (0..32).map(|b| 1 << 40 | (session % 4) << 20 | b);
            let own = (0..16 * (turn + 1)).map(|b| 1 << 41 | session << 20 | b);
            let blocks: Arc<[u64]> = system.chain(own).collect();
            let at = Time::from_ms(500.0 * session as f64 + 1_000.0 * turn as f64);
            let tokens = 16 * blocks.len() as u32;
            let id = session * 6 + turn;
            trace.push(TraceRequest { session, ..TraceRequest::lone(id, at, tokens, 8, 16, blocks) });
        }
    }
    trace.sort_by_key(|r| r.at);
    trace
}

fn proxies(proxies: ProxiesConfig) -> WorldConfig {
    let mut config = world(&[FRANKFURT; 4], Topology::Proxy { site: 0 });
    config.measured.clear();
    config.scrape_ms = 100.0;
    WorldConfig { proxies, ..config }
}

/// Cached tokens of all requests, in percent of their prompts.
fn hits(config: &WorldConfig) -> (f64, Outcome) {
    let out = go(config, "gorgo", &conversations(80));
    assert_eq!(finished(&out), 480);
    let sum = |value: fn(&RequestRecord) -> u32| out.records.iter().map(|r| f64::from(value(r))).sum::<f64>();
    (1e2 * sum(|r| r.cached_tokens) / sum(|r| r.prompt_tokens), out)
}

const EIGHT: ProxiesConfig = ProxiesConfig {
    count: 8,
    front: Front::Spread,
    prefixes: Prefixes::Private,
    share_ms: 50.0,
    share_loss: 0.0,
    share_late_ms: 0.0,
};
const SHARED: ProxiesConfig = ProxiesConfig { prefixes: Prefixes::Shared, ..EIGHT };

#[test]
fn eight_proxies_that_share_find_what_one_finds_and_private_ones_do_not() {
    let (one, out) = hits(&proxies(ProxiesConfig::default()));
    assert_eq!(out.shared, None);
    let (private, out) = hits(&proxies(EIGHT));
    let entered: std::collections::BTreeSet<u16> = out.records.iter().map(|r| r.router).collect();
    assert_eq!((out.shared, entered.len()), (None, 8));
    let (hashed, out) = hits(&proxies(ProxiesConfig { front: Front::Hash, ..EIGHT }));
    let mut sessions: Vec<(u64, u16)> =
        conversations(80).iter().zip(&out.records).map(|(t, r)| (t.session, r.router)).collect();
    sessions.sort_unstable();
    sessions.dedup();
    assert_eq!(sessions.len(), 80, "all turns of a conversation enter at one proxy");
    let (shared, out) = hits(&proxies(SHARED));
    let told = out.shared.unwrap();
    assert!(
        (told.paths.received, told.lost, told.paths.missing) == (told.paths.sent, 0, 0) && told.bytes > 0,
        "{told:?}"
    );
    assert!(shared > 0.98 * one && hashed > private && private < 0.9 * one, "{one} {private} {hashed} {shared}");
}

#[test]
fn lost_and_late_messages_cost_little_and_runs_repeat() {
    let (one, _) = hits(&proxies(ProxiesConfig::default()));
    let lossy = proxies(ProxiesConfig { share_loss: 0.2, share_late_ms: 300.0, ..SHARED });
    let (shared, out) = hits(&lossy);
    let told = out.shared.unwrap();
    assert!(told.lost > 0 && told.paths.missing > 0 && told.paths.asked > 0, "{told:?}");
    assert!(shared > 0.95 * one, "{shared} of {one}");
    assert_eq!(hits(&lossy).1, out);
}

#[test]
fn proxies_are_counted_and_bounded() {
    for (config, key) in [
        (ProxiesConfig { count: 0, ..SHARED }, "proxies.count"),
        (ProxiesConfig { count: 33, ..SHARED }, "proxies.count"),
        (ProxiesConfig { share_ms: 0.0, ..SHARED }, "proxies.share_ms"),
        (ProxiesConfig { share_loss: 1.5, ..SHARED }, "proxies.share_loss"),
        (ProxiesConfig { share_late_ms: -1.0, ..SHARED }, "proxies.share_late_ms"),
    ] {
        let error = proxies(config).check().unwrap_err().to_string();
        assert!(error.contains(key), "{error}");
    }
}
