//! The report of a benchmark, with GuideLLM's names, plus lateness, cache hits, goodput and results by target.
//!
//! Latencies count from the scheduled time (`request_latency`, `time_to_first_token_ms`), those with the prefix
//! `service_` from sending. As in GuideLLM, `inter_token_latency_ms` is (last token - first token) / (tokens - 1) of a
//! request and `time_per_output_token_ms` is request time / tokens, first token included. The `tpot_ms` of
//! `requests.csv` and of the simulator's tables leaves the first token out: it is GuideLLM's `inter_token_latency_ms`.

use super::distribution::Distribution;
use super::slo::Slo;
use serde::Serialize;
use std::collections::BTreeMap;

/// Lateness that never matters, ms.
pub const MAX_LATENESS_MS: f64 = 1.0;
/// A run is invalid if 1 % of its requests were sent late by more than this share of the median time to first token.
pub const MAX_LATENESS_SHARE: f64 = 0.05;

/// Report of a benchmark: the file `benchmarks.json`.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// How the report was made.
    pub metadata: Metadata,
    /// One entry per strategy.
    pub benchmarks: Vec<Benchmark>,
}

/// Settings behind a report.
#[derive(Debug, Clone, Serialize)]
pub struct Metadata {
    /// Version of the format.
    pub version: u32,
    /// Version of gorgo.
    pub gorgo_version: &'static str,
    /// Command line.
    pub command: String,
    /// Trace.
    pub data: String,
    /// Names of the targets.
    pub targets: Vec<String>,
    /// Seed of random arrivals.
    pub seed: u64,
    /// Salt of the prompts: prompts with another salt share no prefix with these.
    pub salt: u64,
}

/// Results of one strategy.
#[derive(Debug, Clone, Serialize)]
pub struct Benchmark {
    /// The strategy.
    pub strategy: StrategyInfo,
    /// Time from the start to the end of the last request, without warm-up, s.
    pub duration: f64,
    /// Warm-up time, s.
    pub warmup_duration: f64,
    /// Requests by how they ended.
    pub request_totals: Totals,
    /// How well the schedule was kept.
    pub schedule: Schedule,
    /// Metrics.
    pub metrics: Metrics,
    /// Cached over all prompt tokens of successful requests.
    pub cache_hit_rate: f64,
    /// Requests that met the objective.
    pub goodput: Option<Goodput>,
    /// Results by target.
    pub by_region: Vec<Region>,
    /// Requests by replica, if responses name it.
    pub by_replica: BTreeMap<String, u64>,
    /// The most frequent errors.
    pub errors: Vec<(String, u64)>,
}

/// A strategy.
#[derive(Debug, Clone, Serialize)]
pub struct StrategyInfo {
    /// Profile.
    pub type_: &'static str,
    /// Requested rate, requests/s.
    pub rate: Option<f64>,
    /// Number of workers.
    pub streams: Option<usize>,
}

/// Requests by how they ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// Requests answered in full.
    pub successful: u64,
    /// Requests that were refused, failed or timed out.
    pub errored: u64,
    /// Requests that had not ended when the run ended.
    pub incomplete: u64,
    /// All requests.
    pub total: u64,
}

/// How well the schedule was kept.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Schedule {
    /// Whether 99 % of the requests were sent within `allowed_lateness_ms` and none was dropped.
    pub valid: bool,
    /// [`MAX_LATENESS_SHARE`] of the median time to first token, at least [`MAX_LATENESS_MS`].
    pub allowed_lateness_ms: f64,
    /// Delay of sending behind the schedule, ms.
    pub lateness_ms: Distribution,
    /// Requests sent per second; 0 where fewer than two were sent, which have no rate.
    pub achieved_rate: f64,
    /// Requests that were not sent because too many were in flight.
    pub dropped: u64,
}

/// Metrics of successful requests.
#[derive(Debug, Clone, Default, Serialize)]
#[allow(missing_docs)]
pub struct Metrics {
    pub requests_per_second: f64,
    pub request_concurrency: f64,
    pub output_tokens_per_second: f64,
    pub tokens_per_second: f64,
    /// s
    pub request_latency: Distribution,
    pub time_to_first_token_ms: Distribution,
    pub time_per_output_token_ms: Distribution,
    pub inter_token_latency_ms: Distribution,
    pub prompt_token_count: Distribution,
    pub output_token_count: Distribution,
    pub service_request_latency: Distribution,
    pub service_time_to_first_token_ms: Distribution,
    /// Gaps between consecutive texts: 50th, 90th, 95th and 99th percentile, ms, within 1.6 %.
    pub inter_text_gap_ms: [f64; 4],
}

/// Requests that met the objective.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Goodput {
    /// Objective, ms.
    pub slo: Slo,
    /// Requests that met it.
    pub requests: u64,
    /// Their share of all counted requests, failed ones included.
    pub share: f64,
    /// Their rate, requests/s.
    pub requests_per_second: f64,
}

/// Results of one target.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Region {
    /// Name of the target.
    pub region: String,
    /// Requests sent to it.
    pub requests: u64,
    /// Requests answered in full.
    pub successful: u64,
    /// Time to first token, ms: mean, p50, p95, p99.
    pub time_to_first_token_ms: [f64; 4],
    /// Request latency, s: mean, p50, p95, p99.
    pub request_latency: [f64; 4],
}

impl Metrics {
    /// The distributions with their names.
    pub fn distributions(&self) -> [(&'static str, &Distribution); 8] {
        [
            ("request_latency", &self.request_latency),
            ("time_to_first_token_ms", &self.time_to_first_token_ms),
            ("time_per_output_token_ms", &self.time_per_output_token_ms),
            ("inter_token_latency_ms", &self.inter_token_latency_ms),
            ("prompt_token_count", &self.prompt_token_count),
            ("output_token_count", &self.output_token_count),
            ("service_request_latency", &self.service_request_latency),
            ("service_time_to_first_token_ms", &self.service_time_to_first_token_ms),
        ]
    }
}

impl Report {
    /// Whether every run kept its schedule.
    pub fn is_valid(&self) -> bool {
        self.benchmarks.iter().all(|b| b.schedule.valid)
    }
}
