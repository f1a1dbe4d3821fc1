//! SMG's `least_load`: the least time until the replica has drained its queue, plus a barrier before a full KV cache.
//!
//! ```text
//! score  = queued / tokens_per_second + kv_pressure_s * k / (1 - k)                       seconds
//! queued = the greater of W and the engine's waiting requests * mean_prefill_tokens       W = tokens of waiting requests
//! k      = the engine's used tokens / its KV capacity, at most 0.999; 0 when not reported
//! ```
//!
//! The least score is chosen, ties by the least RTT, then at random. Source: `least_load.rs` of SMG 1.13 with its
//! defaults. Stand-ins: it adds what it dispatched since the last poll to the reported queue; this router's own waiting
//! tokens are that without a poll, and the report covers other routers. Engines' generation rates are not scraped:
//! `tokens_per_second` is its fallback for that.

use super::select::{fill, least_of};
use super::settings::{MOST, Settings, weight, within};
use super::{Candidate, CostTerms, Policy, RequestInfo, Selection};
use crate::rng::ChaCha8Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Settings of [`LeastLoadSeconds`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LeastLoadSecondsConfig {
    /// Weight of the KV barrier, s.
    pub kv_pressure_s: f64,
    /// How fast a replica drains its queue, tokens per second.
    pub tokens_per_second: f64,
    /// Tokens of a request in the engine's queue.
    pub mean_prefill_tokens: f64,
}

impl Default for LeastLoadSecondsConfig {
    fn default() -> Self {
        Self { kv_pressure_s: 0.15, tokens_per_second: 2_000.0, mean_prefill_tokens: 1_024.0 }
    }
}

impl Settings for LeastLoadSecondsConfig {
    fn check(&self) -> Result<(), String> {
        weight("kv_pressure_s", self.kv_pressure_s)?;
        within("tokens_per_second", self.tokens_per_second, 1e-3, MOST)?;
        weight("mean_prefill_tokens", self.mean_prefill_tokens)
    }
}

impl LeastLoadSecondsConfig {
    /// The score of a candidate, s.
    pub(super) fn seconds(&self, candidate: &Candidate) -> CostTerms {
        let engine = candidate.engine.unwrap_or_default();
        let queued = (candidate.load.waiting_tokens as f64).max(f64::from(engine.queued) * self.mean_prefill_tokens);
        let waiting = queued / self.tokens_per_second;
        let k = if engine.kv_tokens == 0 { 0.0 } else { engine.used_tokens as f64 / engine.kv_tokens as f64 };
        let k = k.min(0.999);
        let running = self.kv_pressure_s * k / (1.0 - k);
        CostTerms { waiting, running, total: waiting + running, ..CostTerms::default() }
    }
}

/// The policy `least-load-seconds`; stateless, scores are seconds.
#[derive(Debug, Clone)]
pub struct LeastLoadSeconds {
    config: LeastLoadSecondsConfig,
}

impl LeastLoadSeconds {
    /// Creates the policy with these settings.
    pub fn new(config: &LeastLoadSecondsConfig) -> Self {
        Self { config: config.clone() }
    }
}

impl Policy for LeastLoadSeconds {
    fn name(&self) -> &'static str {
        "least-load-seconds"
    }

    fn choose(
        &mut self,
        _: &RequestInfo,
        candidates: &[Candidate],
        terms: &mut [CostTerms],
        rng: &mut ChaCha8Rng,
    ) -> Selection {
        fill(candidates, terms, |candidate| self.config.seconds(candidate));
        Selection::own(least_of(candidates, rng, |i, candidate| Some([terms[i].total, candidate.rtt_ms])))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::EngineView;
    use crate::policy::select::tests::idle;

    #[test]
    fn the_score_is_the_published_one() {
        let config = LeastLoadSecondsConfig::default();
        let mut candidate = idle(0);
        candidate.load.waiting_tokens = 3_000;
        candidate.engine = Some(EngineView { used_tokens: 80, kv_tokens: 100, queued: 1, ..EngineView::default() });
        let score = config.seconds(&candidate).total;
        assert!((score - (1.5 + 0.15 * 4.0)).abs() < 1e-9, "{score}");
        candidate.engine = Some(EngineView { queued: 4, ..EngineView::default() });
        assert_eq!(config.seconds(&candidate).total, 2.048, "the report shows more than this router sent");
        candidate.engine = Some(EngineView { used_tokens: 500, kv_tokens: 100, ..EngineView::default() });
        assert!((config.seconds(&candidate).running - 0.15 * 999.0).abs() < 1e-6, "a full cache is finite");
    }
}
