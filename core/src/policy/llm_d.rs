//! llm-d's endpoint picker: the greatest weighted sum of scorers.
//!
//! ```text
//! prefix = matched blocks / blocks of the prompt                       blocks of block_tokens
//! queue  = (max q - q) / (max q - min q), 1 when all are equal         q = requests in the engine's queue
//! kv     = 1 - used tokens / KV capacity, 1 when not reported
//! score  = prefix_weight * prefix + queue_weight * queue + kv_weight * kv
//! ```
//!
//! The greatest score is chosen, ties by the least RTT, then at random. Source: default profile of llm-d/llm-d-router
//! (weights 2 : 2 : 1) and the pages of its scorers. Stand-in: q is the greater of the last report and this router's
//! own waiting requests, since reports here are older than its 50 ms. The total is the sum of the weights minus the
//! score.

use super::select::{eligible, fill, least_of};
use super::settings::{Settings, weight, within};
use super::{Candidate, CostTerms, Policy, RequestInfo, Selection};
use crate::rng::ChaCha8Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Settings of [`LlmD`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LlmDConfig {
    /// Weight of the cached share of the prompt.
    pub prefix_weight: f64,
    /// Weight of a short queue.
    pub queue_weight: f64,
    /// Weight of free KV.
    pub kv_weight: f64,
    /// Tokens of a block of the prefix scorer, at least 1.
    pub block_tokens: u32,
}

impl Default for LlmDConfig {
    fn default() -> Self {
        Self { prefix_weight: 2.0, queue_weight: 2.0, kv_weight: 1.0, block_tokens: 64 }
    }
}

impl Settings for LlmDConfig {
    fn check(&self) -> Result<(), String> {
        weight("prefix_weight", self.prefix_weight)?;
        weight("queue_weight", self.queue_weight)?;
        weight("kv_weight", self.kv_weight)?;
        within("block_tokens", f64::from(self.block_tokens), 1.0, 1e9)
    }
}

/// The policy `llm-d`; stateless, scores have no unit.
#[derive(Debug, Clone)]
pub struct LlmD {
    config: LlmDConfig,
}

impl LlmD {
    /// Creates the policy with these settings.
    pub fn new(config: &LlmDConfig) -> Self {
        Self { config: config.clone() }
    }
}

/// Requests in the engine's queue.
fn queue(candidate: &Candidate) -> u32 {
    candidate.load.waiting_requests.max(candidate.engine.map_or(0, |engine| engine.queued))
}

impl Policy for LlmD {
    fn name(&self) -> &'static str {
        "llm-d"
    }

    fn choose(
        &mut self,
        request: &RequestInfo,
        candidates: &[Candidate],
        terms: &mut [CostTerms],
        rng: &mut ChaCha8Rng,
    ) -> Selection {
        let LlmDConfig { prefix_weight, queue_weight, kv_weight, block_tokens } = self.config;
        let queues = eligible(candidates).map(|(_, candidate)| queue(candidate));
        let (most, fewest) = (queues.clone().max().unwrap_or(0), queues.min().unwrap_or(0));
        let blocks = f64::from(request.prompt_tokens.div_ceil(block_tokens).max(1));
        fill(candidates, terms, |candidate| {
            let matched = f64::from(candidate.cached_tokens.min(request.prompt_tokens) / block_tokens);
            let prefix = (matched / blocks).min(1.0);
            let spread = f64::from(most) - f64::from(fewest);
            let free = if spread > 0.0 { (f64::from(most) - f64::from(queue(candidate))) / spread } else { 1.0 };
            let engine = candidate.engine.filter(|engine| engine.kv_tokens > 0);
            let kv = engine.map_or(1.0, |engine| 1.0 - (engine.used_tokens as f64 / engine.kv_tokens as f64).min(1.0));
            let (prefill, running) = (prefix_weight * (1.0 - prefix), kv_weight * (1.0 - kv));
            let waiting = queue_weight * (1.0 - free.clamp(0.0, 1.0));
            CostTerms { prefill, waiting, running, total: prefill + waiting + running, ..CostTerms::default() }
        });
        Selection::own(least_of(candidates, rng, |i, candidate| Some([terms[i].total, candidate.rtt_ms])))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::EngineView;
    use crate::policy::select::tests::fleet;
    use crate::rng::stream;

    #[test]
    fn prefix_queue_and_kv_weigh_two_two_one() {
        let mut fleet = fleet(3);
        let engine =
            |queued, used_tokens| Some(EngineView { queued, used_tokens, kv_tokens: 100, ..EngineView::default() });
        (fleet[0].cached_tokens, fleet[0].engine) = (640, engine(4, 50));
        (fleet[1].cached_tokens, fleet[1].engine) = (320, engine(0, 50));
        fleet[2].engine = engine(2, 0);
        let request = RequestInfo { prompt_tokens: 1_280, ..RequestInfo::default() };
        let mut terms = [CostTerms::default(); 3];
        let mut policy = LlmD::new(&LlmDConfig::default());
        let choice = policy.choose(&request, &fleet, &mut terms, &mut stream(1, "policy", 0));
        assert_eq!(choice, Selection::own(Some(1)));
        // Scores 1 + 0 + 0.5, 0.5 + 2 + 0.5, 0 + 1 + 1 of 5.
        assert_eq!(terms.map(|t| t.total), [3.5, 2.0, 3.0]);
    }
}
