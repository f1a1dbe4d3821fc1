//! Summary of each `arm` over its seeds; [`crate::stats`] defines the figures. `csv_rows` writes it as CSV, `loads` takes the
//! name of an arm apart, `shares_done` compares arms that do not finish the same requests.

mod arm;
mod csv_rows;
pub(crate) mod loads;
pub(crate) mod regret;
mod shares_done;

pub use arm::{Against, ArmSummary, Differences, PredictionSummary, Share, Spread};
pub use csv_rows::write_csv;
pub use loads::ten_best;
pub use regret::Regret;
pub(crate) use shares_done::{by_goodput, finishes_less, unequal};

use crate::results::Point;
use crate::results::point::Counts;
use crate::stats::{Digest, Estimate, paired};
use gorgo_sim::world::FencedCount;
use std::collections::BTreeMap;

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
