//! Endpoints under both `/proxy` and `/lb`.

use super::levels::{healthy, latency as latency_of};
use super::{Answer, Refusal, Shared, bad, read, tell};
use crate::config::Role;
use crate::observe::capture::{Captured, CapturedRequests, ClockOffset};
use crate::observe::changes::Change;
use crate::tuner::Tuner;
use crate::upstream::replica::Upstream;
use axum::body::Bytes;
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use gorgo_core::fleet::Kind;
use gorgo_core::policy::PolicyConfig;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

pub(super) async fn policy(State(node): Shared, Query(query): Query<BTreeMap<String, String>>) -> Answer {
    if query.contains_key("set") {
        return Err(Refusal(StatusCode::METHOD_NOT_ALLOWED, "GET changes nothing; POST {\"policy\": NAME}".to_owned()));
    }
    let policy = node.driver.policy();
    let command = if node.role() == Role::Edge { "lb" } else { "proxy" };
    tell(&json!({
        "current": policy.name(), "settings": policy.settings(), "available": PolicyConfig::live_names(),
        "hint": format!("change it with `gorgo {command} policy NAME`"),
    }))
}

/// `{"policy": NAME}`, `{"policy": {"name": NAME, ...}}` or the bare name.
pub(super) async fn set_policy(State(node): Shared, body: Bytes) -> Answer {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Ask {
        policy: Value,
    }
    let text = String::from_utf8_lossy(&body);
    let wanted = match text.trim_start().starts_with('{') {
        true => read::<Ask>(&body, "{\"policy\": \"gorgo\"}")?.policy,
        false => Value::String(text.trim().trim_matches('"').to_owned()),
    };
    let new: PolicyConfig = match &wanted {
        Value::String(name) => PolicyConfig::parse(name, Map::new()).map_err(|e| bad(e.to_string()))?,
        other => serde_json::from_value(other.clone()).map_err(|e| bad(e.to_string()))?,
    };
    new.check_live().map_err(|e| bad(e.to_string()))?;
    let old = node.driver.policy();
    node.set_policy(new.clone());
    tell(&json!({
        "success": true, "old_policy": old.name(), "new_policy": new.name(), "settings": new.settings(),
        "available": PolicyConfig::live_names(),
    }))
}

/// Any keys of the policy in force; all are checked before the first one is changed.
pub(super) async fn tune(State(node): Shared, body: Bytes) -> Answer {
    let keys: Map<String, Value> = read(&body, "{\"ms_per_token\": 0.094, \"running_cost_factor\": 0.5}")?;
    if keys.is_empty() {
        return Err(bad("no key is given; send for example {\"ms_per_token\": 0.094}"));
    }
    let mut policy = node.policy();
    for (key, value) in keys {
        policy = policy.with(&key, value).map_err(|e| bad(e.to_string()))?;
    }
    node.set_policy(policy.clone());
    tell(&Value::Object(policy.settings()))
}

/// The search for weights.
pub(super) async fn tuner(State(node): Shared) -> Answer {
    tell(&node.tuner.as_ref().map_or_else(|| json!({"enabled": false}), Tuner::state))
}

/// `{"frozen": true}` keeps the best weights so far in force; false goes on.
pub(super) async fn set_tuner(State(node): Shared, body: Bytes) -> Answer {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Ask {
        frozen: bool,
    }
    let ask: Ask = read(&body, "{\"frozen\": true}")?;
    let Some(tuner) = &node.tuner else {
        return Err(bad("this router does not tune; set `tune.enabled = true` in its file and restart it"));
    };
    tuner.freeze(&node.driver, ask.frozen);
    tell(&tuner.state())
}

/// Empties the index; with `{"engines": true}` the engines' caches too.
pub(super) async fn clear_cache(State(node): Shared, body: Bytes) -> Answer {
    #[derive(Deserialize, Default)]
    #[serde(deny_unknown_fields, default)]
    struct Ask {
        engines: bool,
    }
    let ask: Ask = if body.is_empty() { Ask::default() } else { read(&body, "{\"engines\": true}")? };
    let cleared = node.driver.clear_index();
    let mut engines = Map::new();
    if ask.engines {
        let here: Vec<_> = node.driver.read(|router, upstreams, _| {
            let here = upstreams.iter().zip(router.replicas()).filter(|(u, r)| !r.removed && u.kind != Kind::Peer);
            here.map(|(u, _)| u.clone()).collect()
        });
        for upstream in here {
            let result = crate::signals::probe::flush(&node, &upstream).await;
            engines.insert(upstream.name.clone(), json!(result.err().unwrap_or_else(|| "flushed".to_owned())));
        }
    }
    let success = engines.values().all(|v| v == "flushed");
    tell(&json!({
        "success": success, "strategy": node.driver.policy().name(), "nodes_cleared": cleared, "engines": engines,
        "message": format!("Cleared {cleared} nodes from prefix cache"),
    }))
}

pub(super) async fn prefix_stats(State(node): Shared) -> Answer {
    tell(&node.driver.read(|router, _, _| {
        let mut stats = serde_json::to_value(router.index().stats()).unwrap_or_default();
        stats["bytes"] = json!(router.index().bytes());
        stats["block_bytes"] = json!(crate::wire::prompt_blocks::BLOCK);
        stats
    }))
}

pub(super) async fn latency(State(node): Shared) -> Answer {
    tell(&node.driver.read(|router, upstreams, now| {
        let mut all = Map::new();
        for (r, u) in router.replicas().iter().zip(upstreams).filter(|(r, _)| !r.removed) {
            let mut row = latency_of(r, now);
            row["ip"] = json!(u.endpoint.host());
            row["port"] = json!(u.endpoint.port());
            row["healthy"] = json!(healthy(r, now, &router.config().gates));
            all.insert(u.name.clone(), row);
        }
        Value::Object(all)
    }))
}

pub(super) async fn shadow(State(node): Shared) -> Answer {
    let dropped = node.driver.observers().dropped.load(Ordering::Relaxed);
    let shadows = node.shadows.lock().clone();
    let rows: Vec<Value> = shadows
        .iter()
        .map(|s| {
            json!({
                "policy": s.policy, "decided": s.decided, "hit_rate": s.hit_rate(), "busiest": s.busiest(),
                "mean_predicted_ttft_ms": s.mean_ttft_ms(), "dispatched": s.dispatched,
            })
        })
        .collect();
    tell(&json!({"shadows": rows, "dropped_events": dropped}))
}

pub(super) async fn reload(State(node): Shared) -> Answer {
    let changes = crate::server::reload::reload(&node).map_err(|e| bad(e.to_string()))?;
    tell(&json!({"success": true, "changes": changes}))
}

pub(super) async fn trace_start(State(node): Shared) -> Answer {
    let now = node.clock().now();
    let session = node.capture.start(now, node.clock().unix_ns(now));
    node.driver.observers().tell(Change::Operated { what: "a timeline is captured" });
    tell(&json!({
        "status": "started", "session_id": session, "node_id": node.config().shown_name(),
        "hint": "stop and collect with `gorgo trace stop`",
    }))
}

pub(super) async fn trace_stop(State(node): Shared) -> Answer {
    let Some(CapturedRequests { session, request_ids, records, candidates, replicas, dropped }) = node.capture.stop()
    else {
        return Err(bad("no capture is running; start one with `gorgo trace start`"));
    };
    node.driver.observers().tell(Change::Operated { what: "the capture of a timeline has ended" });
    let replicas: Vec<String> = replicas.iter().map(ToString::to_string).collect();
    let (rtt_ms, clock_offsets) = node.driver.read(|router, upstreams, _| {
        let rtts: BTreeMap<&str, f64> =
            router.replicas().iter().map(|r| (r.spec.name.as_str(), r.rtt.smoothed_ms())).collect();
        let rtt: Vec<f64> = replicas.iter().map(|name| rtts.get(name.as_str()).copied().unwrap_or(0.0)).collect();
        let peers = upstreams.iter().filter(|u| u.kind == Kind::Peer);
        let offset =
            |u: &Arc<Upstream>| ClockOffset { peer: u.name.clone(), ns: u.clock_offset_ns.load(Ordering::Relaxed) };
        let offsets = peers.map(offset).collect();
        (rtt, offsets)
    });
    let captured = Captured {
        session,
        node: node.config().shown_name(),
        policy: node.driver.policy().name().to_owned(),
        started_unix_ns: node.clock().unix_ns(gorgo_core::Time::ZERO),
        clock_offsets,
        replicas,
        rtt_ms,
        request_ids,
        records,
        candidates,
        dropped,
    };
    tell(&serde_json::to_value(&captured).unwrap_or_default())
}

pub(super) async fn trace_status(State(node): Shared) -> Answer {
    let mut status = serde_json::to_value(node.capture.status(node.clock().now())).unwrap_or_default();
    status["node_id"] = json!(node.config().shown_name());
    tell(&status)
}

pub(super) async fn export(State(node): Shared, Query(query): Query<BTreeMap<String, String>>) -> Answer {
    if let Some(format) = query.get("format").filter(|format| *format != "csv") {
        return Err(bad(format!("`format` is `{format}`; the export is csv")));
    }
    let stamp: String =
        node.clock().rfc3339(node.clock().now()).chars().filter(char::is_ascii_digit).take(14).collect();
    let (day, time) = stamp.split_at(8.min(stamp.len()));
    let name = format!("attachment; filename=\"proxy_metrics_{day}_{time}.csv\"");
    let csv = node.request_log.csv(&node.names(), |at| node.clock().rfc3339(at));
    Ok(([(header::CONTENT_TYPE, "text/csv".to_owned()), (header::CONTENT_DISPOSITION, name)], csv).into_response())
}

pub(super) async fn summary(State(node): Shared) -> Answer {
    tell(&node.request_log.summary())
}

pub(super) async fn clear_metrics(State(node): Shared) -> Answer {
    let cleared = node.request_log.clear();
    node.driver.observers().tell(Change::Operated { what: "the request log is emptied" });
    tell(&json!({"success": true, "cleared": cleared}))
}

pub(super) async fn enable_metrics(State(node): Shared, body: Bytes) -> Answer {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Ask {
        enabled: bool,
    }
    let ask: Ask = read(&body, "{\"enabled\": true}")?;
    node.request_log.enable(ask.enabled);
    let what = if ask.enabled { "requests are logged again" } else { "requests are not logged any more" };
    node.driver.observers().tell(Change::Operated { what });
    tell(&json!({"success": true, "enabled": ask.enabled}))
}
