//! Computes the report of a benchmark from the results of its requests.

use super::bench::Bench;
use super::distribution::{Distribution, quantile};
use super::report::{
    Benchmark, Goodput, MAX_LATENESS_MS, MAX_LATENESS_SHARE, Metadata, Metrics, Region, Report, Schedule, StrategyInfo,
    Totals,
};
use super::run::{RequestResult, Run};
use super::slo::Slo;
use super::target::Target;
use gorgo_core::Span;
use gorgo_core::record::Status;
use std::collections::BTreeMap;

impl Report {
    /// Computes the report of `runs`, the runs of `bench`.
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
}

impl Benchmark {
    fn of(bench: &Bench, run: &Run, slo: Option<Slo>) -> Self {
        let counted: Vec<&RequestResult> = run.rows.iter().filter(|r| !r.warmup).collect();
        let good: Vec<&RequestResult> = counted.iter().copied().filter(|r| r.is_successful()).collect();
        let warmup_duration = bench.warmup_s.min(run.span.ms() / 1e3);
        let duration = (run.span.ms() / 1e3 - warmup_duration).max(1e-9);
        let of = |value: &dyn Fn(&RequestResult) -> Option<f64>| Distribution::of(good.iter().filter_map(|r| value(r)));
        let sum = |value: fn(&RequestResult) -> u32| good.iter().map(|r| u64::from(value(r))).sum::<u64>() as f64;
        let (prompt, output) = (sum(|r| r.record.prompt_tokens), sum(|r| r.record.output_tokens));
        let met = |slo: Slo| good.iter().filter(|r| slo.is_met_by(r)).count() as u64;
        let gap = |q: f64| run.gaps.quantile(q).unwrap_or(0.0);
        let metrics = Metrics {
            requests_per_second: good.len() as f64 / duration,
            request_concurrency: counted.iter().filter_map(|r| r.latency_s()).sum::<f64>() / duration,
            output_tokens_per_second: output / duration,
            tokens_per_second: (prompt + output) / duration,
            request_latency: of(&RequestResult::latency_s),
            time_to_first_token_ms: of(&RequestResult::ttft_ms),
            time_per_output_token_ms: of(&RequestResult::tpot_ms),
            inter_token_latency_ms: of(&RequestResult::itl_ms),
            prompt_token_count: of(&|r| Some(f64::from(r.record.prompt_tokens))),
            output_token_count: of(&|r| Some(f64::from(r.record.output_tokens))),
            service_request_latency: of(&|r| Some((r.record.done.get()? - r.record.sent).ms() / 1e3)),
            service_time_to_first_token_ms: of(&|r| r.record.ttft().map(Span::ms)),
            inter_text_gap_ms: [0.5, 0.9, 0.95, 0.99].map(gap),
        };
        Self {
            strategy: StrategyInfo { type_: run.name, rate: run.rate, streams: run.workers },
            duration,
            warmup_duration,
            request_totals: totals(&counted),
            schedule: schedule(run, &counted),
            metrics,
            cache_hit_rate: if prompt > 0.0 { sum(|r| r.record.cached_tokens) / prompt } else { 0.0 },
            goodput: slo.map(|slo| Goodput {
                slo,
                requests: met(slo),
                share: met(slo) as f64 / counted.len().max(1) as f64,
                requests_per_second: met(slo) as f64 / duration,
            }),
            by_region: regions(bench, &counted),
            by_replica: replicas(run, &counted),
            errors: errors(&counted),
        }
    }
}

fn totals(rows: &[&RequestResult]) -> Totals {
    let count = |pick: fn(Status) -> bool| rows.iter().filter(|r| pick(r.record.status)).count() as u64;
    let (successful, incomplete) = (count(|s| s == Status::Finished), count(|s| s == Status::Cancelled));
    let total = rows.len() as u64;
    Totals { successful, incomplete, errored: total - successful - incomplete, total }
}

fn schedule(run: &Run, rows: &[&RequestResult]) -> Schedule {
    let dropped = rows.iter().filter(|r| r.dropped).count() as u64;
    let lateness_ms = Distribution::of(rows.iter().map(|r| r.lateness.ms()));
    // A closed loop has no schedule to keep.
    let ttft = Distribution::of(rows.iter().filter(|r| r.is_successful()).filter_map(|r| r.ttft_ms()));
    let allowed_lateness_ms = (MAX_LATENESS_SHARE * ttft.percentiles.p50).max(MAX_LATENESS_MS);
    let valid = run.workers.is_some() || (lateness_ms.percentiles.p99 <= allowed_lateness_ms && dropped == 0);
    let last = rows.iter().map(|r| r.record.sent).max().unwrap_or_default();
    let first = rows.iter().map(|r| r.record.sent).min().unwrap_or_default();
    let window = (last - first).ms() / 1e3;
    let gaps = rows.len().saturating_sub(1) as f64;
    // A single request has no rate: how long its answer takes says nothing of when another one would be sent.
    let achieved_rate = if window > 0.0 { gaps / window } else { 0.0 };
    Schedule { valid, allowed_lateness_ms, lateness_ms, achieved_rate, dropped }
}

fn figures(mut values: Vec<f64>) -> [f64; 4] {
    values.sort_by(f64::total_cmp);
    let mean = values.iter().sum::<f64>() / values.len().max(1) as f64;
    [mean, quantile(&values, 0.5), quantile(&values, 0.95), quantile(&values, 0.99)]
}

fn regions(bench: &Bench, rows: &[&RequestResult]) -> Vec<Region> {
    let region = |(i, target): (usize, &Target)| {
        let mine: Vec<&RequestResult> = rows.iter().copied().filter(|r| usize::from(r.record.router) == i).collect();
        let good: Vec<&RequestResult> = mine.iter().copied().filter(|r| r.is_successful()).collect();
        Region {
            region: target.name.clone(),
            requests: mine.len() as u64,
            successful: good.len() as u64,
            time_to_first_token_ms: figures(good.iter().filter_map(|r| r.ttft_ms()).collect()),
            request_latency: figures(good.iter().filter_map(|r| r.latency_s()).collect()),
        }
    };
    bench.targets.iter().enumerate().map(region).collect()
}

fn replicas(run: &Run, rows: &[&RequestResult]) -> BTreeMap<String, u64> {
    let mut count = BTreeMap::new();
    for name in rows.iter().filter_map(|r| run.replicas.get(usize::from(r.record.replica.get()?))) {
        *count.entry(name.clone()).or_default() += 1;
    }
    count
}

fn errors(rows: &[&RequestResult]) -> Vec<(String, u64)> {
    let mut count: BTreeMap<String, u64> = BTreeMap::new();
    for error in rows.iter().filter_map(|r| r.error.as_ref()) {
        *count.entry(error.clone()).or_default() += 1;
    }
    let mut all: Vec<(String, u64)> = count.into_iter().collect();
    all.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    all.truncate(10);
    all
}
