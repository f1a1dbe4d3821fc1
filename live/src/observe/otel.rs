//! OpenTelemetry: exports one trace per request to a collector, as OTLP in JSON over HTTP.
//!
//! Spans are built from the log entry of a finished request and have the names of the timeline: `request` with the
//! children `queue`, `forward`, `first-token` and `stream`. Without a configured collector the exporter does nothing.
//! The parent span is taken from the client's `traceparent` header. Replicas receive a `traceparent` that names the
//! `request` span, so spans of the engine become its children.
//!
//! The `opentelemetry` crates (0.33) are not used. They add 18 crates to the build (`opentelemetry_sdk`, `prost`,
//! `async-trait` ...) in place of these 380 lines. Their stable batch processor runs in a thread on the wall clock,
//! which tests with a paused clock cannot drive; the processor on tokio is behind a feature marked experimental. They
//! also need a span object per request in flight, while this module builds all spans from the finished entry. Their
//! exporter retries after 429 and 503 by default, as this module does.

use crate::driver::clock::Clock;
use crate::observe::capture::record;
use crate::observe::request_log::RequestEntry;
use crate::supervise;
use crate::upstream::connect::PooledClient;
use bytes::Bytes;
use gorgo_core::record::Status;
use gorgo_core::{MaybeTime, RequestId, Time};
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName};
use http::{HeaderValue, Request, StatusCode, Uri};
use http_body_util::Full;
use serde_json::{Value, json};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use xxhash_rust::xxh3::{xxh3_64_with_seed, xxh3_128_with_seed};

mod settings;
pub use settings::Settings;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// Most requests that wait for export; more are dropped and counted.
const QUEUE: usize = 2_048;
/// Most requests of one export.
const BATCH: usize = 256;
/// Attempts per batch, with the pause doubled each time.
const TRIES: u32 = 3;

/// Trace context of a request: trace id, own span id, parent span id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Context {
    trace: u128,
    span: u64,
    parent: Option<u64>,
    sampled: bool,
}

impl Context {
    /// Continues the trace of the client's `traceparent`, or starts a new one.
    fn of(headers: &HeaderMap, seed: u64, id: RequestId) -> Self {
        let name = id.0.to_le_bytes();
        let span = xxh3_64_with_seed(&name, seed).max(1);
        let said = headers.get(TRACEPARENT).and_then(|value| parse(value.as_bytes()));
        let (trace, parent, sampled) = match said {
            Some((trace, parent, flags)) => (trace, Some(parent), flags & 1 == 1),
            None => (xxh3_128_with_seed(&name, !seed).max(1), None, true),
        };
        Self { trace, span, parent, sampled }
    }

    fn header(&self) -> Option<HeaderValue> {
        let text = format!("00-{:032x}-{:016x}-{:02x}", self.trace, self.span, u8::from(self.sampled));
        HeaderValue::try_from(text).ok()
    }
}

/// Parses trace id, span id and flags of a `traceparent` (W3C Trace Context); later versions may be longer.
fn parse(text: &[u8]) -> Option<(u128, u64, u8)> {
    let text = std::str::from_utf8(text).ok()?;
    let fields = text.as_bytes();
    let hex = |at: std::ops::Range<usize>| {
        let part = fields.get(at.clone())?;
        part.iter().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(b)).then(|| &text[at])
    };
    let (version, trace, span, flags) = (hex(0..2)?, hex(3..35)?, hex(36..52)?, hex(53..55)?);
    let framed = [2, 35, 52].iter().all(|&at| fields[at] == b'-');
    let ended = fields.len() == 55 || (version != "00" && fields.get(55) == Some(&b'-'));
    let trace = u128::from_str_radix(trace, 16).ok().filter(|&id| id != 0)?;
    let span = u64::from_str_radix(span, 16).ok().filter(|&id| id != 0)?;
    (framed && ended && version != "ff").then(|| (trace, span, u8::from_str_radix(flags, 16).unwrap_or(0)))
}

enum ExportMessage {
    Ended(Context, Arc<RequestEntry>),
    Flush(oneshot::Sender<()>),
}

/// Exporter of a router's requests; does nothing until [`start`].
#[derive(Default)]
pub struct Otel {
    messages: OnceLock<mpsc::Sender<ExportMessage>>,
    dropped: AtomicU64,
}

impl std::fmt::Debug for Otel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Otel").field("on", &self.messages.get().is_some()).finish_non_exhaustive()
    }
}

impl Otel {
    /// The context of a request that arrived, and the `traceparent` for replicas; `None` while the exporter is off.
    pub(crate) fn begin(&self, headers: &mut HeaderMap, seed: u64, id: RequestId) -> Option<Context> {
        self.messages.get()?;
        let context = Context::of(headers, seed, id);
        headers.insert(TRACEPARENT, context.header()?);
        Some(context)
    }

    /// Exports the trace of a request that ended.
    pub(crate) fn end(&self, context: Context, row: &Arc<RequestEntry>) {
        if let Some(messages) = self.messages.get().filter(|_| context.sampled)
            && messages.try_send(ExportMessage::Ended(context, Arc::clone(row))).is_err()
        {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Number of requests that were not exported because the queue was full.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Exports all waiting requests, for at most `limit`.
    pub async fn flush(&self, limit: Duration) {
        let Some(messages) = self.messages.get() else { return };
        let (done, told) = oneshot::channel();
        let _ = tokio::time::timeout(limit, async {
            if messages.send(ExportMessage::Flush(done)).await.is_ok() {
                let _ = told.await;
            }
        })
        .await;
    }
}

/// Origin of the spans: the clock of their times, and a function that returns the router's name at export.
struct Origin {
    clock: Clock,
    name: Box<dyn Fn() -> String + Send>,
}

/// Starts to export every request to the collector of `settings`, over connections of `pool`. `name` gives the router's
/// name.
pub fn start(
    otel: &Otel,
    clock: Clock,
    name: impl Fn() -> String + Send + 'static,
    settings: Settings,
    pool: PooledClient,
) {
    let (messages, rest) = mpsc::channel(QUEUE);
    if otel.messages.set(messages).is_ok() {
        tracing::info!(endpoint = %settings.endpoint, "exporting every request to an OpenTelemetry collector");
        let origin = Origin { clock, name: Box::new(name) };
        tokio::spawn(supervise::logged("OpenTelemetry exporter", run(origin, settings, pool, rest)));
    }
}

async fn run(origin: Origin, settings: Settings, pool: PooledClient, mut messages: mpsc::Receiver<ExportMessage>) {
    let mut failing = false;
    while let Some(first) = messages.recv().await {
        let (mut batch, mut flushes) = (Vec::new(), Vec::new());
        let mut sort = |message, batch: &mut Vec<_>| match message {
            ExportMessage::Ended(context, row) => batch.push((context, row)),
            ExportMessage::Flush(done) => flushes.push(done),
        };
        let until = Instant::now() + settings.delay;
        sort(first, &mut batch);
        // One message for many, but for the last ones.
        while batch.len() < BATCH {
            let Ok(Some(message)) = tokio::time::timeout_at(until, messages.recv()).await else { break };
            let last = matches!(message, ExportMessage::Flush(_));
            sort(message, &mut batch);
            if last {
                break;
            }
        }
        if !batch.is_empty() {
            let message = message(&settings, &origin, &batch).to_string();
            match post(&settings, &pool, Bytes::from(message)).await {
                Ok(()) => failing = false,
                Err(why) if !failing => {
                    failing = true;
                    tracing::warn!(endpoint = %settings.endpoint, why, "the collector does not take spans; they are dropped");
                }
                Err(_) => {}
            }
        }
        for done in flushes {
            let _ = done.send(()); // the caller of `flush` may have timed out
        }
    }
}

async fn post(settings: &Settings, pool: &PooledClient, body: Bytes) -> Result<(), String> {
    let mut why = String::new();
    for attempt in 0..TRIES {
        if attempt > 0 {
            tokio::time::sleep(Duration::from_millis(500) * 2u32.pow(attempt)).await;
        }
        let mut request = Request::new(Full::new(body.clone()));
        *request.method_mut() = http::Method::POST;
        *request.uri_mut() = Uri::clone(&settings.endpoint);
        *request.headers_mut() = settings.headers.clone();
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        match tokio::time::timeout(settings.timeout, pool.request(request)).await {
            Ok(Ok(response)) if response.status().is_success() => return Ok(()),
            Ok(Ok(response)) => {
                why = format!("it answered {}", response.status());
                // Other statuses are permanent, so a retry would fail, too.
                let again = [429, 502, 503, 504].map(|code| StatusCode::from_u16(code).unwrap_or_default());
                if !again.contains(&response.status()) {
                    break;
                }
            }
            Ok(Err(error)) => why = error.to_string(),
            Err(_) => "no answer in time".clone_into(&mut why),
        }
    }
    Err(why)
}

/// An `ExportTraceServiceRequest` in OTLP's JSON: ids in hexadecimal, 64-bit integers as text.
fn message(settings: &Settings, origin: &Origin, batch: &[(Context, Arc<RequestEntry>)]) -> Value {
    let mut spans = Vec::new();
    for (context, row) in batch {
        spans_of(origin.clock, context, row, &mut spans);
    }
    let version = env!("CARGO_PKG_VERSION");
    let about = [
        text("service.name", &settings.service),
        text("service.version", version),
        text("service.instance.id", &(origin.name)()),
    ];
    json!({"resourceSpans": [{
        "resource": {"attributes": about},
        "scopeSpans": [{"scope": {"name": "gorgo", "version": version}, "spans": spans}],
    }]})
}

fn text(key: &str, value: &str) -> Value {
    json!({"key": key, "value": {"stringValue": value}})
}

fn number(key: &str, value: u64) -> Value {
    json!({"key": key, "value": {"intValue": value.to_string()}})
}

fn spans_of(clock: Clock, context: &Context, row: &RequestEntry, spans: &mut Vec<Value>) {
    let trace = format!("{:032x}", context.trace);
    let unix = |at: Time| clock.unix_ns(at).to_string();
    let mut about = vec![
        number("http.response.status_code", row.status_code.into()),
        text("gorgo.request_id", row.id()),
        text("gorgo.status", row.end.status().as_str()),
        number("gorgo.attempts", row.attempts.into()),
        number("gorgo.hops", row.hops.into()),
        number("gen_ai.usage.input_tokens", row.counted_tokens.unwrap_or(row.prompt_tokens).into()),
        number("gen_ai.usage.output_tokens", row.output_tokens.into()),
        number("gorgo.predicted_cached_tokens", row.predicted_cached_tokens.into()),
    ];
    about.extend(row.cached_tokens.map(|cached| number("gorgo.cached_tokens", cached.into())));
    about.extend(row.replica.as_ref().map(|replica| text("gorgo.replica", &replica.name)));
    let predicted = row.predicted_ttft_ms.filter(|ms| ms.is_finite());
    about.extend(predicted.map(|ms| json!({"key": "gorgo.predicted_ttft_ms", "value": {"doubleValue": ms}})));
    let failed = matches!(row.end.status(), Status::Failed | Status::TimedOut | Status::Rejected);
    about.extend(failed.then(|| text("error.type", row.end.as_str())));
    let mut request = json!({
        "traceId": trace, "spanId": format!("{:016x}", context.span), "name": "request", "kind": 2,
        "startTimeUnixNano": unix(row.arrived), "endTimeUnixNano": unix(row.done), "attributes": about,
        "status": if failed { json!({"code": 2, "message": row.end.as_str()}) } else { json!({}) },
    });
    if let Some(parent) = context.parent {
        request["parentSpanId"] = format!("{parent:016x}").into();
    }
    spans.push(request);
    for (name, from, to) in stages(row) {
        spans.push(json!({
            "traceId": trace, "spanId": format!("{:016x}", xxh3_64_with_seed(name.as_bytes(), context.span).max(1)),
            "parentSpanId": format!("{:016x}", context.span), "name": name, "kind": 1,
            "startTimeUnixNano": unix(from), "endTimeUnixNano": unix(to),
        }));
    }
}

/// The stages of the timeline, each from the end of the previous one; a request that ended early ends in its current stage.
fn stages(row: &RequestEntry) -> Vec<(&'static str, Time, Time)> {
    let r = record(row, 0);
    let ends = [
        ("queue", r.dispatched),
        ("forward", r.accepted),
        ("first-token", r.router_first),
        ("stream", MaybeTime::NONE),
    ];
    let mut at = row.arrived;
    let mut out = Vec::new();
    for (name, end) in ends {
        let last = end.is_none();
        let end = end.get().map_or(row.done, |end| end.min(row.done));
        if end > at {
            out.push((name, at, end));
            at = end;
        }
        if last {
            break;
        }
    }
    out
}

#[cfg(test)]
mod tests;
