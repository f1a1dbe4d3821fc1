//! Figures over the requests that ended within the last minute.

use crate::observe::request_log::{RequestEntry, RequestLog, TtftParts};
use gorgo_core::{Span, Time};
use rustc_hash::FxHashMap;
use serde_json::{Value, json};
use std::sync::Arc;

/// How far back the figures reach.
const LENGTH: Span = Span(60_000_000_000);
/// Most requests that they are made of.
const MOST: usize = 4_000;

/// Requests that ended within the last minute: all, or the latest that fit.
pub(super) struct Window {
    rows: Vec<Arc<RequestEntry>>,
    /// Places in `rows` by the replica that answered.
    by_replica: FxHashMap<Arc<str>, Vec<usize>>,
    seconds: f64,
    is_enabled: bool,
}

impl Window {
    pub(super) fn of(log: &RequestLog, now: Time) -> Self {
        let since = Time(now.0.saturating_sub(LENGTH.0));
        let rows = log.latest(MOST, since);
        // A log that is full of newer requests reaches back less far.
        let reach = if rows.len() < MOST.min(log.most()) { since } else { rows.last().map_or(since, |row| row.done) };
        let mut by_replica: FxHashMap<Arc<str>, Vec<usize>> = FxHashMap::default();
        for (i, row) in rows.iter().enumerate() {
            if let Some(replica) = &row.replica {
                by_replica.entry(Arc::clone(&replica.name)).or_default().push(i);
            }
        }
        Self {
            rows,
            by_replica,
            seconds: ((now - reach).ms() / 1e3).max(1e-3),
            is_enabled: log.enabled() && log.most() > 0,
        }
    }

    /// How much the figures are made of.
    pub(super) fn extent(&self) -> Value {
        json!({"seconds": self.seconds, "requests": self.rows.len(), "enabled": self.is_enabled})
    }

    /// Requests that ended, per second; `None` if they are not logged.
    pub(super) fn per_second(&self) -> Option<f64> {
        self.is_enabled.then(|| self.rows.len() as f64 / self.seconds)
    }

    /// Quantiles of the time to first token with their parts.
    pub(super) fn ttft(&self) -> Value {
        quantiles(self.rows.iter().filter_map(|row| row.ttft_parts()).collect())
    }

    /// Hit tokens, over the requests whose engine reported them.
    pub(super) fn hits(&self) -> Value {
        hits(self.rows.iter())
    }

    /// The figures of the requests that these replicas answered.
    pub(super) fn of_replicas<'a>(&self, names: impl Iterator<Item = &'a str>) -> Value {
        let found: Vec<usize> =
            names.flat_map(|name| self.by_replica.get(name).map_or(&[][..], Vec::as_slice)).copied().collect();
        let here = || found.iter().map(|&i| &self.rows[i]);
        json!({
            "requests_per_second": self.is_enabled.then(|| here().count() as f64 / self.seconds),
            "ttft": quantiles(here().filter_map(|row| row.ttft_parts()).collect()), "hits": hits(here()),
        })
    }
}

/// Mean, and the 50th, 90th and 99th percentile (nearest rank). The parts at a percentile are means over the requests
/// around it, 2 % of all to each side: of one request they would be noise, and percentiles of parts do not add up.
fn quantiles(mut all: Vec<TtftParts>) -> Value {
    all.sort_by(|a, b| a.ttft_ms.total_cmp(&b.ttft_ms));
    let side = all.len() / 50;
    let at = |q: f64| {
        let rank = ((all.len() as f64 * q).ceil() as usize).clamp(1, all.len().max(1)) - 1;
        let around = &all[rank.saturating_sub(side)..(rank + side + 1).min(all.len())];
        all.get(rank).map_or(Value::Null, |one| parts(around, one.ttft_ms))
    };
    let mean = all.iter().map(|one| one.ttft_ms).sum::<f64>() / all.len().max(1) as f64;
    let mean = if all.is_empty() { Value::Null } else { parts(&all, mean) };
    json!({"requests": all.len(), "mean": mean, "p50": at(0.5), "p90": at(0.9), "p99": at(0.99)})
}

fn parts(rows: &[TtftParts], ttft_ms: f64) -> Value {
    let mean = |of: fn(&TtftParts) -> f64| rows.iter().map(of).sum::<f64>() / rows.len().max(1) as f64;
    json!({
        "ttft_ms": ttft_ms, "network_ms": mean(|one| one.network_ms), "queue_ms": mean(|one| one.queue_ms),
        "prefill_ms": mean(|one| one.prefill_ms),
    })
}

/// Prompt tokens that were cached: the most at any replica, those expected where the request went, and those that the
/// engine delivered. `unreported` counts requests whose engine reported no cached tokens; they are in none of the sums.
fn hits<'a>(rows: impl Iterator<Item = &'a Arc<RequestEntry>>) -> Value {
    let (mut prompt, mut best, mut expected, mut delivered, mut unreported) = (0, 0, 0, 0, 0u64);
    for row in rows.filter(|row| row.replica.is_some()) {
        let Some(cached) = row.cached_tokens.or(row.held_tokens) else {
            unreported += 1;
            continue;
        };
        prompt += u64::from(row.prompt());
        best += u64::from(row.decision.best_cached_tokens());
        expected += u64::from(row.predicted_cached_tokens);
        delivered += u64::from(cached);
    }
    json!({
        "prompt_tokens": prompt, "best_anywhere": best, "expected": expected, "delivered": delivered,
        "unreported": unreported,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_percentile_are_means_around_it() {
        let one = |i: u32| {
            let ttft_ms = f64::from(i);
            TtftParts { ttft_ms, network_ms: 1.0, queue_ms: ttft_ms - 1.0, prefill_ms: 0.0 }
        };
        let told = quantiles((1..=100).rev().map(one).collect());
        assert_eq!((&told["p50"]["ttft_ms"], &told["p50"]["queue_ms"]), (&json!(50.0), &json!(49.0)));
        // Around the 99th: 97 to 100 without a hundred-and-first.
        assert_eq!((&told["p99"]["ttft_ms"], &told["p99"]["queue_ms"]), (&json!(99.0), &json!(97.5)));
        assert_eq!((&told["mean"]["ttft_ms"], &told["mean"]["network_ms"]), (&json!(50.5), &json!(1.0)));
        let none = quantiles(Vec::new());
        assert_eq!((&none["p50"], &none["mean"], &none["requests"]), (&Value::Null, &Value::Null, &json!(0)));
    }

    #[test]
    fn a_full_log_reaches_back_to_its_oldest_request() {
        let log = RequestLog::new(3);
        for ms in [1_000.0, 2_000.0, 3_000.0, 4_000.0] {
            let row = RequestEntry { done: Time::from_ms(ms), ..RequestEntry::default() };
            log.push(Arc::new(row));
        }
        let told = Window::of(&log, Time::from_ms(5_000.0));
        assert_eq!((told.extent()["seconds"].as_f64(), told.per_second()), (Some(3.0), Some(1.0)));
        let later = Window::of(&log, Time::from_ms(63_500.0));
        assert_eq!((later.extent()["seconds"].as_f64(), later.rows.len()), (Some(60.0), 1));
        log.enable(false);
        assert_eq!(Window::of(&log, Time::from_ms(5_000.0)).per_second(), None);
    }
}
