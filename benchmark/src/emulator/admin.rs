//! The paths that do not generate: health, models, loads, flush, abort, tokenize.

use super::app::App;
use super::errors::{ApiError, json_response, with_type};
use super::messages::Snapshot;
use super::prompt::tokens_of;
use axum::body::{Body, Bytes};
use axum::extract::{RawQuery, State};
use axum::http::Response;
use gorgo_sim::engine::Health;
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

/// The emulated version of SGLang.
pub const VERSION: &str = "0.5.10";

/// `GET /health` and `/health_generate`: 503 while starting or draining. Otherwise SGLang waits for output of the
/// scheduler and polls once a second, so that a healthy response also takes a second.
pub async fn health(State(app): State<Arc<App>>) -> Response<Body> {
    if app.is_draining() {
        return with_type(503, "text/plain", "");
    }
    let config = &app.config;
    if config.health_ms == 0.0 {
        return with_type(200, "text/plain", "");
    }
    let alive = tokio::time::timeout(Duration::from_secs_f64(config.health_timeout_ms / 1e3), app.engine.read()).await;
    match alive {
        Ok(Some(Snapshot { health: Health::Up, .. })) => {
            tokio::time::sleep(Duration::from_secs_f64(config.health_ms / 1e3)).await;
            with_type(200, "text/plain", "")
        }
        _ => with_type(503, "text/plain", ""),
    }
}

/// `GET /v1/models`.
pub async fn models(State(app): State<Arc<App>>) -> Response<Body> {
    let (model, len) = (&app.config.model, app.config.engine.context_len);
    let owner = app.config.engine.kind.as_str();
    let entry = json!({"id": model, "object": "model", "created": 0, "owned_by": owner, "root": model, "parent": null, "max_model_len": len});
    json_response(200, &json!({"object": "list", "data": [entry]}))
}

/// `GET /model_info` and `/get_model_info`.
pub async fn model_info(State(app): State<Arc<App>>) -> Response<Body> {
    let model = &app.config.model;
    json_response(
        200,
        &json!({"model_path": model, "tokenizer_path": model, "is_generation": true, "preferred_sampling_params": null, "weight_version": "default"}),
    )
}

/// `GET /server_info` and `/get_server_info`: reads the scheduler's state, so it waits for a busy scheduler.
pub async fn server_info(State(app): State<Arc<App>>) -> Response<Body> {
    let Some(s) = app.engine.read().await else { return with_type(503, "text/plain", "") };
    let e = &app.config.engine;
    let state = json!({
        "last_gen_throughput": s.gauges.gen_throughput, "memory_usage": {"token_capacity": e.kv_tokens},
        "effective_max_running_requests_per_dp": e.max_running_requests,
    });
    json_response(
        200,
        &json!({
            "model_path": app.config.model, "served_model_name": app.config.model, "version": VERSION,
            "context_length": e.context_len, "chunked_prefill_size": e.chunked_prefill_size,
            "max_prefill_tokens": e.max_prefill_tokens, "max_running_requests": e.max_running_requests,
            "max_queued_requests": e.max_queued_requests, "schedule_conservativeness": e.schedule_conservativeness,
            "disable_radix_cache": !e.radix_cache, "disable_overlap_schedule": !e.overlap, "page_size": 1, "kv_events": null,
            "decode_log_interval": e.decode_log_interval, "enable_metrics": app.config.metrics,
            "enable_cache_report": app.config.cache_report,
            "max_total_num_tokens": e.kv_tokens, "max_req_input_len": e.context_len.min(e.kv_tokens).saturating_sub(6),
            "status": "ready", "internal_states": [state],
        }),
    )
}

/// `GET /get_load`, of 0.5.5 to 0.5.10.
pub async fn get_load(State(app): State<Arc<App>>) -> Response<Body> {
    let Some(s) = app.engine.read().await else { return with_type(503, "text/plain", "") };
    let l = s.loads;
    let waiting = l.waiting + l.arriving;
    json_response(
        200,
        &json!([{"dp_rank": 0, "num_reqs": l.running + l.prefilling + waiting, "num_waiting_reqs": waiting, "num_tokens": l.used_tokens + l.waiting_tokens, "ts_tic": s.now.secs()}]),
    )
}

/// `GET /v1/loads?include=...&format=json|prometheus`: the scheduler's true load.
pub async fn loads(State(app): State<Arc<App>>, RawQuery(query): RawQuery) -> Response<Body> {
    let Some(s) = app.engine.read().await else { return with_type(503, "text/plain", "") };
    let (l, g) = (s.loads, s.gauges);
    let pool = u64::from(app.config.engine.kv_tokens);
    let fields = [
        ("num_running_reqs", json!(l.running + l.prefilling)),
        ("num_waiting_reqs", json!(l.waiting)),
        ("num_used_tokens", json!(l.used_tokens)),
        ("max_total_num_tokens", json!(pool)),
        ("token_usage", json!(l.used_tokens as f64 / pool as f64)),
        ("gen_throughput", json!(g.gen_throughput)),
        ("cache_hit_rate", json!(g.cache_hit_rate)),
        ("utilization", json!(0.0)),
        ("max_running_requests", json!(app.config.engine.max_running_requests)),
        ("num_waiting_uncached_tokens", json!(l.waiting_tokens)),
        ("num_total_tokens", json!(l.used_tokens + l.waiting_tokens)),
    ];
    if query.is_some_and(|q| q.split('&').any(|pair| pair == "format=prometheus")) {
        let lines = fields.iter().map(|(name, v)| format!("sglang:{name}{{dp_rank=\"0\"}} {v}\n"));
        return with_type(200, "text/plain; version=0.0.4", lines.collect::<String>());
    }
    let mut load = json!({"dp_rank": 0, "timestamp": s.now.secs()});
    fields.into_iter().for_each(|(name, value)| load[name] = value);
    json_response(200, &json!({"timestamp": s.now.secs(), "version": VERSION, "dp_rank_count": 1, "loads": [load]}))
}

/// `GET` or `POST /flush_cache`.
pub async fn flush_cache(State(app): State<Arc<App>>) -> Response<Body> {
    let text = "Cache flushed.\nPlease check backend logs for more details. (When there are running or waiting requests, the operation will not be performed.)\n";
    let status = if app.engine.flush().await { 200 } else { 400 };
    with_type(status, "text/plain; charset=utf-8", text)
}

#[derive(Deserialize)]
struct Abort {
    #[serde(default)]
    rid: String,
    #[serde(default)]
    abort_all: bool,
}

/// `POST /abort_request`: aborts the requests whose id starts with `rid`. Always answers 200.
pub async fn abort_request(State(app): State<Arc<App>>, body: Bytes) -> Response<Body> {
    match serde_json::from_slice::<Abort>(&body) {
        Ok(abort) => {
            let requests = if abort.abort_all { app.requests() } else { app.requests_with_prefix(&abort.rid) };
            requests.into_iter().for_each(|id| app.engine.cancel(id));
            with_type(200, "text/plain", "")
        }
        Err(e) => ApiError::bad_request(format!("the body cannot be read: {e}")).openai(),
    }
}

/// `POST /tokenize` and `/v1/tokenize`: an id consists of the bytes of its token.
pub async fn tokenize(State(app): State<Arc<App>>, body: Bytes) -> Response<Body> {
    let tokens = match tokens_of(&body, app.config.bytes_per_token) {
        Ok(tokens) => tokens,
        Err(error) => return error.openai(),
    };
    let (count, len) = (tokens.len(), app.config.engine.context_len);
    json_response(200, &json!({"tokens": tokens, "count": count, "max_model_len": len}))
}

/// `POST /detokenize` and `/v1/detokenize`.
pub async fn detokenize(body: Bytes) -> Response<Body> {
    let Ok(value) = serde_json::from_slice::<Value>(&body) else {
        return ApiError::bad_request("the body is not JSON").openai();
    };
    let ids = value.get("tokens").and_then(Value::as_array).map(|ids| ids.iter().filter_map(Value::as_u64));
    let Some(ids) = ids else { return ApiError::bad_request("`tokens` must be a list of token ids").openai() };
    let bytes: Vec<u8> = ids.flat_map(|id| (id as u32).to_le_bytes()).filter(|&b| b != 0).collect();
    json_response(200, &json!({"text": String::from_utf8_lossy(&bytes)}))
}
