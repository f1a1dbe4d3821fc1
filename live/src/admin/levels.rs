//! The state of router and replicas, as JSON and as gauges.

use crate::observe::metrics::{Levels, ReplicaGauges, ShadowGauges, SharingLevels};
use crate::signals::digest;
use crate::state::AppState;
use crate::tuner::Tuner;
use gorgo_core::fleet::{Health, Kind, Replica};
use gorgo_core::judgement::Failure;
use gorgo_core::policy::{Exclusion, PolicyConfig};
use gorgo_core::{ReplicaId, Time};
use serde_json::{Value, json};
use std::sync::atomic::Ordering;

fn sharing_levels(node: &AppState) -> Option<SharingLevels> {
    let sharing = node.sharing.as_ref()?;
    let (paths, messages_sent, bytes_sent) = sharing.counts();
    let paths = [
        ("sent", paths.sent),
        ("received", paths.received),
        ("dropped", paths.dropped + node.driver.learned_dropped()),
        ("missing", paths.missing),
        ("asked", paths.asked),
        ("unknown_replica", sharing.unknown()),
    ];
    Some(SharingLevels { messages_sent, bytes_sent, paths, unknown_replicas: sharing.lacking() })
}

/// The gauges of `/metrics`.
pub(super) fn levels(node: &AppState) -> Levels {
    let shadows = node.shadows.lock();
    let shadows = shadows.iter().map(|s| ShadowGauges {
        policy: s.policy.clone(),
        hit_ratio: s.hit_rate(),
        busiest_ratio: s.busiest(),
        predicted_ttft_s: s.mean_ttft_ms().map(|ms| ms / 1e3),
    });
    let config = node.config();
    let (limits, free) = (&config.limits, node.request_permits.available_permits());
    let bodies = limits.bodies_bytes.saturating_sub(node.body_kib.available_permits() << 10);
    let open = node.connections.load(Ordering::Relaxed);
    let connections = limits.connections.min(node.most_connections.load(Ordering::Relaxed));
    let mut levels = Levels {
        shadows: shadows.collect(),
        policy: node.driver.policy().name().to_owned(),
        dropped: node.driver.observers().dropped.load(Ordering::Relaxed),
        started_s: node.clock().unix_ns(Time::ZERO) as f64 / 1e9,
        limits: vec![
            ("connections", connections as f64, open as f64),
            ("requests", limits.requests as f64, limits.requests.saturating_sub(free) as f64),
            ("bodies_bytes", limits.bodies_bytes as f64, bodies as f64),
            ("queue", config.router.queue_limit as f64, 0.0),
            ("index_bytes", config.router.index_bytes as f64, 0.0),
        ],
        sharing: sharing_levels(node),
        digest_bytes_sent: node.digests.bytes_sent.load(Ordering::Relaxed),
        tuner: node.tuner.as_ref().map(Tuner::levels),
        sources: node.discovered.levels(node.clock().now()),
        ..Levels::default()
    };
    node.driver.read(|router, upstreams, now| {
        levels.queued = router.queue_len() as f64;
        levels.in_flight = router.in_flight() as f64;
        levels.index_bytes = router.index().bytes() as f64;
        let used = [("queue", levels.queued), ("index_bytes", levels.index_bytes)];
        for (limit, _, value) in &mut levels.limits {
            *value = used.iter().find(|(name, _)| name == limit).map_or(*value, |(_, used)| *used);
        }
        levels.index_nodes = router.index().nodes() as f64;
        levels.digest_keys = router.digest().map_or(0, |digest| digest.keys() as u64);
        let gates = &router.config().gates;
        for (slot, (r, u)) in router.replicas().iter().zip(upstreams).enumerate().filter(|(_, (r, _))| !r.removed) {
            levels.replicas.push(ReplicaGauges {
                name: u.name.clone(),
                usable: f64::from(r.is_usable(now, gates)),
                draining: f64::from(r.draining),
                breaker_open: f64::from(r.breaker.is_open(now, u32::MAX)),
                rtt_s: r.rtt.smoothed_ms() / 1e3,
                rtt_p95_s: r.rtt.p95_ms() / 1e3,
                load: r.load,
                index_tokens: router.index().tokens(ReplicaId(slot as u16)) as f64,
                rtt_age_s: r.rtt_age(now).map(|age| age.ms() / 1e3),
                engine: r.engine.map(|reading| (reading.report, (now - reading.at).ms() / 1e3)),
                learned: router.rates().learned(slot, r.spec.ms_per_token),
                learned_sd: router.rates().uncertainty(slot),
                kv: u.kv().map(|streams| streams.figures(now)),
                digest: digest::level(u, r.digest(), now),
            });
        }
    });
    levels
}

/// `ms_per_token` and `running_cost_factor` in force, presets resolved; `None` for policies without them.
pub(super) fn cost_keys(policy: &PolicyConfig) -> (Option<f64>, Option<f64>) {
    match policy {
        PolicyConfig::Gorgo(config) => {
            let weights = config.weights();
            (Some(weights.ms_per_token), Some(weights.running_cost_factor))
        }
        _ => (None, None),
    }
}

/// Share of the KV cache in use, 0 to 1, as last scraped; `None` if unknown.
fn kv_use(r: &Replica) -> Option<f64> {
    r.engine?.report.kv_use()
}

/// Whether the replica is usable, gates aside.
pub(super) fn healthy(r: &Replica, now: Time, gates: &gorgo_core::fleet::Gates) -> bool {
    r.closed(now, gates) != Some(Exclusion::Unhealthy)
}

pub(super) fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Local => "local",
        Kind::Remote => "remote",
        Kind::Peer => "peer",
    }
}

pub(super) fn latency(r: &Replica, now: Time) -> Value {
    json!({
        "current_ms": r.rtt.last_ms(), "avg_ms": r.rtt.smoothed_ms(), "min_ms": r.rtt.min_ms(), "max_ms": r.rtt.max_ms(),
        "p95_ms": r.rtt.p95_ms(), "age_ms": r.rtt_age(now).map(gorgo_core::Span::ms),
    })
}

/// What a replica is doing, in a word or two.
fn state(r: &Replica, now: Time, gates: &gorgo_core::fleet::Gates) -> &'static str {
    match (r.health, r.closed(now, gates)) {
        (Health::Down, _) => "down",
        _ if r.draining => "draining",
        (_, Some(Exclusion::Unhealthy)) => "breaker open",
        (_, Some(Exclusion::Full)) => "full",
        (Health::Unknown, _) => "not probed yet",
        (Health::Suspect, _) => "suspect",
        _ => "up",
    }
}

/// All replicas that pass `wanted`, with gotoni's fields and the state they are computed from.
pub(super) fn replicas(node: &AppState, wanted: impl Fn(Kind) -> bool) -> Vec<Value> {
    let config = node.config();
    let (most, packs) = (config.router.gates.max_running, config.upstream.compress_to_peers);
    let sources = node.discovered.sources_by_replica();
    node.driver.read(|router, upstreams, now| {
        let gates = &router.config().gates;
        let here = router.replicas().iter().zip(upstreams).filter(|(r, u)| !r.removed && wanted(u.kind));
        here.map(|(r, u)| {
            let learned = router.rates().learned(u.id.index(), r.spec.ms_per_token);
            let sd = router.rates().uncertainty(u.id.index());
            // A value that was never reported is null, not 0.
            let (running, queued) = (r.engine.map(|e| e.report.running), r.engine.map(|e| e.report.queued));
            let both = running.zip(queued).map(|(running, queued)| running.saturating_add(queued));
            let rtt_ms = r.rtt_age(now).map(|_| r.rtt.smoothed_ms());
            let mut row = json!({
                "id": u.name, "url": format!("{}://{}", u.endpoint.scheme, u.endpoint.name()), "kind": kind(u.kind),
                "ip": u.endpoint.host(), "port": u.endpoint.port(), "region": r.spec.region,
                "labels": r.spec.labels,
                "healthy": healthy(r, now, gates), "available": r.closed(now, gates).is_none(), "health": r.health,
                "state": state(r, now, gates),
                "draining": r.draining, "excluded": r.closed(now, gates), "breaker": r.breaker,
                "cache_report": u.cache_report.seen(),
                "key_refused": u.is_refusing() || r.breaker.cause() == Some(Failure::KeyRefused),
                "last_error": u.last_error().map(|error| error.why),
                "last_error_age_ms": u.last_error().map(|error| (now - error.at).ms()),
                "running_reqs": running, "waiting_reqs": queued, "total_reqs": both,
                "gpu_cache": kv_use(r), "gpu_cache_usage": kv_use(r), "max_running": most, "max_load": most,
                "latency": latency(r, now), "latency_ms": rtt_ms, "transport": r.spec.transport,
                "metrics": {
                    "num_running_reqs": running, "num_waiting_reqs": queued, "num_total_reqs": both,
                    "gpu_cache_usage": kv_use(r), "max_running_reqs": most, "healthy": healthy(r, now, gates),
                    "consecutive_fails": r.failures, "age_ms": r.engine.map(|e| (now - e.at).ms()),
                    "max_total_num_tokens": r.engine.map(|e| e.report.kv_tokens).filter(|&tokens| tokens > 0),
                },
                "load": r.load, "proxy_tracked_running": r.load.requests(),
                "dispatched": u.dispatched.load(Ordering::Relaxed), "ms_per_token": r.spec.ms_per_token,
                "index_tokens": router.index().tokens(u.id), "measured_tokens": r.measured_tokens,
                "kv_events": u.kv().map(|streams| streams.json(now)),
                "learned": {
                    "rates": learned, "ms_per_token_sd": sd.map(|(rate, _)| rate), "offset_ms_sd": sd.map(|(_, offset)| offset),
                    "frozen": !router.config().learn_rates,
                },
            });
            row["discovered_from"] = json!(sources.get(&u.name));
            row["zstd"] = json!((u.kind == Kind::Peer).then(|| packs && u.reads_zstd()));
            let protocol = || if u.multiplexed.is_open() { "HTTP/2" } else { "HTTP/1.1" };
            row["protocol"] = json!((u.kind == Kind::Peer).then(protocol));
            row
        })
        .collect()
    })
}
