//! NVIDIA Stargate's wait-and-widen: draws `samples` of the replicas whose TTFT is near the least, and takes the best.
//!
//! ```text
//! ttft   = RTT + queue + prefill
//! queue  = 0 if requests there < max_concurrency, else p W         W = tokens of waiting requests
//! prefill = p * prompt tokens                                      it does not know prefixes
//! bucket = replicas with ttft <= least ttft + bucket_ms
//! chosen = the least ttft of `samples` drawn from the bucket
//! ```
//!
//! With `affinity_replicas` above 0 and a session, the rule runs among that many replicas by rendezvous hash of the
//! session, prefill scaled by `affinity_scale`. Ties at random. The total is the ttft, ms. Source: documentation of the
//! load balancer of NVIDIA/nvcf (`src/libraries/rust/stargate`) with its defaults. Stand-ins: the learned prefill rate
//! for the reported input tokens per second; RTT of probes for that of forwarded health checks. Left out: later buckets
//! open while a request waits for capacity in the first; a policy does not wait, and replicas without capacity are
//! excluded by the gates, so the first bucket of those that have it is used.

use super::select::{eligible, fill, least_of, two_of};
use super::settings::{Settings, weight, within};
use super::{Candidate, CostTerms, Policy, RequestInfo, Selection};
use crate::rng::ChaCha8Rng;
use rand::RngExt;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Settings of [`Stargate`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct StargateConfig {
    /// Greatest difference of TTFT within a bucket, ms.
    pub bucket_ms: f64,
    /// Candidates drawn from the bucket, 1 or 2.
    pub samples: u32,
    /// Requests below which a replica has no queue; the queue always counts when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_concurrency: Option<u32>,
    /// Replicas of a session; 0 turns affinity off.
    pub affinity_replicas: u32,
    /// Share of the prefill that counts among the replicas of a session, 0 to 1.
    pub affinity_scale: f64,
}

impl Default for StargateConfig {
    fn default() -> Self {
        Self { bucket_ms: 20.0, samples: 2, max_concurrency: None, affinity_replicas: 0, affinity_scale: 1.0 }
    }
}

impl Settings for StargateConfig {
    fn check(&self) -> Result<(), String> {
        weight("bucket_ms", self.bucket_ms)?;
        within("samples", f64::from(self.samples), 1.0, 2.0)?;
        within("affinity_scale", self.affinity_scale, 0.0, 1.0)
    }
}

/// The policy `stargate`; stateless, scores are ms.
#[derive(Debug, Clone)]
pub struct Stargate {
    config: StargateConfig,
}

impl Stargate {
    /// Creates the policy with these settings.
    pub fn new(config: &StargateConfig) -> Self {
        Self { config: config.clone() }
    }

    fn cost(&self, request: &RequestInfo, candidate: &Candidate, scale: f64) -> CostTerms {
        let p = candidate.learned.ms_per_token;
        let has_slot = self.config.max_concurrency.is_some_and(|most| candidate.requests() < most);
        let waiting = if has_slot { 0.0 } else { p * candidate.load.waiting_tokens as f64 };
        let prefill = p * scale * f64::from(request.prompt_tokens);
        let network = candidate.rtt_ms;
        CostTerms { network, prefill, waiting, total: network + prefill + waiting, ..CostTerms::default() }
    }
}

fn rank(candidate: &Candidate, session: u64) -> u64 {
    xxh3_64_with_seed(&candidate.id.0.to_le_bytes(), session)
}

impl Policy for Stargate {
    fn name(&self) -> &'static str {
        "stargate"
    }

    fn choose(
        &mut self,
        request: &RequestInfo,
        candidates: &[Candidate],
        terms: &mut [CostTerms],
        rng: &mut ChaCha8Rng,
    ) -> Selection {
        let StargateConfig { bucket_ms, samples, affinity_replicas, affinity_scale, .. } = self.config;
        let has_affinity = affinity_replicas > 0 && request.session != 0;
        let scale = if has_affinity { affinity_scale } else { 1.0 };
        fill(candidates, terms, |candidate| self.cost(request, candidate, scale));
        let is_affine = |candidate: &Candidate| {
            let own = rank(candidate, request.session);
            let before = eligible(candidates).filter(|(_, other)| rank(other, request.session) > own).count();
            !has_affinity || before < affinity_replicas as usize
        };
        let group = || eligible(candidates).filter(|(_, candidate)| is_affine(candidate));
        let least = group().map(|(i, _)| terms[i].total).fold(f64::INFINITY, f64::min);
        let bucket = || group().map(|(i, _)| i).filter(|&i| terms[i].total <= least + bucket_ms);
        let count = bucket().count();
        let chosen = match (count, samples) {
            (0, _) => least_of(candidates, rng, |i, _| Some([terms[i].total])),
            (1, _) => bucket().next(),
            (_, 1) => bucket().nth(rng.random_range(0..count)),
            _ => {
                let (first, second) = two_of(count, rng);
                let pair = bucket().nth(first).zip(bucket().nth(second));
                pair.map(|(i, j)| if terms[j].total < terms[i].total { j } else { i })
            }
        };
        Selection::own(chosen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::select::tests::fleet;
    use crate::rng::stream;

    fn counts(config: &StargateConfig, fleet: &[Candidate]) -> Vec<u32> {
        let request = RequestInfo { prompt_tokens: 1_000, session: 5, ..RequestInfo::default() };
        let (mut policy, mut rng) = (Stargate::new(config), stream(1, "policy", 0));
        let (mut terms, mut counts) = (vec![CostTerms::default(); fleet.len()], vec![0; fleet.len()]);
        for _ in 0..600 {
            counts[policy.choose(&request, fleet, &mut terms, &mut rng).chosen.unwrap()] += 1;
        }
        counts
    }

    #[test]
    fn the_first_bucket_is_shared_by_the_better_of_two_and_the_rest_gets_nothing() {
        let mut fleet = fleet(4);
        for (candidate, rtt) in fleet.iter_mut().zip([30.0, 40.0, 50.0, 50.1]) {
            candidate.rtt_ms = rtt;
        }
        let shares = counts(&StargateConfig::default(), &fleet);
        assert!(shares[0] > 350 && shares[1] > 150 && shares[2] == 0 && shares[3] == 0, "{shares:?}");
        let one = counts(&StargateConfig { samples: 1, ..StargateConfig::default() }, &fleet);
        assert!(one[..3].iter().all(|&count| count > 150) && one[3] == 0, "{one:?}");
    }

    #[test]
    fn a_replica_with_a_free_slot_has_no_queue() {
        let mut fleet = fleet(2);
        (fleet[0].load.waiting_requests, fleet[0].load.waiting_tokens, fleet[1].rtt_ms) = (1, 5_000, 100.0);
        assert_eq!(counts(&StargateConfig::default(), &fleet), [0, 600]);
        let limit = StargateConfig { max_concurrency: Some(2), ..StargateConfig::default() };
        assert_eq!(counts(&limit, &fleet), [600, 0]);
    }

    #[test]
    fn a_session_keeps_to_its_replicas() {
        let fleet = fleet(8);
        let config = StargateConfig { affinity_replicas: 2, ..StargateConfig::default() };
        assert_eq!(counts(&config, &fleet).iter().filter(|&&count| count > 0).count(), 2);
    }
}
