//! Consistent hashing with bounded loads: the prompt's replica by hash, unless it is busier than the others.
//!
//! ```text
//! order  = replicas by rendezvous hash of the prompt's first 256 tokens, the highest first
//! limit  = ceil(load_factor * (requests at all replicas + 1) / replicas)
//! chosen = the first in order with requests + 1 <= limit
//! ```
//!
//! Source: Mirrokni, Thorup, Zadimoghaddam (arXiv 1608.01350); KubeAI's PrefixHash uses it for prefixes, with a load
//! factor of 1.25. The total is `1 - hash / 2^64`.

use super::select::{eligible, totals};
use super::settings::{Settings, within};
use super::{Candidate, CostTerms, Policy, RequestInfo, Selection};
use crate::rng::ChaCha8Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Settings of [`BoundedHash`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct BoundedHashConfig {
    /// Most requests at a replica over their mean; at least 1.
    pub load_factor: f64,
}

impl Default for BoundedHashConfig {
    fn default() -> Self {
        Self { load_factor: 1.25 }
    }
}

impl Settings for BoundedHashConfig {
    fn check(&self) -> Result<(), String> {
        within("load_factor", self.load_factor, 1.0, 1e6)
    }
}

/// The bounded-hash policy; stateless.
#[derive(Debug, Clone)]
pub struct BoundedHash {
    load_factor: f64,
}

impl BoundedHash {
    /// Creates the policy with these settings.
    pub fn new(config: &BoundedHashConfig) -> Self {
        Self { load_factor: config.load_factor }
    }
}

impl Policy for BoundedHash {
    fn name(&self) -> &'static str {
        "bounded-hash"
    }

    fn choose(
        &mut self,
        request: &RequestInfo,
        candidates: &[Candidate],
        terms: &mut [CostTerms],
        _: &mut ChaCha8Rng,
    ) -> Selection {
        let rank = |candidate: &Candidate| xxh3_64_with_seed(&candidate.id.0.to_le_bytes(), request.head);
        let (count, requests) =
            eligible(candidates).fold((0u32, 0u64), |(n, all), (_, c)| (n + 1, all + u64::from(c.requests())));
        if count == 0 {
            return Selection::own(None);
        }
        let limit = (self.load_factor * (requests + 1) as f64 / f64::from(count)).ceil();
        totals(candidates, terms, |candidate| 1.0 - rank(candidate) as f64 / 2f64.powi(64));
        let has_room = |candidate: &Candidate| f64::from(candidate.requests()) + 1.0 <= limit;
        let first = eligible(candidates).filter(|(_, c)| has_room(c)).max_by_key(|(_, c)| rank(c));
        Selection::own(first.map(|(i, _)| i))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::select::tests::fleet;
    use crate::rng::stream;

    fn choose(fleet: &[Candidate], head: u64) -> Option<usize> {
        let mut terms = vec![CostTerms::default(); fleet.len()];
        let request = RequestInfo { head, ..RequestInfo::default() };
        let config = BoundedHashConfig::default();
        BoundedHash::new(&config).choose(&request, fleet, &mut terms, &mut stream(1, "policy", 0)).chosen
    }

    #[test]
    fn a_prompt_keeps_its_replica_until_that_one_is_busy() {
        let mut fleet = fleet(4);
        for head in 1..50 {
            let home = choose(&fleet, head).unwrap();
            assert_eq!(choose(&fleet, head), Some(home));
            fleet[home].load.running_requests = 8;
            let other = choose(&fleet, head).unwrap();
            assert_ne!(other, home, "8 > 1.25 x 9 / 4");
            fleet.iter_mut().for_each(|c| c.load.running_requests = 8);
            assert_eq!(choose(&fleet, head), Some(home), "all are equally busy");
            fleet.iter_mut().for_each(|c| c.load.running_requests = 0);
        }
    }
}
