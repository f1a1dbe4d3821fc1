//! The HTTP routes of the emulated server, its API key, and the delay of a distant client.

use super::app::App;
use super::errors::json_response;
use super::{admin, complete, faults, metrics, vllm};
use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, DefaultBodyLimit, Request, State};
use axum::http::{Method, Response, StatusCode, header};
use axum::middleware::{self, Next};
use axum::routing::{any, get, post};
use gorgo_sim::engine::EngineKind;
use serde_json::json;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// All paths of the server, over the shared state `app`.
pub(super) fn routes(app: Arc<App>) -> Router {
    let limit = app.config.max_body_bytes;
    let faults = Router::new()
        .route("/gorgo/crash", post(faults::crash))
        .route("/gorgo/hang", post(faults::hang))
        .route("/gorgo/slow-start", post(faults::slow_start))
        .layer(middleware::from_fn(loopback_only));
    let generating = Router::new()
        .route("/v1/chat/completions", post(complete::chat))
        .route("/v1/completions", post(complete::completions))
        .route("/v1/models", get(admin::models));
    let (own, open) = match app.config.engine.kind {
        EngineKind::Sglang => (sglang(), Router::new().route("/metrics", get(metrics::metrics))),
        EngineKind::Vllm => (vllm(), Router::new().route("/metrics", get(vllm::metrics))),
    };
    generating
        .merge(own)
        .layer(middleware::from_fn_with_state(Arc::clone(&app), authorize))
        .merge(open)
        .route("/health", get(admin::health))
        .merge(faults)
        .fallback(any(not_found))
        .layer(DefaultBodyLimit::max(limit))
        .layer(middleware::from_fn_with_state(Arc::clone(&app), delay_by_rtt))
        .with_state(app)
}

/// The paths of vLLM beside the OpenAI paths.
fn vllm() -> Router<Arc<App>> {
    Router::new()
        .route("/version", get(vllm::version))
        .route("/load", get(vllm::load))
        .route("/reset_prefix_cache", post(vllm::reset_prefix_cache))
        .route("/tokenize", post(vllm::tokenize))
        .route("/detokenize", post(admin::detokenize))
}

/// The paths of SGLang beside the OpenAI paths.
fn sglang() -> Router<Arc<App>> {
    Router::new()
        .route("/generate", post(complete::generate).put(complete::generate))
        .route("/health_generate", get(admin::health))
        .route("/model_info", get(admin::model_info))
        .route("/get_model_info", get(admin::model_info))
        .route("/server_info", get(admin::server_info))
        .route("/get_server_info", get(admin::server_info))
        .route("/get_load", get(admin::get_load))
        .route("/v1/loads", get(admin::loads))
        .route("/flush_cache", get(admin::flush_cache).post(admin::flush_cache))
        .route("/abort_request", post(admin::abort_request))
        .route("/tokenize", post(admin::tokenize))
        .route("/v1/tokenize", post(admin::tokenize))
        .route("/detokenize", post(admin::detokenize))
        .route("/v1/detokenize", post(admin::detokenize))
}

async fn not_found() -> Response<Body> {
    json_response(404, &json!({"detail": "Not Found"}))
}

/// Delays a request by the configured round trip. The client sees the same times as if both ways took half of it.
async fn delay_by_rtt(State(app): State<Arc<App>>, request: Request, next: Next) -> Response<Body> {
    if app.config.rtt_ms > 0.0 {
        app.timer.sleep_until(Instant::now() + Duration::from_secs_f64(app.config.rtt_ms / 1e3)).await;
    }
    next.run(request).await
}

/// Rejects requests without the configured API key.
async fn authorize(State(app): State<Arc<App>>, request: Request, next: Next) -> Response<Body> {
    if let Some(key) = app.config.api_key.as_ref().filter(|_| request.method() != Method::OPTIONS) {
        let given = request.headers().get(header::AUTHORIZATION).and_then(|v| v.to_str().ok());
        if given.and_then(|v| v.strip_prefix("Bearer ")) != Some(key) {
            return json_response(401, &json!({"error": "Unauthorized"}));
        }
    }
    next.run(request).await
}

/// Rejects requests that do not come from loopback.
async fn loopback_only(request: Request, next: Next) -> Response<Body> {
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(peer)| peer.ip());
    if !peer.is_some_and(|ip| ip.is_loopback()) {
        let mut answer = json_response(403, &json!({"detail": "fault commands are accepted from loopback only"}));
        *answer.status_mut() = StatusCode::FORBIDDEN;
        return answer;
    }
    next.run(request).await
}
