//! Chooses uniformly at random among the candidates that are not excluded: the control in every experiment. All terms
//! stay 0.

use super::select::uniform;
use super::{Candidate, CostTerms, NoSettings, Policy, RequestInfo, Selection};
use crate::rng::ChaCha8Rng;

/// The uniformly random policy; stateless, all scores are 0.
#[derive(Debug, Clone)]
pub struct Random;

impl Random {
    /// Creates the policy; it has no settings.
    pub fn new(_: &NoSettings) -> Self {
        Self
    }
}

impl Policy for Random {
    fn name(&self) -> &'static str {
        "random"
    }

    fn choose(
        &mut self,
        _: &RequestInfo,
        candidates: &[Candidate],
        _: &mut [CostTerms],
        rng: &mut ChaCha8Rng,
    ) -> Selection {
        Selection::own(uniform(candidates, rng))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::select::tests::fleet;
    use crate::rng::stream;

    #[test]
    fn every_replica_gets_its_share_whatever_its_load() {
        let mut fleet = fleet(4);
        fleet[1].load.waiting_tokens = 1_000_000;
        let (mut counts, mut rng, mut terms) = ([0u32; 4], stream(3, "policy", 0), [CostTerms::default(); 4]);
        for _ in 0..4000 {
            counts[Random.choose(&RequestInfo::default(), &fleet, &mut terms, &mut rng).chosen.unwrap()] += 1;
        }
        assert!(counts.iter().all(|count| (900..1100).contains(count)), "{counts:?}");
    }
}
