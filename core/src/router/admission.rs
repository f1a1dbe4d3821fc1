//! Admission control: refuses a request at arrival if no replica is predicted to reach its first token before the
//! request's deadline.

use super::{Admission, EndReason, Router};
use crate::policy::{Candidate, Exclusion};
use crate::{RequestId, Time};

/// Largest `Retry-After`, s.
const LONGEST_S: f64 = 3_600.0;

impl Router {
    /// Why a request that arrives is refused, if it is: see [`Admission`].
    pub(super) fn refuses(&mut self, now: Time, id: RequestId) -> Option<EndReason> {
        if self.config.admission == Admission::Off {
            return None;
        }
        let deadline = self.flights.get(&id)?.request.deadline?;
        let left_ms = (deadline - now).ms();
        let best_ms = self.least_ttft_ms(now, id)?;
        // A NaN refuses nothing.
        let late_ms = (best_ms > left_ms).then_some(best_ms - left_ms)?;
        let retry_after_s = (late_ms / 1_000.0).ceil().clamp(1.0, LONGEST_S) as u32;
        Some(EndReason::Admission { retry_after_s })
    }

    /// The least predicted time to first token of a request that arrives now, ms; `None` if no replica works that may
    /// answer it.
    ///
    /// At an open replica: [`Candidate::predicted_ttft_ms`]. If requests wait in the router's queue, or all gates are
    /// closed, the wait for them is added: the prompts in front are prefilled by all `R` replicas, and a place of the
    /// `n` at each becomes free every `L d / n`, with `L` output tokens of `d` ms.
    fn least_ttft_ms(&mut self, now: Time, id: RequestId) -> Option<f64> {
        self.collect_candidates(now, id);
        let info = self.flights.get(&id)?.request.info;
        let takes = |c: &&Candidate| c.excluded.is_none_or(Exclusion::is_brief);
        let working = self.candidates.iter().filter(takes);
        let waits = self.queued > 0 || working.clone().all(|c| c.excluded.is_some());
        let replicas = working.clone().count() as f64;
        let (ahead, tokens_ahead) = (self.queued as f64 + 1.0, self.queued_tokens as f64);
        let predicted = working.map(|candidate| {
            let ttft_ms = candidate.predicted_ttft_ms(&info);
            if !waits {
                return ttft_ms;
            }
            let learned = &candidate.learned;
            let running = candidate.load.requests().max(1);
            let place_ms = learned.output_tokens * learned.decode_step_ms(running) / f64::from(running);
            ttft_ms + (ahead * place_ms + tokens_ahead * learned.ms_per_token) / replicas
        });
        predicted.min_by(f64::total_cmp)
    }
}
