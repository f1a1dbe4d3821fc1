//! SGLang router `cache_aware`: prefix affinity while loads are balanced, otherwise the shortest queue.
//!
//! ```text
//! q(u) = requests of this router at replica u, waiting or running
//! max q - min q > balance_abs and max q > balance_rel * min q      -> least q   (reason "imbalance")
//! C = greatest cached tokens; C / prompt tokens > cache_threshold  -> a candidate with C cached tokens, of least q
//! else                                                             -> least q   (reason "no-prefix")
//! ```
//!
//! Ties at random. The total is q. Source: `cache_aware.rs` of sglang-router 0.3.2, with its command line's
//! defaults. Differences: it measures in characters, breaks ties by dispatched requests, and sends requests of a
//! removed owner to the first worker, which makes a hot spot; here an excluded owner is ignored.

use super::select::{eligible, fill, least_of, reason};
use super::settings::{Settings, weight, within};
use super::{Candidate, CostTerms, Policy, RequestInfo, Selection};
use crate::rng::ChaCha8Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Settings of [`CacheAware`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CacheAwareConfig {
    /// Share of the prompt, 0 to 1, that a match must exceed.
    pub cache_threshold: f64,
    /// Difference in requests above which loads may be uneven.
    pub balance_abs: u32,
    /// Ratio of most to fewest requests above which loads may be uneven.
    pub balance_rel: f64,
}

impl Default for CacheAwareConfig {
    fn default() -> Self {
        Self { cache_threshold: 0.3, balance_abs: 64, balance_rel: 1.5 }
    }
}

impl Settings for CacheAwareConfig {
    fn check(&self) -> Result<(), String> {
        within("cache_threshold", self.cache_threshold, 0.0, 1.0)?;
        weight("balance_rel", self.balance_rel)
    }
}

/// The SGLang router `cache_aware` policy; stateless, scores are requests per replica.
#[derive(Debug, Clone)]
pub struct CacheAware {
    config: CacheAwareConfig,
}

impl CacheAware {
    /// Creates the policy with these settings.
    pub fn new(config: &CacheAwareConfig) -> Self {
        Self { config: config.clone() }
    }

    fn uneven(&self, candidates: &[Candidate]) -> bool {
        let q = eligible(candidates).map(|(_, candidate)| candidate.requests());
        let (most, fewest) = (q.clone().max().unwrap_or(0), q.min().unwrap_or(0));
        most - fewest > self.config.balance_abs && f64::from(most) > self.config.balance_rel * f64::from(fewest)
    }
}

impl Policy for CacheAware {
    fn name(&self) -> &'static str {
        "cache-aware"
    }

    fn choose(
        &mut self,
        request: &RequestInfo,
        candidates: &[Candidate],
        terms: &mut [CostTerms],
        rng: &mut ChaCha8Rng,
    ) -> Selection {
        fill(candidates, terms, |candidate| CostTerms {
            prefill: f64::from(candidate.uncached(request.prompt_tokens)),
            waiting: f64::from(candidate.load.waiting_requests),
            running: f64::from(candidate.load.running_requests),
            total: f64::from(candidate.requests()),
            ..CostTerms::default()
        });
        let cached = |candidate: &Candidate| candidate.cached_tokens.min(request.prompt_tokens);
        let best = eligible(candidates).map(|(_, candidate)| cached(candidate)).max().unwrap_or(0);
        let fallback = if self.uneven(candidates) {
            Some(reason::IMBALANCE)
        } else if f64::from(best) > self.config.cache_threshold * f64::from(request.prompt_tokens) {
            None
        } else {
            Some(reason::NO_PREFIX)
        };
        let chosen = least_of(candidates, rng, |_, candidate| {
            (fallback.is_some() || cached(candidate) == best).then_some([f64::from(candidate.requests())])
        });
        Selection { chosen, reason: fallback }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Exclusion;
    use crate::policy::select::tests::fleet;
    use crate::rng::stream;

    fn choose(prompt_tokens: u32, fleet: &[Candidate]) -> Selection {
        let mut terms = vec![CostTerms::default(); fleet.len()];
        let request = RequestInfo { prompt_tokens, ..RequestInfo::default() };
        CacheAware::new(&CacheAwareConfig::default()).choose(&request, fleet, &mut terms, &mut stream(1, "policy", 0))
    }

    #[test]
    fn a_match_must_exceed_three_tenths_of_the_prompt() {
        let mut fleet = fleet(2);
        (fleet[0].cached_tokens, fleet[0].load.running_requests) = (301, 5);
        assert_eq!(choose(1000, &fleet), Selection::own(Some(0)));
        fleet[0].cached_tokens = 300;
        assert_eq!(choose(1000, &fleet), Selection::fallback(Some(1), "no-prefix"));
        assert_eq!(choose(0, &fleet), Selection::fallback(Some(1), "no-prefix"));
    }

    #[test]
    fn the_gate_needs_both_the_difference_and_the_ratio() {
        let mut fleet = fleet(2);
        fleet[0].cached_tokens = 1000;
        for (holder, other, uneven) in [(65, 0, true), (64, 0, false), (195, 130, false), (196, 130, true)] {
            (fleet[0].load.running_requests, fleet[1].load.waiting_requests) = (holder, other);
            let expected = if uneven { Selection::fallback(Some(1), "imbalance") } else { Selection::own(Some(0)) };
            assert_eq!(choose(1000, &fleet), expected, "{holder} against {other}");
        }
    }

    #[test]
    fn an_excluded_owner_owns_nothing() {
        let mut fleet = fleet(3);
        (fleet[0].cached_tokens, fleet[0].excluded) = (1000, Some(Exclusion::Unhealthy));
        (fleet[1].cached_tokens, fleet[1].load.waiting_requests) = (400, 9);
        assert_eq!(choose(1000, &fleet), Selection::own(Some(1)));
    }
}
