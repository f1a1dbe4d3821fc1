//! Why a request went where it went: the latest decisions with all their terms, and what came of them.

use crate::table::Row;
use gorgo_core::decide::Key;
use gorgo_core::decide::{ReplicaState, State};
use gorgo_core::router::DecisionRecord;
use gorgo_core::{RequestId, Time};
use rustc_hash::FxHashMap;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::fmt::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

#[derive(Debug, Default)]
struct Kept {
    decisions: Vec<Arc<DecisionRecord>>,
    row: Option<Arc<Row>>,
}

#[derive(Debug, Default)]
struct Ring {
    order: VecDeque<RequestId>,
    kept: FxHashMap<RequestId, Kept>,
    names: FxHashMap<String, RequestId>,
}

/// The ring. Bounded in requests; a request keeps at most eight decisions.
#[derive(Debug)]
pub struct Explanations {
    most: usize,
    ring: Mutex<Ring>,
}

impl Explanations {
    /// Keeps `most` requests.
    pub fn new(most: usize) -> Self {
        Self { most, ring: Mutex::new(Ring::default()) }
    }

    fn lock(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn decided(&self, record: &Arc<DecisionRecord>) {
        if self.most == 0 {
            return;
        }
        let mut ring = self.lock();
        let ring = &mut *ring;
        if !ring.kept.contains_key(&record.id) {
            if ring.order.len() >= self.most
                && let Some(old) = ring.order.pop_front()
                && let Some(kept) = ring.kept.remove(&old)
                && let Some(row) = kept.row
                && ring.names.get(&row.request_id) == Some(&old)
            {
                ring.names.remove(&row.request_id);
            }
            ring.order.push_back(record.id);
        }
        let kept = ring.kept.entry(record.id).or_default();
        if kept.decisions.len() >= 8 {
            kept.decisions.remove(0);
        }
        kept.decisions.push(Arc::clone(record));
    }

    /// Notes what came of a request.
    pub fn outcome(&self, id: RequestId, row: &Arc<Row>) {
        let mut ring = self.lock();
        let ring = &mut *ring;
        if let Some(kept) = ring.kept.get_mut(&id) {
            ring.names.insert(row.request_id.clone(), id);
            kept.row = Some(Arc::clone(row));
        }
    }

    /// Everything about the request with this `X-Request-ID`, once it is over.
    pub fn explain(&self, request_id: &str, names: &[String]) -> Option<Value> {
        let ring = self.lock();
        let kept = ring.kept.get(ring.names.get(request_id)?)?;
        let row = kept.row.as_ref()?;
        let decisions: Vec<Value> = kept.decisions.iter().map(|record| explained(record, names)).collect();
        let actual = (row.first_token != Time::NEVER).then(|| (row.first_token - row.dispatched).ms());
        Some(json!({
            "request_id": row.request_id, "status": row.status.as_str(), "reason": row.reason,
            "replica": row.replica.as_ref().map(|(_, name)| name), "attempts": row.attempts,
            "predicted_ttft_ms": row.predicted_ttft_ms, "actual_ttft_ms": actual,
            "predicted_cached_tokens": row.cached.0, "actual_cached_tokens": row.cached.1, "decisions": decisions,
        }))
    }
}

fn name(names: &[String], slot: usize) -> String {
    names.get(slot).cloned().unwrap_or_else(|| format!("#{slot}"))
}

fn explained(record: &DecisionRecord, names: &[String]) -> Value {
    let rows: Vec<Value> = record
        .candidates
        .iter()
        .map(|(c, t, rtt_age)| {
            json!({
                "id": name(names, c.id.index()), "excluded": c.excluded,
                "network_ms": t.network, "prefill_ms": t.prefill, "waiting_ms": t.waiting, "running_ms": t.running,
                "total_ms": t.total, "rtt_ms": c.rtt_ms, "rtt_age_ms": rtt_age, "cached_tokens": c.cached_tokens,
                "waiting_requests": c.waiting_requests, "waiting_tokens": c.waiting_tokens,
                "waiting_uncached_tokens": c.waiting_uncached_tokens,
                "running_requests": c.running_requests, "running_tokens": c.running_tokens,
                "engine": c.engine,
            })
        })
        .collect();
    let chosen = record.chosen.map(|i| name(names, record.candidates[i].0.id.index()));
    json!({
        "at_ms": record.at.ms(), "policy": record.policy, "chosen": chosen, "reason": record.reason,
        "prompt_tokens": record.ask.prompt_tokens, "candidates": rows,
    })
}

/// The `X-Gorgo-Decision` header: one line, e.g. `gorgo a total=35.2 network=25.0 prefill=10.2 waiting=0.0
/// running=0.0 cached=4096/5200`.
pub fn header(record: &DecisionRecord, name: &str) -> String {
    let mut line = String::with_capacity(160);
    line.push_str(record.policy);
    line.push(' ');
    line.push_str(name);
    if let Some((c, t, _)) = record.chosen.and_then(|i| record.candidates.get(i)) {
        let terms = [
            (" total=", t.total),
            (" network=", t.network),
            (" prefill=", t.prefill),
            (" waiting=", t.waiting),
            (" running=", t.running),
        ];
        for (word, value) in terms {
            line.push_str(word);
            // To a tenth by integers: formatting floats would be the dearest part of a request.
            let tenths = (value.abs().min(1e15) * 10.0).round() as u64;
            let sign = if value < 0.0 && tenths > 0 { "-" } else { "" };
            let _ = write!(line, "{sign}{}.{}", tenths / 10, tenths % 10);
        }
        let _ = write!(line, " cached={}/{}", c.cached_tokens, record.ask.prompt_tokens);
    }
    if let Some(reason) = record.reason {
        line.push_str(" reason=");
        line.push_str(reason);
    }
    line
}

/// A decision as a state that `gorgo decide` reads; what was decided stands in `decision`.
pub fn state(record: &DecisionRecord, names: &[String]) -> Value {
    let replicas = record.candidates.iter().map(|(c, ..)| ReplicaState {
        id: name(names, c.id.index()),
        healthy: true,
        excluded: c.excluded,
        rtt_ms: c.rtt_ms,
        cached_tokens: c.cached_tokens,
        waiting_requests: c.waiting_requests,
        waiting_tokens: c.waiting_tokens,
        waiting_uncached_tokens: c.waiting_uncached_tokens,
        running_requests: c.running_requests,
        running_tokens: c.running_tokens,
        engine: c.engine,
        ms_per_token: c.ms_per_token,
    });
    let key = |hash: u64| (hash != 0).then_some(Key::Hash(hash));
    let state = State {
        id: record.id.0.to_string(),
        prompt_tokens: record.ask.prompt_tokens,
        session: key(record.ask.session),
        head: key(record.ask.head),
        replicas: replicas.collect(),
    };
    let mut value = serde_json::to_value(&state).unwrap_or_default();
    let chosen = record.chosen.map(|i| name(names, record.candidates[i].0.id.index()));
    value["decision"] =
        json!({"chosen": chosen, "reason": record.reason, "policy": record.policy, "at_ms": record.at.ms()});
    value
}
