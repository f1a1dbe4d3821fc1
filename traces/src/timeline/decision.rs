//! The decision behind a request: every candidate with the terms of its score, shown with the request's span.

use gorgo_core::policy::{CostTerms, Exclusion};
use gorgo_core::router::DecisionRecord;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// A decision as a timeline shows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// Number of the request.
    pub request: u64,
    /// The replica or peer that was chosen; `None` if all were excluded.
    pub chosen: Option<String>,
    /// The fallback that decided, if the policy's own rule did not.
    pub reason: Option<String>,
    /// Every candidate, in the fleet's order.
    pub candidates: Vec<ShownCandidate>,
}

/// A candidate of a [`Decision`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ShownCandidate {
    /// Name of the replica or peer.
    pub replica: String,
    /// Prompt tokens believed cached there.
    pub cached_tokens: u32,
    /// Why the candidate could not be chosen.
    pub excluded: Option<Exclusion>,
    /// The parts of its score by name, in the policy's unit, with their sum `total`; empty where the candidate was
    /// excluded.
    pub terms: BTreeMap<String, f64>,
}

impl Decision {
    /// What a timeline shows of `record`, which decided on `request`.
    pub fn of(request: u64, record: &DecisionRecord) -> Self {
        let candidates = record.candidates.iter().map(|one| {
            let excluded = one.candidate.excluded;
            ShownCandidate {
                replica: record.name(one.candidate.id).to_owned(),
                cached_tokens: one.candidate.cached_tokens,
                excluded,
                terms: if excluded.is_none() { terms(&one.terms) } else { BTreeMap::new() },
            }
        });
        Self {
            request,
            chosen: record.chosen.map(|i| record.name(record.candidates[i].candidate.id).to_owned()),
            reason: record.reason.map(str::to_owned),
            candidates: candidates.collect(),
        }
    }

    /// The arguments of the request's span: `{"chosen", "reason", "candidates": {NAME: {"network", ..., "total"}}}`.
    pub(super) fn args(&self) -> Value {
        let mut candidates = Map::new();
        for one in &self.candidates {
            let mut shown = json!({ "cached_tokens": one.cached_tokens });
            for (name, value) in &one.terms {
                shown[name] = (*value).into();
            }
            if let Some(excluded) = one.excluded {
                shown["excluded"] = json!(excluded);
            }
            candidates.insert(one.replica.clone(), shown);
        }
        json!({ "chosen": self.chosen, "reason": self.reason, "candidates": candidates })
    }
}

/// The terms by name, to the nearest thousandth: all digits would be a third of the file's size.
fn terms(of: &CostTerms) -> BTreeMap<String, f64> {
    let named = [
        ("network", of.network),
        ("prefill", of.prefill),
        ("waiting", of.waiting),
        ("running", of.running),
        ("egress", of.egress),
        ("total", of.total),
    ];
    let finite = named.into_iter().filter(|(_, value)| value.is_finite());
    finite.map(|(name, value)| (name.to_owned(), (value * 1e3).round() / 1e3)).collect()
}
