//! Explanations of routing: the latest decisions with all terms of all candidates, and the outcome of the requests.

mod decision_header;
mod decision_log;

use crate::observe::deciding::Deciding;
use crate::observe::request_log::RequestEntry;
pub(crate) use decision_header::header;
pub(crate) use decision_log::{outcome, state};
use gorgo_core::router::{DecisionRecord, ScoredCandidate};
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::sync::Arc;

/// Which of the kept requests is explained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// The one that ended last.
    Latest,
    /// The longest time to first token.
    Slowest,
    /// The largest difference between the predicted and the actual time to first token.
    Worst,
}

/// The latest requests with their decisions, bounded in number. Formatted only when asked for.
#[derive(Debug)]
pub struct Explanations {
    most: usize,
    ring: Mutex<VecDeque<ExplainedRequest>>,
}

/// A request with the decision of its last dispatch and the others about it.
#[derive(Debug)]
struct ExplainedRequest {
    row: Arc<RequestEntry>,
    decision: Option<Arc<DecisionRecord>>,
    others: Vec<Arc<DecisionRecord>>,
}

impl Explanations {
    /// Keeps `most` requests.
    pub fn new(most: usize) -> Self {
        Self { most, ring: Mutex::new(VecDeque::new()) }
    }

    /// Adds a request that ended.
    pub fn push(
        &self,
        row: &Arc<RequestEntry>,
        decision: Option<Arc<DecisionRecord>>,
        others: Vec<Arc<DecisionRecord>>,
    ) {
        if self.most == 0 || (decision.is_none() && others.is_empty()) {
            return;
        }
        let mut ring = self.ring.lock();
        let old = if ring.len() >= self.most { ring.pop_front() } else { None };
        ring.push_back(ExplainedRequest { row: Arc::clone(row), decision, others });
        drop(ring); // the old entry is deallocated without the lock
        drop(old);
    }

    /// The explanation of the latest ended request with this `X-Request-ID`.
    pub fn explain(&self, request_id: &str) -> Option<Value> {
        self.describe(|ring| ring.iter().rev().find(|one| one.row.id() == request_id))
    }

    /// Everything about the kept request that comes first in this order.
    pub fn pick(&self, order: Order) -> Option<Value> {
        let ttft = |one: &&ExplainedRequest| one.row.ttft_ms();
        let error = |one: &&ExplainedRequest| {
            let actual = one.row.first_token.zip(one.row.dispatched).map(|(first, sent)| (first - sent).ms())?;
            Some((one.row.predicted_ttft_ms? - actual).abs())
        };
        let most = |ring: &VecDeque<ExplainedRequest>, of: &dyn Fn(&&ExplainedRequest) -> Option<f64>| {
            let known = ring.iter().enumerate().filter_map(|(i, one)| Some((i, of(&one)?)));
            known.max_by(|a, b| a.1.total_cmp(&b.1)).map(|(i, _)| i)
        };
        self.describe(|ring| match order {
            Order::Latest => ring.back(),
            Order::Slowest => ring.get(most(ring, &ttft)?),
            Order::Worst => ring.get(most(ring, &error)?),
        })
    }

    /// The latest `most` requests, the latest first, each with its last decision and that one's `candidates` cheapest
    /// candidates.
    pub(crate) fn latest(&self, most: usize, candidates: usize) -> Vec<Value> {
        let latest: Vec<_> = {
            let ring = self.ring.lock();
            let last = |one: &ExplainedRequest| {
                Some((Arc::clone(&one.row), one.decision.as_ref().or(one.others.last()).map(Arc::clone)?))
            };
            ring.iter().rev().filter_map(last).take(most).collect()
        };
        let describe = |(row, record): &(Arc<RequestEntry>, Arc<DecisionRecord>)| {
            let mut value = outlined(row);
            value["decision"] = explained(record, candidates);
            value
        };
        latest.iter().map(describe).collect()
    }

    fn describe(&self, find: impl FnOnce(&VecDeque<ExplainedRequest>) -> Option<&ExplainedRequest>) -> Option<Value> {
        let (row, mut decisions) = {
            let ring = self.ring.lock();
            let ExplainedRequest { row, decision, others } = find(&ring)?;
            (Arc::clone(row), others.iter().chain(decision).cloned().collect::<Vec<_>>())
        };
        decisions.sort_by_key(|record| record.at);
        let decisions: Vec<Value> = decisions.iter().map(|record| explained(record, usize::MAX)).collect();
        let mut value = outlined(&row);
        value["decisions"] = Value::Array(decisions);
        Some(value)
    }
}

/// A request and its end, without its decisions.
fn outlined(row: &RequestEntry) -> Value {
    let actual = row.first_token.zip(row.dispatched).map(|(first, sent)| (first - sent).ms());
    json!({
        "request_id": row.id(), "status": row.end.status().as_str(), "reason": row.end.as_str(),
        "replica": row.replica.as_ref().map(|replica| &*replica.name), "attempts": row.attempts,
        "predicted_ttft_ms": row.predicted_ttft_ms, "actual_ttft_ms": actual,
        "predicted_cached_tokens": row.predicted_cached_tokens, "actual_cached_tokens": row.cached_tokens,
        "held_cached_tokens": row.held_tokens,
    })
}

/// How the prompt tokens were determined.
fn counted(record: &DecisionRecord) -> &'static str {
    if record.info.counted { "counted" } else { "estimated" }
}

/// A decision with its `most` cheapest candidates, in the order of the fleet; the chosen one and the next best are always
/// among them.
fn explained(record: &DecisionRecord, most: usize) -> Value {
    let deciding = Deciding::of(record);
    let mut shown: Vec<usize> = (0..record.candidates.len()).collect();
    if shown.len() > most {
        let rank = |&i: &usize| {
            let one = &record.candidates[i];
            let is_named = record.chosen == Some(i) || deciding.runner_up == Some(record.name(one.candidate.id));
            (!is_named, one.candidate.excluded.is_some(), one.terms.total)
        };
        shown.sort_by(|a, b| {
            let (a, b) = (rank(a), rank(b));
            (a.0, a.1).cmp(&(b.0, b.1)).then(a.2.total_cmp(&b.2))
        });
        shown.truncate(most);
        shown.sort_unstable();
    }
    let rows: Vec<Value> = shown
        .iter()
        .map(|&i| &record.candidates[i])
        .map(|ScoredCandidate { candidate: c, terms: t, rtt_age_ms }| {
            json!({
                "id": record.name(c.id), "excluded": c.excluded,
                "network_ms": t.network, "prefill_ms": t.prefill, "waiting_ms": t.waiting, "running_ms": t.running,
                "egress_ms": t.egress,
                "total_ms": t.total, "rtt_ms": c.rtt_ms, "rtt_age_ms": rtt_age_ms,
                "round_trips": c.path.trips(), "bytes": c.packed_bytes.unwrap_or(record.info.bytes),
                "cached_tokens": c.cached_tokens,
                "digest": c.digest,
                "waiting_requests": c.load.waiting_requests, "waiting_tokens": c.load.waiting_tokens,
                "waiting_uncached_tokens": c.load.waiting_uncached_tokens,
                "running_requests": c.load.running_requests, "running_tokens": c.load.running_tokens,
                "engine": c.engine, "expected_ttft_ms": c.predicted_ttft_ms(&record.info),
            })
        })
        .collect();
    let chosen = record.chosen.map(|i| record.name(record.candidates[i].candidate.id));
    json!({
        "at_ms": record.at.ms(), "policy": record.policy, "chosen": chosen, "reason": record.reason,
        "prompt_tokens": record.info.prompt_tokens, "tokens": counted(record),
        "residency": record.fence.as_ref().map(ToString::to_string), "candidates": rows,
        "candidates_left_out": record.candidates.len() - shown.len(), "deciding": deciding,
    })
}

#[cfg(test)]
mod tests;
