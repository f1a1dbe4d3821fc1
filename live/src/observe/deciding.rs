//! Why a replica was chosen: the runner-up, the term that made the difference, and the regret of the choice.

use gorgo_core::router::{DecisionRecord, ScoredCandidate};
use serde::Serialize;

/// What decided for the chosen replica of a decision.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub(crate) struct Deciding<'a> {
    /// The candidate that had the least total besides the chosen one.
    pub(crate) runner_up: Option<&'a str>,
    /// The term in which the chosen replica was ahead most; `None` if its total was not the least, or the policy has no
    /// terms.
    pub(crate) deciding_term: Option<&'static str>,
    /// By how much, in the unit of the policy's cost.
    pub(crate) ahead_by: Option<f64>,
    /// Expected time to first token at the chosen replica beyond the least of any candidate, ms, by the rates that the
    /// router has learned: what the policy gave up, whatever its own cost is.
    pub(crate) regret_ms: Option<f64>,
    /// The replica with the least expected time to first token.
    pub(crate) fastest: Option<&'a str>,
}

impl<'a> Deciding<'a> {
    /// What decided in `record`.
    pub(crate) fn of(record: &'a DecisionRecord) -> Self {
        let Some((at, chosen)) = record.chosen.and_then(|i| Some((i, record.candidates.get(i)?))) else {
            return Self::default();
        };
        let open = |&(i, one): &(usize, &ScoredCandidate)| i == at || one.candidate.excluded.is_none();
        let candidates = || record.candidates.iter().enumerate().filter(open);
        let expected = |one: &ScoredCandidate| one.candidate.predicted_ttft_ms(&record.info);
        let fastest = candidates().min_by(|(_, a), (_, b)| expected(a).total_cmp(&expected(b))).map(|(_, one)| one);
        let others = candidates().filter(|&(i, _)| i != at).map(|(_, one)| one);
        let runner_up = others.min_by(|a, b| a.terms.total.total_cmp(&b.terms.total));
        let lead = runner_up.filter(|other| chosen.terms.total <= other.terms.total).and_then(|other| {
            let (own, other) = (terms(chosen), terms(other));
            let leads = own.iter().zip(other).map(|((name, own), (_, other))| (*name, other - own));
            leads.filter(|(_, lead)| *lead > 0.0).max_by(|a, b| a.1.total_cmp(&b.1))
        });
        let name = |one: &ScoredCandidate| record.name(one.candidate.id);
        Self {
            runner_up: runner_up.map(name),
            deciding_term: lead.map(|(name, _)| name),
            ahead_by: lead.map(|(_, ahead)| ahead),
            regret_ms: fastest.map(|fastest| (expected(chosen) - expected(fastest)).max(0.0)),
            fastest: fastest.map(name),
        }
    }
}

/// The terms of a cost, by name.
fn terms(one: &ScoredCandidate) -> [(&'static str, f64); 5] {
    let t = &one.terms;
    [
        ("network", t.network),
        ("prefill", t.prefill),
        ("waiting", t.waiting),
        ("running", t.running),
        ("egress", t.egress),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use gorgo_core::decide::ReplicaState;
    use gorgo_core::policy::{CostTerms, Exclusion, RequestInfo};
    use gorgo_core::{ReplicaId, RequestId, Time};
    use std::sync::Arc;

    /// Candidates `a`, `b` ... with (RTT, network term, prefill term); 100 prompt tokens.
    fn record(chosen: Option<usize>, rows: &[(f64, f64, f64)]) -> DecisionRecord {
        let candidate = |(i, &(rtt_ms, network, prefill)): (usize, &(f64, f64, f64))| ScoredCandidate {
            candidate: ReplicaState { rtt_ms, ..ReplicaState::default() }.candidate(ReplicaId(i as u16)),
            terms: CostTerms { network, prefill, total: network + prefill, ..CostTerms::default() },
            rtt_age_ms: None,
        };
        DecisionRecord {
            id: RequestId(1),
            at: Time::ZERO,
            info: RequestInfo { prompt_tokens: 100, ..RequestInfo::default() },
            fence: None,
            policy: "gorgo",
            chosen,
            reason: None,
            own: chosen,
            odds: 1.0,
            names: ["a", "b", "c"].map(Arc::from).into(),
            candidates: rows.iter().enumerate().map(candidate).collect(),
        }
    }

    #[test]
    fn the_term_with_the_largest_lead_over_the_next_best_decides() {
        let record = record(Some(0), &[(50.0, 50.0, 1.0), (10.0, 10.0, 80.0), (20.0, 90.0, 90.0)]);
        let deciding = Deciding::of(&record);
        assert_eq!(
            (deciding.runner_up, deciding.deciding_term, deciding.ahead_by),
            (Some("b"), Some("prefill"), Some(79.0))
        );
        // The learned rates see the same load everywhere, so the nearest is the fastest by 40 ms.
        assert_eq!((deciding.fastest, deciding.regret_ms.map(f64::round)), (Some("b"), Some(40.0)));
    }

    #[test]
    fn a_choice_against_the_totals_a_lone_candidate_and_no_choice_have_no_deciding_term() {
        let against = record(Some(0), &[(50.0, 50.0, 1.0), (10.0, 10.0, 1.0)]);
        assert_eq!((Deciding::of(&against).runner_up, Deciding::of(&against).deciding_term), (Some("b"), None));
        let mut lone = record(Some(0), &[(50.0, 50.0, 1.0), (10.0, 10.0, 80.0)]);
        lone.candidates[1].candidate.excluded = Some(Exclusion::Full);
        let deciding = Deciding::of(&lone);
        assert_eq!((deciding.runner_up, deciding.deciding_term, deciding.regret_ms), (None, None, Some(0.0)));
        assert_eq!(Deciding::of(&record(None, &[(1.0, 1.0, 1.0)])), Deciding::default());
        let without_terms = record(Some(0), &[(1.0, 0.0, 0.0), (1.0, 0.0, 0.0)]);
        assert_eq!(Deciding::of(&without_terms).deciding_term, None);
    }
}
