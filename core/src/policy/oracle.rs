//! Oracles of the simulator: policies that know the true outcome at each replica, as a reference for other policies.
//!
//! ```text
//! oracle-ttft: total = TTFT                        as it would be if no request came after this one
//! oracle-sum:  total = TTFT + kappa * harm         harm = sum of the delays of all others at the replica, ms
//! oracle-rollout: total = sum of ln TTFT + ln E2E  of all requests in flight and the next `arrivals`, which `predictive`
//!                                                  routes in a copy of the world; times in ms
//! ```
//!
//! The least total is chosen, exact ties at random. The simulator runs a copy of each engine with and without the
//! request and passes the difference to the policy ([`Truth`]). `oracle-ttft` and `oracle-sum` do not see future
//! arrivals, so they are greedy and no bound: `oracle-ttft` fills the replica with the best cache until all its streams
//! stall. kappa is learned from the run, or fixed. Where no truth is available (a retry, a replica that is down), the
//! learned prediction is used. A live router refuses all three.
//!
//! `oracle-rollout` also sees the next arrivals and includes the effect of a choice on them. It is one step of policy
//! iteration on `predictive` with perfect information: no bound either, since `predictive` makes the choices after it.
//! Requests that have not ended after `horizon_s` count as ended then. Each decision copies the world once for each
//! candidate, so the simulator accepts only small worlds.

use super::select::fill;
use super::settings::{Settings, within};
use super::{Candidate, CostTerms, NoSettings, Policy, RequestInfo, Selection, least};
use crate::rng::ChaCha8Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The true outcome of sending a request to a replica if no request came after it. Times in ms.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Truth {
    /// From now to the first token at this router.
    pub ttft_ms: f64,
    /// Sum over all other requests at the replica of how much later they would end.
    pub harm_ms: f64,
    /// Sum of ln TTFT + ln E2E (ms) over a roll-out; `None` without one.
    pub loss: Option<f64>,
}

/// How far a roll-out looks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RollOut {
    /// Requests that arrive in it, at most.
    pub arrivals: usize,
    /// Its length, s.
    pub horizon_s: f64,
}

fn truth(request: &RequestInfo, candidate: &Candidate) -> Truth {
    candidate.truth.unwrap_or_else(|| Truth { ttft_ms: candidate.predicted_ttft_ms(request), ..Truth::default() })
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
        let Truth { ttft_ms, harm_ms, .. } = truth(request, candidate);
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

/// Settings of [`OracleRollout`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct OracleRolloutConfig {
    /// Arrivals that a roll-out routes after the choice, 0 to 200.
    pub arrivals: u32,
    /// Its length at most, s.
    pub horizon_s: f64,
}

impl Default for OracleRolloutConfig {
    fn default() -> Self {
        Self { arrivals: 20, horizon_s: 60.0 }
    }
}

impl Settings for OracleRolloutConfig {
    fn check(&self) -> Result<(), String> {
        within("arrivals", f64::from(self.arrivals), 0.0, 200.0)?;
        within("horizon_s", self.horizon_s, 0.1, 3_600.0)
    }
}

/// Score of a candidate that was not rolled out, behind all that were.
const NOT_ROLLED_OUT: f64 = 1e9;

/// The policy `oracle-rollout`; stateless, scores are sums of logarithms.
#[derive(Debug, Clone)]
pub struct OracleRollout {
    config: OracleRolloutConfig,
}

impl OracleRollout {
    /// Creates the policy with these settings.
    pub fn new(config: &OracleRolloutConfig) -> Self {
        Self { config: config.clone() }
    }
}

impl Policy for OracleRollout {
    fn name(&self) -> &'static str {
        "oracle-rollout"
    }

    fn needs_truth(&self) -> bool {
        true
    }

    fn rolls_out(&self) -> Option<RollOut> {
        Some(RollOut { arrivals: self.config.arrivals as usize, horizon_s: self.config.horizon_s })
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
        let loss = |candidate: &Candidate| candidate.truth.and_then(|truth| truth.loss);
        if !candidates.iter().any(|candidate| candidate.excluded.is_none() && loss(candidate).is_some()) {
            return choose_by_truth(request, candidates, terms, rng, |_| 0.0);
        }
        fill(candidates, terms, |candidate| {
            let total = loss(candidate).unwrap_or(NOT_ROLLED_OUT);
            CostTerms { prefill: truth(request, candidate).ttft_ms, total, ..CostTerms::default() }
        });
        Selection::own(least(candidates, rng, |i, _| terms[i].total))
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
        fleet[0].truth = Some(Truth { ttft_ms: 100.0, harm_ms: 2_000.0, loss: None });
        fleet[1].truth = Some(Truth { ttft_ms: 150.0, harm_ms: 0.0, loss: None });
        assert_eq!(choose(&mut OracleTtft, &fleet), Some(0));
        let sum = |kappa| OracleSum::new(&OracleSumConfig { kappa: Some(kappa) });
        assert_eq!(choose(&mut sum(0.1), &fleet), Some(1));
        assert_eq!(choose(&mut sum(0.01), &fleet), Some(0));
    }

    #[test]
    fn the_roll_out_decides_where_there_is_one_and_the_own_time_elsewhere() {
        let mut fleet = fleet(3);
        let mut policy = OracleRollout::new(&OracleRolloutConfig::default());
        for (i, (ttft_ms, loss)) in [(100.0, Some(60.0)), (150.0, Some(59.0)), (10.0, None)].into_iter().enumerate() {
            fleet[i].truth = Some(Truth { ttft_ms, harm_ms: 0.0, loss });
        }
        assert_eq!(choose(&mut policy, &fleet), Some(1));
        fleet.iter_mut().for_each(|candidate| candidate.truth.as_mut().unwrap().loss = None);
        assert_eq!(choose(&mut policy, &fleet), Some(2));
    }
}
