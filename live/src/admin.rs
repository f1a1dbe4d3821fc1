//! The admin API: gotoni's `/lb/*` and `/proxy/*`, `/explain/ID`, `/overview`, `/metrics`, `/health`, `/ready`;
//! the page at `/dashboard`.
//!
//! Proxy and edge serve the common endpoints under both prefixes. GET changes no state. `/health`, `/ready` and
//! `/dashboard` (a page without data) need no key. Once keys are set, every other endpoint requires the admin key; GET
//! also accepts the read key, `/metrics` the API key, and the endpoints for other routers the peer key: see `access`.

use crate::config::{Config, shown};
use crate::observe::explain::Order;
use crate::request::body::Body;
use crate::request::context::ConnectionContext;
use crate::request::errors::refusal;
use crate::request::read_body;
use crate::request::unpack::unpack;
use crate::server::saved;
use crate::state::{AppState, Phase};
use axum::Router;
use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tower::ServiceExt;

mod access;
mod common;
mod fleet;
mod lb;
mod levels;
mod overview;
mod proxy;

type Shared = State<Arc<AppState>>;

/// A response, or the reason why the request was refused.
type Answer = Result<Response, Refusal>;

/// A refusal of the admin API.
#[derive(Debug)]
struct Refusal(StatusCode, String);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        refusal(self.0, "admin", &self.1).map(|body| match body {
            Body::Full(bytes) => axum::body::Body::from(bytes),
            other => axum::body::Body::new(other),
        })
    }
}

fn bad(message: impl Into<String>) -> Refusal {
    Refusal(StatusCode::BAD_REQUEST, message.into())
}

fn tell(value: &Value) -> Answer {
    Ok(axum::Json(value).into_response())
}

/// Reads a JSON body.
fn read<T: serde::de::DeserializeOwned>(body: &[u8], example: &str) -> Result<T, Refusal> {
    serde_json::from_slice(body).map_err(|error| {
        // A key written as a number is an error, whose text quotes it.
        let text = shown::without_those_of(body, &gorgo_core::suggest::in_words(&error.to_string()));
        bad(format!("the body cannot be used ({text}); send for example {example}"))
    })
}

/// Path at which a router receives learned prefixes from other routers of the same replicas.
pub(crate) const SHARE: &str = "/proxy/share";

/// The header by which commands tell a router's answer from that of another server: the router's version.
pub(crate) const VERSION: HeaderName = HeaderName::from_static("x-gorgo-version");

/// Longest body of a request to this API, bytes.
const BODY: usize = 2 << 20;

/// Answers one request: checks access first, then reads the body within the limits of every request body.
pub(crate) async fn answer(
    context: &ConnectionContext,
    config: &Config,
    routes: Router,
    request: http::Request<hyper::body::Incoming>,
) -> http::Response<Body> {
    let state = &context.state;
    let (mut parts, mut incoming) = request.into_parts();
    if let Err(refused) = access::check(config, &state.keys(), &parts) {
        context.tell_admin_refused(&parts.uri, refused.0);
        return refused.into_response().map(Body::Admin);
    }
    let most = BODY.min(config.limits.body_bytes);
    let (mut body, mut permit) = match read_body::read_up_to(most, state, config, &parts.headers, &mut incoming).await {
        Ok(read) => read,
        Err(refused) => return *refused,
    };
    match unpack(most, state, &parts.headers, &body, &mut permit).await {
        Ok(None) => {}
        Ok(Some(plain)) => {
            body = plain;
            parts.headers.remove(header::CONTENT_ENCODING);
        }
        Err(refused) => return *refused,
    }
    // A peer's message changes no setting.
    let keeps = matches!(parts.method, http::Method::GET | http::Method::HEAD) || parts.uri.path() == SHARE;
    if !keeps && state.is_upgrading() {
        let message = "an upgrade is under way, and a change here would be lost; send it again in a moment";
        let refused = Refusal(StatusCode::SERVICE_UNAVAILABLE, message.to_owned());
        return refused.into_response().map(Body::Admin);
    }
    match routes.oneshot(Request::from_parts(parts, axum::body::Body::from(body))).await {
        Ok(mut answer) => {
            answer.headers_mut().insert(VERSION, HeaderValue::from_static(env!("CARGO_PKG_VERSION")));
            if !keeps && answer.status().is_success() {
                saved::save(state);
            }
            answer.map(Body::Admin)
        }
        Err(never) => match never {},
    }
}

/// Whether a path belongs to this API.
pub(crate) fn is_admin(path: &str) -> bool {
    matches!(path, "/health" | "/ready" | "/metrics" | "/lb" | "/proxy" | "/explain" | "/overview" | "/dashboard")
        || ["/lb/", "/proxy/", "/explain/", "/overview/"].iter().any(|prefix| path.starts_with(prefix))
}

/// The routes of the admin API.
pub(crate) fn routes(node: Arc<AppState>) -> Router {
    let common = || {
        Router::new()
            .route("/policy", get(common::policy).post(common::set_policy).put(common::set_policy))
            .route("/tune", post(common::tune))
            .route("/tuner", get(common::tuner).post(common::set_tuner))
            .route("/cache/clear", post(common::clear_cache))
            .route("/prefix/stats", get(common::prefix_stats))
            .route("/latency", get(common::latency))
            .route("/shadow", get(common::shadow))
            .route("/reload", post(common::reload))
            .route("/trace/start", post(common::trace_start))
            .route("/trace/stop", post(common::trace_stop))
            .route("/trace/status", get(common::trace_status))
            .route("/metrics/export", get(common::export))
            .route("/metrics/summary", get(common::summary))
            .route("/metrics/clear", post(common::clear_metrics))
            .route("/metrics/enable", post(common::enable_metrics))
            .route("/health", get(health))
    };
    let lb = common()
        .route("/status", get(lb::status))
        .route("/metrics", get(lb::metrics))
        .route("/config", get(lb::config).post(lb::set_config).put(lb::set_config))
        .route("/tokenizer", get(lb::tokenizer).post(lb::tokenizer))
        .route("/peers", get(fleet::peers).post(fleet::add_peer).delete(fleet::remove_peer))
        .route("/report", get(lb::report))
        .route("/digest", get(lb::digest));
    let proxy = common()
        .route("/status", get(proxy::status))
        .route("/config", get(proxy::config).put(proxy::set_config))
        .route("/servers", get(fleet::servers).post(fleet::add_server).delete(fleet::remove_server))
        .route("/servers/drain", post(fleet::drain))
        .route("/share", post(proxy::share))
        .route("/snapshot", get(proxy::snapshot));
    Router::new()
        .nest("/lb", lb)
        .nest("/proxy", proxy)
        .route("/explain", get(explain_one))
        .route("/explain/{id}", get(explain))
        .route("/overview", get(overview::overview))
        .route("/overview/stream", get(overview::stream))
        .route("/dashboard", get(overview::dashboard))
        .route("/metrics", get(prometheus))
        .route("/health", get(health))
        .route("/ready", get(ready))
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        .with_state(node)
}

async fn unknown(request: Request) -> Refusal {
    Refusal(
        StatusCode::NOT_FOUND,
        format!("there is no `{}`; see the table of endpoints in the manual", request.uri().path()),
    )
}

async fn wrong_method(request: Request) -> Refusal {
    let message = format!(
        "{} is not for `{}`; GET reads, POST or PUT changes, DELETE removes",
        request.method(),
        request.uri().path()
    );
    Refusal(StatusCode::METHOD_NOT_ALLOWED, message)
}

/// `GET /health` (liveness): 200 while the process answers, with the number of usable replicas. A router without usable
/// replicas is alive: a restart would not help. Load balancers ask `/ready`.
async fn health(State(node): Shared) -> Response {
    let (usable, all) = node.usable();
    let word = if usable > 0 { "healthy" } else { "unhealthy" };
    format!("{word}: {usable}/{all} servers available\n").into_response()
}

/// `GET /ready`: whether a load balancer should send requests to this router.
async fn ready(State(node): Shared) -> Response {
    let (usable, _) = node.usable();
    match (node.phase(), usable) {
        (Phase::Serving, _) if node.warming.load(Ordering::Relaxed) => {
            (StatusCode::SERVICE_UNAVAILABLE, "not ready: asking a peer for what it knows\n").into_response()
        }
        (Phase::Serving, 1..) => (StatusCode::OK, "ready\n").into_response(),
        (Phase::Serving, _) => (StatusCode::SERVICE_UNAVAILABLE, "not ready: no replica can be used\n").into_response(),
        _ => (StatusCode::SERVICE_UNAVAILABLE, "not ready: stopping\n").into_response(),
    }
}

async fn prometheus(State(node): Shared) -> Response {
    let text = node.metrics.text(&levels::levels(&node));
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

/// `GET /explain?order=latest`: the latest request in the request log, the `slowest`, or the one with the `worst`
/// prediction.
async fn explain_one(State(node): Shared, Query(query): Query<BTreeMap<String, String>>) -> Answer {
    let order = match query.get("order").map_or("latest", String::as_str) {
        "latest" => Order::Latest,
        "slowest" => Order::Slowest,
        "worst" => Order::Worst,
        other => return Err(bad(format!("`order` is `{other}`; it is latest, slowest or worst"))),
    };
    match node.driver.observers().explanations.pick(order) {
        Some(value) => tell(&value),
        None => Err(Refusal(StatusCode::NOT_FOUND, "no request has been decided yet, or none is kept".to_owned())),
    }
}

async fn explain(State(node): Shared, Path(id): Path<String>) -> Answer {
    match node.driver.observers().explanations.explain(&id) {
        Some(value) => tell(&value),
        None => {
            let message = format!(
                "nothing is kept of request `{id}`; its id is in the answer's X-Request-ID, and only the latest {} are kept",
                node.config().explain.decisions
            );
            Err(Refusal(StatusCode::NOT_FOUND, message))
        }
    }
}
