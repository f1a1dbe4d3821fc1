//! Endpoints under `/lb` only: an edge's status, gotoni's keys, the report and the digest for peers.

use super::levels::{cost_keys, replicas};
use super::{Answer, Refusal, Shared, bad, read, tell};
use crate::signals::digest;
use crate::signals::peer_report::PeerMessage;
use crate::state::{AppState, Phase};
use axum::body::Bytes;
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use gorgo_core::digest::Edition;
use gorgo_core::fleet::Kind;
use gorgo_core::policy::PolicyConfig;
use gorgo_core::record::Status;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

fn aggregate(node: &AppState) -> Value {
    let (stats, queue, now) = node.driver.read(|router, _, now| (router.stats(), router.queue_len(), now));
    json!({
        "total_requests": stats.arrived, "requests_local": stats.dispatched, "requests_forwarded": stats.forwarded,
        "requests_queued": stats.queued, "requests_rejected": stats.ended[Status::Rejected as usize],
        "requests_timed_out": stats.ended[Status::TimedOut as usize],
        "requests_cancelled": stats.ended[Status::Cancelled as usize],
        "requests_failed": stats.ended[Status::Failed as usize],
        "start_time": node.clock().rfc3339(gorgo_core::Time::ZERO), "uptime_seconds": now.secs(), "queue_depth": queue,
    })
}

/// This edge's own engine.
fn local(node: &AppState) -> Value {
    let mut own = replicas(node, |kind| kind != Kind::Peer);
    if own.is_empty() { json!({}) } else { own.swap_remove(0) }
}

pub(super) async fn status(State(node): Shared) -> Answer {
    let (own, peers, config) = (local(&node), replicas(&node, |kind| kind == Kind::Peer), node.config());
    let healthy_peers = peers.iter().filter(|p| p["healthy"] == true).count();
    tell(&json!({
        "running": true, "current_load": own["proxy_tracked_running"], "max_load": own["max_load"],
        "running_reqs": own["running_reqs"], "waiting_reqs": own["waiting_reqs"], "gpu_cache": own["gpu_cache"],
        "discovery": node.discovered.json(node.clock().now()),
        "removed_by_operator": node.by_operator.removed(),
        "healthy": own["healthy"], "peer_count": peers.len(), "healthy_peers": healthy_peers,
        "queue_size": node.driver.read(|router, _, _| router.queue_len()), "queue_enabled": config.router.queue_limit > 0,
        "listen_port": config.listen.port(), "backend_port": own["port"], "metrics_enabled": config.probes.scrape_ms > 0,
        "policy": node.driver.policy().name(), "aggregate": aggregate(&node), "digest": digest::json(&node),
    }))
}

pub(super) async fn metrics(State(node): Shared) -> Answer {
    let config = node.config();
    let peers = replicas(&node, |kind| kind == Kind::Peer);
    let by_name: Map<String, Value> =
        peers.into_iter().map(|peer| (peer["id"].as_str().unwrap_or_default().to_owned(), peer)).collect();
    tell(&json!({
        "local": local(&node), "peers": by_name,
        "config": {
            "max_concurrent": config.router.gates.max_running, "queue_enabled": config.router.queue_limit > 0,
            "queue_timeout_ms": config.router.queue_timeout_ms, "request_timeout_ms": config.timeouts.first_token_ms,
            "gpu_threshold": config.router.gates.max_kv_use,
        },
        "aggregate": aggregate(&node),
    }))
}

fn settings(node: &AppState) -> Value {
    let config = node.config();
    let policy = node.driver.policy();
    let (ms_per_token, running_cost_factor) = cost_keys(&policy);
    json!({
        "policy": policy.name(), "max_concurrent": config.router.gates.max_running,
        "queue_enabled": config.router.queue_limit > 0, "queue_timeout_ms": config.router.queue_timeout_ms,
        "request_timeout_ms": config.timeouts.first_token_ms, "metrics_enabled": config.probes.scrape_ms > 0,
        "gpu_cache_threshold": config.router.gates.max_kv_use, "listen_port": config.listen.port(),
        "backend_port": local(node)["port"], "ms_per_token": ms_per_token,
        "running_cost_factor": running_cost_factor,
    })
}

pub(super) async fn config(State(node): Shared) -> Answer {
    tell(&settings(&node))
}

/// gotoni's keys; `PUT /proxy/config` takes the whole configuration.
pub(super) async fn set_config(State(node): Shared, body: Bytes) -> Answer {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Ask {
        policy: Option<String>,
        max_concurrent: Option<u32>,
        queue_enabled: Option<bool>,
        gpu_cache_threshold: Option<f64>,
        ms_per_token: Option<f64>,
        running_cost_factor: Option<f64>,
    }
    let ask: Ask = read(&body, "{\"max_concurrent\": 10, \"ms_per_token\": 0.094}")?;
    let mut config = crate::config::Config::clone(&node.config());
    config.policy = node.driver.policy();
    let mut changes = Vec::new();
    if let Some(name) = &ask.policy {
        config.policy = PolicyConfig::parse(name, Map::new()).map_err(|e| bad(e.to_string()))?;
        config.policy.check_live().map_err(|e| bad(e.to_string()))?;
        changes.push(format!("policy = {}", config.policy.name()));
    }
    for (key, value) in [("ms_per_token", ask.ms_per_token), ("running_cost_factor", ask.running_cost_factor)] {
        if let Some(value) = value {
            config.policy = config.policy.with(key, json!(value)).map_err(|e| bad(e.to_string()))?;
            changes.push(format!("{key} = {value}"));
        }
    }
    if let Some(most) = ask.max_concurrent {
        config.router.gates.max_running = (most > 0).then_some(most);
        changes.push(format!("max_concurrent = {most}"));
    }
    if let Some(enabled) = ask.queue_enabled {
        config.router.queue_limit = if enabled { config.router.queue_limit.max(1_000) } else { 0 };
        changes.push(format!("queue_enabled = {enabled}"));
    }
    if let Some(share) = ask.gpu_cache_threshold {
        if !(0.0..=1.0).contains(&share) {
            return Err(bad(format!("`gpu_cache_threshold` is {share}; it must lie between 0 and 1")));
        }
        config.router.gates.max_kv_use = share;
        changes.push(format!("gpu_cache_threshold = {share}"));
    }
    let policy = config.policy.clone();
    crate::server::reload::apply(&node, config).map_err(|e| bad(e.to_string()))?;
    node.set_policy(policy);
    tell(&json!({"success": true, "changes": changes, "config": settings(&node)}))
}

/// Estimates the tokens of a text by the learned bytes per token.
pub(super) async fn tokenizer(
    State(node): Shared,
    Query(query): Query<BTreeMap<String, String>>,
    body: Bytes,
) -> Answer {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Ask {
        text: String,
        #[serde(default)]
        model: Option<String>,
    }
    let ask = match query.get("text") {
        Some(text) => Ask { text: text.clone(), model: query.get("model").cloned() },
        None if body.is_empty() => Ask { text: "The quick brown fox jumps over the lazy dog.".to_owned(), model: None },
        None => read(&body, "{\"text\": \"hello\"}")?,
    };
    let ratio = node.bytes_per_token.get(ask.model.as_deref());
    let count = (ask.text.len() as f64 / ratio).ceil();
    let fallback = ask.text.len().div_ceil(4);
    tell(&json!({
        "success": true, "cgo_enabled": false, "bytes_per_token": ratio,
        "results": [{
            "text": ask.text.chars().take(200).collect::<String>(), "token_count": count,
            "char_count": ask.text.chars().count(), "fallback_estimate": fallback, "likely_cgo": false, "reasonable": true,
        }],
        "message": "counted by the ratio learned from the engines' own counts",
    }))
}

/// The report that peers of this edge request. An edge that is shutting down reports itself unhealthy.
pub(super) async fn report(State(node): Shared) -> Answer {
    let (mut report, now) = node.driver.peer_report();
    report.healthy &= node.phase() == Phase::Serving;
    let message = PeerMessage { report, unix_ns: node.clock().unix_ns(now), reads_zstd: true, speaks_http2: true };
    tell(&serde_json::to_value(message).unwrap_or_default())
}

/// Which prefixes this edge's own engines hold, for a peer with the same hash seed: what changed since the edition that it
/// has, or all.
pub(super) async fn digest(State(node): Shared, Query(query): Query<BTreeMap<String, String>>) -> Answer {
    let number = |key: &str| query.get(key).and_then(|text| text.parse().ok());
    let known = number("author").zip(number("number")).map(|(author, number)| Edition { author, number });
    let answer = digest::answer(&node, query.get("key_id").map(String::as_str), known);
    let message = answer.map_err(|why| Refusal(StatusCode::CONFLICT, why))?;
    let body = serde_json::to_vec(&message).unwrap_or_default();
    digest::sent(&node, body.len());
    Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response())
}
