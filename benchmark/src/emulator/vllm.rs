//! Differences of vLLM's API server from SGLang's: error bodies, `/metrics`, `/reset_prefix_cache`, tokenizer paths.
//!
//! Names and texts are those of vLLM 0.19.

use super::app::App;
use super::errors::{ApiError, json_response, with_type};
use super::histograms::{Histogram, Histograms, float};
use super::messages::Snapshot;
use super::prompt::tokens_of;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::Response;
use gorgo_sim::engine::{EngineConfig, EngineError};
use serde_json::{Value, json};
use std::fmt::Write;
use std::sync::Arc;

/// The emulated version of vLLM.
const VERSION: &str = "0.19.0";
/// Tokens a block of its KV pool.
const BLOCK_TOKENS: u32 = 16;

/// The engine's error in vLLM's words; `input` and `max` are the request's prompt tokens and `max_tokens`.
pub(super) fn engine_error(error: &EngineError, input: u32, max: Option<u32>) -> ApiError {
    let bad = |message: String| ApiError { status: 400, message, kind: "BadRequestError" };
    match *error {
        EngineError::InputTooLong { limit, .. } | EngineError::ExceedsPool { limit, .. } => bad(format!(
            "This model's maximum context length is {limit} tokens. However, your request has {input} input tokens. \
             Please reduce the length of the input messages."
        )),
        EngineError::TooManyRequested { limit, .. } => {
            let max = max.unwrap_or(0);
            bad(format!(
                "'max_tokens' or 'max_completion_tokens' is too large: {max}. This model's maximum context length is \
                 {limit} tokens and your request has {input} input tokens ({max} > {limit} - {input})."
            ))
        }
        EngineError::Crashed | EngineError::Down => ApiError {
            status: 500,
            message: "EngineCore encountered an issue. See stack trace (above) for the root cause.".to_owned(),
            kind: "InternalServerError",
        },
        _ => ApiError::from_engine(error),
    }
}

/// The body of an error.
pub(super) fn error_object(error: &ApiError) -> Value {
    let kind = match error.status {
        400 => "BadRequestError",
        404 => "NotFoundError",
        _ => error.kind,
    };
    json!({"error": {"message": error.message, "type": kind, "param": null, "code": error.status}})
}

/// The error for a request of a model that is not served.
pub(super) fn unknown_model(model: &str) -> ApiError {
    ApiError { status: 404, message: format!("The model `{model}` does not exist."), kind: "NotFoundError" }
}

/// `GET /version`.
pub async fn version() -> Response<Body> {
    json_response(200, &json!({"version": VERSION}))
}

/// `GET /load`: requests that the API server holds.
pub async fn load(State(app): State<Arc<App>>) -> Response<Body> {
    json_response(200, &json!({"server_load": app.in_flight()}))
}

/// `POST /reset_prefix_cache`: answers 200 whether or not the engine was idle, as vLLM does.
pub async fn reset_prefix_cache(State(app): State<Arc<App>>) -> Response<Body> {
    app.engine.flush().await;
    with_type(200, "text/plain", "")
}

/// `POST /tokenize`.
pub async fn tokenize(State(app): State<Arc<App>>, body: Bytes) -> Response<Body> {
    let tokens = match tokens_of(&body, app.config.bytes_per_token) {
        Ok(tokens) => tokens,
        Err(error) => return json_response(400, &error_object(&error)),
    };
    let (count, len) = (tokens.len(), app.config.engine.context_len);
    json_response(200, &json!({"count": count, "max_model_len": len, "tokens": tokens, "token_strs": null}))
}

/// `GET /metrics`. Families are there from the start, and gauges follow each step.
pub async fn metrics(State(app): State<Arc<App>>) -> Response<Body> {
    let snapshot = app.engine.read_metrics().await;
    let config = &app.config;
    let body = app.engine.with_histograms(|h| render(&config.model, &config.engine, snapshot.as_ref(), h));
    with_type(200, "text/plain; version=0.0.4; charset=utf-8", body)
}

/// The text under construction.
struct Text {
    out: String,
    labels: String,
}

impl Text {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = write!(self.out, "# HELP vllm:{name} {help}\n# TYPE vllm:{name} {kind}\n");
    }

    fn value(&mut self, name: &str, more: &str, value: f64) {
        let _ = writeln!(self.out, "vllm:{name}{{{}{more}}} {}", self.labels, float(value));
    }

    fn gauge(&mut self, name: &str, help: &str, value: f64) {
        self.family(name, "gauge", help);
        self.value(name, "", value);
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.family(name, "counter", help);
        self.value(name, "", value as f64);
    }

    fn histogram(&mut self, name: &str, help: &str, h: &Histogram) {
        self.family(name, "histogram", help);
        let mut below = 0;
        for (bound, count) in h.bounds.iter().zip(&h.counts) {
            below += count;
            self.value(&format!("{name}_bucket"), &format!(",le=\"{}\"", float(*bound)), below as f64);
        }
        self.value(&format!("{name}_bucket"), ",le=\"+Inf\"", h.total as f64);
        self.value(&format!("{name}_count"), "", h.total as f64);
        self.value(&format!("{name}_sum"), "", h.sum);
    }
}

fn render(model: &str, engine: &EngineConfig, snapshot: Option<&Snapshot>, h: &Histograms) -> String {
    let model = model.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let mut text = Text { out: String::new(), labels: format!("engine=\"0\",model_name=\"{model}\"") };
    let blocks = engine.kv_tokens / BLOCK_TOKENS;
    text.family("cache_config_info", "gauge", "Information of the LLMEngine CacheConfig");
    let prefix = if engine.radix_cache { "True" } else { "False" };
    let _ = writeln!(
        text.out,
        "vllm:cache_config_info{{block_size=\"{BLOCK_TOKENS}\",enable_prefix_caching=\"{prefix}\",engine=\"0\",\
         num_gpu_blocks=\"{blocks}\"}} 1.0"
    );
    if let Some(s) = snapshot {
        let (g, c) = (s.gauges, s.counters);
        // vLLM's own block is no part of its usage.
        let usable = f64::from(blocks.saturating_sub(1).max(1) * BLOCK_TOKENS);
        text.gauge(
            "num_requests_running",
            "Number of requests in model execution batches.",
            f64::from(g.num_running_reqs),
        );
        text.gauge("num_requests_waiting", "Number of requests waiting to be processed.", g.num_queue_reqs as f64);
        text.gauge(
            "kv_cache_usage_perc",
            "KV-cache usage. 1 means 100 percent usage.",
            g.num_used_tokens as f64 / usable,
        );
        let (queries, hits) = (c.prompt_tokens, c.cached_tokens);
        text.counter("prefix_cache_queries_total", "Prefix cache queries, in number of queried tokens.", queries);
        text.counter("prefix_cache_hits_total", "Prefix cache hits, in number of cached tokens.", hits);
        text.counter("num_preemptions_total", "Cumulative number of preemption from the engine.", c.retracted);
        text.counter("prompt_tokens_total", "Number of prefill tokens processed.", c.prompt_tokens);
        text.counter("generation_tokens_total", "Number of generation tokens processed.", c.generated_tokens);
    }
    text.family("request_success_total", "counter", "Count of successfully processed requests.");
    for (reason, count) in [("stop", h.requests - h.by_length), ("length", h.by_length), ("abort", h.aborted)] {
        text.value("request_success_total", &format!(",finished_reason=\"{reason}\""), count as f64);
    }
    text.histogram("time_to_first_token_seconds", "Histogram of time to first token in seconds.", &h.ttft);
    text.histogram("inter_token_latency_seconds", "Histogram of inter-token latency in seconds.", &h.itl);
    text.histogram("e2e_request_latency_seconds", "Histogram of e2e request latency in seconds.", &h.e2e);
    text.histogram("request_queue_time_seconds", "Histogram of time spent in WAITING phase for request.", &h.queue);
    text.out
}

#[cfg(test)]
mod tests {
    use super::*;
    use gorgo_sim::engine::EngineKind;

    #[test]
    fn all_families_are_there_from_the_start_and_escape_the_model() {
        let engine = EngineConfig { kv_tokens: 41_408, ..EngineConfig::default() };
        let mut h = Histograms::of(EngineKind::Vllm);
        h.ttft.observe(0.03);
        let text = render("a\"b", &engine, None, &h);
        assert!(text.contains("num_gpu_blocks=\"2588\"} 1.0\n"), "{text}");
        let labels = "engine=\"0\",model_name=\"a\\\"b\"";
        assert!(text.contains(&format!("vllm:time_to_first_token_seconds_bucket{{{labels},le=\"0.02\"}} 0.0\n")));
        assert!(text.contains(&format!("vllm:time_to_first_token_seconds_bucket{{{labels},le=\"0.04\"}} 1.0\n")));
        assert!(text.contains(&format!("vllm:inter_token_latency_seconds_count{{{labels}}} 0.0\n")));
        assert!(text.contains(&format!("vllm:request_success_total{{{labels},finished_reason=\"length\"}} 0.0\n")));
    }

    #[test]
    fn errors_have_vllms_words() {
        let long = engine_error(&EngineError::InputTooLong { input: 125, limit: 100 }, 125, None);
        assert_eq!(
            error_object(&long).to_string(),
            r#"{"error":{"code":400,"message":"This model's maximum context length is 100 tokens. However, your request has 125 input tokens. Please reduce the length of the input messages.","param":null,"type":"BadRequestError"}}"#
        );
        let many = engine_error(&EngineError::TooManyRequested { requested: 120, limit: 100 }, 50, Some(70));
        assert!(many.message.ends_with("your request has 50 input tokens (70 > 100 - 50)."), "{}", many.message);
    }
}
