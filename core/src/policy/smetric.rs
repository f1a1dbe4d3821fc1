//! SMetric of the vLLM router: a conversation stays at the replica that caches its prefix while that replica can meet a
//! TTFT objective.
//!
//! ```text
//! n      = uncached tokens,  l = prompt tokens
//! cost   = n + n (l - n/2) / attention_crossover_tokens        prefill work in tokens; the second part only when set
//! queued = W + cost                                            W = uncached tokens of waiting requests
//! meets  = queued * ms per token <= slack * (ttft_ms + ttft_ms_per_1k_tokens * l / 1000)
//! home   = the replica with the longest cached prefix
//! keep home if its prefix is longer than hit_ratio of the longest held anywhere, and it meets or none does
//! else the least queued * (requests there + 1)
//! ```
//!
//! Source: `smetric.rs` and `docs/load_balancing` of vllm-project/router, after arXiv 2607.08565. Stand-ins: the
//! learned prefill rate for its 90th percentile of 64 samples; the longest prefix held by any replica, excluded ones
//! included, for the length of the conversation's previous prompt; no cached prefix for "first turn". It multiplies by
//! the requests in flight, so that every idle replica scores 0; one is added here. Ties by the least RTT, then at
//! random.

use super::select::{eligible, fill, least_of, reason};
use super::settings::{Settings, weight, within};
use super::{Candidate, CostTerms, Policy, RequestInfo, Selection};
use crate::rng::ChaCha8Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Settings of [`SMetric`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SMetricConfig {
    /// Share of the longest prefix held anywhere that a replica must hold to keep the conversation.
    pub hit_ratio: f64,
    /// Multiplier of the TTFT objective.
    pub slack: f64,
    /// TTFT objective of an empty prompt, ms.
    pub ttft_ms: f64,
    /// What 1,000 prompt tokens add to the objective, ms.
    pub ttft_ms_per_1k_tokens: f64,
    /// Context at which attention costs as much as the linear layers, tokens; only new tokens count when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attention_crossover_tokens: Option<f64>,
}

impl Default for SMetricConfig {
    fn default() -> Self {
        Self {
            hit_ratio: 0.5,
            slack: 1.0,
            ttft_ms: 1_000.0,
            ttft_ms_per_1k_tokens: 62.5,
            attention_crossover_tokens: None,
        }
    }
}

impl Settings for SMetricConfig {
    fn check(&self) -> Result<(), String> {
        within("hit_ratio", self.hit_ratio, 0.0, 1.0)?;
        weight("slack", self.slack)?;
        weight("ttft_ms", self.ttft_ms)?;
        weight("ttft_ms_per_1k_tokens", self.ttft_ms_per_1k_tokens)?;
        self.attention_crossover_tokens
            .map_or(Ok(()), |tokens| within("attention_crossover_tokens", tokens, 1.0, super::settings::MOST))
    }
}

/// The SMetric policy; stateless, scores are token-requests.
#[derive(Debug, Clone)]
pub struct SMetric {
    config: SMetricConfig,
}

impl SMetric {
    /// Creates the policy with these settings.
    pub fn new(config: &SMetricConfig) -> Self {
        Self { config: config.clone() }
    }

    /// Prefill work waiting at the replica, this request's included, in tokens.
    fn queued(&self, request: &RequestInfo, candidate: &Candidate) -> f64 {
        let (n, l) = (f64::from(candidate.uncached(request.prompt_tokens)), f64::from(request.prompt_tokens));
        let attention = self.config.attention_crossover_tokens.map_or(0.0, |tokens| n * (l - n / 2.0) / tokens);
        candidate.load.waiting_uncached_tokens as f64 + n + attention
    }

    fn meets(&self, request: &RequestInfo, candidate: &Candidate) -> bool {
        let objective =
            self.config.ttft_ms + self.config.ttft_ms_per_1k_tokens * f64::from(request.prompt_tokens) / 1e3;
        self.queued(request, candidate) * candidate.learned.ms_per_token <= self.config.slack * objective
    }
}

impl Policy for SMetric {
    fn name(&self) -> &'static str {
        "smetric"
    }

    fn choose(
        &mut self,
        request: &RequestInfo,
        candidates: &[Candidate],
        terms: &mut [CostTerms],
        rng: &mut ChaCha8Rng,
    ) -> Selection {
        fill(candidates, terms, |candidate| {
            let batch = f64::from(candidate.requests()) + 1.0;
            let waiting = candidate.load.waiting_uncached_tokens as f64 * batch;
            let total = self.queued(request, candidate) * batch;
            CostTerms { prefill: total - waiting, waiting, total, ..CostTerms::default() }
        });
        let held = |candidate: &Candidate| candidate.cached_tokens.min(request.prompt_tokens);
        let longest = eligible(candidates).map(|(_, candidate)| held(candidate)).max().unwrap_or(0);
        let anywhere = candidates.iter().map(held).max().unwrap_or(0);
        if longest > 0 && f64::from(longest) > self.config.hit_ratio * f64::from(anywhere) {
            let any_meets = eligible(candidates).any(|(_, candidate)| self.meets(request, candidate));
            let home = least_of(candidates, rng, |i, candidate| {
                let stays = held(candidate) == longest && (self.meets(request, candidate) || !any_meets);
                stays.then_some([terms[i].total, candidate.rtt_ms])
            });
            if home.is_some() {
                return Selection::own(home);
            }
        }
        let chosen = least_of(candidates, rng, |i, candidate| Some([terms[i].total, candidate.rtt_ms]));
        Selection::fallback(chosen, reason::NO_PREFIX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Exclusion;
    use crate::policy::select::tests::fleet;
    use crate::rng::stream;

    fn choose(fleet: &[Candidate]) -> Selection {
        let mut terms = vec![CostTerms::default(); fleet.len()];
        let request = RequestInfo { prompt_tokens: 8_000, ..RequestInfo::default() };
        SMetric::new(&SMetricConfig::default()).choose(&request, fleet, &mut terms, &mut stream(1, "policy", 0))
    }

    #[test]
    fn a_conversation_moves_when_its_replica_misses_the_objective_and_another_meets_it() {
        let mut fleet = fleet(2);
        fleet[0].cached_tokens = 7_000;
        // 0.06 ms a token; the objective is 1,500 ms: 25,000 tokens.
        fleet[0].load.waiting_uncached_tokens = 24_000;
        assert_eq!(choose(&fleet), Selection::own(Some(0)));
        fleet[0].load.waiting_uncached_tokens = 24_001;
        assert_eq!(choose(&fleet), Selection::fallback(Some(1), "no-prefix"));
        fleet[1].load.waiting_uncached_tokens = 90_000;
        assert_eq!(choose(&fleet), Selection::own(Some(0)), "none meets it");
    }

    #[test]
    fn a_holder_of_less_than_half_of_the_longest_prefix_is_no_home() {
        let mut fleet = fleet(3);
        (fleet[0].cached_tokens, fleet[0].excluded) = (6_000, Some(Exclusion::Unhealthy));
        (fleet[1].cached_tokens, fleet[1].load.running_requests) = (3_000, 9);
        assert_eq!(choose(&fleet), Selection::fallback(Some(2), "no-prefix"));
        fleet[1].cached_tokens = 3_001;
        assert_eq!(choose(&fleet), Selection::own(Some(1)));
    }
}
