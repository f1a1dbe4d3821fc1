//! What policies may know of a replica's speed.

use super::Rates;
use serde::{Deserialize, Serialize};

/// What was learned of one replica, as policies see it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Learned {
    /// TTFT beyond network and the terms below, ms; may be negative where probes show more than requests pay.
    pub offset_ms: f64,
    /// Prefill, ms per token.
    pub ms_per_token: f64,
    /// TTFT per waiting uncached token, ms.
    pub ms_per_waiting_token: f64,
    /// TTFT per running request, ms.
    pub ms_per_running: f64,
    /// TTFT per waiting request, ms.
    pub ms_per_waiting: f64,
    /// A decode step with one request, ms.
    pub step_ms: f64,
    /// What each further request adds to a decode step, ms.
    pub step_ms_per_running: f64,
    /// Tokens of an answer.
    pub output_tokens: f64,
    /// Price of a millisecond of another request against one of this request's TTFT.
    pub kappa: f64,
    /// Median, 90th and 95th percentile of TTFT over its prediction.
    pub quantiles: [f64; 3],
}

impl Default for Learned {
    fn default() -> Self {
        Rates::default().learned(0, None)
    }
}

impl Learned {
    /// A decode step with `running` requests (at least one), ms.
    pub fn decode_step_ms(&self, running: u32) -> f64 {
        self.step_ms + self.step_ms_per_running * f64::from(running.saturating_sub(1))
    }

    /// Predicted TTFT without the network, ms.
    pub fn ttft_ms(&self, uncached: u32, waiting_uncached: u64, running: u32, waiting: u32) -> f64 {
        let ms = self.offset_ms
            + self.ms_per_token * f64::from(uncached)
            + self.ms_per_waiting_token * waiting_uncached as f64
            + self.ms_per_running * f64::from(running)
            + self.ms_per_waiting * f64::from(waiting);
        ms.max(0.0)
    }
}
