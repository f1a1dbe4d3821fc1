//! Summary of each arm over its seeds; [`crate::stats`] defines the figures. `csv_rows` writes it as CSV, `loads` takes the
//! name of an arm apart.

mod csv_rows;
pub(crate) mod loads;
pub(crate) mod regret;

pub use csv_rows::write_csv;
pub use loads::ten_best;
pub use regret::Regret;

use crate::results::Point;
use crate::results::point::Counts;
use crate::stats::{Difference, Digest, Estimate, paired};
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
    /// Requests that finished within the objective, a second.
    pub goodput_per_second: Option<Estimate>,
    /// The objective in words; without one, every finished request is a good one.
    pub slo: Option<String>,
    /// Requests that did not finish, by reason.
    pub reasons: BTreeMap<String, u64>,
    /// Finished requests a second of the loaded span.
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
    /// Messages between proxies a second, over all of them; absent if they send none.
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

/// Mean and percentiles of one seed, ms.
#[derive(Clone, Copy)]
struct OneSeed {
    mean: f64,
    p50: f64,
    p90: f64,
    p95: f64,
    p99: f64,
}

impl OneSeed {
    fn of(digest: &Digest) -> Option<Self> {
        let [p50, p90, p95, p99] = digest.quantiles(&[0.5, 0.9, 0.95, 0.99])[..] else { return None };
        Some(Self { mean: digest.mean_ms()?, p50, p90, p95, p99 })
    }
}

/// The rows of `points`, which must be ordered by position, arm and seed. Each arm is compared with the one it names
/// as its baseline.
pub fn summarize(points: &[Point]) -> Vec<ArmSummary> {
    let groups: Vec<&[Point]> = points.chunk_by(|a, b| a.position == b.position && a.arm == b.arm).collect();
    let named = |group: &[Point]| {
        let name = &group[0].baseline;
        groups.iter().find(|other| other[0].arm == *name && *name != group[0].arm)
    };
    let mut arms: Vec<ArmSummary> = groups
        .iter()
        .map(|group| ArmSummary {
            against_baseline: named(group).and_then(|baseline| against(group, baseline)),
            ..row(group)
        })
        .collect();
    regret::fill(&mut arms, &groups);
    arms
}

fn row(group: &[Point]) -> ArmSummary {
    let first = &group[0];
    let over = |value: &dyn Fn(&Point) -> Option<f64>| Estimate::over(group.iter().filter_map(value));
    let spread = |pick: &dyn Fn(&Point) -> &Digest| spread(group.iter().map(pick));
    ArmSummary {
        arm: first.arm.clone(),
        policy: first.policy.clone(),
        topology: first.topology.clone(),
        settings: first.settings.clone(),
        seeds: group.iter().map(|p| p.seed).collect(),
        counts: group.iter().fold(Counts::default(), |sum, p| sum.plus(&p.counts)),
        ttft_ms: spread(&|p| &p.latency.ttft),
        router_ttft_ms: spread(&|p| &p.latency.router_ttft),
        e2e_ms: spread(&|p| &p.latency.e2e),
        itl_ms: spread(&|p| &p.latency.itl),
        tpot_ms: spread(&|p| &p.latency.tpot),
        queue_wait_ms: spread(&|p| &p.latency.queue_wait),
        finished_share: over(&Point::finished_share),
        goodput_per_second: over(&|p| p.per_second(p.loaded.good)),
        slo: first.loaded.slo.clone(),
        reasons: group.iter().flat_map(|p| &p.reasons).fold(BTreeMap::new(), |mut sum, (reason, n)| {
            *sum.entry(reason.clone()).or_default() += n;
            sum
        }),
        requests_per_second: over(&|p| p.per_second(p.loaded.finished)),
        output_tokens_per_second: over(&|p| p.per_second(p.loaded.output_tokens)),
        hit_rate: over(&Point::hit_rate),
        prediction: prediction(group),
        share: share(group),
        busiest_over_mean: over(&Point::busiest_over_mean),
        max_waiting: group.iter().map(|p| p.queues.max_waiting).max().unwrap_or(0),
        max_router_queue: group.iter().map(|p| p.queues.max_router).max().unwrap_or(0),
        fenced: fenced(group),
        event_hashes: group.iter().map(|p| p.event_hash.clone()).collect(),
        against_baseline: None,
        regret: None,
        shared_messages_per_second: over(&|p| p.shared_per_second(|shared| shared.messages)),
        shared_bytes_per_second: over(&|p| p.shared_per_second(|shared| shared.bytes)),
    }
}

/// Sums over seeds; `None` without fences.
fn fenced(group: &[Point]) -> Option<FencedCount> {
    group.iter().filter_map(|point| point.fenced).reduce(|a, b| FencedCount {
        requests: a.requests + b.requests,
        violations: a.violations + b.violations,
        first_tokens: a.first_tokens + b.first_tokens,
        ttft_ns: a.ttft_ns + b.ttft_ns,
    })
}

/// One sentence for each arm with fences.
pub(crate) fn fenced_sentences(arms: &[ArmSummary]) -> impl Iterator<Item = String> + '_ {
    arms.iter().filter_map(|arm| {
        let fenced = arm.fenced.filter(|fenced| fenced.requests > 0)?;
        Some(format!(
            "{}: {} of {} requests had to stay in their group of regions; {} dispatches left it; mean TTFT of those {:.1} ms, of all {:.1} ms",
            arm.arm,
            fenced.requests,
            arm.counts.requests,
            fenced.violations,
            fenced.ttft_ns as f64 / 1e6 / fenced.first_tokens.max(1) as f64,
            arm.ttft_ms.as_ref().map_or(0.0, |ttft| ttft.mean.value),
        ))
    })
}

fn spread<'a>(digests: impl Iterator<Item = &'a Digest> + Clone) -> Option<Spread> {
    let seeds: Vec<OneSeed> = digests.clone().filter_map(OneSeed::of).collect();
    let over = |value: fn(&OneSeed) -> f64| Estimate::over(seeds.iter().map(value));
    Some(Spread {
        samples: digests.clone().map(Digest::samples).sum(),
        mean: over(|s| s.mean)?,
        p50: over(|s| s.p50)?,
        p90: over(|s| s.p90)?,
        p95: over(|s| s.p95)?,
        p99: over(|s| s.p99)?,
        max: digests.filter_map(Digest::max_ms).fold(0.0, f64::max),
    })
}

fn prediction(group: &[Point]) -> PredictionSummary {
    let ttft = group.iter().fold(Digest::default(), |sum, p| sum.merge(&p.prediction.ttft_abs));
    let samples: u64 = group.iter().map(|p| p.prediction.cache_samples).sum();
    let cache = |sum: f64| (samples > 0).then(|| sum / samples as f64);
    let signed_ns: f64 = group.iter().map(|p| p.prediction.ttft_signed_ns as f64).sum();
    PredictionSummary {
        cache_mean_abs_tokens: cache(group.iter().map(|p| p.prediction.cache_abs_tokens as f64).sum()),
        cache_bias_tokens: cache(group.iter().map(|p| p.prediction.cache_signed_tokens as f64).sum()),
        ttft_mean_abs_ms: ttft.mean_ms(),
        ttft_p50_abs_ms: ttft.quantile(0.5),
        ttft_p95_abs_ms: ttft.quantile(0.95),
        ttft_bias_ms: (ttft.samples() > 0).then(|| signed_ns / 1e6 / ttft.samples() as f64),
    }
}

fn share(group: &[Point]) -> Vec<Share> {
    let mut sums = vec![0u64; group[0].names.replicas.len()];
    for point in group {
        for (sum, n) in sums.iter_mut().zip(&point.per_replica) {
            *sum += n;
        }
    }
    let total = sums.iter().sum::<u64>().max(1) as f64;
    let names = group[0].names.replicas.iter();
    names.zip(sums).map(|(replica, sum)| Share { replica: replica.clone(), share: sum as f64 / total }).collect()
}

fn against(group: &[Point], baseline: &[Point]) -> Option<Against> {
    let pairs: Vec<(&Point, &Point)> =
        group.iter().filter_map(|p| Some((p, baseline.iter().find(|b| b.seed == p.seed)?))).collect();
    let differences = |pick: &dyn Fn(&Point) -> &Digest| {
        let pairs: Vec<(OneSeed, OneSeed)> =
            pairs.iter().filter_map(|(arm, base)| Some((OneSeed::of(pick(arm))?, OneSeed::of(pick(base))?))).collect();
        let of = |value: fn(&OneSeed) -> f64| {
            paired(&pairs.iter().map(|(arm, base)| (value(arm), value(base))).collect::<Vec<_>>())
        };
        Differences { mean: of(|s| s.mean), p50: of(|s| s.p50), p95: of(|s| s.p95), p99: of(|s| s.p99) }
    };
    let (ttft, e2e) = (differences(&|p| &p.latency.ttft), differences(&|p| &p.latency.e2e));
    (!pairs.is_empty()).then(|| Against { baseline: baseline[0].arm.clone(), ttft, e2e })
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

/// Shares of finished requests that differ by more than this are told: latencies are then of different requests.
const UNEQUAL: f64 = 0.01;

/// Whether `arm` finishes clearly less of its requests than `than`.
pub(crate) fn finishes_less(arm: &ArmSummary, than: &ArmSummary) -> bool {
    than.share_done() - arm.share_done() > UNEQUAL
}

/// What arms are ranked by: goodput where they finish unequal shares of their requests.
pub(crate) fn by_goodput(arms: &[ArmSummary]) -> Vec<&ArmSummary> {
    let mut ranked: Vec<&ArmSummary> = arms.iter().collect();
    let goodput = |arm: &ArmSummary| arm.goodput_per_second.map_or(0.0, |e| e.value);
    ranked.sort_by(|a, b| goodput(b).total_cmp(&goodput(a)));
    ranked
}

/// One sentence when arms finish unequal shares of their requests.
pub(crate) fn unequal(arms: &[ArmSummary]) -> Option<String> {
    let least = arms.iter().min_by(|a, b| a.share_done().total_cmp(&b.share_done()))?;
    let most = arms.iter().max_by(|a, b| a.share_done().total_cmp(&b.share_done()))?;
    finishes_less(least, most).then(|| {
        let reasons = least.reasons_in_words();
        format!(
            "arms finish unequal shares of their requests: {} leaves {} of {} undone ({:.1} % finish{}), {} finishes {:.1} %; latencies are of the requests that got that far, so arms are ranked by goodput",
            least.arm,
            least.undone(),
            least.counts.requests,
            100.0 * least.share_done(),
            if reasons.is_empty() { String::new() } else { format!("; {reasons}") },
            most.arm,
            100.0 * most.share_done()
        )
    })
}

/// Short names of arms: the first word, and every word that another name of two words or more lacks. Settings that all
/// arms share are left out.
pub(crate) fn short_names(names: &[&str]) -> Vec<String> {
    let long: Vec<Vec<&str>> = names.iter().map(|n| n.split(' ').collect()).filter(|w: &Vec<_>| w.len() > 1).collect();
    let shared = |word: &str| long.len() > 1 && long.iter().all(|words| words.contains(&word));
    let short = |name: &&str| {
        let words = name.split(' ').enumerate().filter(|(i, word)| *i == 0 || !shared(word));
        words.map(|(_, word)| word).collect::<Vec<_>>().join(" ")
    };
    names.iter().map(short).collect()
}

impl Counts {
    fn plus(self, other: &Self) -> Self {
        Self {
            requests: self.requests + other.requests,
            finished: self.finished + other.finished,
            rejected: self.rejected + other.rejected,
            timed_out: self.timed_out + other.timed_out,
            failed: self.failed + other.failed,
            cancelled: self.cancelled + other.cancelled,
            lost: self.lost + other.lost,
            forwarded: self.forwarded + other.forwarded,
            retries: self.retries + other.retries,
            prompt_tokens: self.prompt_tokens + other.prompt_tokens,
            cached_tokens: self.cached_tokens + other.cached_tokens,
            output_tokens: self.output_tokens + other.output_tokens,
        }
    }
}

#[cfg(test)]
mod tests;
