//! Checks of a configuration that types cannot express: ranges and contradictions.

use super::replica_name::{check_name, shown_name};
use super::{Config, ConfigError, Role};
use crate::upstream::connect::{Endpoint, shown_url};
use crate::worker_index::MAX_WORKERS;
use gorgo_core::MAX_REPLICAS;
use gorgo_core::egress::EgressPrice;
use gorgo_core::range::OutOfRange;
use gorgo_core::residency::check_labels;
use std::fmt::Display;

pub(super) fn check(config: &Config) -> Result<(), ConfigError> {
    let bad = |key: &str, value: &dyn Display, advice: &str| {
        Err(ConfigError::Value { key: key.to_owned(), value: value.to_string(), advice: advice.to_owned() })
    };
    let (limits, times) = (&config.limits, &config.timeouts);
    for (key, value, low, high) in [
        ("limits.body_bytes", limits.body_bytes as u64, 1 << 10, 1 << 30),
        ("limits.bodies_bytes", limits.bodies_bytes as u64, limits.body_bytes as u64, 1 << 40),
        ("limits.header_bytes", limits.header_bytes as u64, 8 << 10, 1 << 20),
        ("limits.headers", limits.headers as u64, 16, 1_000),
        ("limits.threads", limits.threads as u64, 0, MAX_WORKERS as u64),
        ("limits.connections", limits.connections as u64, 1, 1 << 20),
        ("limits.requests", limits.requests as u64, 1, 1 << 20),
        ("limits.tokenizer_entries", limits.tokenizer_entries as u64, 2, 1 << 28),
        ("timeouts.tokenize_ms", times.tokenize_ms, 1, 10_000),
        ("timeouts.header_ms", times.header_ms, 10, 600_000),
        ("timeouts.idle_ms", times.idle_ms, 10, 86_400_000),
        ("timeouts.body_gap_ms", times.body_gap_ms, 10, 600_000),
        ("timeouts.body_ms", times.body_ms, 10, 3_600_000),
        ("timeouts.connect_ms", times.connect_ms, 1, 600_000),
        ("timeouts.first_token_ms", times.first_token_ms, 1, 86_400_000),
        ("timeouts.hold_ms", times.hold_ms, 0, 60_000),
        ("timeouts.idle_gap_ms", times.idle_gap_ms, 1, 86_400_000),
        ("timeouts.settle_ms", times.settle_ms, 0, 600_000),
        ("timeouts.drain_ms", times.drain_ms, 0, 86_400_000),
        ("timeouts.keep_alive_ms", times.keep_alive_ms, 0, 3_600_000),
        ("upstream.max_keep_alive_ms", config.upstream.max_keep_alive_ms, 0, 3_600_000),
        ("probes.timeout_ms", config.probes.timeout_ms, 1, 600_000),
        ("probes.digest_ms", config.probes.digest_ms, 0, 3_600_000),
        ("probes.scrape_timeout_ms", config.probes.scrape_timeout_ms, 1, 600_000),
        ("explain.decisions", config.explain.decisions as u64, 0, 1_000_000),
        ("explain.rows", config.explain.rows as u64, 0, 10_000_000),
        ("shadow.policies", config.shadow.policies.len() as u64, 0, 16),
        ("router.index_bytes", config.router.index_bytes as u64, 0, 1 << 40),
    ] {
        if !(low..=high).contains(&value) {
            return bad(key, &value, &format!("it must lie between {low} and {high}"));
        }
    }
    if let Err(OutOfRange { key, value, low, high }) = config.router.check() {
        return bad(&format!("router.{key}"), &value, &format!("it must lie between {low} and {high}"));
    }
    for (key, policy) in std::iter::once(("policy".to_owned(), &config.policy))
        .chain(config.shadow.policies.iter().enumerate().map(|(i, policy)| (format!("shadow.policies[{i}]"), policy)))
    {
        if policy.is_oracle() {
            let advice =
                "an oracle knows the future of the engines, which only a simulation has; choose another policy";
            return bad(&key, &format!("\"{}\"", policy.name()), advice);
        }
    }
    if let Some(region) = config.region.as_ref().filter(|region| region.trim().is_empty()) {
        return bad(
            "region",
            &format!("\"{region}\""),
            "name a region, for example aws:eu-central-1, or take the key out",
        );
    }
    if !config.probes.path.starts_with('/') {
        return bad("probes.path", &format!("\"{}\"", config.probes.path), "begin it with `/`");
    }
    #[cfg(not(feature = "tokenizer"))]
    if let Some(path) = &config.tokenizer {
        let advice = "this build cannot count tokens; build it with `cargo build --release --features tokenizer`, or take \
                      the key out to estimate them";
        return bad("tokenizer", &format!("\"{}\"", path.display()), advice);
    }
    for (i, origin) in config.cors.origins.iter().enumerate() {
        let rest = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
        if origin != "*" && rest.is_none_or(|host| host.is_empty() || host.contains(['/', ' '])) {
            let advice = "write an origin as browsers send it, https://host[:port], or *";
            return bad(&format!("cors.origins[{i}]"), &format!("\"{origin}\""), advice);
        }
    }
    fleet(config)?;
    config.discovery.check()?;
    config.residency.check()?;
    egress(config)?;
    config.sharing.check()?;
    config.kv_events.check()?;
    config.tune.check(&config.policy)?;
    config.snapshot.check()?;
    if config.role == Role::Edge && !config.sharing.peers.is_empty() {
        let advice = "an edge's peers stand in `peers`; routers that share replicas are proxies";
        return bad("sharing.peers", &"set for an edge", advice);
    }
    if config.tls.cert.is_some() != config.tls.key.is_some() {
        return bad("tls", &"incomplete", "give both `tls.cert` and `tls.key`, or neither");
    }
    keys(config)?;
    let guarded = config.security.has("api_key") && config.security.has("admin_key");
    if !config.listen.ip().is_loopback() && !guarded {
        let advice = "beyond loopback an API key and an admin key are needed: set security.api_key_file and \
                      security.admin_key_file (or GORGO_API_KEY and GORGO_ADMIN_KEY)";
        return bad("listen", &config.listen, advice);
    }
    Ok(())
}

/// Prices that nothing reads are a mistake.
fn egress(config: &Config) -> Result<(), ConfigError> {
    let bad = |key: &str, value: String, advice: &str| {
        let key = format!("router.egress.{key}");
        Err(ConfigError::Value { key, value, advice: advice.to_owned() })
    };
    let egress = &config.router.egress;
    if egress.prices.is_empty() && egress.ms_per_unit == 0.0 {
        return Ok(());
    }
    if egress.ms_per_unit == 0.0 {
        let advice = "without router.egress.ms_per_unit they change nothing; say what a unit of money is worth";
        return bad("prices", format!("a list of {}", egress.prices.len()), advice);
    }
    if let Some(EgressPrice { from, to, per_gb }) = egress.doubled() {
        let advice = format!("the pair from \"{from}\" to \"{to}\" has a price before it; keep one");
        return bad("prices", format!("per_gb = {per_gb}"), &advice);
    }
    let region = config.region.as_deref().unwrap_or_default();
    if !egress.prices.iter().any(|price| price.from == region || price.to == region) {
        let advice = format!("no price begins or ends at this router, whose `region` is \"{region}\"");
        return bad("ms_per_unit", egress.ms_per_unit.to_string(), &advice);
    }
    if !config.policy.prices_egress() {
        let advice = format!("policy `{}` has no such term; choose gorgo or predictive", config.policy.name());
        return bad("ms_per_unit", egress.ms_per_unit.to_string(), &advice);
    }
    Ok(())
}

fn keys(config: &Config) -> Result<(), ConfigError> {
    let bad = |key: String, value: &str, advice: &str| {
        Err(ConfigError::Value { key, value: value.to_owned(), advice: advice.to_owned() })
    };
    let inline = config.security.kinds().map(|(name, key, _)| (format!("security.{name}"), key));
    let engines = config.replicas.iter().enumerate().map(|(i, r)| (format!("replicas[{i}].api_key"), &r.api_key));
    let found = [
        ("discovery.api_key".to_owned(), &config.discovery.api_key),
        ("sharing.hash_seed".to_owned(), &config.sharing.hash_seed),
    ];
    for (name, key) in inline.into_iter().chain(engines).chain(found) {
        let Some(key) = key else { continue };
        if key.is_placeholder() {
            return bad(name, "\"(set)\"", "this stands for a key that is not shown; give the key, or leave it out");
        }
        if key.expose().is_empty() || !key.expose().bytes().all(|byte| byte.is_ascii_graphic()) {
            return bad(name, "not usable", "a key is one word of visible ASCII characters");
        }
    }
    for kind in ["peer_key", "read_key"] {
        if config.security.has(kind) && !config.security.has("admin_key") {
            let advice = "without an admin key everybody may do all that this key allows; set security.admin_key_file \
                          (or GORGO_ADMIN_KEY)";
            return bad(format!("security.{kind}"), "set", advice);
        }
    }
    Ok(())
}

fn fleet(config: &Config) -> Result<(), ConfigError> {
    let bad = |key: String, value: String, advice: String| Err(ConfigError::Value { key, value, advice });
    let count = config.replicas.len() + config.peers.len();
    if count > MAX_REPLICAS {
        return bad("replicas".to_owned(), format!("a list of {count}"), format!("at most {MAX_REPLICAS} fit"));
    }
    if config.role == Role::Edge && config.replicas.len() != 1 {
        let advice = "an edge stands beside exactly one engine; name it, and others under `peers`".to_owned();
        return bad("replicas".to_owned(), format!("a list of {}", config.replicas.len()), advice);
    }
    if config.role == Role::Proxy && !config.peers.is_empty() {
        let advice = "only an edge has peers; list engines under `replicas`".to_owned();
        return bad("peers".to_owned(), format!("a list of {}", config.peers.len()), advice);
    }
    let mut names: Vec<String> = Vec::new();
    let replicas = config.replicas.iter().enumerate().map(|(i, r)| (format!("replicas[{i}]"), &r.url, &r.name));
    let peers = config.peers.iter().enumerate().map(|(i, p)| (format!("peers[{i}]"), &p.url, &p.name));
    for (key, url, name) in replicas.chain(peers) {
        let endpoint = match Endpoint::parse(url) {
            Ok(endpoint) => endpoint,
            Err(advice) => return bad(format!("{key}.url"), format!("\"{}\"", shown_url(url)), advice.to_string()),
        };
        if endpoint.leads_to(config.listen) {
            let advice = "that is the address this router listens on; name an engine".to_owned();
            return bad(format!("{key}.url"), format!("\"{}\"", shown_url(url)), advice);
        }
        let name = name.clone().unwrap_or_else(|| endpoint.name());
        if let Err(advice) = check_name(&name) {
            return bad(format!("{key}.name"), shown_name(&name), advice.to_owned());
        }
        if names.contains(&name) {
            return bad(format!("{key}.name"), format!("\"{name}\""), "another has it; names must differ".to_owned());
        }
        names.push(name);
    }
    let labels = config.replicas.iter().enumerate().map(|(i, r)| (format!("replicas[{i}]"), &r.labels));
    let of_peers = config.peers.iter().enumerate().map(|(i, p)| (format!("peers[{i}]"), &p.labels));
    for (key, labels) in labels.chain(of_peers) {
        if let Err(wrong) = check_labels(labels) {
            return bad(format!("{key}.labels"), format!("a list of {}", labels.len()), wrong.to_string());
        }
    }
    for (i, replica) in config.replicas.iter().enumerate() {
        if let Some(rate) = replica.ms_per_token.filter(|rate| !(0.0..=1e6).contains(rate)) {
            let advice = "it must lie between 0 and 1000000".to_owned();
            return bad(format!("replicas[{i}].ms_per_token"), rate.to_string(), advice);
        }
    }
    Ok(())
}
