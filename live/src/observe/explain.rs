//! Explanations of routing: the latest decisions with all terms of all candidates, and the outcome of the requests.

use crate::observe::deciding::Deciding;
use crate::observe::request_log::RequestEntry;
use gorgo_core::decide::Key;
use gorgo_core::decide::{ReplicaState, State};
use gorgo_core::fleet::Learned;
use gorgo_core::off_policy::Outcome;
use gorgo_core::policy::PolicyConfig;
use gorgo_core::record::Status;
use gorgo_core::router::{DecisionRecord, ScoredCandidate};
use http::HeaderValue;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::cell::RefCell;
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
                "total_ms": t.total, "rtt_ms": c.rtt_ms, "rtt_age_ms": rtt_age_ms, "cached_tokens": c.cached_tokens,
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

/// The `X-Gorgo-Decision` header: one line, e.g. `gorgo a total=35.2 network=25.0 prefill=10.2 waiting=0.0
/// running=0.0 cached=4096/5200`. Decimals are not formatted by `std`: that takes 5,300 instructions instead of 1,500,
/// 6 % of a 200 B request.
pub(crate) fn header(record: &DecisionRecord, name: &str) -> Option<HeaderValue> {
    LINE.with_borrow_mut(|line| {
        line.clear();
        write(line, record, name);
        HeaderValue::from_bytes(line).ok()
    })
}

thread_local! {
    /// Buffer of a line, so that only the header value is allocated.
    static LINE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

fn push(line: &mut Vec<u8>, number: u64) {
    line.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

fn write(line: &mut Vec<u8>, record: &DecisionRecord, name: &str) {
    line.extend_from_slice(record.policy.as_bytes());
    line.push(b' ');
    line.extend_from_slice(name.as_bytes());
    if let Some(ScoredCandidate { candidate: c, terms: t, .. }) = record.chosen.and_then(|i| record.candidates.get(i)) {
        let terms: [(&[u8], f64); 6] = [
            (b" total=", t.total),
            (b" network=", t.network),
            (b" prefill=", t.prefill),
            (b" waiting=", t.waiting),
            (b" running=", t.running),
            (b" egress=", t.egress),
        ];
        let shown = if t.egress == 0.0 { 5 } else { 6 };
        for (word, value) in terms.into_iter().take(shown) {
            line.extend_from_slice(word);
            let tenths = (value.abs().min(1e15) * 10.0 + 0.5) as u64;
            if value < 0.0 && tenths > 0 {
                line.push(b'-');
            }
            push(line, tenths / 10);
            line.extend_from_slice(&[b'.', b'0' + (tenths % 10) as u8]);
        }
        line.extend_from_slice(b" cached=");
        push(line, c.cached_tokens.into());
        line.push(b'/');
        push(line, record.info.prompt_tokens.into());
    }
    if let Some(fence) = &record.fence {
        line.extend_from_slice(format!(" residency={fence}").as_bytes());
    }
    if let Some(reason) = record.reason {
        line.extend_from_slice(b" reason=");
        line.extend_from_slice(reason.as_bytes());
    }
}

/// A decision as a state for `gorgo decide`; the field `decision` holds the result.
pub(crate) fn state(record: &DecisionRecord) -> Value {
    // Learned rates take half a line, and few policies read them.
    let keeps_learned = PolicyConfig::reads_learned(record.policy);
    let replicas = record.candidates.iter().map(|one| {
        let state = ReplicaState::of(record.name(one.candidate.id).to_owned(), &one.candidate);
        ReplicaState { learned: if keeps_learned { state.learned } else { Learned::default() }, ..state }
    });
    let key = |hash: u64| (hash != 0).then_some(Key::Hash(hash));
    let state = State {
        id: record.id.0.to_string(),
        prompt_tokens: record.info.prompt_tokens,
        bytes: record.info.bytes,
        session: key(record.info.session),
        head: key(record.info.head),
        residency: record.fence.clone(),
        replicas: replicas.collect(),
    };
    let mut value = serde_json::to_value(&state).unwrap_or_default();
    let name = |i: usize| record.name(record.candidates[i].candidate.id);
    value["decision"] = json!({"chosen": record.chosen.map(name), "reason": record.reason, "policy": record.policy,
               "at_ms": record.at.ms(), "tokens": counted(record)});
    if record.odds < 1.0 {
        value["decision"]["odds"] = json!(record.odds);
        value["decision"]["own"] = json!(record.own.map(name));
    }
    value
}

/// How the request of a decision ended, as a line of the decision log; for `gorgo evaluate`.
pub(crate) fn outcome(record: &DecisionRecord, row: &RequestEntry) -> Outcome {
    let finished = row.end.status() == Status::Finished;
    let first = row.first_token.filter(|_| finished);
    Outcome {
        id: record.id.0.to_string(),
        ttft_ms: first.map(|first| (first - row.arrived).ms()),
        e2e_ms: finished.then(|| (row.done - row.arrived).ms()),
        dispatch_ttft_ms: first.zip(row.dispatched).map(|(first, sent)| (first - sent).ms()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gorgo_core::policy::{CostTerms, RequestInfo};
    use gorgo_core::{ReplicaId, RequestId, Time};

    #[test]
    fn learned_rates_are_logged_for_the_policy_that_reads_them() {
        let learned = Learned { offset_ms: -7.25, ..Learned::default() };
        let candidate = ReplicaState { learned, ..ReplicaState::default() }.candidate(ReplicaId(0));
        let scored = ScoredCandidate { candidate, terms: CostTerms::default(), rtt_age_ms: None };
        let logged = |policy| {
            let record = DecisionRecord {
                id: RequestId(1),
                at: Time::ZERO,
                info: RequestInfo::default(),
                fence: None,
                policy,
                chosen: Some(0),
                reason: None,
                own: None,
                odds: 1.0,
                names: Arc::from([Arc::from("a")]),
                candidates: vec![scored.clone()],
            };
            state(&record)["replicas"][0]["learned"]["offset_ms"].as_f64()
        };
        assert_eq!((logged("predictive"), logged("stargate"), logged("gorgo")), (Some(-7.25), Some(-7.25), None));
    }

    #[test]
    fn an_explored_decision_is_logged_with_its_odds_and_its_outcome_follows() {
        let mut record = DecisionRecord {
            id: RequestId(7),
            at: Time::ZERO,
            info: RequestInfo::default(),
            fence: None,
            policy: "gorgo",
            chosen: Some(1),
            reason: Some("explored"),
            own: Some(0),
            odds: 0.005,
            names: Arc::from([Arc::from("a"), Arc::from("b")]),
            candidates: (0..2)
                .map(|slot| ScoredCandidate {
                    candidate: ReplicaState::default().candidate(ReplicaId(slot)),
                    terms: CostTerms::default(),
                    rtt_age_ms: None,
                })
                .collect(),
        };
        let logged = state(&record);
        assert_eq!((&logged["decision"]["odds"], &logged["decision"]["own"]), (&json!(0.005), &json!("a")));
        record.odds = 1.0;
        assert_eq!(state(&record)["decision"].get("odds"), None);
        let row = crate::observe::request_log::tests::row("x", 25.0);
        let end = outcome(&record, &row);
        assert_eq!((end.id.as_str(), end.ttft_ms), ("7", row.ttft_ms()));
        assert_eq!(Outcome::parse(&end.line()), Some(end));
    }

    #[test]
    fn the_latest_the_slowest_and_the_worst_predicted_are_found() {
        let kept = Explanations::new(10);
        let record = || {
            Arc::new(DecisionRecord {
                id: RequestId(1),
                at: Time::ZERO,
                info: RequestInfo::default(),
                fence: None,
                policy: "gorgo",
                chosen: None,
                reason: None,
                own: None,
                odds: 1.0,
                names: Arc::from([]),
                candidates: Vec::new(),
            })
        };
        assert!(kept.pick(Order::Latest).is_none());
        for (id, ttft, predicted) in [("slow", 90.0, Some(85.0)), ("wrong", 30.0, Some(500.0)), ("last", 10.0, None)] {
            let mut row = crate::observe::request_log::tests::row(id, ttft);
            row.predicted_ttft_ms = predicted;
            kept.push(&Arc::new(row), Some(record()), Vec::new());
        }
        let picked = |order| kept.pick(order).unwrap()["request_id"].clone();
        assert_eq!(picked(Order::Latest), "last");
        assert_eq!(picked(Order::Slowest), "slow");
        assert_eq!(picked(Order::Worst), "wrong");
    }

    #[test]
    fn the_header_is_one_line_of_numbers_to_a_tenth() {
        let candidate = ReplicaState { cached_tokens: 4096, ..ReplicaState::default() }.candidate(ReplicaId(0));
        let terms = CostTerms {
            network: 25.04,
            prefill: 10.16,
            waiting: -3.0,
            running: -0.01,
            total: 1e300,
            ..CostTerms::default()
        };
        let record = DecisionRecord {
            id: RequestId(1),
            at: Time::ZERO,
            info: RequestInfo { prompt_tokens: 5200, ..RequestInfo::default() },
            fence: None,
            policy: "gorgo",
            chosen: Some(0),
            reason: Some("word"),
            own: Some(0),
            odds: 1.0,
            names: Arc::from([]),
            candidates: vec![ScoredCandidate { candidate, terms, rtt_age_ms: None }],
        };
        let expected = "gorgo a total=1000000000000000.0 network=25.0 prefill=10.2 waiting=-3.0 running=0.0 \
            cached=4096/5200 reason=word";
        assert_eq!(header(&record, "a").unwrap(), expected);
        assert!(header(&record, "a\nb").is_none());
    }
}
