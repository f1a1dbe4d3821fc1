//! Chooses the replica with the fewest requests.
//!
//! ```text
//! total = max(running in the engine's last report, waiting + running requests of this router at the replica)
//! ```
//!
//! Ties are broken by the least RTT, then at random; without a report the total is the router's own count. Source:
//! least-request of the GORGO repository since May 2026. Earlier versions used the stale report alone, so a burst of
//! arrivals went to one replica.

use super::select::{busy, fill, least_of};
use super::{Candidate, CostTerms, NoSettings, Policy, RequestInfo, Selection};
use crate::rng::ChaCha8Rng;

/// The least-request policy; stateless, scores are requests per replica.
#[derive(Debug, Clone)]
pub struct LeastRequest;

impl LeastRequest {
    /// Creates the policy; it has no settings.
    pub fn new(_: &NoSettings) -> Self {
        Self
    }
}

impl Policy for LeastRequest {
    fn name(&self) -> &'static str {
        "least-request"
    }

    fn choose(
        &mut self,
        _: &RequestInfo,
        candidates: &[Candidate],
        terms: &mut [CostTerms],
        rng: &mut ChaCha8Rng,
    ) -> Selection {
        fill(candidates, terms, |candidate| {
            let (total, waiting) = (f64::from(busy(candidate)), f64::from(candidate.load.waiting_requests));
            CostTerms { waiting, running: total - waiting, total, ..CostTerms::default() }
        });
        Selection::own(least_of(candidates, rng, |_, candidate| Some([f64::from(busy(candidate)), candidate.rtt_ms])))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::EngineView;
    use crate::policy::select::tests::fleet;
    use crate::rng::stream;

    #[test]
    fn a_stale_report_of_idleness_does_not_attract_a_burst() {
        let mut fleet = fleet(3);
        let report = |running| Some(EngineView { running, ..EngineView::default() });
        (fleet[0].load.waiting_requests, fleet[0].engine) = (6, report(0)); // 6
        (fleet[1].load.running_requests, fleet[1].engine) = (1, report(5)); // 5
        (fleet[2].load.waiting_requests, fleet[2].load.running_requests) = (2, 2); // 4
        let (mut rng, mut terms) = (stream(1, "policy", 0), [CostTerms::default(); 3]);
        assert_eq!(LeastRequest.choose(&RequestInfo::default(), &fleet, &mut terms, &mut rng), Selection::own(Some(2)));
        assert_eq!(terms.map(|t| t.total), [6.0, 5.0, 4.0]);
        (fleet[2].rtt_ms, fleet[2].load.waiting_requests) = (90.0, 3); // 5 as well, but farther
        assert_eq!(LeastRequest.choose(&RequestInfo::default(), &fleet, &mut terms, &mut rng), Selection::own(Some(1)));
    }
}
