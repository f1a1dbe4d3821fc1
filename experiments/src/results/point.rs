//! Stored figures of one arm and seed: counts, digests and a thinned queue series. Summary, plots and report are made
//! from these files alone, so that an interrupted sweep can go on and shards can be merged.

mod queues;

pub use queues::{MAX_CELLS, MAX_INSTANTS, Queues};

use super::{ArmRun, Names};
use crate::stats::Digest;
use gorgo_core::record::{RequestRecord, Status};
use gorgo_core::{Span, Time};
use gorgo_sim::world::{FencedCount, Shared};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use xxhash_rust::xxh3::xxh3_64;

/// One arm with one seed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Point {
    /// Version that made it.
    pub version: String,
    /// Place of the arm in the experiment.
    pub position: u32,
    /// See [`ArmRun::arm`].
    pub arm: String,
    /// See [`ArmRun::baseline`].
    pub baseline: String,
    /// Routing policy.
    pub policy: String,
    /// Topology.
    pub topology: String,
    /// The varied settings of the arm.
    pub settings: BTreeMap<String, String>,
    /// Seed.
    pub seed: u64,
    /// Names behind indices.
    pub names: Names,
    /// Hash of the event log, 16 hexadecimal digits.
    pub event_hash: String,
    /// Events handled.
    pub events: u64,
    /// Length of the run, ns.
    pub span_ns: u64,
    /// How requests ended. These and the latencies are of the counted requests.
    pub counts: Counts,
    /// What was done while requests arrived.
    pub loaded: Loaded,
    /// Requests that did not finish, by reason.
    pub reasons: BTreeMap<String, u64>,
    /// Latencies.
    pub latency: Latencies,
    /// The policy's predictions against the outcome.
    pub prediction: Prediction,
    /// Requests per replica that answered or was tried last.
    pub per_replica: Vec<u64>,
    /// Time to first token per origin, most frequent origins first.
    pub origins: Vec<OriginTtft>,
    /// Queues over time.
    pub queues: Queues,
    /// What came of fences of residency; absent without them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fenced: Option<FencedCount>,
    /// What routers sent each other about prefixes, where they do: batches of proxies, or digests of edges.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared: Option<Shared>,
}

/// How requests ended, and their tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Counts {
    /// All requests.
    pub requests: u64,
    /// Answered in full.
    pub finished: u64,
    /// Refused by the router.
    pub rejected: u64,
    /// Waited too long.
    pub timed_out: u64,
    /// Lost to a replica or the network.
    pub failed: u64,
    /// Left by the client.
    pub cancelled: u64,
    /// Without any end: must be 0.
    pub lost: u64,
    /// Forwarded between routers at least once.
    pub forwarded: u64,
    /// Dispatches after the first.
    pub retries: u64,
    /// Prompt tokens of requests that reached their first token.
    pub prompt_tokens: u64,
    /// Of these, found in the engine's cache.
    pub cached_tokens: u64,
    /// Tokens generated for finished requests.
    pub output_tokens: u64,
}

/// What was done in the loaded span, from the first to the last counted arrival. An idle tail, in which the last
/// answers end, belongs to no rate.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Loaded {
    /// Its length, ns.
    pub span_ns: u64,
    /// Requests that finished in it.
    pub finished: u64,
    /// Tokens of their answers.
    pub output_tokens: u64,
    /// Counted requests that finished within the objective, whenever they ended.
    pub good: u64,
    /// The objective in words.
    pub slo: Option<String>,
}

/// Digests of latencies.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Latencies {
    /// First token at the user, from sending; requests with a first token.
    pub ttft: Digest,
    /// First token at the router, from arrival there.
    pub router_ttft: Digest,
    /// Last token at the user, from sending; finished requests.
    pub e2e: Digest,
    /// Between tokens, per token, as counted at the engine.
    pub itl: Digest,
    /// Per token after the first, one value a request.
    pub tpot: Digest,
    /// Waiting: at routers from arrival to dispatch (with the way to another router, if forwarded) plus in the engine
    /// from acceptance to the first step of the prefill; requests that reached it.
    pub queue_wait: Digest,
}

/// The policy's predictions against the outcome.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prediction {
    /// Requests that reached their first token.
    pub cache_samples: u64,
    /// Sum of |expected - found| cached tokens.
    pub cache_abs_tokens: u64,
    /// Sum of expected - found cached tokens.
    pub cache_signed_tokens: i64,
    /// |expected - actual| time to first token; actual is from dispatch to the first token at the first router.
    pub ttft_abs: Digest,
    /// Sum of expected - actual, ns.
    pub ttft_signed_ns: i64,
}

/// Time to first token of one origin.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OriginTtft {
    /// Name of the origin.
    pub origin: String,
    /// Requests with a first token.
    pub samples: u64,
    /// Mean, ms.
    pub mean_ms: f64,
    /// Median, ms.
    pub p50_ms: f64,
    /// 95th percentile, ms.
    pub p95_ms: f64,
}

/// Origins kept by name in a point.
pub const MAX_ORIGINS: usize = 24;

impl Point {
    /// The point of `run`, the arm at `position` of the experiment.
    pub fn of(position: u32, run: &ArmRun) -> Self {
        let all = &run.records;
        let (from, to) = window(run);
        let counted: Vec<&RequestRecord> = all.iter().filter(|r| (from..=to).contains(&r.scheduled)).collect();
        let latency = |value: fn(&RequestRecord) -> Option<Span>| Digest::of(counted.iter().filter_map(|r| value(r)));
        Self {
            version: super::VERSION.to_owned(),
            position,
            arm: run.arm.clone(),
            baseline: run.baseline.clone(),
            policy: run.policy.clone(),
            topology: run.topology.clone(),
            settings: run.settings.clone(),
            seed: run.seed,
            names: run.names.clone(),
            event_hash: format!("{:016x}", run.event_hash),
            events: run.events,
            span_ns: run.span.0,
            counts: counts(&counted),
            loaded: loaded(run, &counted, from, to),
            reasons: reasons(run, &counted),
            latency: Latencies {
                ttft: latency(RequestRecord::ttft),
                router_ttft: latency(RequestRecord::router_ttft),
                e2e: latency(|r| r.e2e().filter(|_| ended(r))),
                itl: Digest::of_histogram(&run.itl),
                tpot: latency(|r| r.tpot_ms().filter(|_| ended(r)).map(Span::from_ms)),
                queue_wait: latency(queue_wait),
            },
            prediction: prediction(&counted),
            per_replica: per_replica(run, &counted),
            origins: origins(run, &counted),
            queues: queues::queues(run.names.replicas.len(), &run.samples),
            fenced: run.fenced,
            shared: run.shared,
        }
    }

    /// File name (without suffix) of the point of `arm` with `seed`.
    pub fn key(arm: &str, seed: u64) -> String {
        // The length first, so that no name can be mistaken for another name and seed.
        format!("{:016x}", xxh3_64(format!("{}:{arm}:{seed}", arm.len()).as_bytes()))
    }

    /// Requests of the busiest replica over the mean of all; `None` without replicas or answers.
    pub fn busiest_over_mean(&self) -> Option<f64> {
        let total: u64 = self.per_replica.iter().sum();
        let busiest = *self.per_replica.iter().max()?;
        (total > 0).then(|| busiest as f64 * self.per_replica.len() as f64 / total as f64)
    }

    /// `count` a second of the loaded span; `None` for a span of no length.
    pub fn per_second(&self, count: u64) -> Option<f64> {
        (self.loaded.span_ns > 0).then(|| count as f64 / (self.loaded.span_ns as f64 / 1e9))
    }

    /// `count` of the messages between routers a second of the whole run; `None` if they send none.
    pub fn shared_per_second(&self, count: fn(&Shared) -> u64) -> Option<f64> {
        let shared = self.shared.filter(|_| self.span_ns > 0)?;
        Some(count(&shared) as f64 / (self.span_ns as f64 / 1e9))
    }

    /// Share of the counted requests that finished; `None` without requests.
    pub fn finished_share(&self) -> Option<f64> {
        (self.counts.requests > 0).then(|| self.counts.finished as f64 / self.counts.requests as f64)
    }

    /// Share of prompt tokens found in caches; `None` without any prompt.
    pub fn hit_rate(&self) -> Option<f64> {
        (self.counts.prompt_tokens > 0).then(|| self.counts.cached_tokens as f64 / self.counts.prompt_tokens as f64)
    }
}

/// How many requests of `run` count.
pub(crate) fn counted(run: &ArmRun) -> usize {
    let (from, to) = window(run);
    run.records.iter().filter(|r| (from..=to).contains(&r.scheduled)).count()
}

fn ended(r: &RequestRecord) -> bool {
    r.done.is_some() && r.first_token.is_some()
}

/// From when to when scheduled requests count.
fn window(run: &ArmRun) -> (Time, Time) {
    let last = run.records.iter().map(|r| r.scheduled).max().unwrap_or_default();
    let cool_down = Span::from_secs(run.measure.cool_down_s);
    match last.0.checked_sub(cool_down.0) {
        Some(to) => (Time::ZERO + Span::from_secs(run.measure.warm_up_s), Time(to)),
        None => (Time(1), Time::ZERO), // no time is left
    }
}

fn loaded(run: &ArmRun, counted: &[&RequestRecord], from: Time, to: Time) -> Loaded {
    let first = counted.iter().map(|r| r.scheduled).min().unwrap_or(from).max(from);
    let good = counted.iter().filter(|r| run.measure.slo.is_met_by(r)).count() as u64;
    let slo = run.measure.slo.words();
    let done =
        |r: &&RequestRecord| r.status == Status::Finished && r.done.get().is_some_and(|at| (first..=to).contains(&at));
    // Of a single arrival, or of a handful that all end after the last one, the whole run is the span.
    let within: Vec<&RequestRecord> = run.records.iter().filter(done).collect();
    let span = Span(to.0.saturating_sub(first.0));
    if span == Span::ZERO || within.is_empty() {
        let c = counts(counted);
        return Loaded { span_ns: run.span.0, finished: c.finished, output_tokens: c.output_tokens, good, slo };
    }
    let output_tokens = within.iter().map(|r| u64::from(r.output_tokens)).sum();
    Loaded { span_ns: span.0, finished: within.len() as u64, output_tokens, good, slo }
}

fn reasons(run: &ArmRun, records: &[&RequestRecord]) -> BTreeMap<String, u64> {
    let mut reasons = BTreeMap::new();
    for r in records.iter().filter(|r| r.status != Status::Finished) {
        let seen = run.failures.get(&r.request).map_or(r.status.as_str(), String::as_str);
        let reason = r.reason.map_or(seen, |reason| reason.as_str());
        *reasons.entry(reason.to_owned()).or_default() += 1;
    }
    reasons
}

fn counts(records: &[&RequestRecord]) -> Counts {
    let mut c = Counts { requests: records.len() as u64, ..Counts::default() };
    for r in records {
        if r.done.is_none() {
            c.lost += 1;
        } else {
            match r.status {
                Status::Finished => {
                    c.finished += 1;
                    c.output_tokens += u64::from(r.output_tokens);
                }
                Status::Rejected => c.rejected += 1,
                Status::TimedOut => c.timed_out += 1,
                Status::Failed => c.failed += 1,
                Status::Cancelled => c.cancelled += 1,
            }
        }
        c.forwarded += u64::from(r.hops > 0);
        c.retries += u64::from(r.attempts.saturating_sub(1));
        if r.first_token.is_some() {
            c.prompt_tokens += u64::from(r.prompt_tokens);
            c.cached_tokens += u64::from(r.cached_tokens);
        }
    }
    c
}

fn queue_wait(r: &RequestRecord) -> Option<Span> {
    Some((r.dispatched.get()? - r.arrived.get()?) + (r.prefill.get()? - r.accepted.get()?))
}

fn prediction(records: &[&RequestRecord]) -> Prediction {
    let mut p = Prediction::default();
    let mut errors = Vec::new();
    for r in records.iter().filter(|r| r.engine_first.is_some()) {
        p.cache_samples += 1;
        p.cache_abs_tokens += u64::from(r.predicted_cached_tokens.abs_diff(r.cached_tokens));
        p.cache_signed_tokens += i64::from(r.predicted_cached_tokens) - i64::from(r.cached_tokens);
        let predicted = r.predicted_ttft_ms.filter(|ms| ms.is_finite());
        if let (Some(ms), Some(first), Some(dispatched)) = (predicted, r.router_first.get(), r.dispatched.get()) {
            let expected = Span::from_ms(f64::from(ms));
            let actual = first - dispatched;
            errors.push(Span(expected.0.abs_diff(actual.0)));
            p.ttft_signed_ns = p.ttft_signed_ns.saturating_add(expected.0 as i64).saturating_sub(actual.0 as i64);
        }
    }
    p.ttft_abs = Digest::of(errors);
    p
}

fn per_replica(run: &ArmRun, counted: &[&RequestRecord]) -> Vec<u64> {
    let mut share = vec![0; run.names.replicas.len()];
    for r in counted {
        if let Some(n) = r.replica.get().and_then(|i| share.get_mut(usize::from(i))) {
            *n += 1;
        }
    }
    share
}

fn origins(run: &ArmRun, counted: &[&RequestRecord]) -> Vec<OriginTtft> {
    let mut by_origin: BTreeMap<Option<u16>, Vec<Span>> = BTreeMap::new();
    for r in counted {
        if let Some(ttft) = r.ttft() {
            by_origin.entry(r.origin.get()).or_default().push(ttft);
        }
    }
    let mut origins: Vec<OriginTtft> = by_origin
        .into_iter()
        .filter_map(|(origin, spans)| {
            let digest = Digest::of(spans);
            let [p50_ms, p95_ms] = digest.quantiles(&[0.5, 0.95])[..] else { return None };
            let name = origin.and_then(|i| run.names.origins.get(usize::from(i)));
            let origin = name.cloned().unwrap_or_else(|| "unknown".to_owned());
            Some(OriginTtft { origin, samples: digest.samples(), mean_ms: digest.mean_ms()?, p50_ms, p95_ms })
        })
        .collect();
    origins.sort_by(|a, b| b.samples.cmp(&a.samples).then_with(|| a.origin.cmp(&b.origin)));
    origins.truncate(MAX_ORIGINS);
    origins
}

#[cfg(test)]
mod tests;
