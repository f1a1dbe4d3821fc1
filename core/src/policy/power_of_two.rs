//! Power of two choices: draws two distinct candidates at random and chooses the less loaded one, the first on a tie.
//!
//! ```text
//! signal = own     total = W + D (unit = tokens) or requests of this router at the replica (unit = requests)
//! signal = engine  total = K + W + D, or max(running + queued, requests of this router at it)
//! ```
//!
//! A single candidate is chosen. With `engine`, candidates that were never scraped are left out; if none remains, one
//! is chosen at random (reason "empty-candidates"). Source: Mitzenmacher, "The power of two choices in randomized load
//! balancing", 2001; `engine` in tokens is the GORGO repository's variant.

use super::select::{Signal, Unit, eligible, load, reason, totals, two_of, uniform};
use super::settings::Settings;
use super::{Candidate, CostTerms, Policy, RequestInfo, Selection};
use crate::rng::ChaCha8Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Settings of [`PowerOfTwo`].
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PowerOfTwoConfig {
    /// Unit of the load.
    pub unit: Unit,
    /// Source of the counters.
    pub signal: Signal,
}

impl Settings for PowerOfTwoConfig {}

/// The power-of-two-choices policy; stateless, scores are tokens or requests.
#[derive(Debug, Clone)]
pub struct PowerOfTwo {
    config: PowerOfTwoConfig,
}

impl PowerOfTwo {
    /// Creates the policy with these settings.
    pub fn new(config: &PowerOfTwoConfig) -> Self {
        Self { config: config.clone() }
    }

    fn load(&self, candidate: &Candidate) -> Option<f64> {
        match (self.config.signal, self.config.unit) {
            (Signal::Engine, Unit::Tokens) => Some(candidate.engine?.used_tokens as f64 + candidate.tokens() as f64),
            (signal, unit) => load(candidate, unit, signal),
        }
    }
}

impl Policy for PowerOfTwo {
    fn name(&self) -> &'static str {
        "power-of-two"
    }

    fn choose(
        &mut self,
        _: &RequestInfo,
        candidates: &[Candidate],
        terms: &mut [CostTerms],
        rng: &mut ChaCha8Rng,
    ) -> Selection {
        totals(candidates, terms, |candidate| self.load(candidate).unwrap_or(0.0));
        let mut known = eligible(candidates).filter_map(|(i, candidate)| Some((i, self.load(candidate)?)));
        match known.clone().count() {
            0 => Selection::fallback(uniform(candidates, rng), reason::EMPTY_CANDIDATES),
            1 => Selection::own(known.next().map(|(i, _)| i)),
            count => {
                let (first, second) = two_of(count, rng);
                let pair = known.clone().nth(first).zip(known.nth(second));
                Selection::own(pair.map(|((i, a), (j, b))| if b < a { j } else { i }))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::EngineView;
    use crate::policy::select::tests::fleet;
    use crate::rng::stream;

    #[test]
    fn the_worst_of_all_is_never_chosen_and_the_better_of_two_always() {
        let mut fleet = fleet(3);
        for (candidate, tokens) in fleet.iter_mut().zip([10, 30, 20]) {
            candidate.load.waiting_tokens = tokens;
        }
        let (mut rng, mut terms) = (stream(1, "policy", 0), [CostTerms::default(); 3]);
        let mut policy = PowerOfTwo::new(&PowerOfTwoConfig::default());
        let mut counts = [0u32; 3];
        for _ in 0..3000 {
            counts[policy.choose(&RequestInfo::default(), &fleet, &mut terms, &mut rng).chosen.unwrap()] += 1;
        }
        // The least loaded is in two of the three pairs and wins both.
        assert!(counts[1] == 0 && (1900..2100).contains(&counts[0]), "{counts:?}");
    }

    #[test]
    fn engine_loads_need_a_report() {
        let mut fleet = fleet(2);
        let (mut rng, mut terms) = (stream(1, "policy", 0), [CostTerms::default(); 2]);
        let config = PowerOfTwoConfig { signal: Signal::Engine, ..PowerOfTwoConfig::default() };
        let mut policy = PowerOfTwo::new(&config);
        let choice = policy.choose(&RequestInfo::default(), &fleet, &mut terms, &mut rng);
        assert_eq!(choice.reason, Some("empty-candidates"));
        fleet[1].engine = Some(EngineView { used_tokens: 70, running: 9, ..EngineView::default() });
        fleet[1].load.running_tokens = 7;
        assert_eq!(policy.choose(&RequestInfo::default(), &fleet, &mut terms, &mut rng), Selection::own(Some(1)));
        assert_eq!(terms[1].total, 77.0);
    }
}
