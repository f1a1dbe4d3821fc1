//! LMetric: the product of new prefill work and batch size, without weights.
//!
//! ```text
//! total = (U + W) * (running + waiting requests + 1)     U = uncached tokens of the request,
//!                                                        W = uncached tokens of waiting requests
//! ```
//!
//! The least total is chosen; ties are broken by the least RTT, then at random. Source: arXiv 2603.15202. One token is
//! added to U + W, so that a request whose prompt is cached everywhere still prefers the smaller batch.

use super::select::{fill, least_of};
use super::{Candidate, CostTerms, NoSettings, Policy, RequestInfo, Selection};
use crate::rng::ChaCha8Rng;

/// The LMetric policy; stateless, scores are token-requests.
#[derive(Debug, Clone)]
pub struct LMetric;

impl LMetric {
    /// Creates the policy; it has no settings.
    pub fn new(_: &NoSettings) -> Self {
        Self
    }
}

impl Policy for LMetric {
    fn name(&self) -> &'static str {
        "lmetric"
    }

    fn choose(
        &mut self,
        request: &RequestInfo,
        candidates: &[Candidate],
        terms: &mut [CostTerms],
        rng: &mut ChaCha8Rng,
    ) -> Selection {
        fill(candidates, terms, |candidate| {
            let batch = f64::from(candidate.requests()) + 1.0;
            let prefill = (f64::from(candidate.uncached(request.prompt_tokens)) + 1.0) * batch;
            let waiting = candidate.load.waiting_uncached_tokens as f64 * batch;
            CostTerms { prefill, waiting, total: prefill + waiting, ..CostTerms::default() }
        });
        Selection::own(least_of(candidates, rng, |i, candidate| Some([terms[i].total, candidate.rtt_ms])))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::select::tests::fleet;
    use crate::rng::stream;

    fn choose(fleet: &[Candidate], prompt_tokens: u32) -> Option<usize> {
        let mut terms = vec![CostTerms::default(); fleet.len()];
        let request = RequestInfo { prompt_tokens, ..RequestInfo::default() };
        LMetric.choose(&request, fleet, &mut terms, &mut stream(1, "policy", 0)).chosen
    }

    #[test]
    fn work_times_batch_decides() {
        let mut fleet = fleet(2);
        (fleet[0].cached_tokens, fleet[0].load.running_requests) = (900, 4);
        assert_eq!(choose(&fleet, 1_000), Some(0), "101 x 5 < 1001 x 1");
        fleet[0].load.running_requests = 10;
        assert_eq!(choose(&fleet, 1_000), Some(1), "101 x 11 > 1001 x 1");
    }

    #[test]
    fn a_prompt_cached_everywhere_goes_to_the_smaller_batch() {
        let mut fleet = fleet(2);
        fleet.iter_mut().for_each(|candidate| candidate.cached_tokens = 500);
        (fleet[0].load.running_requests, fleet[1].rtt_ms) = (2, 90.0);
        assert_eq!(choose(&fleet, 500), Some(1));
    }
}
