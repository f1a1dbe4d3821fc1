//! AIBrix prefix-cache: the longest cached prefix among replicas that are not overloaded.
//!
//! ```text
//! r(u) = max(running in the engine's last report, waiting + running requests of this router at replica u)
//! 1. max r - min r > imbalance            -> least r                           (reason "imbalance")
//! 2. no prompt tokens                     -> least running + queued + K + W + D   (reason "no-prompt")
//! 3. the best cached length is 0          -> least r                           (reason "no-prefix")
//! 4. candidates with exactly the best cached length and r <= mean + stdev_factor * s, all of them if none is;
//!    of those the least r                 (mean and sample standard deviation s over all eligible candidates)
//! ```
//!
//! Ties are broken at random. The total is the key of the step that decided; in step 4, r. Source: AIBrix prefix-cache
//! as ported by the GORGO repository. Its recorded runs used a factor of 2 (as in AIBrix's readme; AIBrix's code has
//! 1). With 3 replicas a factor above 1.155 excludes no replica.

use super::select::{Signal, Unit, busy, eligible, fill, least_of, load, reason};
use super::settings::{Settings, weight};
use super::{Candidate, CostTerms, Policy, RequestInfo, Selection, least};
use crate::rng::ChaCha8Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Settings of [`PrefixCache`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PrefixCacheConfig {
    /// Greatest difference in requests between replicas at which cached prefixes are considered.
    pub imbalance: u32,
    /// Standard deviations above the mean at which a replica is overloaded.
    pub stdev_factor: f64,
}

impl Default for PrefixCacheConfig {
    fn default() -> Self {
        Self { imbalance: 8, stdev_factor: 2.0 }
    }
}

impl Settings for PrefixCacheConfig {
    fn check(&self) -> Result<(), String> {
        weight("stdev_factor", self.stdev_factor)
    }
}

/// The AIBrix prefix-cache policy; stateless, scores are requests or tokens.
#[derive(Debug, Clone)]
pub struct PrefixCache {
    config: PrefixCacheConfig,
}

impl PrefixCache {
    /// Creates the policy with these settings.
    pub fn new(config: &PrefixCacheConfig) -> Self {
        Self { config: config.clone() }
    }

    /// mean + stdev_factor * sample standard deviation of r.
    fn limit(&self, candidates: &[Candidate]) -> f64 {
        let r = eligible(candidates).map(|(_, candidate)| f64::from(busy(candidate)));
        let count = r.clone().count().max(1) as f64;
        let mean = r.clone().sum::<f64>() / count;
        let squares = r.map(|value| (value - mean).powi(2)).sum::<f64>();
        mean + self.config.stdev_factor * (squares / (count - 1.0).max(1.0)).sqrt()
    }
}

impl Policy for PrefixCache {
    fn name(&self) -> &'static str {
        "prefix-cache"
    }

    fn choose(
        &mut self,
        request: &RequestInfo,
        candidates: &[Candidate],
        terms: &mut [CostTerms],
        rng: &mut ChaCha8Rng,
    ) -> Selection {
        let cached = |candidate: &Candidate| candidate.cached_tokens.min(request.prompt_tokens);
        fill(candidates, terms, |candidate| {
            let prefill = f64::from(candidate.uncached(request.prompt_tokens));
            let (total, waiting) = (f64::from(busy(candidate)), f64::from(candidate.load.waiting_requests));
            CostTerms { prefill, waiting, running: total - waiting, total, ..CostTerms::default() }
        });
        let r = |candidate: &Candidate| f64::from(busy(candidate));
        let most = eligible(candidates).map(|(_, candidate)| busy(candidate)).max().unwrap_or(0);
        let fewest = eligible(candidates).map(|(_, candidate)| busy(candidate)).min().unwrap_or(0);
        if most - fewest > self.config.imbalance {
            return Selection::fallback(least(candidates, rng, |_, candidate| r(candidate)), reason::IMBALANCE);
        }
        if request.prompt_tokens == 0 {
            for (candidate, terms) in candidates.iter().zip(&mut *terms) {
                let reported = load(candidate, Unit::Tokens, Signal::Engine);
                terms.total = reported.unwrap_or(candidate.tokens() as f64);
            }
            return Selection::fallback(least(candidates, rng, |i, _| terms[i].total), reason::NO_PROMPT);
        }
        let best = eligible(candidates).map(|(_, candidate)| cached(candidate)).max().unwrap_or(0);
        if best == 0 {
            return Selection::fallback(least(candidates, rng, |_, candidate| r(candidate)), reason::NO_PREFIX);
        }
        let limit = self.limit(candidates);
        let holds = |candidate: &Candidate| cached(candidate) == best;
        let calm = eligible(candidates).any(|(_, candidate)| holds(candidate) && r(candidate) <= limit);
        Selection::own(least_of(candidates, rng, |_, candidate| {
            (holds(candidate) && (!calm || r(candidate) <= limit)).then_some([r(candidate)])
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::EngineView;
    use crate::policy::select::tests::fleet;
    use crate::rng::stream;

    fn choose(config: &PrefixCacheConfig, prompt_tokens: u32, fleet: &[Candidate]) -> Selection {
        let mut terms = vec![CostTerms::default(); fleet.len()];
        let request = RequestInfo { prompt_tokens, ..RequestInfo::default() };
        PrefixCache::new(config).choose(&request, fleet, &mut terms, &mut stream(1, "policy", 0))
    }

    /// Three replicas with these requests, the first holding the prompt.
    fn holders(requests: [u32; 3]) -> Vec<Candidate> {
        let mut fleet = fleet(3);
        for (candidate, count) in fleet.iter_mut().zip(requests) {
            candidate.load.running_requests = count;
        }
        fleet[0].cached_tokens = 512;
        fleet
    }

    #[test]
    fn caches_count_up_to_a_difference_of_8_and_not_beyond() {
        let config = PrefixCacheConfig::default();
        assert_eq!(choose(&config, 1000, &holders([9, 1, 4])), Selection::own(Some(0)));
        assert_eq!(choose(&config, 1000, &holders([10, 1, 4])), Selection::fallback(Some(1), "imbalance"));
    }

    #[test]
    fn misses_go_by_requests_and_empty_prompts_by_load() {
        let config = PrefixCacheConfig::default();
        let mut fleet = holders([3, 2, 1]);
        fleet[0].cached_tokens = 0;
        assert_eq!(choose(&config, 1000, &fleet), Selection::fallback(Some(2), "no-prefix"));
        fleet[2].engine = Some(EngineView { used_tokens: 50, ..EngineView::default() });
        fleet[0].load.running_tokens = 20;
        fleet[1].load.running_tokens = 30;
        assert_eq!(choose(&config, 0, &fleet), Selection::fallback(Some(0), "no-prompt"));
    }

    #[test]
    fn an_overloaded_holder_gives_way_to_one_with_an_equal_prefix() {
        // r = 8, 0, 1, 1, 0: mean 2, s = 3.39; with a factor of 1 the limit is 5.39.
        let mut fleet = fleet(5);
        for (candidate, count) in fleet.iter_mut().zip([8, 0, 1, 1, 0]) {
            candidate.load.running_requests = count;
        }
        fleet[0].cached_tokens = 512;
        let config = PrefixCacheConfig { stdev_factor: 1.0, ..PrefixCacheConfig::default() };
        assert_eq!(choose(&config, 1000, &fleet), Selection::own(Some(0)), "the only holder stays");
        fleet[2].cached_tokens = 512;
        fleet[3].cached_tokens = 511;
        assert_eq!(choose(&config, 1000, &fleet), Selection::own(Some(2)));
    }
}
