//! Chooses the replica with the least expected time to first token plus the harm done to other requests.
//!
//! ```text
//! network = RTT * trips + offset                        trips as in `gorgo` with network = "rounds"
//! t_own   = f + p U                                     f = d(1): one reading of the weights; U = uncached tokens
//! prefill = t_own
//! waiting = p W + f w, or 2 d(n) if no request waits and n > 0      W, w = waiting uncached tokens and requests
//! running = kappa n (t_own + L (d(n+1) - d(n)))         running decodes wait for this prefill, then step more slowly
//! total   = network + prefill + waiting + running + egress          egress: price of the data between regions, ms
//! d(n)    = d0 + d1 (n - 1);  L = mean output tokens;  kappa = 1.25 mean TTFT / mean E2E, within 0.015 and 0.3
//! ```
//!
//! The least total is chosen; exact ties are broken at random. All rates are learned by the router from its own
//! requests ([`crate::fleet::Learned`]); the settings here fix one or scale its effect. An argmin of the own TTFT alone
//! is a bad router even with exact rates: it fills the replica with the best cache until all its streams stall.

use super::select::fill;
use super::settings::{Settings, weight, within};
use super::{Candidate, CostTerms, Policy, RequestInfo, Selection, least};
use crate::rng::ChaCha8Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Settings of [`Predictive`].
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PredictiveConfig {
    /// Price of a millisecond of another request; learned when absent, 0 ignores others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kappa: Option<f64>,
    /// Prefill, ms per token; learned when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ms_per_token: Option<f64>,
    /// Tokens of an answer; learned when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_tokens: Option<f64>,
}

impl Settings for PredictiveConfig {
    fn check(&self) -> Result<(), String> {
        self.kappa.map_or(Ok(()), |kappa| within("kappa", kappa, 0.0, 100.0))?;
        self.ms_per_token.map_or(Ok(()), |ms| weight("ms_per_token", ms))?;
        self.output_tokens.map_or(Ok(()), |tokens| weight("output_tokens", tokens))
    }
}

/// The predictive policy; stateless, scores are ms.
#[derive(Debug, Clone)]
pub struct Predictive {
    config: PredictiveConfig,
}

impl Predictive {
    /// Creates the policy with these settings.
    pub fn new(config: &PredictiveConfig) -> Self {
        Self { config: config.clone() }
    }

    fn cost(&self, request: &RequestInfo, candidate: &Candidate) -> CostTerms {
        let learned = &candidate.learned;
        let load = &candidate.load;
        let p = self.config.ms_per_token.unwrap_or(learned.ms_per_token);
        let n = f64::from(load.running_requests);
        let step = |n: f64| learned.step_ms + learned.step_ms_per_running * (n - 1.0).max(0.0);
        let f = step(1.0);
        let network = candidate.rtt_ms * candidate.path.trips() + learned.offset_ms;
        let prefill = f + p * f64::from(candidate.uncached(request.prompt_tokens));
        let waiting = if load.waiting_requests == 0 && n > 0.0 {
            2.0 * step(n)
        } else {
            p * load.waiting_uncached_tokens as f64 + f * f64::from(load.waiting_requests)
        };
        let kappa = self.config.kappa.unwrap_or(learned.kappa);
        let outputs = self.config.output_tokens.unwrap_or(learned.output_tokens);
        let running = kappa * n * (prefill + outputs * (step(n + 1.0) - step(n)));
        let egress = candidate.egress_ms;
        CostTerms { network, prefill, waiting, running, egress, total: network + prefill + waiting + running + egress }
    }
}

impl Policy for Predictive {
    fn name(&self) -> &'static str {
        "predictive"
    }

    fn predict_ttft(&self, request: &RequestInfo, candidate: &Candidate, _: &CostTerms) -> Option<f64> {
        Some(candidate.predicted_ttft_ms(request))
    }

    fn choose(
        &mut self,
        request: &RequestInfo,
        candidates: &[Candidate],
        terms: &mut [CostTerms],
        rng: &mut ChaCha8Rng,
    ) -> Selection {
        fill(candidates, terms, |candidate| self.cost(request, candidate));
        Selection::own(least(candidates, rng, |i, _| terms[i].total))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::select::tests::fleet;
    use crate::rng::stream;

    fn choose(config: &PredictiveConfig, tokens: u32, fleet: &[Candidate]) -> (Selection, Vec<CostTerms>) {
        let mut terms = vec![CostTerms::default(); fleet.len()];
        let request = RequestInfo { prompt_tokens: tokens, ..RequestInfo::default() };
        let choice = Predictive::new(config).choose(&request, fleet, &mut terms, &mut stream(1, "policy", 0));
        (choice, terms)
    }

    #[test]
    fn harm_to_running_requests_sends_a_long_prompt_to_the_idle_replica() {
        let mut fleet = fleet(2);
        fleet[0].load.running_requests = 16;
        fleet[1].rtt_ms = 120.0;
        let selfish = PredictiveConfig { kappa: Some(0.0), ..PredictiveConfig::default() };
        assert_eq!(choose(&selfish, 4_000, &fleet).0.chosen, Some(0));
        let (choice, terms) = choose(&PredictiveConfig::default(), 4_000, &fleet);
        assert_eq!(choice.chosen, Some(1), "{terms:?}");
        assert!(terms[0].running > terms[1].network && terms[1].running == 0.0, "{terms:?}");
    }

    #[test]
    fn the_cache_wins_where_it_saves_more_than_it_harms() {
        let mut fleet = fleet(2);
        (fleet[0].cached_tokens, fleet[0].load.running_requests) = (8_000, 4);
        assert_eq!(choose(&PredictiveConfig::default(), 8_200, &fleet).0.chosen, Some(0));
    }

    #[test]
    fn the_prediction_is_the_learned_one_and_not_the_total() {
        let mut fleet = fleet(1);
        (fleet[0].rtt_ms, fleet[0].load.running_requests) = (100.0, 3);
        fleet[0].path.rounds = 3.0;
        let request = RequestInfo { prompt_tokens: 1_000, ..RequestInfo::default() };
        let policy = Predictive::new(&PredictiveConfig::default());
        let predicted = policy.predict_ttft(&request, &fleet[0], &CostTerms::default()).unwrap();
        assert!((predicted - (300.0 + 10.0 + 60.0 + 27.0)).abs() < 1e-9, "{predicted}");
    }
}
