//! One arm over its seeds: the figures that reports, tables and plots show.

use super::Regret;
use crate::results::point::Counts;
use crate::stats::{Difference, Estimate};
use gorgo_sim::world::FencedCount;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One arm over its seeds. Latencies are in ms; absent without samples.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ArmSummary {
    /// Unique name.
    pub arm: String,
    /// Routing policy.
    pub policy: String,
    /// Topology.
    pub topology: String,
    /// The varied settings of the arm.
    pub settings: BTreeMap<String, String>,
    /// Seeds, ascending.
    pub seeds: Vec<u64>,
    /// Sums over seeds.
    pub counts: Counts,
    /// First token at the user, from sending.
    pub ttft_ms: Option<Spread>,
    /// First token at the router, from arrival there.
    pub router_ttft_ms: Option<Spread>,
    /// Last token at the user, from sending; finished requests.
    pub e2e_ms: Option<Spread>,
    /// Between tokens at the engine, one sample a token, counted at the upper edge of its histogram bucket.
    pub itl_ms: Option<Spread>,
    /// Per output token after the first, one sample a finished request of two tokens or more.
    pub tpot_ms: Option<Spread>,
    /// Waiting at routers and in the engine.
    pub queue_wait_ms: Option<Spread>,
    /// Share of requests that finished.
    pub finished_share: Option<Estimate>,
    /// Requests that arrived in the loaded span and finished within the objective, a second: however late they ended, so
    /// that it can exceed `requests_per_second`.
    pub goodput_per_second: Option<Estimate>,
    /// The objective in words; without one, every finished request is a good one.
    pub slo: Option<String>,
    /// Requests that did not finish, by reason.
    pub reasons: BTreeMap<String, u64>,
    /// Requests that finished within the loaded span, a second of it.
    pub requests_per_second: Option<Estimate>,
    /// Tokens of finished requests a second.
    pub output_tokens_per_second: Option<Estimate>,
    /// Cached over prompt tokens of requests that reached their first token.
    pub hit_rate: Option<Estimate>,
    /// Expected against found cached tokens and expected against actual time to first token.
    pub prediction: PredictionSummary,
    /// Share of requests per replica, over all seeds.
    pub share: Vec<Share>,
    /// Requests of the busiest replica over the mean.
    pub busiest_over_mean: Option<Estimate>,
    /// Most requests waiting in one engine.
    pub max_waiting: u32,
    /// Most requests held at one router.
    pub max_router_queue: u32,
    /// Hashes of the event logs, one per seed.
    pub event_hashes: Vec<String>,
    /// Requests with a fence of residency, summed over seeds; absent without them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fenced: Option<FencedCount>,
    /// Against its baseline; absent for a baseline and without common seeds.
    pub against_baseline: Option<Against>,
    /// Against the best oracle of the load; absent for that oracle and without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub regret: Option<Regret>,
    /// Messages between routers a second, over all of them; absent if they send none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared_messages_per_second: Option<Estimate>,
    /// Bytes of these a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared_bytes_per_second: Option<Estimate>,
}

/// Distribution of one latency over seeds, ms.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// Samples over all seeds.
    pub samples: u64,
    /// Mean.
    pub mean: Estimate,
    /// Median.
    pub p50: Estimate,
    /// 90th percentile.
    pub p90: Estimate,
    /// 95th percentile.
    pub p95: Estimate,
    /// 99th percentile.
    pub p99: Estimate,
    /// Largest of all seeds.
    pub max: f64,
}

/// Share of one replica.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Share {
    /// Its name.
    pub replica: String,
    /// Its requests over all requests that were dispatched, 0..1.
    pub share: f64,
}

/// Errors of the policy's predictions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct PredictionSummary {
    /// Mean of |expected - found| cached tokens a request.
    pub cache_mean_abs_tokens: Option<f64>,
    /// Mean of expected - found: above 0, the router overestimated cached tokens.
    pub cache_bias_tokens: Option<f64>,
    /// Mean of |expected - actual| time to first token from dispatch, ms.
    pub ttft_mean_abs_ms: Option<f64>,
    /// Median of the same.
    pub ttft_p50_abs_ms: Option<f64>,
    /// 95th percentile of the same.
    pub ttft_p95_abs_ms: Option<f64>,
    /// Mean of expected - actual: above 0, the router overestimated the time.
    pub ttft_bias_ms: Option<f64>,
}

/// Paired differences from the baseline, ms; below 0 is faster.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Against {
    /// Name of the baseline.
    pub baseline: String,
    /// TTFT.
    pub ttft: Differences,
    /// E2E.
    pub e2e: Differences,
}

/// Paired differences of the statistics of one latency.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Differences {
    /// Of the mean.
    pub mean: Option<Difference>,
    /// Of the median.
    pub p50: Option<Difference>,
    /// Of the 95th percentile.
    pub p95: Option<Difference>,
    /// Of the 99th percentile.
    pub p99: Option<Difference>,
}

impl ArmSummary {
    /// Requests that did not finish.
    pub fn undone(&self) -> u64 {
        self.counts.requests.saturating_sub(self.counts.finished)
    }

    /// Share of requests that finished, 0..1.
    pub fn share_done(&self) -> f64 {
        self.counts.finished as f64 / self.counts.requests.max(1) as f64
    }

    /// Requests that did not finish by reason, most first: `12 deadline, 3 queue-timeout`.
    pub fn reasons_in_words(&self) -> String {
        let mut reasons: Vec<_> = self.reasons.iter().collect();
        reasons.sort_by_key(|&(reason, n)| (std::cmp::Reverse(*n), reason.clone()));
        reasons.into_iter().map(|(reason, n)| format!("{n} {reason}")).collect::<Vec<_>>().join(", ")
    }
}
