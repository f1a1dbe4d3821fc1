//! Chooses the replica with the least load.
//!
//! ```text
//! signal = own     tokens: load = W + D             requests: load = requests of this router at the replica
//! signal = engine  tokens: load = running + queued + K + W + D
//!                  requests: load = max(running + queued, requests of this router at it)
//! signal = gauges  tokens: load = running + queued + K
//!                  requests: load = running + queued
//! ```
//!
//! Ties are broken by the least RTT, then at random. With `engine` and `gauges`, candidates that were never scraped are
//! left out; if none remains, one is chosen at random (reason "empty-candidates"). The total is the load. Sources:
//! gotoni's least-loaded; `engine` in tokens is the baseline of the recorded GORGO runs, whose single token counter is
//! released at the end of a request, like W + D.

use super::select::{Signal, Unit, fill, least_of, load, reason, uniform};
use super::settings::Settings;
use super::{Candidate, CostTerms, Policy, RequestInfo, Selection};
use crate::rng::ChaCha8Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Settings of [`LeastLoad`].
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LeastLoadConfig {
    /// Unit of the load.
    pub unit: Unit,
    /// Source of the counters.
    pub signal: Signal,
}

impl Settings for LeastLoadConfig {}

/// The least-load policy; stateless, scores are tokens or requests.
#[derive(Debug, Clone)]
pub struct LeastLoad {
    config: LeastLoadConfig,
}

impl LeastLoad {
    /// Creates the policy with these settings.
    pub fn new(config: &LeastLoadConfig) -> Self {
        Self { config: config.clone() }
    }
}

/// The waiting part, the running (or reported) part and the sum of a load, in `unit`.
pub(super) fn explain(candidate: &Candidate, unit: Unit, signal: Signal) -> CostTerms {
    let (waiting, running) = match unit {
        Unit::Tokens => (candidate.load.waiting_tokens as f64, candidate.load.running_tokens as f64),
        Unit::Requests => (f64::from(candidate.load.waiting_requests), f64::from(candidate.load.running_requests)),
    };
    let total = load(candidate, unit, signal).unwrap_or(waiting + running);
    CostTerms { waiting, running: total - waiting, total, ..CostTerms::default() }
}

impl Policy for LeastLoad {
    fn name(&self) -> &'static str {
        "least-load"
    }

    fn choose(
        &mut self,
        _: &RequestInfo,
        candidates: &[Candidate],
        terms: &mut [CostTerms],
        rng: &mut ChaCha8Rng,
    ) -> Selection {
        let LeastLoadConfig { unit, signal } = self.config;
        fill(candidates, terms, |candidate| explain(candidate, unit, signal));
        match least_of(candidates, rng, |_, c| Some([load(c, unit, signal)?, c.rtt_ms])) {
            Some(chosen) => Selection::own(Some(chosen)),
            None => Selection::fallback(uniform(candidates, rng), reason::EMPTY_CANDIDATES),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::EngineView;
    use crate::policy::select::tests::fleet;
    use crate::rng::stream;

    fn choose(unit: Unit, signal: Signal, candidates: &[Candidate]) -> (Selection, Vec<CostTerms>) {
        let mut terms = vec![CostTerms::default(); candidates.len()];
        let mut policy = LeastLoad::new(&LeastLoadConfig { unit, signal });
        (policy.choose(&RequestInfo::default(), candidates, &mut terms, &mut stream(1, "policy", 0)), terms)
    }

    #[test]
    fn tokens_and_requests_can_disagree_and_round_trips_break_ties() {
        let mut fleet = fleet(3);
        (fleet[0].load.waiting_requests, fleet[0].load.waiting_tokens) = (1, 9000);
        (fleet[1].load.running_requests, fleet[1].load.running_tokens, fleet[1].rtt_ms) = (5, 500, 30.0);
        (fleet[2].load.running_requests, fleet[2].load.running_tokens, fleet[2].rtt_ms) = (6, 500, 20.0);
        assert_eq!(choose(Unit::Tokens, Signal::Own, &fleet).0, Selection::own(Some(2)));
        assert_eq!(choose(Unit::Requests, Signal::Own, &fleet).0, Selection::own(Some(0)));
    }

    #[test]
    fn engine_loads_leave_out_who_never_reported() {
        let mut fleet = fleet(3);
        fleet[1].engine = Some(EngineView { running: 2, queued: 1, used_tokens: 100, ..EngineView::default() });
        fleet[1].load.waiting_tokens = 50;
        fleet[2].engine = Some(EngineView { used_tokens: 150, ..EngineView::default() });
        let (choice, terms) = choose(Unit::Tokens, Signal::Engine, &fleet);
        assert_eq!(choice, Selection::own(Some(2))); // 150 < 2 + 1 + 100 + 50
        assert_eq!((terms[1].waiting, terms[1].running, terms[1].total), (50.0, 103.0, 153.0));
        fleet.truncate(1);
        assert_eq!(choose(Unit::Tokens, Signal::Engine, &fleet).0, Selection::fallback(Some(0), "empty-candidates"));
    }
}
