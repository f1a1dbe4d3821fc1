//! A decision and its outcome as lines of the decision log.

use super::counted;
use crate::observe::request_log::RequestEntry;
use gorgo_core::decide::Key;
use gorgo_core::decide::{ReplicaState, State};
use gorgo_core::fleet::Learned;
use gorgo_core::off_policy::Outcome;
use gorgo_core::policy::PolicyConfig;
use gorgo_core::record::Status;
use gorgo_core::router::DecisionRecord;
use serde_json::{Value, json};

/// A decision as a state for `gorgo decide`; the field `decision` holds the result. The quantiles of predictions, which
/// no policy reads, are for decisions that are judged by their outcomes.
pub(crate) fn state(record: &DecisionRecord, is_judged: bool) -> Value {
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
    if keeps_learned {
        let known = serde_json::to_value(Learned::default()).unwrap_or_default();
        for replica in value["replicas"].as_array_mut().into_iter().flatten() {
            if let Some(learned) = replica.get_mut("learned").and_then(Value::as_object_mut) {
                // What is not learned yet is read back as it is when it is absent.
                learned.retain(|key, is| known[key] != *is && (is_judged || key != "quantiles"));
            }
        }
    }
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
