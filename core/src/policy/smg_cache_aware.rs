//! SMG 1.13 `cache_aware`: prefix affinity unless the holder is far busier than the mean, otherwise the least expected
//! wait.
//!
//! ```text
//! q(u)   = requests at replica u,  mean over eligible replicas
//! match  = cached tokens / prompt tokens;  a replica is matched when match > cache_threshold
//! spills = q > mean + min(balance_abs, 2 sqrt(mean)) and q > balance_rel * mean
//! score  = cached tokens / (1 + overlap_decay * x)             x = waiting uncached tokens / prompt tokens
//! chosen = the greatest score among matched replicas that do not spill (softmax with `temperature` above 0)
//! none   -> the least score of `least-load-seconds`            reasons "no-prefix" and "imbalance"
//! ```
//!
//! The softmax is over scores scaled to 0..1. Ties by the least q, the least RTT, then at random. Source: command line
//! and `cache_aware.rs` of SMG 1.13 (smg-project/smg). Left out: KV-usage triggers, which are off by default, warm-up
//! and stall detectors, for which this router has slow start and breakers. The total is `prompt tokens - score` for
//! matched replicas and `prompt tokens` for others.

use super::least_load_seconds::LeastLoadSecondsConfig;
use super::select::{eligible, least_of, reason, softmax, totals};
use super::settings::{Settings, weight, within};
use super::{Candidate, CostTerms, Policy, RequestInfo, Selection};
use crate::rng::ChaCha8Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Settings of [`SmgCacheAware`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SmgCacheAwareConfig {
    /// Share of the prompt, 0 to 1, that a match must exceed.
    pub cache_threshold: f64,
    /// Requests above the mean at which a holder may spill; at most twice the root of the mean counts.
    pub balance_abs: f64,
    /// Ratio to the mean at which a holder may spill.
    pub balance_rel: f64,
    /// Discount of a match for each prompt length of prefill that waits there.
    pub overlap_decay: f64,
    /// Temperature of the softmax; 0 chooses the greatest score.
    pub temperature: f64,
}

impl Default for SmgCacheAwareConfig {
    fn default() -> Self {
        Self { cache_threshold: 0.3, balance_abs: 64.0, balance_rel: 1.5, overlap_decay: 0.0, temperature: 0.0 }
    }
}

impl Settings for SmgCacheAwareConfig {
    fn check(&self) -> Result<(), String> {
        within("cache_threshold", self.cache_threshold, 0.0, 1.0)?;
        weight("balance_abs", self.balance_abs)?;
        weight("balance_rel", self.balance_rel)?;
        weight("overlap_decay", self.overlap_decay)?;
        weight("temperature", self.temperature)
    }
}

/// The policy `smg-cache-aware`; stateless, scores are tokens.
#[derive(Debug, Clone)]
pub struct SmgCacheAware {
    config: SmgCacheAwareConfig,
    waits: LeastLoadSecondsConfig,
}

impl SmgCacheAware {
    /// Creates the policy with these settings.
    pub fn new(config: &SmgCacheAwareConfig) -> Self {
        Self { config: config.clone(), waits: LeastLoadSecondsConfig::default() }
    }

    /// Tokens of the match, discounted for the prefill that waits; `None` below the threshold.
    fn score(&self, request: &RequestInfo, candidate: &Candidate) -> Option<f64> {
        let prompt = f64::from(request.prompt_tokens);
        let cached = f64::from(candidate.cached_tokens.min(request.prompt_tokens));
        let x = candidate.load.waiting_uncached_tokens as f64 / prompt.max(1.0);
        (cached > self.config.cache_threshold * prompt).then(|| cached / (1.0 + self.config.overlap_decay * x))
    }
}

impl Policy for SmgCacheAware {
    fn name(&self) -> &'static str {
        "smg-cache-aware"
    }

    fn choose(
        &mut self,
        request: &RequestInfo,
        candidates: &[Candidate],
        terms: &mut [CostTerms],
        rng: &mut ChaCha8Rng,
    ) -> Selection {
        let prompt = f64::from(request.prompt_tokens);
        totals(candidates, terms, |candidate| prompt - self.score(request, candidate).unwrap_or(0.0));
        let (count, sum) =
            eligible(candidates).fold((0.0, 0.0), |(n, sum), (_, c)| (n + 1.0, sum + f64::from(c.requests())));
        let mean: f64 = if count > 0.0 { sum / count } else { 0.0 };
        let spills = |candidate: &Candidate| {
            let q = f64::from(candidate.requests());
            q > mean + self.config.balance_abs.min(2.0 * mean.sqrt()) && q > self.config.balance_rel * mean
        };
        let matched = |candidate: &Candidate| self.score(request, candidate).is_some();
        let stays = |candidate: &Candidate| matched(candidate) && !spills(candidate);
        let chosen = if self.config.temperature > 0.0 {
            softmax(candidates, self.config.temperature, rng, |i, c| stays(c).then_some(terms[i].total))
        } else {
            least_of(candidates, rng, |i, c| stays(c).then_some([terms[i].total, f64::from(c.requests()), c.rtt_ms]))
        };
        if chosen.is_some() {
            return Selection::own(chosen);
        }
        let any = eligible(candidates).any(|(_, candidate)| matched(candidate));
        let chosen =
            least_of(candidates, rng, |_, candidate| Some([self.waits.seconds(candidate).total, candidate.rtt_ms]));
        Selection::fallback(chosen, if any { reason::IMBALANCE } else { reason::NO_PREFIX })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::select::tests::fleet;
    use crate::rng::stream;

    fn choose(config: &SmgCacheAwareConfig, fleet: &[Candidate]) -> Selection {
        let mut terms = vec![CostTerms::default(); fleet.len()];
        let request = RequestInfo { prompt_tokens: 1_000, ..RequestInfo::default() };
        SmgCacheAware::new(config).choose(&request, fleet, &mut terms, &mut stream(1, "policy", 0))
    }

    #[test]
    fn a_holder_spills_only_beyond_two_deviations_and_the_ratio() {
        let mut fleet = fleet(2);
        fleet[0].cached_tokens = 900;
        let config = SmgCacheAwareConfig::default();
        for (holder, other, stays) in [(4, 0, true), (9, 1, true), (30, 2, false), (30, 20, true), (220, 150, true)] {
            (fleet[0].load.running_requests, fleet[1].load.running_requests) = (holder, other);
            (fleet[0].load.waiting_tokens, fleet[1].load.waiting_tokens) = (9_000, 0);
            let expected = if stays { Selection::own(Some(0)) } else { Selection::fallback(Some(1), "imbalance") };
            assert_eq!(choose(&config, &fleet), expected, "{holder} against {other}");
        }
    }

    #[test]
    fn waiting_prefill_discounts_a_match() {
        let mut fleet = fleet(2);
        (fleet[0].cached_tokens, fleet[1].cached_tokens) = (900, 600);
        fleet[0].load.waiting_uncached_tokens = 1_000;
        assert_eq!(choose(&SmgCacheAwareConfig::default(), &fleet).chosen, Some(0));
        let decayed = SmgCacheAwareConfig { overlap_decay: 1.0, ..SmgCacheAwareConfig::default() };
        assert_eq!(choose(&decayed, &fleet).chosen, Some(1), "900 / 2 < 600");
    }

    #[test]
    fn without_a_match_the_least_expected_wait_wins() {
        let mut fleet = fleet(3);
        for (candidate, tokens) in fleet.iter_mut().zip([50, 20, 90]) {
            candidate.load.waiting_tokens = tokens;
        }
        assert_eq!(choose(&SmgCacheAwareConfig::default(), &fleet), Selection::fallback(Some(1), "no-prefix"));
    }
}
