//! Dynamo KV router: the least cost in KV blocks.
//!
//! ```text
//! b        = block_tokens
//! prefill  = prefill_weight * max(0, (A + S) / b - overlap_weight * floor(C / b))
//!            A = uncached tokens of waiting requests, S = prompt tokens, C = min(cached tokens at the replica, S)
//! waiting  = W / b                                      } blocks in use at the replica
//! running  = D / b + active_weight * requests at it     }
//! total    = prefill + waiting + running
//! ```
//!
//! `temperature = 0`: the least total, exact ties at random. Above 0: candidate u with probability proportional to
//! `exp(-(total - min) / (max - min) / temperature)`, all equal when max = min. Source: the default selector of
//! Dynamo 1.6 (`overlap_credit`, `prefill_load_scale` and `w_active` there; device tier only, no decay). A partial
//! block counts as its fraction.

use super::select::{fill, softmax};
use super::settings::{Settings, weight, within};
use super::{Candidate, CostTerms, Policy, RequestInfo, Selection, least};
use crate::rng::ChaCha8Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Settings of [`KvCost`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct KvCostConfig {
    /// Blocks of prefill saved by one cached block; 0 ignores the cache.
    pub overlap_weight: f64,
    /// Weight of a block to prefill relative to a block in use.
    pub prefill_weight: f64,
    /// Blocks added for each running request besides its own blocks.
    pub active_weight: f64,
    /// Tokens per KV block, at least 1.
    pub block_tokens: u32,
    /// Temperature of the softmax; 0 chooses the least total.
    pub temperature: f64,
}

impl Default for KvCostConfig {
    fn default() -> Self {
        Self { overlap_weight: 1.0, prefill_weight: 1.0, active_weight: 0.0, block_tokens: 16, temperature: 0.0 }
    }
}

impl Settings for KvCostConfig {
    fn check(&self) -> Result<(), String> {
        weight("overlap_weight", self.overlap_weight)?;
        weight("prefill_weight", self.prefill_weight)?;
        weight("active_weight", self.active_weight)?;
        within("block_tokens", f64::from(self.block_tokens), 1.0, 1e9)?;
        weight("temperature", self.temperature)
    }
}

/// The Dynamo KV router policy; stateless, scores are KV blocks.
#[derive(Debug, Clone)]
pub struct KvCost {
    config: KvCostConfig,
}

impl KvCost {
    /// Creates the policy with these settings.
    pub fn new(config: &KvCostConfig) -> Self {
        Self { config: config.clone() }
    }

    fn cost(&self, request: &RequestInfo, candidate: &Candidate) -> CostTerms {
        let block = self.config.block_tokens.max(1);
        let b = f64::from(block);
        let overlap = f64::from(candidate.cached_tokens.min(request.prompt_tokens) / block);
        let blocks = (candidate.load.waiting_uncached_tokens as f64 + f64::from(request.prompt_tokens)) / b;
        let prefill = self.config.prefill_weight * (blocks - self.config.overlap_weight * overlap).max(0.0);
        let waiting = candidate.load.waiting_tokens as f64 / b;
        let running =
            candidate.load.running_tokens as f64 / b + self.config.active_weight * f64::from(candidate.requests());
        CostTerms { prefill, waiting, running, total: prefill + waiting + running, ..CostTerms::default() }
    }
}

impl Policy for KvCost {
    fn name(&self) -> &'static str {
        "kv-cost"
    }

    fn choose(
        &mut self,
        request: &RequestInfo,
        candidates: &[Candidate],
        terms: &mut [CostTerms],
        rng: &mut ChaCha8Rng,
    ) -> Selection {
        fill(candidates, terms, |candidate| self.cost(request, candidate));
        Selection::own(if self.config.temperature > 0.0 {
            softmax(candidates, self.config.temperature, rng, |i, _| Some(terms[i].total))
        } else {
            least(candidates, rng, |i, _| terms[i].total)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::select::tests::fleet;
    use crate::rng::stream;

    /// Totals in blocks for a prompt of 160 tokens: 10 - 9 + 4 = 5, 10, 10 + 5 + 5 = 20.
    fn example() -> (RequestInfo, Vec<Candidate>) {
        let mut fleet = fleet(3);
        (fleet[0].cached_tokens, fleet[0].load.running_tokens) = (159, 64);
        (fleet[2].load.waiting_tokens, fleet[2].load.waiting_uncached_tokens) = (80, 80);
        (RequestInfo { prompt_tokens: 160, ..RequestInfo::default() }, fleet)
    }

    fn counts(temperature: f64) -> ([u32; 3], [CostTerms; 3]) {
        let (request, fleet) = example();
        let mut policy = KvCost::new(&KvCostConfig { temperature, ..KvCostConfig::default() });
        let (mut rng, mut terms, mut counts) = (stream(1, "policy", 0), [CostTerms::default(); 3], [0; 3]);
        for _ in 0..3000 {
            counts[policy.choose(&request, &fleet, &mut terms, &mut rng).chosen.unwrap()] += 1;
        }
        (counts, terms)
    }

    #[test]
    fn temperature_0_is_argmin_of_the_hand_computed_cost() {
        let (counts, terms) = counts(0.0);
        assert_eq!(terms.map(|t| t.total), [5.0, 10.0, 20.0]);
        assert_eq!(counts, [3000, 0, 0]);
    }

    #[test]
    fn temperature_spreads_the_choice_as_the_softmax_says() {
        // exp(0), exp(-1/3), exp(-1) over their sum: 0.479, 0.344, 0.176.
        let (warm, _) = counts(1.0);
        for (count, share) in warm.iter().zip([0.479, 0.344, 0.176]) {
            assert!((f64::from(*count) / 3000.0 - share).abs() < 0.03, "{warm:?}");
        }
        let (cold, _) = counts(1e-300);
        assert_eq!(cold, [3000, 0, 0]);
        let (hot, _) = counts(1e9);
        assert!(hot.iter().all(|count| (900..1100).contains(count)), "{hot:?}");
    }

    #[test]
    fn without_credit_for_overlap_the_cache_does_not_count() {
        let (request, fleet) = example();
        let mut policy = KvCost::new(&KvCostConfig { overlap_weight: 0.0, ..KvCostConfig::default() });
        let mut terms = [CostTerms::default(); 3];
        assert_eq!(policy.choose(&request, &fleet, &mut terms, &mut stream(1, "policy", 0)).chosen, Some(1));
    }
}
