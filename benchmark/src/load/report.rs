//! What came of a bench, with the names that GuideLLM uses, and what it lacks: lateness, cache, goodput, regions.
//!
//! Latencies count from the scheduled instant (`request_latency`, `time_to_first_token_ms`); the `service_` ones from
//! sending. As in GuideLLM, `inter_token_latency_ms` is (last token - first token) / (tokens - 1) of a request and
//! `time_per_output_token_ms` is request time / tokens, first token included. The `tpot_ms` of `requests.csv` and of
//! the simulator's tables leaves the first token out: it is GuideLLM's `inter_token_latency_ms`.

use super::distribution::{Distribution, quantile};
use super::run::{Bench, Row, Run};
use gorgo_core::record::Status;
use gorgo_core::{Span, Time};
use serde::Serialize;
use std::collections::BTreeMap;

/// A run is invalid if 1 % of its requests were sent later than this, ms.
pub const MAX_LATENESS_MS: f64 = 1.0;

/// What an answer should keep, ms; absent ones are not asked.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Slo {
    /// Time to first token.
    pub ttft: Option<f64>,
    /// Mean gap between tokens.
    pub itl: Option<f64>,
    /// Time per output token, first included.
    pub tpot: Option<f64>,
    /// Whole request.
    pub e2e: Option<f64>,
}

/// All runs of a bench: the file `benchmarks.json`.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// How it was made.
    pub metadata: Metadata,
    /// One entry a strategy.
    pub benchmarks: Vec<Benchmark>,
}

/// How a report was made.
#[derive(Debug, Clone, Serialize)]
pub struct Metadata {
    /// Of this format.
    pub version: u32,
    /// Of this program.
    pub gorgo_version: &'static str,
    /// The command line.
    pub command: String,
    /// The trace.
    pub data: String,
    /// Targets by name.
    pub targets: Vec<String>,
    /// Seed of drawn arrivals.
    pub seed: u64,
    /// Salt of the prompts: runs with another salt found nothing of this one in a cache.
    pub salt: u64,
}

/// One strategy.
#[derive(Debug, Clone, Serialize)]
pub struct Benchmark {
    /// What was asked for.
    pub strategy: StrategyInfo,
    /// From the start to the last end, s, without warm-up.
    pub duration: f64,
    /// Warm-up, s.
    pub warmup_duration: f64,
    /// How requests ended.
    pub request_totals: Totals,
    /// How the schedule was kept.
    pub schedule: Schedule,
    /// The metrics.
    pub metrics: Metrics,
    /// Cached over prompt tokens of answered requests.
    pub cache_hit_rate: f64,
    /// Requests that kept the objective.
    pub goodput: Option<Goodput>,
    /// By the router that requests entered at.
    pub by_region: Vec<Region>,
    /// Requests by replica, where answers name it.
    pub by_replica: BTreeMap<String, u64>,
    /// The most frequent errors.
    pub errors: Vec<(String, u64)>,
}

/// What was asked for.
#[derive(Debug, Clone, Serialize)]
pub struct StrategyInfo {
    /// The profile.
    pub type_: &'static str,
    /// Requests/s.
    pub rate: Option<f64>,
    /// Workers.
    pub streams: Option<usize>,
}

/// How requests ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// Answered in full.
    pub successful: u64,
    /// Refused, failed or too slow.
    pub errored: u64,
    /// Not over when the run ended.
    pub incomplete: u64,
    /// All.
    pub total: u64,
}

/// How the schedule was kept.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Schedule {
    /// Whether 99 % of the requests were sent within [`MAX_LATENESS_MS`] and none was dropped.
    pub valid: bool,
    /// How late they were sent, ms.
    pub lateness_ms: Distribution,
    /// Requests/s that were sent.
    pub achieved_rate: f64,
    /// Requests that were not sent because too many were in flight.
    pub dropped: u64,
}

/// Metrics, each of successful requests.
#[derive(Debug, Clone, Serialize)]
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
    /// Every gap between two texts: 50th, 90th, 95th and 99th percentile, ms, within 6 %.
    pub inter_text_gap_ms: [f64; 4],
}

/// Requests that kept the objective.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Goodput {
    /// The objective, ms.
    pub slo: Slo,
    /// Requests that kept it.
    pub requests: u64,
    /// Their share of all that were counted, failed ones included.
    pub share: f64,
    /// Of them a second.
    pub requests_per_second: f64,
}

/// One entry router.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Region {
    /// Its name.
    pub region: String,
    /// Requests.
    pub requests: u64,
    /// Answered in full.
    pub successful: u64,
    /// Time to first token, ms: mean, p50, p95, p99.
    pub time_to_first_token_ms: [f64; 4],
    /// Request latency, s: mean, p50, p95, p99.
    pub request_latency: [f64; 4],
}

impl Slo {
    /// Reads `ttft=500,itl=50,tpot=60,e2e=10000`, or the same with colons.
    ///
    /// # Errors
    /// One sentence that names the part that cannot be read.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut slo = Self::default();
        for part in text.split([',', ' ']).filter(|p| !p.is_empty()) {
            let bad = || format!("`{part}` in the objective: write ttft=MS, itl=MS, tpot=MS or e2e=MS");
            let (key, value) = part.split_once(['=', ':']).ok_or_else(bad)?;
            let ms = value.parse::<f64>().ok().filter(|ms| ms.is_finite() && *ms > 0.0).ok_or_else(bad)?;
            let field = match key {
                "ttft" => &mut slo.ttft,
                "itl" => &mut slo.itl,
                "tpot" => &mut slo.tpot,
                "e2e" => &mut slo.e2e,
                _ => return Err(bad()),
            };
            *field = Some(ms);
        }
        Ok(slo)
    }

    fn kept(&self, row: &Row) -> bool {
        let within = |limit: Option<f64>, value: Option<f64>| limit.is_none_or(|most| value.is_none_or(|v| v <= most));
        successful(row)
            && within(self.ttft, ttft_ms(row))
            && within(self.itl, itl_ms(row))
            && within(self.tpot, tpot_ms(row))
            && within(self.e2e, Some(latency_s(row) * 1e3))
    }
}

fn successful(row: &Row) -> bool {
    row.record.status == Status::Finished
}

fn latency_s(row: &Row) -> f64 {
    (row.record.done - row.record.scheduled).ms() / 1e3
}

fn ttft_ms(row: &Row) -> Option<f64> {
    (row.record.first_token != Time::NEVER).then(|| (row.record.first_token - row.record.scheduled).ms())
}

fn itl_ms(row: &Row) -> Option<f64> {
    let gaps = row.record.output_tokens.checked_sub(1).filter(|&n| n > 0 && row.last != Time::NEVER)?;
    Some((row.last - row.record.first_token).ms() / f64::from(gaps))
}

fn tpot_ms(row: &Row) -> Option<f64> {
    (row.record.output_tokens > 0 && row.last != Time::NEVER)
        .then(|| (row.last - row.record.scheduled).ms() / f64::from(row.record.output_tokens))
}

impl Report {
    /// The report of `runs`, which `bench` made.
    pub fn of(bench: &Bench, runs: &[Run], data: &str, command: &str, slo: Option<Slo>) -> Self {
        let metadata = Metadata {
            version: 1,
            gorgo_version: env!("CARGO_PKG_VERSION"),
            command: command.to_owned(),
            data: data.to_owned(),
            targets: bench.targets.iter().map(|t| t.name.clone()).collect(),
            seed: bench.seed,
            salt: bench.source.salt,
        };
        Self { metadata, benchmarks: runs.iter().map(|run| Benchmark::of(bench, run, slo)).collect() }
    }

    /// Whether every run kept its schedule.
    pub fn valid(&self) -> bool {
        self.benchmarks.iter().all(|b| b.schedule.valid)
    }
}

impl Benchmark {
    fn of(bench: &Bench, run: &Run, slo: Option<Slo>) -> Self {
        let counted: Vec<&Row> = run.rows.iter().filter(|r| !r.warmup).collect();
        let good: Vec<&Row> = counted.iter().copied().filter(|r| successful(r)).collect();
        let warmup_duration = bench.warmup_s.min(run.span.ms() / 1e3);
        let duration = (run.span.ms() / 1e3 - warmup_duration).max(1e-9);
        let of = |value: &dyn Fn(&Row) -> Option<f64>| Distribution::of(good.iter().filter_map(|r| value(r)));
        let sum = |value: fn(&Row) -> u32| good.iter().map(|r| u64::from(value(r))).sum::<u64>() as f64;
        let (prompt, output) = (sum(|r| r.record.prompt_tokens), sum(|r| r.record.output_tokens));
        let kept = |slo: Slo| good.iter().filter(|r| slo.kept(r)).count() as u64;
        let gap = |q: f64| run.gaps.quantile(q).unwrap_or(0.0);
        let metrics = Metrics {
            requests_per_second: good.len() as f64 / duration,
            request_concurrency: counted.iter().map(|r| latency_s(r)).sum::<f64>() / duration,
            output_tokens_per_second: output / duration,
            tokens_per_second: (prompt + output) / duration,
            request_latency: of(&|r| Some(latency_s(r))),
            time_to_first_token_ms: of(&ttft_ms),
            time_per_output_token_ms: of(&tpot_ms),
            inter_token_latency_ms: of(&itl_ms),
            prompt_token_count: of(&|r| Some(f64::from(r.record.prompt_tokens))),
            output_token_count: of(&|r| Some(f64::from(r.record.output_tokens))),
            service_request_latency: of(&|r| Some((r.record.done - r.record.sent).ms() / 1e3)),
            service_time_to_first_token_ms: of(&|r| r.record.ttft().map(Span::ms)),
            inter_text_gap_ms: [0.5, 0.9, 0.95, 0.99].map(gap),
        };
        Self {
            strategy: StrategyInfo { type_: run.name, rate: run.rate, streams: run.workers },
            duration,
            warmup_duration,
            request_totals: totals(&counted),
            schedule: schedule(run, &counted, duration),
            metrics,
            cache_hit_rate: if prompt > 0.0 { sum(|r| r.record.cached_tokens) / prompt } else { 0.0 },
            goodput: slo.map(|slo| Goodput {
                slo,
                requests: kept(slo),
                share: kept(slo) as f64 / counted.len().max(1) as f64,
                requests_per_second: kept(slo) as f64 / duration,
            }),
            by_region: regions(bench, &counted),
            by_replica: replicas(run, &counted),
            errors: errors(&counted),
        }
    }
}

fn totals(rows: &[&Row]) -> Totals {
    let count = |pick: fn(Status) -> bool| rows.iter().filter(|r| pick(r.record.status)).count() as u64;
    let (successful, incomplete) = (count(|s| s == Status::Finished), count(|s| s == Status::Cancelled));
    let total = rows.len() as u64;
    Totals { successful, incomplete, errored: total - successful - incomplete, total }
}

fn schedule(run: &Run, rows: &[&Row], duration: f64) -> Schedule {
    let dropped = rows.iter().filter(|r| r.dropped).count() as u64;
    let lateness_ms = Distribution::of(rows.iter().map(|r| r.lateness.ms()));
    // A closed loop has no schedule to keep.
    let valid = run.workers.is_some() || (lateness_ms.percentiles.p99 <= MAX_LATENESS_MS && dropped == 0);
    let last = rows.iter().map(|r| r.record.sent).max().unwrap_or_default();
    let first = rows.iter().map(|r| r.record.sent).min().unwrap_or_default();
    let window = (last - first).ms() / 1e3;
    let gaps = rows.len().saturating_sub(1) as f64;
    let achieved_rate = if window > 0.0 { gaps / window } else { rows.len() as f64 / duration };
    Schedule { valid, lateness_ms, achieved_rate, dropped }
}

fn figures(mut values: Vec<f64>) -> [f64; 4] {
    values.sort_by(f64::total_cmp);
    let mean = values.iter().sum::<f64>() / values.len().max(1) as f64;
    [mean, quantile(&values, 0.5), quantile(&values, 0.95), quantile(&values, 0.99)]
}

fn regions(bench: &Bench, rows: &[&Row]) -> Vec<Region> {
    let region = |(i, target): (usize, &super::target::Target)| {
        let mine: Vec<&Row> = rows.iter().copied().filter(|r| usize::from(r.record.router) == i).collect();
        let good: Vec<&Row> = mine.iter().copied().filter(|r| successful(r)).collect();
        Region {
            region: target.name.clone(),
            requests: mine.len() as u64,
            successful: good.len() as u64,
            time_to_first_token_ms: figures(good.iter().filter_map(|r| ttft_ms(r)).collect()),
            request_latency: figures(good.iter().map(|r| latency_s(r)).collect()),
        }
    };
    bench.targets.iter().enumerate().map(region).collect()
}

fn replicas(run: &Run, rows: &[&Row]) -> BTreeMap<String, u64> {
    let mut count = BTreeMap::new();
    for name in rows.iter().filter_map(|r| run.replicas.get(usize::from(r.record.replica))) {
        *count.entry(name.clone()).or_default() += 1;
    }
    count
}

fn errors(rows: &[&Row]) -> Vec<(String, u64)> {
    let mut count: BTreeMap<String, u64> = BTreeMap::new();
    for error in rows.iter().filter_map(|r| r.error.as_ref()) {
        *count.entry(error.clone()).or_default() += 1;
    }
    let mut all: Vec<(String, u64)> = count.into_iter().collect();
    all.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    all.truncate(10);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objectives_are_read_and_bad_ones_named() {
        let slo = Slo::parse("ttft=500,itl:50").unwrap();
        assert_eq!((slo.ttft, slo.itl, slo.e2e), (Some(500.0), Some(50.0), None));
        assert_eq!(
            Slo::parse("ttfb=5").unwrap_err(),
            "`ttfb=5` in the objective: write ttft=MS, itl=MS, tpot=MS or e2e=MS"
        );
        assert!(Slo::parse("ttft=-1").is_err());
    }
}
