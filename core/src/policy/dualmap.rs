//! DualMap: two hashes of the prompt's head select two replicas. The one with more cached tokens is chosen if its
//! predicted TTFT meets the objective, otherwise the less loaded one.
//!
//! ```text
//! a, b   = the first eligible replicas of two rendezvous orders of the prompt's first 256 tokens, b other than a
//! ttft   = offset + p U + q W + r n + s w                   as the router learned it, without the network
//! chosen = the one of a, b with more cached tokens if its ttft <= slo_ms
//!          else the one with fewer waiting uncached tokens; reason "over-slo"
//! ```
//!
//! Ties by the lesser ttft, the lesser RTT, then at random. The total is the ttft. Source: DualMap (arXiv 2602.06502,
//! ICLR 2026). Left out: DualMap moves queued requests from one of their two replicas to the other; here a request that
//! was sent to an engine cannot be moved. Stand-in: the learned rates replace DualMap's profile of the engine.

use super::select::{eligible, least_of, reason, totals};
use super::settings::{Settings, weight};
use super::{Candidate, CostTerms, Policy, RequestInfo, Selection};
use crate::rng::ChaCha8Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Makes the second hash independent of the first.
const SECOND: u64 = 0x9e37_79b9_7f4a_7c15;

/// Settings of [`DualMap`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DualMapConfig {
    /// TTFT up to which the cache decides, ms.
    pub slo_ms: f64,
}

impl Default for DualMapConfig {
    fn default() -> Self {
        Self { slo_ms: 1_000.0 }
    }
}

impl Settings for DualMapConfig {
    fn check(&self) -> Result<(), String> {
        weight("slo_ms", self.slo_ms)
    }
}

/// The policy `dualmap`; stateless, scores are ms.
#[derive(Debug, Clone)]
pub struct DualMap {
    config: DualMapConfig,
}

impl DualMap {
    /// Creates the policy with these settings.
    pub fn new(config: &DualMapConfig) -> Self {
        Self { config: config.clone() }
    }
}

/// The two candidates of a head; the same twice when only one may be chosen.
fn pair(candidates: &[Candidate], head: u64) -> Option<(usize, usize)> {
    let first_by = |seed: u64, not: Option<usize>| {
        let rank = |c: &Candidate| xxh3_64_with_seed(&c.id.0.to_le_bytes(), seed);
        eligible(candidates).filter(|&(i, _)| Some(i) != not).max_by_key(|(_, c)| rank(c)).map(|(i, _)| i)
    };
    let a = first_by(head, None)?;
    Some((a, first_by(head ^ SECOND, Some(a)).unwrap_or(a)))
}

impl Policy for DualMap {
    fn name(&self) -> &'static str {
        "dualmap"
    }

    fn choose(
        &mut self,
        request: &RequestInfo,
        candidates: &[Candidate],
        terms: &mut [CostTerms],
        rng: &mut ChaCha8Rng,
    ) -> Selection {
        totals(candidates, terms, |candidate| {
            let load = &candidate.load;
            let uncached = candidate.uncached(request.prompt_tokens);
            let (n, w) = (load.running_requests, load.waiting_requests);
            candidate.learned.ttft_ms(uncached, load.waiting_uncached_tokens, n, w)
        });
        let Some((a, b)) = pair(candidates, request.head) else { return Selection::own(None) };
        let mut better = |score: &dyn Fn(usize, &Candidate) -> f64| {
            least_of(candidates, rng, |i, c| (i == a || i == b).then(|| [score(i, c), terms[i].total, c.rtt_ms]))
        };
        let cached = |c: &Candidate| f64::from(c.cached_tokens.min(request.prompt_tokens));
        let home = better(&|_, candidate| -cached(candidate));
        if home.is_some_and(|i| terms[i].total <= self.config.slo_ms) {
            return Selection::own(home);
        }
        let chosen = better(&|_, candidate| candidate.load.waiting_uncached_tokens as f64);
        Selection::fallback(chosen, reason::OVER_SLO)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::select::tests::fleet;
    use crate::rng::stream;

    fn choose(fleet: &[Candidate], head: u64) -> Selection {
        let mut terms = vec![CostTerms::default(); fleet.len()];
        let request = RequestInfo { prompt_tokens: 4_000, head, ..RequestInfo::default() };
        DualMap::new(&DualMapConfig::default()).choose(&request, fleet, &mut terms, &mut stream(1, "policy", 0))
    }

    #[test]
    fn a_prompt_has_two_replicas_and_every_pair_occurs() {
        let fleet = fleet(5);
        let mut seen = std::collections::BTreeSet::new();
        for head in 1..400 {
            let (a, b) = pair(&fleet, head).unwrap();
            assert!(a != b && pair(&fleet, head) == Some((a, b)));
            seen.insert((a, b));
        }
        assert_eq!(seen.len(), 20);
        assert_eq!(pair(&fleet[..1], 7), Some((0, 0)));
    }

    #[test]
    fn the_cache_decides_below_the_objective_and_the_load_above() {
        let mut fleet = fleet(4);
        let (a, b) = pair(&fleet, 9).unwrap();
        fleet[a].cached_tokens = 3_900;
        assert_eq!(choose(&fleet, 9), Selection::own(Some(a)));
        fleet[a].load.waiting_uncached_tokens = 90_000; // 1.6 s by the priors
        assert_eq!(choose(&fleet, 9), Selection::fallback(Some(b), "over-slo"));
    }
}
