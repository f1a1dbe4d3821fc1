//! The latest requests, one entry each, with CSV export and a summary.

mod entry;

pub(crate) use entry::{DecisionSummary, RequestEntry, RoutedReplica, TtftParts};
use gorgo_core::Time;
use gorgo_core::router::EndReason;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A bounded log of requests, on by default.
#[derive(Debug)]
pub struct RequestLog {
    most: usize,
    enabled: AtomicBool,
    entries: Mutex<VecDeque<Arc<RequestEntry>>>,
}

impl RequestLog {
    /// Creates a log of the latest `most` requests.
    pub fn new(most: usize) -> Self {
        Self { most, enabled: AtomicBool::new(true), entries: Mutex::new(VecDeque::new()) }
    }

    /// Most entries kept.
    pub(crate) fn most(&self) -> usize {
        self.most
    }

    /// Whether requests are logged.
    pub fn enabled(&self) -> bool {
        self.enabled.load(Ordering::Relaxed)
    }

    /// Turns logging on or off; entries stay.
    pub fn enable(&self, enabled: bool) {
        self.enabled.store(enabled, Ordering::Relaxed);
    }

    /// Adds an entry, and drops the oldest if the log is full.
    pub fn push(&self, row: Arc<RequestEntry>) {
        if self.most == 0 || !self.enabled() {
            return;
        }
        let mut rows = self.entries.lock();
        let old = if rows.len() >= self.most { rows.pop_front() } else { None };
        rows.push_back(row);
        drop(rows); // the old one is taken apart without the lock
        drop(old);
    }

    /// Removes all entries; returns their number.
    pub fn clear(&self) -> usize {
        std::mem::take(&mut *self.entries.lock()).len()
    }

    /// The entries, oldest first.
    pub fn entries(&self) -> Vec<Arc<RequestEntry>> {
        self.entries.lock().iter().cloned().collect()
    }

    /// At most `most` entries of requests that ended at `since` or later, the latest first.
    pub(crate) fn latest(&self, most: usize, since: Time) -> Vec<Arc<RequestEntry>> {
        self.entries.lock().iter().rev().take(most).take_while(|row| row.done >= since).cloned().collect()
    }

    /// The entries as CSV: gotoni's columns and some of our own, with columns for each replica of `names` and of the
    /// entries' decisions. `ttft_ms` is the first token with content, `queue_time_ms` the wait for the last dispatch.
    pub fn csv(&self, names: &[String], stamp: impl Fn(Time) -> String) -> String {
        let rows = self.entries();
        let mut order: BTreeSet<&str> = names.iter().map(String::as_str).collect();
        order.extend(rows.iter().flat_map(|row| row.decision.by_name().into_keys()));
        let mut out = String::from(
            "request_id,timestamp,prompt_length,tokens,network_latency_ms,ttft_ms,total_latency_ms,queue_time_ms,\
             predicted_prefill_time_ms,queued_tokens_at_routing,running_tokens_at_routing,selected_server,selected_server_id",
        );
        for name in &order {
            let _ = write!(out, ",{},{}", cell(&format!("{name}_prefix_hit")), cell(&format!("{name}_matched_len")));
        }
        for name in &order {
            let _ = write!(out, ",{}", cell(&format!("{name}_cost")));
        }
        out.push_str(
            ",status_code,success,error,predicted_ttft_ms,predicted_cached_tokens,cached_tokens,counted_tokens,\
             output_tokens,attempts,hops,status\n",
        );
        for row in &rows {
            line(&mut out, row, &stamp(row.arrived), &order);
        }
        out
    }

    /// gotoni's summary with true figures.
    pub fn summary(&self) -> Value {
        let rows = self.entries();
        let enabled = self.enabled();
        if rows.is_empty() {
            return json!({"count": 0, "message": "no requests yet", "metrics_collection_enabled": enabled});
        }
        let finished: Vec<&Arc<RequestEntry>> = rows.iter().filter(|row| row.end == EndReason::Finished).collect();
        let mut hits: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
        for row in &rows {
            if let Some(RoutedReplica { name, .. }) = &row.replica {
                let sums = hits.entry(name).or_default();
                sums.0 += u64::from(row.cached_tokens.unwrap_or(row.predicted_cached_tokens));
                sums.1 += u64::from(row.counted_tokens.unwrap_or(row.prompt_tokens));
            }
        }
        let ratios: BTreeMap<&str, f64> =
            hits.into_iter().map(|(name, (hit, all))| (name, hit as f64 / all.max(1) as f64)).collect();
        let ttft = quantiles(finished.iter().filter_map(|row| row.ttft_ms()).collect());
        let total = quantiles(finished.iter().map(|row| row.total_ms()).collect());
        json!({
            "count": rows.len(), "success_count": finished.len(), "fail_count": rows.len() - finished.len(),
            "avg_total_latency_ms": total["mean"], "avg_ttft_ms": ttft["mean"],
            "avg_network_latency_ms": mean(rows.iter().map(|row| row.rtt_ms)),
            "avg_prefix_cache_hit_ratios": ratios, "metrics_collection_enabled": enabled,
            "ttft_ms": ttft, "total_latency_ms": total,
        })
    }
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) = values.fold((0.0, 0u32), |(sum, count), v| (sum + v, count + 1));
    sum / f64::from(count.max(1))
}

fn quantiles(mut values: Vec<f64>) -> Value {
    values.sort_by(f64::total_cmp);
    // Nearest rank.
    let at = |q: f64| values.get(((values.len() as f64 * q).ceil() as usize).saturating_sub(1)).copied();
    json!({"mean": mean(values.iter().copied()), "p50": at(0.5), "p90": at(0.9), "p95": at(0.95), "p99": at(0.99), "max": at(1.0)})
}

/// A cell of text. A spreadsheet runs what begins like a formula, and clients choose ids: such text gets an apostrophe.
fn cell(text: &str) -> String {
    let text = gorgo_core::csv::text_cell(text);
    if text.contains([',', '"', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.into_owned() }
}

fn number(value: Option<f64>) -> String {
    value.map_or(String::new(), |v| format!("{v:.3}"))
}

fn line(out: &mut String, row: &RequestEntry, timestamp: &str, order: &BTreeSet<&str>) {
    let (decision, candidates) = (&row.decision, row.decision.by_name());
    let name = row.replica.as_ref().map_or("", |replica| &*replica.name);
    let queue = row.dispatched.map(|at| (at - row.arrived).ms());
    let _ = write!(
        out,
        "{},{},{},{},{:.3},{},{:.3},{},{},{},{},{},{}",
        cell(row.id()),
        timestamp,
        row.prompt_bytes,
        row.prompt_tokens,
        row.rtt_ms,
        number(row.ttft_ms()),
        row.total_ms(),
        number(queue),
        number(decision.prefill_ms),
        decision.waiting_tokens,
        decision.running_tokens,
        cell(name),
        cell(name),
    );
    for name in order {
        let matched = candidates.get(name).map_or(0, |score| score.cached_tokens);
        let _ = write!(out, ",{},{matched}", matched > 0);
    }
    for name in order {
        let _ = write!(out, ",{}", number(candidates.get(name).map(|score| score.total_ms)));
    }
    let whole = |v: Option<u32>| v.map_or(String::new(), |v| v.to_string());
    let _ = writeln!(
        out,
        ",{},{},{},{},{},{},{},{},{},{},{}",
        row.status_code,
        row.end == EndReason::Finished,
        row.end.as_str(),
        number(row.predicted_ttft_ms),
        row.predicted_cached_tokens,
        whole(row.cached_tokens),
        whole(row.counted_tokens),
        row.output_tokens,
        row.attempts,
        row.hops,
        row.end.status().as_str(),
    );
}

#[cfg(test)]
pub(crate) mod tests;
