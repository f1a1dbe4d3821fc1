//! Chooses the replica with the longest cached prefix.
//!
//! ```text
//! C = min(cached tokens at the replica, prompt tokens)
//! the candidates with the greatest C decide by least load, if C > 0 and C >= min_match * prompt tokens
//! else all candidates by least load                                            (reason "no-prefix")
//! ```
//!
//! Least load is W + D in `unit`, then RTT, then random. The total is the number of tokens to prefill after a hit, and
//! the load after a miss. Source: gotoni's central proxy (longest match over length, no minimum, misses by least-load),
//! with the minimum as in SkyWalker's prefix tree (EuroSys'26, there 0.5).

use super::select::{Signal, Unit, eligible, fill, least_of, load, reason};
use super::settings::{Settings, within};
use super::{Candidate, CostTerms, Policy, RequestInfo, Selection};
use crate::rng::ChaCha8Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Settings of [`PrefixTree`].
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PrefixTreeConfig {
    /// Least share of the prompt, 0 to 1, that a match must cover.
    pub min_match: f64,
    /// Unit of the load that decides ties and misses.
    pub unit: Unit,
}

impl Settings for PrefixTreeConfig {
    fn check(&self) -> Result<(), String> {
        within("min_match", self.min_match, 0.0, 1.0)
    }
}

/// The longest-prefix policy; stateless, scores are tokens (or requests after a miss).
#[derive(Debug, Clone)]
pub struct PrefixTree {
    config: PrefixTreeConfig,
}

impl PrefixTree {
    /// Creates the policy with these settings.
    pub fn new(config: &PrefixTreeConfig) -> Self {
        Self { config: config.clone() }
    }
}

impl Policy for PrefixTree {
    fn name(&self) -> &'static str {
        "prefix-tree"
    }

    fn choose(
        &mut self,
        request: &RequestInfo,
        candidates: &[Candidate],
        terms: &mut [CostTerms],
        rng: &mut ChaCha8Rng,
    ) -> Selection {
        let cached = |candidate: &Candidate| candidate.cached_tokens.min(request.prompt_tokens);
        let best = eligible(candidates).map(|(_, candidate)| cached(candidate)).max().unwrap_or(0);
        let hit = best > 0 && f64::from(best) >= self.config.min_match * f64::from(request.prompt_tokens);
        fill(candidates, terms, |candidate| {
            let prefill = f64::from(candidate.uncached(request.prompt_tokens));
            let waiting = candidate.load.waiting_tokens as f64;
            let running = candidate.load.running_tokens as f64;
            let total = if hit { prefill } else { load(candidate, self.config.unit, Signal::Own).unwrap_or(0.0) };
            CostTerms { prefill, waiting, running, total, ..CostTerms::default() }
        });
        let chosen = least_of(candidates, rng, |_, candidate| {
            let load = load(candidate, self.config.unit, Signal::Own)?;
            (!hit || cached(candidate) == best).then_some([load, candidate.rtt_ms])
        });
        if hit { Selection::own(chosen) } else { Selection::fallback(chosen, reason::NO_PREFIX) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::select::tests::fleet;
    use crate::rng::stream;

    fn choose(min_match: f64, prompt_tokens: u32, candidates: &[Candidate]) -> Selection {
        let mut policy = PrefixTree::new(&PrefixTreeConfig { min_match, ..PrefixTreeConfig::default() });
        let mut terms = vec![CostTerms::default(); candidates.len()];
        policy.choose(
            &RequestInfo { prompt_tokens, ..RequestInfo::default() },
            candidates,
            &mut terms,
            &mut stream(1, "policy", 0),
        )
    }

    #[test]
    fn the_longest_match_wins_whatever_its_load() {
        let mut fleet = fleet(3);
        (fleet[1].cached_tokens, fleet[1].load.waiting_tokens, fleet[1].rtt_ms) = (64, 90_000, 400.0);
        fleet[2].cached_tokens = 63;
        assert_eq!(choose(0.0, 1000, &fleet), Selection::own(Some(1)));
    }

    #[test]
    fn equal_matches_go_by_load_then_round_trip() {
        let mut fleet = fleet(4);
        for (i, (tokens, rtt)) in [(50, 1.0), (10, 9.0), (10, 8.0), (0, 0.0)].into_iter().enumerate() {
            (fleet[i].load.running_tokens, fleet[i].rtt_ms) = (tokens, rtt);
            fleet[i].cached_tokens = if i < 3 { 700 + i as u32 } else { 0 }; // beyond the prompt: equal
        }
        assert_eq!(choose(0.0, 700, &fleet), Selection::own(Some(2)));
    }

    #[test]
    fn a_match_below_the_minimum_falls_back_to_least_load() {
        let mut fleet = fleet(2);
        (fleet[0].cached_tokens, fleet[0].load.running_tokens) = (499, 5);
        assert_eq!(choose(0.5, 1000, &fleet), Selection::fallback(Some(1), "no-prefix"));
        fleet[0].cached_tokens = 500;
        assert_eq!(choose(0.5, 1000, &fleet), Selection::own(Some(0)));
        assert_eq!(choose(0.0, 0, &fleet), Selection::fallback(Some(1), "no-prefix"));
    }
}
