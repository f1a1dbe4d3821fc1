//! `/metrics` in the Prometheus text format, with SGLang's names and labels. A family appears after its first value.

use super::app::App;
use super::errors::with_type;
use super::histograms::{Histogram, Histograms, float};
use super::messages::Snapshot;
use axum::body::Body;
use axum::extract::State;
use axum::http::Response;
use gorgo_core::Time;
use std::fmt::Write;
use std::sync::Arc;

/// `GET /metrics`. As in SGLang, the values of a scheduler that hangs stay readable.
pub async fn metrics(State(app): State<Arc<App>>) -> Response<Body> {
    if !app.config.metrics {
        return with_type(404, "application/json", "{\"detail\":\"Not Found\"}");
    }
    let snapshot = app.engine.read_metrics().await;
    let body = app.engine.with_histograms(|h| render(&app.config.model, snapshot.as_ref(), h));
    with_type(200, "text/plain; version=0.0.4; charset=utf-8", body)
}

/// The text under construction.
struct Text {
    out: String,
    /// Labels of the scheduler's families and of the API process's.
    scheduler: String,
    api: String,
}

impl Text {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = write!(self.out, "# HELP sglang:{name} {help}\n# TYPE sglang:{name} {kind}\n");
    }

    fn gauge(&mut self, name: &str, help: &str, value: f64) {
        self.head(name, "gauge", help);
        let _ = writeln!(self.out, "sglang:{name}{{{}}} {}", self.scheduler, float(value));
    }

    fn counter(&mut self, name: &str, help: &str, labels: &[(&str, u64)]) {
        if labels.iter().all(|(_, value)| *value == 0) {
            return;
        }
        self.head(name, "counter", help);
        for (label, value) in labels {
            // `cache_source` and `mode` come before `model_name` in the alphabet.
            let inside = if label.is_empty() { self.api.clone() } else { format!("{label},{}", self.api) };
            let _ = writeln!(self.out, "sglang:{name}{{{inside}}} {}", float(*value as f64));
        }
    }

    fn histogram(&mut self, name: &str, help: &str, h: &Histogram) {
        if h.total == 0 {
            return;
        }
        self.head(name, "histogram", help);
        let mut below = 0;
        for (bound, count) in h.bounds.iter().zip(&h.counts) {
            below += count;
            let (le, n) = (float(*bound), float(below as f64));
            let _ = writeln!(self.out, "sglang:{name}_bucket{{le=\"{le}\",{}}} {n}", self.api);
        }
        let (api, total, sum) = (&self.api, float(h.total as f64), float(h.sum));
        let _ = writeln!(self.out, "sglang:{name}_bucket{{le=\"+Inf\",{api}}} {total}");
        let _ = writeln!(self.out, "sglang:{name}_count{{{api}}} {total}");
        let _ = writeln!(self.out, "sglang:{name}_sum{{{api}}} {sum}");
    }
}

fn render(model: &str, snapshot: Option<&Snapshot>, h: &Histograms) -> String {
    let model = model.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let scheduler =
        format!("engine_type=\"unified\",model_name=\"{model}\",moe_ep_rank=\"0\",pp_rank=\"0\",tp_rank=\"0\"");
    let mut text = Text { out: String::new(), scheduler, api: format!("model_name=\"{model}\"") };
    if let Some(s) = snapshot {
        let g = s.gauges;
        text.gauge(
            "max_total_num_tokens",
            "Maximum total number of tokens in the KV cache pool.",
            f64::from(g.max_total_num_tokens),
        );
        if g.published > Time::ZERO {
            text.gauge("num_running_reqs", "The number of running requests.", f64::from(g.num_running_reqs));
            text.gauge("num_used_tokens", "The number of used tokens.", g.num_used_tokens as f64);
            text.gauge("token_usage", "The token usage.", g.token_usage);
            text.gauge("gen_throughput", "The generation throughput (token/s).", g.gen_throughput);
            text.gauge("num_queue_reqs", "The number of requests in the waiting queue.", g.num_queue_reqs as f64);
            text.gauge("num_grammar_queue_reqs", "The number of requests in the grammar waiting queue.", 0.0);
            text.gauge("cache_hit_rate", "The prefix cache hit rate.", g.cache_hit_rate);
            text.gauge("new_token_ratio", "The new token ratio.", s.loads.new_token_ratio);
            text.gauge("utilization", "The utilization.", 0.0);
        }
        let c = s.counters;
        let modes = [
            ("mode=\"prefill_compute\"", c.computed_tokens),
            ("mode=\"prefill_cache\"", c.cached_tokens),
            ("mode=\"decode\"", c.generated_tokens),
        ];
        text.counter("realtime_tokens_total", "Total number of tokens processed, as they are.", &modes);
        text.counter("evicted_tokens_total", "Number of tokens evicted from the cache.", &[("", c.evicted_tokens)]);
        text.counter(
            "cached_tokens_total",
            "Number of cached prompt tokens.",
            &[("cache_source=\"device\"", c.cached_tokens)],
        );
        text.counter("num_retracted_reqs_total", "Number of retractions.", &[("", c.retracted)]);
    }
    text.counter("prompt_tokens_total", "Number of prefill tokens processed.", &[("", h.prompt_tokens)]);
    text.counter("generation_tokens_total", "Number of generation tokens processed.", &[("", h.generation_tokens)]);
    text.counter("num_requests_total", "Number of requests processed.", &[("", h.requests)]);
    text.counter("num_aborted_requests_total", "Number of requests aborted.", &[("", h.aborted)]);
    text.histogram("time_to_first_token_seconds", "Histogram of time to first token in seconds.", &h.ttft);
    text.histogram("inter_token_latency_seconds", "Histogram of inter-token latency in seconds.", &h.itl);
    text.histogram("e2e_request_latency_seconds", "Histogram of End-to-end request latency in seconds", &h.e2e);
    text.histogram("queue_time_seconds", "Histogram of queueing time in seconds.", &h.queue);
    text.histogram("num_retractions", "Histogram of retractions a request.", &h.retractions);
    text.out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_appear_after_their_first_value() {
        assert_eq!(render("m", None, &Histograms::default()), "");
        let mut h = Histograms::default();
        h.ttft.observe(0.15);
        h.ttft.observe(1000.0);
        let text = render("a\"b", None, &h);
        assert!(text.starts_with("# HELP sglang:time_to_first_token_seconds "), "{text}");
        assert!(text.contains("sglang:time_to_first_token_seconds_bucket{le=\"0.1\",model_name=\"a\\\"b\"} 0.0\n"));
        assert!(text.contains("_bucket{le=\"400.0\",model_name=\"a\\\"b\"} 1.0\n"));
        assert!(text.contains("_count{model_name=\"a\\\"b\"} 2.0\n") && !text.contains("inter_token"));
    }
}
