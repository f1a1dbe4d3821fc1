//! Endpoints under `/proxy` only: status and the whole configuration.

use super::levels::{cost_keys, replicas};
use super::{Answer, Refusal, Shared, bad, tell};
use crate::config::Config;
use crate::sharing;
use crate::snapshot::peer;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use gorgo_core::fleet::Kind;
use gorgo_core::record::Status;
use serde_json::json;

pub(super) async fn status(State(node): Shared) -> Answer {
    let (stats, queue, in_flight, now) =
        node.driver.read(|router, _, now| (router.stats(), router.queue_len(), router.in_flight(), now));
    let policy = node.driver.policy();
    let settings = policy.settings();
    let ended = |status: Status| stats.ended[status as usize];
    // Unknown, not 0, while no engine has reported its cached tokens.
    let reported = |tokens: u64| (stats.cache_reports > 0).then_some(tokens);
    tell(&json!({
        "running": true, "uptime_seconds": now.secs(), "routing_policy": policy.name(), "policy_settings": settings,
        "servers": replicas(&node, |kind| kind != Kind::Peer), "discovery": node.discovered.json(now),
        "removed_by_operator": node.by_operator.removed(),
        "queue_size": queue, "in_flight": in_flight,
        "total_handled": stats.arrived, "total_forwarded": stats.dispatched, "total_queued": stats.queued,
        "total_rejected": ended(Status::Rejected), "total_retried": stats.retried,
        "total_finished": ended(Status::Finished), "total_failed": ended(Status::Failed),
        "total_timed_out": ended(Status::TimedOut), "total_cancelled": ended(Status::Cancelled),
        "cache_reports": stats.cache_reports,
        "predicted_cached_tokens": reported(stats.predicted_cached_tokens),
        "actual_cached_tokens": reported(stats.actual_cached_tokens),
        "ms_per_token": cost_keys(&policy).0, "running_cost_factor": cost_keys(&policy).1,
        "bytes_per_token": node.bytes_per_token.all(), "sharing": node.sharing.as_ref().map(sharing::Sharing::json), "phase": format!("{:?}", node.phase()).to_lowercase(),
    }))
}

/// `POST /proxy/share`: receives learned prefixes from another router of the same replicas.
pub(super) async fn share(State(node): Shared, body: Bytes) -> Answer {
    let refused = |why| Refusal(StatusCode::CONFLICT, why);
    let message = sharing::read(&body).map_err(refused)?;
    let answer = sharing::receive(&node, &message).map_err(refused)?;
    tell(&serde_json::to_value(answer).unwrap_or_default())
}

/// `GET /proxy/snapshot`: this router's learned state, for a router of the same replicas that starts.
pub(super) async fn snapshot(State(node): Shared) -> Answer {
    let bytes = peer::serve(&node).map_err(|(status, why)| Refusal(status, why.to_owned()))?;
    Ok(([(header::CONTENT_TYPE, "application/octet-stream")], bytes).into_response())
}

/// `GET /proxy/config`: the configuration in force as TOML, without keys.
pub(super) async fn config(State(node): Shared) -> Answer {
    let mut config = Config::clone(&node.config());
    config.policy = node.driver.policy();
    Ok(([(header::CONTENT_TYPE, "application/toml")], config.to_toml()).into_response())
}

/// `PUT /proxy/config`: applies another configuration. Keys that are absent, or equal to what `GET` shows, stay
/// unchanged.
pub(super) async fn set_config(State(node): Shared, body: Bytes) -> Answer {
    let text = std::str::from_utf8(&body).map_err(|_| bad("the body is not UTF-8; send TOML"))?;
    if text.trim_start().starts_with('{') {
        return Err(bad("the body is JSON; send the configuration as TOML, as `gorgo proxy config` prints it"));
    }
    let mut config = Config::parse_unchecked(text).map_err(|e| bad(e.to_string()))?;
    config.keep_engine_keys(&node.config()).map_err(|e| bad(e.to_string()))?;
    let changes = crate::server::reload::apply(&node, config).map_err(|e| bad(e.to_string()))?;
    tell(&json!({"success": true, "changes": changes}))
}
