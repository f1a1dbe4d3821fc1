//! Chooses the replica with the least round trip; exact ties are broken at random. `total = RTT` in ms.

use super::select::fill;
use super::{Candidate, CostTerms, NoSettings, Policy, RequestInfo, Selection, least};
use crate::rng::ChaCha8Rng;

/// The least-RTT policy; stateless, scores are ms.
#[derive(Debug, Clone)]
pub struct Nearest;

impl Nearest {
    /// Creates the policy; it has no settings.
    pub fn new(_: &NoSettings) -> Self {
        Self
    }
}

impl Policy for Nearest {
    fn name(&self) -> &'static str {
        "nearest"
    }

    fn choose(
        &mut self,
        _: &RequestInfo,
        candidates: &[Candidate],
        terms: &mut [CostTerms],
        rng: &mut ChaCha8Rng,
    ) -> Selection {
        fill(candidates, terms, |candidate| CostTerms {
            network: candidate.rtt_ms,
            total: candidate.rtt_ms,
            ..CostTerms::default()
        });
        Selection::own(least(candidates, rng, |_, candidate| candidate.rtt_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Exclusion;
    use crate::policy::select::tests::fleet;
    use crate::rng::stream;

    #[test]
    fn the_least_round_trip_wins_until_it_is_excluded() {
        let mut fleet = fleet(3);
        for (candidate, rtt) in fleet.iter_mut().zip([232.0, 25.6, 466.0]) {
            candidate.rtt_ms = rtt;
        }
        fleet[1].load.waiting_tokens = 1_000_000;
        let (mut rng, mut terms) = (stream(1, "policy", 0), [CostTerms::default(); 3]);
        assert_eq!(Nearest.choose(&RequestInfo::default(), &fleet, &mut terms, &mut rng), Selection::own(Some(1)));
        assert_eq!(terms[1].total, 25.6);
        fleet[1].excluded = Some(Exclusion::Full);
        assert_eq!(Nearest.choose(&RequestInfo::default(), &fleet, &mut terms, &mut rng), Selection::own(Some(0)));
    }
}
