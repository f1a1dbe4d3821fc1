//! `GET /overview`: the state of a router in one JSON document, built from `/proxy/status` and `/explain`.
//! `GET /overview/stream` sends it each second. `gorgo top` and the page at `/dashboard` display it.

use super::levels::replicas;
use super::{Answer, Refusal, Shared, tell};
use crate::observe::shadow::{ShadowStats, busiest};
use crate::observe::viewers::{PERIOD, VIEWERS};
use crate::request::headers;
use crate::state::{AppState, Phase};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use gorgo_core::record::Status;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::atomic::Ordering;
use tokio::time::MissedTickBehavior;

mod window;

use window::Window;

/// Decisions shown, and candidates of each.
const DECISIONS: usize = 20;
const CANDIDATES: usize = 8;

/// Members of a replica's state that are shown.
const SHOWN: [&str; 17] = [
    "id",
    "region",
    "kind",
    "state",
    "available",
    "draining",
    "excluded",
    "last_error",
    "last_error_age_ms",
    "running_reqs",
    "waiting_reqs",
    "gpu_cache_usage",
    "latency_ms",
    "load",
    "dispatched",
    "index_tokens",
    "key_refused",
];

pub(super) async fn overview(State(node): Shared) -> Answer {
    tell(&snapshot(&node))
}

/// `GET /overview/stream`: server-sent events, one snapshot each second. Ends when the router drains, or when the key that
/// opened it is no longer in force.
pub(super) async fn stream(State(node): Shared, asked: HeaderMap) -> Answer {
    let permit = node.viewers.enter().ok_or_else(|| {
        let message = format!("{VIEWERS} streams of the overview are open, as many as may be; close one");
        Refusal(StatusCode::TOO_MANY_REQUESTS, message)
    })?;
    let mut ticks = tokio::time::interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let events = stream::unfold((node, ticks, permit, asked), |(node, mut ticks, permit, asked)| async move {
        ticks.tick().await;
        let may = node.keys().may_read(headers::shown_key(&asked));
        if !may || matches!(node.phase(), Phase::Draining | Phase::Ending) {
            return None;
        }
        let text = node.viewers.text(|| Bytes::from(format!("data: {}\n\n", snapshot(&node))));
        Some((Ok::<_, Infallible>(text), (node, ticks, permit, asked)))
    });
    let told = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-store")];
    Ok((told, axum::body::Body::from_stream(events)).into_response())
}

/// `GET /dashboard`: the page, which holds no data.
pub(super) async fn dashboard(State(node): Shared) -> Result<Response, Refusal> {
    let Some(dashboard) = node.dashboard.get() else {
        let message = "this program serves no page; read `/overview`".to_owned();
        return Err(Refusal(StatusCode::NOT_FOUND, message));
    };
    let headers = [
        (header::CONTENT_TYPE, header::HeaderValue::from_static("text/html; charset=utf-8")),
        (header::CONTENT_SECURITY_POLICY, dashboard.policy.clone()),
        (header::X_CONTENT_TYPE_OPTIONS, header::HeaderValue::from_static("nosniff")),
        (header::REFERRER_POLICY, header::HeaderValue::from_static("no-referrer")),
        (header::CACHE_CONTROL, header::HeaderValue::from_static("no-cache")),
    ];
    Ok((headers, dashboard.page.clone()).into_response())
}

/// The whole snapshot.
fn snapshot(node: &AppState) -> Value {
    let rows = replicas(node, |_| true);
    let config = node.config();
    let (stats, queue, in_flight, now) =
        node.driver.read(|router, _, now| (router.stats(), router.queue_len(), router.in_flight(), now));
    let window = Window::of(&node.request_log, now);
    let place = |region: &Value| {
        region.as_str().and_then(|region| node.dashboard.get().and_then(|dashboard| (dashboard.locate)(region)))
    };
    let mut regions: BTreeMap<String, Vec<&Value>> = BTreeMap::new();
    for row in rows.iter().filter(|row| row["kind"] != "peer") {
        regions.entry(row["region"].as_str().unwrap_or_default().to_owned()).or_default().push(row);
    }
    let region_rows: Vec<Value> = regions
        .iter()
        .map(|(name, rows)| {
            let here = rows.iter().filter_map(|row| row["id"].as_str());
            let sum = |of: &dyn Fn(&Value) -> Option<u64>| rows.iter().filter_map(|row| of(row)).sum::<u64>();
            let rtts = rows.iter().filter_map(|row| row["latency_ms"].as_f64());
            let mut region = window.of_replicas(here);
            region["region"] = if name.is_empty() { Value::Null } else { json!(name) };
            region["place"] = json!(place(&region["region"]));
            region["replicas"] = json!(rows.len());
            region["available"] = json!(rows.iter().filter(|row| row["available"] == true).count());
            region["waiting"] = json!(sum(&|row| row["load"]["waiting_requests"].as_u64()));
            region["running"] = json!(sum(&|row| row["load"]["running_requests"].as_u64()));
            region["rtt_ms"] = json!(rtts.min_by(f64::total_cmp));
            region
        })
        .collect();
    let own_region = config.region.clone().map(Value::from);
    let own_region = own_region
        .or_else(|| rows.iter().find(|row| row["kind"] == "local").map(|row| row["region"].clone()))
        .unwrap_or_default();
    let replica_rows: Vec<Value> = rows
        .iter()
        .map(|row| {
            let mut shown = window.of_replicas(row["id"].as_str().into_iter());
            SHOWN.iter().for_each(|&key| shown[key] = row[key].clone());
            shown["rtt_age_ms"] = row["latency"]["age_ms"].clone();
            shown["report_age_ms"] = row["metrics"]["age_ms"].clone();
            shown
        })
        .collect();
    let ended = |status: Status| stats.ended[status as usize];
    json!({
        "at_unix_ms": node.clock().unix_ns(now) / 1_000_000, "version": env!("CARGO_PKG_VERSION"),
        "name": config.shown_name(), "role": config.role, "phase": format!("{:?}", node.phase()).to_lowercase(),
        "uptime_seconds": now.secs(), "policy": node.driver.policy().name(),
        "region": own_region, "place": place(&own_region),
        "requests": {
            "arrived": stats.arrived, "dispatched": stats.dispatched, "forwarded": stats.forwarded,
            "queued": stats.queued, "retried": stats.retried, "finished": ended(Status::Finished),
            "failed": ended(Status::Failed), "timed_out": ended(Status::TimedOut),
            "cancelled": ended(Status::Cancelled), "rejected": ended(Status::Rejected), "in_flight": in_flight,
            "queue": queue, "queue_limit": config.router.queue_limit, "per_second": window.per_second(),
        },
        "window": window.extent(), "ttft": window.ttft(), "hits": window.hits(),
        "regions": region_rows, "replicas": replica_rows,
        "decisions": node.driver.observers().explanations.latest(DECISIONS, CANDIDATES),
        "policies": policies(node, &rows, &stats), "discovery": node.discovered.json(now),
        "dropped_events": node.driver.observers().dropped.load(Ordering::Relaxed),
    })
}

/// The policy in force and the shadow policies side by side, each since the router's start.
fn policies(node: &AppState, rows: &[Value], stats: &gorgo_core::router::RouterStats) -> Vec<Value> {
    let dispatched: Vec<u64> = rows.iter().filter_map(|row| row["dispatched"].as_u64()).collect();
    let prompts = stats.placed_prompt_tokens;
    let own = json!({
        "policy": node.driver.policy().name(), "shadow": false, "decided": stats.placed,
        "hit_rate": (prompts > 0).then(|| stats.placed_cached_tokens as f64 / prompts as f64),
        "busiest": busiest(&dispatched),
        "mean_predicted_ttft_ms": (stats.predicted > 0).then(|| stats.predicted_ns as f64 / 1e6 / stats.predicted as f64),
    });
    let shadows = node.shadows.lock().clone();
    let shadow = |s: &ShadowStats| {
        json!({
            "policy": s.policy, "shadow": true, "decided": s.decided, "hit_rate": s.hit_rate(),
            "busiest": s.busiest(), "mean_predicted_ttft_ms": s.mean_ttft_ms(),
        })
    };
    std::iter::once(own).chain(shadows.iter().map(shadow)).collect()
}
