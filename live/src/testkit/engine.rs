//! A mock engine: SGLang's wire format with scripted timing and faults.

use super::Net;
use crate::server::listener::Listener;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use futures_util::stream;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::task::JoinHandle;

/// An engine's behaviour; can be changed while it runs.
#[derive(Debug, Clone)]
pub struct Script {
    /// Time to the first token.
    pub prefill: Duration,
    /// Time between tokens.
    pub gap: Duration,
    /// Tokens of an answer.
    pub tokens: usize,
    /// Status of answers; other than 200 means failure.
    pub status: u16,
    /// Answer 200 and send this error in the stream, or in place of an answer in one piece.
    pub stream_error: Option<String>,
    /// Close the connection after so many tokens, or in the middle of an answer in one piece.
    pub cut_after: Option<usize>,
    /// Close in the middle of an event.
    pub torn: bool,
    /// Reported as `cached_tokens`.
    pub cached: Option<u32>,
    /// Send headers and the role chunk at once, long before the first token.
    pub early_head: bool,
    /// The models of its `/v1/models`.
    pub models: Vec<String>,
    /// Time to the list of its models.
    pub models_after: Duration,
    /// Its metrics have the names of vLLM, and not of SGLang.
    pub vllm: bool,
    /// Paths that it does not have.
    pub lacks: Vec<String>,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            prefill: Duration::from_millis(20),
            gap: Duration::from_millis(10),
            tokens: 4,
            status: 200,
            stream_error: None,
            cut_after: None,
            torn: false,
            cached: Some(0),
            early_head: false,
            models: ["mock", "m", "llama"].map(str::to_owned).to_vec(),
            models_after: Duration::ZERO,
            vllm: false,
            lacks: Vec::new(),
        }
    }
}

/// A request as the engine received it.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Path and query.
    pub path: String,
    /// Headers.
    pub headers: HeaderMap,
    /// Body.
    pub body: Bytes,
}

#[derive(Debug, Default)]
struct Log {
    seen: Vec<Seen>,
    aborted: Vec<String>,
    flushed: usize,
}

#[derive(Debug)]
struct Inner {
    name: String,
    script: Mutex<Script>,
    log: Mutex<Log>,
    active: AtomicUsize,
    cancelled: AtomicUsize,
    finished: AtomicUsize,
}

/// A mock engine. Dropping it closes its port and its connections.
#[derive(Debug)]
pub struct Engine {
    inner: Arc<Inner>,
    server: JoinHandle<()>,
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// Counts a request as active until it ends, then as finished, or as cancelled if it was dropped before.
struct Active {
    inner: Arc<Inner>,
    done: bool,
}

impl Active {
    fn new(inner: Arc<Inner>) -> Self {
        inner.active.fetch_add(1, Ordering::SeqCst);
        Self { inner, done: false }
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.inner.active.fetch_sub(1, Ordering::SeqCst);
        let count = if self.done { &self.inner.finished } else { &self.inner.cancelled };
        count.fetch_add(1, Ordering::SeqCst);
    }
}

impl Engine {
    /// Starts an engine at `name:8080`.
    pub fn start(net: &Net, name: &str, script: Script) -> Self {
        Self::serve(net.listen(name, 8080), name, script)
    }

    /// Starts an engine behind any listener.
    pub fn serve(mut listener: impl Listener, name: &str, script: Script) -> Self {
        let inner = Arc::new(Inner {
            name: name.to_owned(),
            script: Mutex::new(script),
            log: Mutex::default(),
            active: AtomicUsize::new(0),
            cancelled: AtomicUsize::new(0),
            finished: AtomicUsize::new(0),
        });
        let routes = routes(Arc::clone(&inner));
        let server = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((io, _)) = listener.accept().await {
                let service = TowerToHyperService::new(routes.clone());
                connections.spawn(async move {
                    let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(io), service).await;
                });
            }
        });
        Self { inner, server }
    }

    /// Changes its behaviour.
    pub fn script(&self, change: impl FnOnce(&mut Script)) {
        change(&mut self.inner.script.lock());
    }

    /// The requests it received, without health checks.
    pub fn seen(&self) -> Vec<Seen> {
        self.inner.log.lock().seen.clone()
    }

    /// The ids of the requests it was asked to abort.
    pub fn aborted(&self) -> Vec<String> {
        self.inner.log.lock().aborted.clone()
    }

    /// The number of times its cache was flushed.
    pub fn flushed(&self) -> usize {
        self.inner.log.lock().flushed
    }

    /// The number of requests being served, cancelled, and finished.
    pub fn counts(&self) -> (usize, usize, usize) {
        let get = |count: &AtomicUsize| count.load(Ordering::SeqCst);
        (get(&self.inner.active), get(&self.inner.cancelled), get(&self.inner.finished))
    }
}

fn routes(inner: Arc<Inner>) -> Router {
    Router::new()
        .route("/v1/models", get(models))
        .route("/metrics", get(metrics))
        .route("/flush_cache", post(flush))
        .route("/abort_request", post(abort))
        .route("/generate", post(answer))
        .route("/v1/{*rest}", get(echo).post(answer))
        .route("/tokenize", post(echo_body))
        .with_state(inner)
}

async fn models(State(inner): State<Arc<Inner>>) -> axum::Json<Value> {
    let (names, after) = {
        let script = inner.script.lock();
        (script.models.clone(), script.models_after)
    };
    tokio::time::sleep(after).await;
    let data: Vec<Value> = names.iter().map(|name| json!({"id": name, "object": "model"})).collect();
    axum::Json(json!({"object": "list", "data": data}))
}

async fn metrics(State(inner): State<Arc<Inner>>) -> String {
    let active = inner.active.load(Ordering::SeqCst);
    if inner.script.lock().vllm {
        return format!(
            "vllm:num_requests_running{{engine=\"0\"}} {active}.0\nvllm:num_requests_waiting{{engine=\"0\"}} 0.0\n"
        );
    }
    format!(
        "sglang:num_running_reqs{{tp_rank=\"0\"}} {active}.0\nsglang:num_queue_reqs{{tp_rank=\"0\"}} 0.0\n\
         sglang:num_used_tokens{{tp_rank=\"0\"}} 0.0\nsglang:max_total_num_tokens{{tp_rank=\"0\"}} 400000.0\n"
    )
}

async fn flush(State(inner): State<Arc<Inner>>) -> &'static str {
    inner.log.lock().flushed += 1;
    "Cache flushed.\n"
}

async fn abort(State(inner): State<Arc<Inner>>, body: Bytes) -> StatusCode {
    let value: Value = serde_json::from_slice(&body).unwrap_or_default();
    inner.log.lock().aborted.push(value["rid"].as_str().unwrap_or_default().to_owned());
    StatusCode::OK
}

async fn echo(State(inner): State<Arc<Inner>>, Path(rest): Path<String>, headers: HeaderMap) -> Response {
    if rest == "loads" {
        return StatusCode::NOT_FOUND.into_response();
    }
    note(&inner, format!("/v1/{rest}"), headers, Bytes::new());
    axum::Json(json!({"echo": rest})).into_response()
}

async fn echo_body(State(inner): State<Arc<Inner>>, headers: HeaderMap, body: Bytes) -> Response {
    note(&inner, "/tokenize".to_owned(), headers, body.clone());
    body.into_response()
}

fn note(inner: &Inner, path: String, headers: HeaderMap, body: Bytes) {
    inner.log.lock().seen.push(Seen { path, headers, body });
}

async fn answer(State(inner): State<Arc<Inner>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let Ok(body) = axum::body::to_bytes(body, 64 << 20).await else { return StatusCode::BAD_REQUEST.into_response() };
    note(&inner, parts.uri.path_and_query().map_or(String::new(), ToString::to_string), parts.headers, body.clone());
    let mut active = Active::new(Arc::clone(&inner));
    let script = inner.script.lock().clone();
    if script.lacks.iter().any(|path| path == parts.uri.path()) {
        return (StatusCode::NOT_FOUND, axum::Json(json!({"detail": "Not Found"}))).into_response();
    }
    let value: Value = serde_json::from_slice(&body).unwrap_or_default();
    let usage = json!({
        "prompt_tokens": body.len() / 4, "completion_tokens": script.tokens, "total_tokens": 0,
        "prompt_tokens_details": script.cached.map(|cached| json!({"cached_tokens": cached})),
    });
    if value["stream"] == true && script.early_head {
        return streamed(active, script, usage);
    }
    tokio::time::sleep(script.prefill).await;
    if script.status != 200 {
        active.done = true;
        let status = StatusCode::from_u16(script.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let error = json!({"object": "error", "message": format!("{} says no", inner.name), "code": script.status});
        return (status, axum::Json(error)).into_response();
    }
    if value["stream"] == true {
        return streamed(active, script, usage);
    }
    tokio::time::sleep(script.gap * script.tokens as u32).await;
    active.done = true;
    if let Some(error) = script.stream_error {
        return ([(header::CONTENT_TYPE, "application/json")], error).into_response();
    }
    let text = "tok ".repeat(script.tokens);
    let made = format!("made-by-{}-{}", inner.name, inner.log.lock().seen.len());
    let whole = json!({
        "id": made, "object": "chat.completion", "served_by": inner.name,
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": usage,
    });
    if script.cut_after.is_none() {
        return axum::Json(whole).into_response();
    }
    let whole = whole.to_string();
    let half = Bytes::from(whole[..whole.len() / 2].to_owned());
    let step = stream::unfold(Some(half), async |half| match half {
        Some(half) => Some((Ok(half), None)),
        None => {
            tokio::time::sleep(Duration::from_millis(10)).await; // so that the first half is sent
            Some((Err(std::io::Error::other("cut")), None))
        }
    });
    let headers =
        [(header::CONTENT_TYPE, "application/json".to_owned()), (header::CONTENT_LENGTH, whole.len().to_string())];
    (headers, Body::from_stream(step)).into_response()
}

const ID: &str = "0123456789abcdef0123456789abcdef";

fn chunk(delta: &Value) -> String {
    format!(
        "data: {}\n\n",
        json!({"id": ID, "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": delta}]})
    )
}

fn streamed(active: Active, script: Script, usage: Value) -> Response {
    let step = stream::unfold((active, 0usize), move |(active, n)| {
        let (script, usage) = (script.clone(), usage.clone());
        async move {
            let mut active = active; // the whole of it, not a copy of its flag
            let cut = script.cut_after.is_some_and(|cut| n > cut);
            if !cut && (n > script.tokens + 1 || (n > 0 && script.stream_error.is_some())) {
                active.done = true;
                return None;
            }
            if n == 1 && script.early_head {
                tokio::time::sleep(script.prefill).await;
            } else if n > 0 {
                tokio::time::sleep(script.gap).await;
            }
            if cut && n != usize::MAX && script.torn {
                return Some((Ok(Bytes::from_static(b"data: {\"cho")), (active, usize::MAX)));
            }
            if cut {
                return Some((Err(std::io::Error::other("cut")), (active, usize::MAX)));
            }
            let text = match (&script.stream_error, n) {
                (Some(error), _) => format!("data: {error}\n\ndata: [DONE]\n\n"),
                (None, 0) => chunk(&json!({"role": "assistant", "content": ""})),
                (None, n) if n <= script.tokens => chunk(&json!({"content": "tok "})),
                _ => format!("data: {}\n\ndata: [DONE]\n\n", json!({"id": ID, "choices": [], "usage": usage})),
            };
            Some((Ok(Bytes::from(text)), (active, n + 1)))
        }
    });
    ([(header::CONTENT_TYPE, "text/event-stream")], Body::from_stream(step)).into_response()
}
