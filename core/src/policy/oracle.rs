//! Oracles of the simulator: they know what would happen at each replica, and bound what a router can reach.
//!
//! ```text
//! oracle-ttft: total = TTFT                        as it would be if no request came after this one
//! oracle-sum:  total = TTFT + kappa * harm         harm = sum of the delays of all others at the replica, ms
//! ```
//!
//! The least total is chosen, exact ties at random. The simulator runs a copy of each engine with and without the
//! request and hands over the difference ([`Truth`]); future arrivals stay hidden, so an oracle is greedy and no bound:
//! `oracle-ttft` fills the best cache until all its streams stall. kappa is learned from the run, or fixed. Without a
//! truth (a retry, a replica that is down) the learned prediction stands in. A live router refuses both.

use super::select::fill;
use super::settings::{Settings, within};
use super::{Candidate, CostTerms, NoSettings, Policy, RequestInfo, Selection, least};
use crate::rng::ChaCha8Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What sending a request to a replica would really do, if no request came after it. Times in ms.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Truth {
    /// From now to the first token at this router.
    pub ttft_ms: f64,
    /// Sum over all other requests at the replica of how much later they would end.
    pub harm_ms: f64,
}

fn truth(request: &RequestInfo, candidate: &Candidate) -> Truth {
    candidate.truth.unwrap_or_else(|| Truth { ttft_ms: candidate.predicted_ttft_ms(request), harm_ms: 0.0 })
}

/// Chooses the least TTFT plus `price` (ms for each ms of harm); exact ties at random.
fn choose_by_truth(
    request: &RequestInfo,
    candidates: &[Candidate],
    terms: &mut [CostTerms],
    rng: &mut ChaCha8Rng,
    price: impl Fn(&Candidate) -> f64,
) -> Selection {
    fill(candidates, terms, |candidate| {
        let Truth { ttft_ms, harm_ms } = truth(request, candidate);
        let running = price(candidate) * harm_ms;
        CostTerms { prefill: ttft_ms, running, total: ttft_ms + running, ..CostTerms::default() }
    });
    Selection::own(least(candidates, rng, |i, _| terms[i].total))
}

/// The policy `oracle-ttft`; stateless, scores are ms.
#[derive(Debug, Clone)]
pub struct OracleTtft;

impl OracleTtft {
    /// Creates the policy; it has no settings.
    pub fn new(_: &NoSettings) -> Self {
        Self
    }
}

impl Policy for OracleTtft {
    fn name(&self) -> &'static str {
        "oracle-ttft"
    }

    fn needs_truth(&self) -> bool {
        true
    }

    fn predict_ttft(&self, _: &RequestInfo, _: &Candidate, terms: &CostTerms) -> Option<f64> {
        Some(terms.total)
    }

    fn choose(
        &mut self,
        request: &RequestInfo,
        candidates: &[Candidate],
        terms: &mut [CostTerms],
        rng: &mut ChaCha8Rng,
    ) -> Selection {
        choose_by_truth(request, candidates, terms, rng, |_| 0.0)
    }
}

/// Settings of [`OracleSum`].
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct OracleSumConfig {
    /// Price of a millisecond of another request; learned when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kappa: Option<f64>,
}

impl Settings for OracleSumConfig {
    fn check(&self) -> Result<(), String> {
        self.kappa.map_or(Ok(()), |kappa| within("kappa", kappa, 0.0, 100.0))
    }
}

/// The policy `oracle-sum`; stateless, scores are ms.
#[derive(Debug, Clone)]
pub struct OracleSum {
    config: OracleSumConfig,
}

impl OracleSum {
    /// Creates the policy with these settings.
    pub fn new(config: &OracleSumConfig) -> Self {
        Self { config: config.clone() }
    }
}

impl Policy for OracleSum {
    fn name(&self) -> &'static str {
        "oracle-sum"
    }

    fn needs_truth(&self) -> bool {
        true
    }

    fn predict_ttft(&self, _: &RequestInfo, _: &Candidate, terms: &CostTerms) -> Option<f64> {
        Some(terms.prefill)
    }

    fn choose(
        &mut self,
        request: &RequestInfo,
        candidates: &[Candidate],
        terms: &mut [CostTerms],
        rng: &mut ChaCha8Rng,
    ) -> Selection {
        let price = |candidate: &Candidate| self.config.kappa.unwrap_or(candidate.learned.kappa);
        choose_by_truth(request, candidates, terms, rng, price)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::select::tests::fleet;
    use crate::rng::stream;

    fn choose(policy: &mut dyn Policy, fleet: &[Candidate]) -> Option<usize> {
        let mut terms = vec![CostTerms::default(); fleet.len()];
        policy.choose(&RequestInfo::default(), fleet, &mut terms, &mut stream(1, "policy", 0)).chosen
    }

    #[test]
    fn one_oracle_counts_the_harm_and_the_other_does_not() {
        let mut fleet = fleet(2);
        fleet[0].truth = Some(Truth { ttft_ms: 100.0, harm_ms: 2_000.0 });
        fleet[1].truth = Some(Truth { ttft_ms: 150.0, harm_ms: 0.0 });
        assert_eq!(choose(&mut OracleTtft, &fleet), Some(0));
        let sum = |kappa| OracleSum::new(&OracleSumConfig { kappa: Some(kappa) });
        assert_eq!(choose(&mut sum(0.1), &fleet), Some(1));
        assert_eq!(choose(&mut sum(0.01), &fleet), Some(0));
    }
}
