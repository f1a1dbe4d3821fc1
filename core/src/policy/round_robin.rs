//! Round robin: chooses the eligible candidate with the next higher id than the last choice, the lowest id after the
//! highest. The order of the candidates does not matter, and the fleet may change. All terms stay 0.

use super::select::eligible;
use super::{Candidate, CostTerms, NoSettings, Policy, RequestInfo, Selection};
use crate::ReplicaId;
use crate::rng::ChaCha8Rng;

/// The round-robin policy; remembers the replica it chose last, all scores are 0.
#[derive(Debug, Clone)]
pub struct RoundRobin {
    last: Option<ReplicaId>,
}

impl RoundRobin {
    /// Creates the policy; it has no settings.
    pub fn new(_: &NoSettings) -> Self {
        Self { last: None }
    }
}

impl Policy for RoundRobin {
    fn name(&self) -> &'static str {
        "round-robin"
    }

    fn choose(
        &mut self,
        _: &RequestInfo,
        candidates: &[Candidate],
        _: &mut [CostTerms],
        _: &mut ChaCha8Rng,
    ) -> Selection {
        // `false` sorts first: ids above the last choice come before ids that start a new round.
        let turn = |candidate: &Candidate| (self.last.is_some_and(|last| candidate.id <= last), candidate.id);
        let next = eligible(candidates).min_by_key(|(_, candidate)| turn(candidate));
        if let Some((_, candidate)) = next {
            self.last = Some(candidate.id);
        }
        Selection::own(next.map(|(i, _)| i))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Exclusion;
    use crate::policy::select::tests::fleet;
    use crate::rng::stream;

    fn turns(policy: &mut RoundRobin, fleet: &[Candidate], count: usize) -> Vec<u16> {
        let (mut rng, mut terms) = (stream(1, "policy", 0), vec![CostTerms::default(); fleet.len()]);
        (0..count)
            .map(|_| fleet[policy.choose(&RequestInfo::default(), fleet, &mut terms, &mut rng).chosen.unwrap()].id.0)
            .collect()
    }

    #[test]
    fn it_cycles_in_id_order_skips_the_excluded_and_ignores_the_candidates_order() {
        let mut policy = RoundRobin::new(&NoSettings {});
        let mut fleet = fleet(4);
        assert_eq!(turns(&mut policy, &fleet, 5), [0, 1, 2, 3, 0]);
        fleet[2].excluded = Some(Exclusion::Unhealthy);
        fleet.reverse();
        assert_eq!(turns(&mut policy, &fleet, 4), [1, 3, 0, 1]);
        fleet[1].excluded = None;
        assert_eq!(turns(&mut policy, &fleet, 2), [2, 3]);
    }
}
