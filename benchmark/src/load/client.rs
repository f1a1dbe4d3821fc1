//! HTTP client of the load generator: pooled HTTP/1.1 connections, TLS to https targets, and the times of tokens.

use super::sse::{EventParser, StreamEvent, TokenCounts, message_of};
use super::target::Target;
use crate::input_error::InputError;
use bytes::Bytes;
use gorgo_core::record::Status;
use gorgo_core::router::Failure;
use http_body_util::{BodyExt, Full};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use hyper::{Request, Response, StatusCode, Uri, body::Incoming};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client as Pooled;
use hyper_util::client::legacy::connect::{HttpConnector, HttpInfo, capture_connection};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use parking_lot::Mutex;
use rustls::{ClientConfig, RootCertStore};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Idle connections are closed after this long, before the server (uvicorn: 5 s) closes them.
const IDLE: Duration = Duration::from_secs(4);
/// Most bytes read from a list of models.
const MODELS_BYTES: usize = 4 << 20;
/// Most bytes read from the body of an error.
const ERROR_BYTES: usize = 64 << 10;

/// Sends requests to one target.
#[derive(Debug, Clone)]
pub struct Client {
    pooled: Pooled<HttpsConnector<HttpConnector>, Full<Bytes>>,
    uri: Uri,
    key: Option<HeaderValue>,
    timeout: Duration,
    seen: Arc<Seen>,
}

/// What earlier requests have shown of the server.
#[derive(Debug, Default)]
struct Seen {
    /// Whether it refuses `stream_options`.
    refuses_options: AtomicBool,
    /// Own addresses of the connections that have carried an answer.
    answered: Mutex<BTreeSet<SocketAddr>>,
}

/// Outcome of a request.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// How it ended.
    pub status: Status,
    /// When the request was handed to the connection.
    pub sent: Instant,
    /// When the first text arrived; the end of an answer whose tokens have no text.
    pub first: Option<Instant>,
    /// When the last text arrived.
    pub last: Option<Instant>,
    /// When the answer ended, or the request failed.
    pub done: Instant,
    /// Number of events with text.
    pub chunks: u32,
    /// Token counts reported by the server.
    pub counts: TokenCounts,
    /// Gaps between texts, ms.
    pub gaps_ms: Vec<f32>,
    /// `X-Gorgo-Replica` of the response.
    pub replica: Option<String>,
    /// Why the request failed.
    pub error: Option<String>,
}

/// The TLS settings of connections. Without `tls` no root certificate is trusted.
fn tls_config(tls: Option<&Arc<ClientConfig>>) -> Result<ClientConfig, String> {
    if let Some(tls) = tls {
        return Ok(ClientConfig::clone(tls));
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().map_err(|e| format!("TLS cannot be set up: {e}"))?;
    Ok(builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth())
}

impl Client {
    /// Creates a client of `target` for `path`. `key` is sent as a bearer token. `tls` has the root certificates for an
    /// https target; without it, https targets are rejected.
    ///
    /// # Errors
    /// The URL, path or key is invalid.
    pub fn new(
        target: &Target,
        path: &str,
        key: Option<&str>,
        timeout: Duration,
        tls: Option<&Arc<ClientConfig>>,
    ) -> Result<Self, InputError> {
        let mut connector = HttpConnector::new();
        connector.enforce_http(false);
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(Duration::from_secs(10)));
        let pooled = Pooled::builder(TokioExecutor::new()).pool_timer(TokioTimer::new()).pool_idle_timeout(IDLE).build(
            HttpsConnectorBuilder::new()
                .with_tls_config(tls_config(tls)?)
                .https_or_http()
                .enable_http1()
                .wrap_connector(connector),
        );
        let url = format!("{}{path}", target.url);
        let uri = url.parse().map_err(|e| format!("`{url}` is no URL: {e}"))?;
        let key = key.map(|k| HeaderValue::from_str(&format!("Bearer {k}"))).transpose();
        let key = key.map_err(|_| "the API key holds characters that no header can".to_owned())?;
        Ok(Self { pooled, uri, key, timeout, seen: Arc::default() })
    }

    /// Sends `body` with `id` as `X-Request-ID`, and reads the response to its end.
    pub async fn send(&self, body: Bytes, id: &str) -> Outcome {
        let sent = Instant::now();
        let mut outcome = Outcome {
            status: Status::Failed,
            sent,
            first: None,
            last: None,
            done: sent,
            chunks: 0,
            counts: TokenCounts::default(),
            gaps_ms: Vec::new(),
            replica: None,
            error: None,
        };
        let result = tokio::time::timeout(self.timeout, self.send_and_read(body, id, &mut outcome)).await;
        match result {
            Ok(Ok(())) => outcome.status = Status::Finished,
            Ok(Err((status, error))) => (outcome.status, outcome.error) = (status, Some(error)),
            Err(_) => {
                outcome.status = Status::TimedOut;
                outcome.error = Some(format!("no end after {:.0} s", self.timeout.as_secs_f64()));
            }
        }
        outcome.done = Instant::now();
        outcome
    }

    async fn send_and_read(&self, body: Bytes, id: &str, outcome: &mut Outcome) -> Result<(), (Status, String)> {
        let failed = |e: String| (Status::Failed, e);
        let answer = self.answer(body, id, outcome).await?;
        let replica = answer.headers().get("x-gorgo-replica");
        outcome.replica = replica.and_then(|v| v.to_str().ok()).map(str::to_owned);
        if answer.status() != StatusCode::OK {
            return Err(error_of(answer).await);
        }
        let kind = answer.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        if kind.starts_with("application/json") {
            return Err(in_place_of_stream(answer).await);
        }
        let mut body = answer.into_body();
        let mut parser = EventParser::default();
        let (mut done, mut error, mut finished) = (false, None, None);
        loop {
            let frame = body.frame().await.transpose().map_err(|e| failed(with_causes(&e)))?;
            let now = Instant::now();
            let on_event = |event| match event {
                StreamEvent::Content => {
                    outcome.chunks += 1;
                    if let Some(last) = outcome.last.replace(now) {
                        outcome.gaps_ms.push((now - last).as_secs_f32() * 1e3);
                    } else {
                        outcome.first = Some(now);
                    }
                }
                StreamEvent::Other => {}
                StreamEvent::Done => done = true,
                StreamEvent::Error { message, status } => error = Some((message, status)),
            };
            let parsed = match &frame {
                Some(frame) => frame.data_ref().map_or(Ok(()), |bytes| parser.feed(bytes, on_event)),
                None => parser.end(on_event),
            };
            outcome.counts = parser.counts;
            finished = finished.or(parser.finished.then_some(now));
            parsed.map_err(|error| failed(error.to_string()))?;
            if frame.is_none() {
                break;
            }
        }
        if outcome.first.is_none() && outcome.counts.output.is_some_and(|tokens| tokens > 0) {
            // Tokens without text: special tokens, parts of a character. The engine counted them, and told their end.
            (outcome.first, outcome.last) = (finished, finished);
        }
        match error {
            Some((message, status)) => Err((status.map_or(Status::Failed, status_of), message)),
            None if !done && !parser.finished => {
                Err(failed("the stream ended without [DONE] and without a finish reason".to_owned()))
            }
            None if outcome.first.is_none() => Err(failed("the answer holds no token".to_owned())),
            None => Ok(()),
        }
    }
}

impl Client {
    /// The head of the answer. A request is sent again where a person would: over a new connection when the server closed
    /// an idle one at that moment, and without `stream_options` when it refuses them.
    async fn answer(
        &self,
        mut body: Bytes,
        id: &str,
        outcome: &mut Outcome,
    ) -> Result<Response<Incoming>, (Status, String)> {
        let failed = |e: String| (Status::Failed, e);
        if self.seen.refuses_options.load(Ordering::Relaxed) {
            body = without_options(&body).unwrap_or(body);
        }
        loop {
            let mut request = Request::post(self.uri.clone()).header(CONTENT_TYPE, "application/json");
            request = request.header("x-request-id", id);
            if let Some(key) = &self.key {
                request = request.header(AUTHORIZATION, key);
            }
            let mut request = request.body(Full::new(body.clone())).map_err(|e| failed(e.to_string()))?;
            let used = capture_connection(&mut request);
            outcome.sent = Instant::now();
            let result = self.pooled.request(request).await;
            let address = used.connection_metadata().as_ref().and_then(|connection| {
                let mut extras = hyper::http::Extensions::new();
                connection.get_extras(&mut extras);
                extras.get::<HttpInfo>().map(HttpInfo::local_addr)
            });
            let answer = match result {
                Ok(answer) => answer,
                // Without one on it the connection is known to be gone: the next one is another.
                Err(error) if address.is_some_and(|at| self.seen.answered.lock().remove(&at)) && is_closed(&error) => {
                    continue;
                }
                Err(error) => return Err(failed(with_causes(&error))),
            };
            if let Some(at) = address {
                self.seen.answered.lock().insert(at);
            }
            if !matches!(answer.status(), StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY) {
                return Ok(answer);
            }
            let (status, told) = error_of(answer).await;
            match without_options(&body).filter(|_| told.contains("stream_options")) {
                Some(shorter) => {
                    self.seen.refuses_options.store(true, Ordering::Relaxed);
                    body = shorter;
                }
                None => return Err((status, told)),
            }
        }
    }
}

/// Whether a connection was closed before the answer began.
fn is_closed(error: &hyper_util::client::legacy::Error) -> bool {
    let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<hyper::Error>());
    cause.is_some_and(|cause| cause.is_incomplete_message() || cause.is_closed() || cause.is_canceled())
}

/// The body without `stream_options`; `None` if it has none.
fn without_options(body: &[u8]) -> Option<Bytes> {
    let mut value: serde_json::Value = serde_json::from_slice(body).ok()?;
    value.as_object_mut()?.remove("stream_options")?;
    Some(Bytes::from(value.to_string()))
}

/// The failure of a request that asked for a stream and was answered in one piece.
async fn in_place_of_stream(answer: Response<Incoming>) -> (Status, String) {
    let told: serde_json::Value = serde_json::from_slice(&short_body(answer).await).unwrap_or_default();
    match told.get("error").and_then(message_of) {
        Some(message) => (Status::Failed, message.chars().take(200).collect()),
        None => (Status::Failed, "the server answered JSON in one piece and no stream; let it stream".to_owned()),
    }
}

/// The models that a target names at `/v1/models`.
///
/// # Errors
/// The target cannot be reached, or answers otherwise.
pub async fn served_models(
    target: &Target,
    key: Option<&str>,
    tls: Option<&Arc<ClientConfig>>,
) -> Result<Vec<String>, String> {
    let client = Client::new(target, "/v1/models", key, Duration::from_secs(10), tls).map_err(InputError::into_text)?;
    let mut request = Request::get(client.uri.clone());
    if let Some(key) = &client.key {
        request = request.header(AUTHORIZATION, key);
    }
    let request = request.body(Full::new(Bytes::new())).map_err(|e| e.to_string())?;
    let ask = async {
        let answer = client.pooled.request(request).await.map_err(|e| with_causes(&e))?;
        if answer.status() != StatusCode::OK {
            return Err(error_of(answer).await.1);
        }
        let text = http_body_util::Limited::new(answer.into_body(), MODELS_BYTES).collect().await;
        let text = text.map_err(|e| e.to_string())?.to_bytes();
        let parsed: serde_json::Value = serde_json::from_slice(&text).map_err(|e| format!("no JSON ({e})"))?;
        let list = parsed.get("data").and_then(serde_json::Value::as_array).into_iter().flatten();
        Ok(list.filter_map(|model| Some(model.get("id")?.as_str()?.to_owned())).collect())
    };
    tokio::time::timeout(client.timeout, ask).await.unwrap_or_else(|_| Err("no answer in 10 s".to_owned()))
}

/// Status of a request whose response has this HTTP status.
fn status_of(http: u16) -> Status {
    match Failure::of_status(http) {
        Some(Failure::Overloaded { .. }) => Status::Rejected,
        Some(Failure::Timeout) => Status::TimedOut,
        Some(Failure::Client) if http == StatusCode::REQUEST_TIMEOUT.as_u16() => Status::TimedOut,
        Some(_) | None => Status::Failed,
    }
}

/// The body of an answer; empty if it is longer than [`ERROR_BYTES`] or breaks.
async fn short_body(answer: Response<Incoming>) -> Bytes {
    let body = http_body_util::Limited::new(answer.into_body(), ERROR_BYTES).collect().await;
    body.map_or_else(|_| Bytes::new(), http_body_util::Collected::to_bytes)
}

/// Status and message of a response that is not 200.
async fn error_of(answer: Response<Incoming>) -> (Status, String) {
    let code = answer.status();
    let status = status_of(code.as_u16());
    let body = short_body(answer).await;
    let parsed: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
    let message = parsed.get("message").and_then(message_of).or_else(|| message_of(parsed.get("error")?));
    let message = message.map_or_else(|| String::from_utf8_lossy(&body), Into::into);
    (status, format!("{}: {}", code.as_u16(), message.chars().take(200).collect::<String>()))
}

/// The text of an error and its causes, on one line.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
