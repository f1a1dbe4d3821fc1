//! The latest requests, one entry each, with CSV export and a summary.

use gorgo_core::router::{DecisionRecord, EndReason, ScoredCandidate};
use gorgo_core::{ReplicaId, Time};
use parking_lot::Mutex;
use serde_json::{Value, json};
use smallvec::SmallVec;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// One request as observed by this router.
#[derive(Debug, Clone)]
pub struct RequestEntry {
    /// `X-Request-ID`; nearly every one fits in place.
    pub request_id: SmallVec<[u8; 40]>,
    /// Hash of the conversation's key.
    pub session: u64,
    /// Bytes of prompt text.
    pub prompt_bytes: u64,
    /// Prompt tokens as estimated.
    pub prompt_tokens: u32,
    /// As the engine counted.
    pub counted_tokens: Option<u32>,
    /// Tokens generated.
    pub output_tokens: u32,
    /// Cached prompt tokens as the index predicted.
    pub predicted_cached_tokens: u32,
    /// Cached prompt tokens as the engine reported.
    pub cached_tokens: Option<u32>,
    /// Arrival.
    pub arrived: Time,
    /// Last dispatch.
    pub dispatched: Option<Time>,
    /// First token with content.
    pub first_token: Option<Time>,
    /// Last byte.
    pub done: Time,
    /// Smoothed round trip to the replica at dispatch, ms.
    pub rtt_ms: f64,
    /// Time to first token the policy expected, ms.
    pub predicted_ttft_ms: Option<f64>,
    /// The replica of the last dispatch.
    pub replica: Option<RoutedReplica>,
    /// Dispatches.
    pub attempts: u8,
    /// Routers before this one.
    pub hops: u8,
    /// HTTP status of the response.
    pub status_code: u16,
    /// Why it ended, and so how.
    pub end: EndReason,
    /// The decision of the last dispatch.
    pub decision: DecisionSummary,
}

/// The replica that a request was dispatched to.
#[derive(Debug, Clone)]
pub struct RoutedReplica {
    /// Its slot.
    pub slot: u16,
    /// Its name at that time.
    pub name: Arc<str>,
}

/// The part of a decision that an entry keeps. Entries are kept far longer than decisions, which are several times as
/// large.
#[derive(Debug, Clone, Default)]
pub struct DecisionSummary {
    names: Option<Arc<[Arc<str>]>>,
    scores: SmallVec<[CandidateScore; 4]>,
    prefill_ms: Option<f64>,
    waiting_tokens: u64,
    running_tokens: u64,
}

/// A candidate of the decision.
#[derive(Debug, Clone, Copy)]
struct CandidateScore {
    slot: ReplicaId,
    cached_tokens: u32,
    total_ms: f64,
}

impl DecisionSummary {
    /// Summarizes a decision.
    pub fn of(record: &DecisionRecord) -> Self {
        let chosen = record.chosen.and_then(|i| record.candidates.get(i));
        let score = |one: &ScoredCandidate| CandidateScore {
            slot: one.candidate.id,
            cached_tokens: one.candidate.cached_tokens,
            total_ms: one.terms.total,
        };
        Self {
            names: Some(Arc::clone(&record.names)),
            scores: record.candidates.iter().map(score).collect(),
            prefill_ms: chosen.map(|one| one.terms.prefill),
            waiting_tokens: chosen.map_or(0, |one| one.candidate.load.waiting_tokens),
            running_tokens: chosen.map_or(0, |one| one.candidate.load.running_tokens),
        }
    }

    /// The candidates by the names they had then.
    fn by_name(&self) -> BTreeMap<&str, &CandidateScore> {
        let names = self.names.as_deref().unwrap_or_default();
        let name = |score: &CandidateScore| names.get(score.slot.index()).map_or("", |name| &**name);
        self.scores.iter().map(|score| (name(score), score)).collect()
    }
}

impl Default for RequestEntry {
    /// An entry without any value.
    fn default() -> Self {
        Self {
            request_id: SmallVec::new(),
            session: 0,
            prompt_bytes: 0,
            prompt_tokens: 0,
            counted_tokens: None,
            output_tokens: 0,
            predicted_cached_tokens: 0,
            cached_tokens: None,
            arrived: Time::ZERO,
            dispatched: None,
            first_token: None,
            done: Time::ZERO,
            rtt_ms: 0.0,
            predicted_ttft_ms: None,
            replica: None,
            attempts: 0,
            hops: 0,
            status_code: 0,
            end: EndReason::default(),
            decision: DecisionSummary::default(),
        }
    }
}

impl RequestEntry {
    /// `X-Request-ID` as text: one that is no text never gets in.
    pub fn id(&self) -> &str {
        std::str::from_utf8(&self.request_id).unwrap_or_default()
    }

    /// First token after arrival, ms.
    pub fn ttft_ms(&self) -> Option<f64> {
        self.first_token.map(|at| (at - self.arrived).ms())
    }

    fn total_ms(&self) -> f64 {
        (self.done - self.arrived).ms()
    }
}

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

fn cell(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.to_owned() }
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
pub(crate) mod tests {
    use super::*;

    pub(crate) fn row(id: &str, ttft: f64) -> RequestEntry {
        RequestEntry {
            request_id: SmallVec::from_slice(id.as_bytes()),
            session: 0,
            prompt_bytes: 400,
            prompt_tokens: 100,
            counted_tokens: Some(110),
            output_tokens: 7,
            predicted_cached_tokens: 64,
            cached_tokens: Some(55),
            arrived: Time::from_ms(10.0),
            dispatched: Some(Time::from_ms(12.0)),
            first_token: Some(Time::from_ms(10.0 + ttft)),
            done: Time::from_ms(100.0),
            rtt_ms: 5.0,
            predicted_ttft_ms: Some(20.0),
            replica: Some(RoutedReplica { slot: 0, name: "a".into() }),
            attempts: 1,
            hops: 0,
            status_code: 200,
            end: EndReason::Finished,
            decision: DecisionSummary::default(),
        }
    }

    #[test]
    fn rows_are_exported_quoted_and_bounded() {
        let table = RequestLog::new(2);
        for id in ["old", "x,\"y", "z"] {
            table.push(Arc::new(row(id, 30.0)));
        }
        let csv = table.csv(&["b".to_owned(), "a".to_owned()], |_| "2024-02-29T12:34:56.789Z".to_owned());
        let lines: Vec<&str> = csv.lines().collect();
        assert_eq!(lines.len(), 3);
        assert!(lines[0].contains(",a_prefix_hit,a_matched_len,b_prefix_hit,b_matched_len,a_cost,b_cost,status_code"));
        assert_eq!(
            lines[1],
            "\"x,\"\"y\",2024-02-29T12:34:56.789Z,400,100,5.000,30.000,90.000,2.000,,0,0,a,a,false,0,false,0,,,200,true,,20.000,64,55,110,7,1,0,finished"
        );
        let columns = lines[0].split(',').count();
        assert_eq!(lines[2].split(',').count(), columns);
    }

    #[test]
    fn a_rows_decision_fills_the_columns_of_the_replicas_it_saw() {
        use gorgo_core::RequestId;
        use gorgo_core::decide::ReplicaState;
        use gorgo_core::policy::{CostTerms, RequestInfo};
        let seen = |slot, cached_tokens, total| {
            let state =
                ReplicaState { cached_tokens, waiting_tokens: 70, running_tokens: 80, ..ReplicaState::default() };
            let terms = CostTerms { prefill: 3.5, total, ..CostTerms::default() };
            ScoredCandidate { candidate: state.candidate(ReplicaId(slot)), terms, rtt_age_ms: None }
        };
        let record = DecisionRecord {
            id: RequestId(1),
            at: Time::ZERO,
            info: RequestInfo::default(),
            policy: "gorgo",
            chosen: Some(1),
            reason: None,
            names: Arc::from(["left".into(), "a".into()]),
            candidates: vec![seen(0, 0, 20.25), seen(1, 64, 10.5)],
        };
        let table = RequestLog::new(1);
        table.push(Arc::new(RequestEntry { decision: DecisionSummary::of(&record), ..row("r", 30.0) }));
        let csv = table.csv(&["a".to_owned()], |_| "t".to_owned());
        let (head, line) = csv.split_once('\n').unwrap();
        assert!(head.contains(",a_prefix_hit,a_matched_len,left_prefix_hit,left_matched_len,a_cost,left_cost,"));
        assert!(line.contains(",3.500,70,80,a,a,true,64,false,0,10.500,20.250,200,"), "{line}");
    }

    #[test]
    fn the_summary_has_true_means_and_quantiles() {
        let table = RequestLog::new(100);
        assert_eq!(table.summary()["count"], 0);
        (1..=100).for_each(|i| table.push(Arc::new(row("r", f64::from(i)))));
        table.push(Arc::new(RequestEntry { end: EndReason::AfterFirstToken, ..row("f", 900.0) }));
        let summary = table.summary();
        assert_eq!((&summary["count"], &summary["fail_count"]), (&json!(100), &json!(1)));
        assert_eq!(summary["ttft_ms"]["p50"], json!(51.0));
        assert_eq!(summary["avg_prefix_cache_hit_ratios"]["a"], json!(0.5));
        table.enable(false);
        table.push(Arc::new(row("r", 1.0)));
        assert_eq!((table.clear(), table.summary()["metrics_collection_enabled"].clone()), (100, json!(false)));
    }
}
