//! SkyWalker's selective pushing: the longest prefix among near replicas without a queue, then among far ones.
//!
//! ```text
//! free   = the engine reported no queued request; if it never reported, no request waits there
//! near   = RTT <= least RTT + near_ms
//! group  = free and near; else free; else all                         reason "none-free" for the last
//! chosen = the longest cached prefix in the group if it exceeds min_match of the prompt,
//!          else the fewest requests in the group                      reason "no-prefix"
//! ```
//!
//! Ties by the fewest requests, the least RTT, then at random. The total is the requests there. Source: SkyWalker
//! (arXiv 2505.24095) and SkyPilot's branch of it. Stand-ins: a balancer a region is this router and the replicas near
//! it; a request that finds no free replica waits in SkyWalker's balancer, here it goes to the fewest requests, since
//! the queue of this router belongs to its gates (`max_engine_queue = 1` makes it wait); idle balancers do not steal.

use super::select::{eligible, fill, least_of, reason};
use super::settings::{Settings, weight, within};
use super::{Candidate, CostTerms, Policy, RequestInfo, Selection};
use crate::rng::ChaCha8Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Settings of [`SkyWalker`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SkyWalkerConfig {
    /// Share of the prompt, 0 to 1, that a match must exceed.
    pub min_match: f64,
    /// Replicas at most so much farther than the nearest are local, ms.
    pub near_ms: f64,
}

impl Default for SkyWalkerConfig {
    fn default() -> Self {
        Self { min_match: 0.5, near_ms: 5.0 }
    }
}

impl Settings for SkyWalkerConfig {
    fn check(&self) -> Result<(), String> {
        within("min_match", self.min_match, 0.0, 1.0)?;
        weight("near_ms", self.near_ms)
    }
}

/// The policy `skywalker`; stateless, scores are requests.
#[derive(Debug, Clone)]
pub struct SkyWalker {
    config: SkyWalkerConfig,
}

impl SkyWalker {
    /// Creates the policy with these settings.
    pub fn new(config: &SkyWalkerConfig) -> Self {
        Self { config: config.clone() }
    }
}

fn is_free(candidate: &Candidate) -> bool {
    candidate.engine.map_or(candidate.load.waiting_requests == 0, |engine| engine.queued == 0)
}

impl Policy for SkyWalker {
    fn name(&self) -> &'static str {
        "skywalker"
    }

    fn choose(
        &mut self,
        request: &RequestInfo,
        candidates: &[Candidate],
        terms: &mut [CostTerms],
        rng: &mut ChaCha8Rng,
    ) -> Selection {
        fill(candidates, terms, |candidate| CostTerms {
            network: candidate.rtt_ms,
            waiting: f64::from(candidate.load.waiting_requests),
            running: f64::from(candidate.load.running_requests),
            total: f64::from(candidate.requests()),
            ..CostTerms::default()
        });
        let nearest = eligible(candidates).map(|(_, c)| c.rtt_ms).fold(f64::INFINITY, f64::min);
        let is_near = |candidate: &Candidate| candidate.rtt_ms <= nearest + self.config.near_ms;
        let is_near_and_free = |candidate: &Candidate| is_free(candidate) && is_near(candidate);
        let any = |group: &dyn Fn(&Candidate) -> bool| eligible(candidates).any(|(_, candidate)| group(candidate));
        let (group, fallback): (&dyn Fn(&Candidate) -> bool, _) = if any(&is_near_and_free) {
            (&is_near_and_free, None)
        } else if any(&is_free) {
            (&is_free, None)
        } else {
            (&|_| true, Some(reason::NONE_FREE))
        };
        let held = |candidate: &Candidate| candidate.cached_tokens.min(request.prompt_tokens);
        let longest = eligible(candidates).filter(|(_, c)| group(c)).map(|(_, c)| held(c)).max().unwrap_or(0);
        let hit = f64::from(longest) > self.config.min_match * f64::from(request.prompt_tokens);
        let chosen = least_of(candidates, rng, |i, candidate| {
            (group(candidate) && (!hit || held(candidate) == longest)).then_some([terms[i].total, candidate.rtt_ms])
        });
        Selection { chosen, reason: fallback.or((!hit).then_some(reason::NO_PREFIX)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::EngineView;
    use crate::policy::select::tests::fleet;
    use crate::rng::stream;

    #[test]
    fn near_and_free_comes_before_far_and_free_before_a_queue() {
        let mut fleet = fleet(3);
        (fleet[1].rtt_ms, fleet[2].rtt_ms, fleet[2].cached_tokens) = (4.0, 90.0, 900);
        (fleet[0].load.running_requests, fleet[1].cached_tokens) = (1, 800);
        let request = RequestInfo { prompt_tokens: 1_000, ..RequestInfo::default() };
        let mut policy = SkyWalker::new(&SkyWalkerConfig::default());
        let mut choose = |fleet: &[Candidate]| {
            policy.choose(&request, fleet, &mut [CostTerms::default(); 3], &mut stream(1, "policy", 0))
        };
        assert_eq!(choose(&fleet), Selection::own(Some(1)), "the far replica holds more");
        fleet[1].engine = Some(EngineView { queued: 1, ..EngineView::default() });
        assert_eq!(choose(&fleet), Selection::fallback(Some(0), "no-prefix"));
        fleet[0].load.waiting_requests = 1;
        assert_eq!(choose(&fleet), Selection::own(Some(2)), "never reported, but a request waits at the first");
        fleet[2].engine = fleet[1].engine;
        assert_eq!(choose(&fleet), Selection::fallback(Some(2), "none-free"));
    }
}
