//! Preble's E2: uses the longest cached prefix if it covers more than half of the prompt, else the least load. A
//! replica with far more work than the least loaded one loses its cache affinity.
//!
//! ```text
//! own(u)  = p U + L d(n)                          this request's prefill and decoding, ms
//! work(u) = sum of own(u) over the last requests sent there, each weighted 1 - 1/window for every later request
//! exploit = cached > uncached at the replicas with the longest prefix: the least work of these
//! explore = the least work + own                                                    reason "no-prefix"
//! rebalance: work at the exploited replica > rebalance * the least work             reason "imbalance", least work + own
//! ```
//!
//! Ties by the least RTT, then at random. The total is work + own. Source: Preble (arXiv 2407.00023),
//! `global_scheduler_with_time.py`. Stand-ins: the last `window` requests of this router for its window of three
//! minutes, since a policy has no clock; the learned rates for its constants of each GPU and model; no eviction cost,
//! since the index of the router does not know what an engine would evict. Holders of one prefix share its prefill in
//! Preble; here each request counts where it went.

use super::select::{eligible, fill, least_of, reason};
use super::settings::{MOST, Settings, within};
use super::{Candidate, CostTerms, Policy, RequestInfo, Selection};
use crate::rng::ChaCha8Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Settings of [`Preble`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PrebleConfig {
    /// Requests after which the weight of one has fallen to 1/e.
    pub window: f64,
    /// Work over the least at which a replica gives up its prefix; at least 1.
    pub rebalance: f64,
}

impl Default for PrebleConfig {
    fn default() -> Self {
        Self { window: 500.0, rebalance: 1.5 }
    }
}

impl Settings for PrebleConfig {
    fn check(&self) -> Result<(), String> {
        within("window", self.window, 1.0, MOST)?;
        within("rebalance", self.rebalance, 1.0, MOST)
    }
}

/// The policy `preble`; it remembers the work it sent to each replica, in ms.
#[derive(Debug, Clone)]
pub struct Preble {
    config: PrebleConfig,
    /// By replica id; at most [`crate::MAX_REPLICAS`].
    work: Vec<f64>,
}

impl Preble {
    /// Creates the policy with these settings.
    pub fn new(config: &PrebleConfig) -> Self {
        Self { config: config.clone(), work: Vec::new() }
    }

    fn work(&self, candidate: &Candidate) -> f64 {
        self.work.get(candidate.id.index()).copied().unwrap_or(0.0)
    }

    fn sent(&mut self, candidate: &Candidate, own: f64) {
        let slot = candidate.id.index();
        if self.work.len() <= slot {
            self.work.resize(slot + 1, 0.0);
        }
        self.work.iter_mut().for_each(|work| *work *= 1.0 - 1.0 / self.config.window);
        let work = self.work[slot] + own;
        self.work[slot] = if work.is_finite() { work.clamp(0.0, 1e12) } else { 1e12 };
    }
}

impl Policy for Preble {
    fn name(&self) -> &'static str {
        "preble"
    }

    fn choose(
        &mut self,
        request: &RequestInfo,
        candidates: &[Candidate],
        terms: &mut [CostTerms],
        rng: &mut ChaCha8Rng,
    ) -> Selection {
        fill(candidates, terms, |candidate| {
            let learned = &candidate.learned;
            let prefill = learned.ms_per_token * f64::from(candidate.uncached(request.prompt_tokens));
            let running = learned.output_tokens * learned.decode_step_ms(candidate.load.running_requests);
            let waiting = self.work(candidate);
            CostTerms { prefill, waiting, running, total: prefill + waiting + running, ..CostTerms::default() }
        });
        let held = |candidate: &Candidate| candidate.cached_tokens.min(request.prompt_tokens);
        let longest = eligible(candidates).map(|(_, candidate)| held(candidate)).max().unwrap_or(0);
        let least = eligible(candidates).map(|(i, _)| terms[i].waiting).fold(f64::INFINITY, f64::min);
        let exploits = longest > request.prompt_tokens - longest;
        let home =
            least_of(candidates, rng, |i, c| (exploits && held(c) == longest).then_some([terms[i].waiting, c.rtt_ms]));
        let balanced = home.filter(|&i| terms[i].waiting <= self.config.rebalance * least);
        let selection = match (balanced, home) {
            (Some(_), _) => Selection::own(balanced),
            (None, home) => {
                let explored = least_of(candidates, rng, |i, c| Some([terms[i].total, c.rtt_ms]));
                Selection::fallback(explored, if home.is_some() { reason::IMBALANCE } else { reason::NO_PREFIX })
            }
        };
        if let Some(chosen) = selection.chosen {
            self.sent(&candidates[chosen], terms[chosen].prefill + terms[chosen].running);
        }
        selection
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::select::tests::fleet;
    use crate::rng::stream;

    fn request(prompt_tokens: u32) -> RequestInfo {
        RequestInfo { prompt_tokens, ..RequestInfo::default() }
    }

    #[test]
    fn exploits_a_majority_of_the_prompt_until_the_work_is_uneven() {
        let mut fleet = fleet(2);
        fleet[0].cached_tokens = 600;
        let (mut policy, mut rng) = (Preble::new(&PrebleConfig::default()), stream(1, "policy", 0));
        let mut choose = |tokens| policy.choose(&request(tokens), &fleet, &mut [CostTerms::default(); 2], &mut rng);
        // Both get work first, so that "1.5 times the least" means something.
        assert_eq!(choose(10_000).reason, Some("no-prefix"));
        assert_eq!(choose(10_000).reason, Some("no-prefix"));
        let choices: Vec<Selection> = (0..40).map(|_| choose(1_000)).collect();
        assert_eq!(choices[0], Selection::own(Some(0)));
        assert!(choices.contains(&Selection::fallback(Some(1), "imbalance")), "{choices:?}");
        assert_eq!(choose(1_200).reason, Some("no-prefix"), "600 cached are not more than 600 uncached");
    }

    #[test]
    fn work_is_forgotten_and_bounded() {
        let fleet = fleet(2);
        let mut policy = Preble::new(&PrebleConfig { window: 10.0, ..PrebleConfig::default() });
        policy.sent(&fleet[0], f64::INFINITY);
        assert_eq!(policy.work(&fleet[0]), 1e12);
        (0..400).for_each(|_| policy.sent(&fleet[1], 1.0));
        assert!(policy.work(&fleet[0]) < 1e-3 && policy.work(&fleet[1]) < 10.1);
    }
}
