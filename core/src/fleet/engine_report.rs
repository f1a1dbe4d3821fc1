//! An engine's own metrics, and when the router received them.

use crate::Time;
use serde::{Deserialize, Serialize};

/// An engine's metrics.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct EngineReport {
    /// `num_running_reqs`
    pub running: u32,
    /// `num_queue_reqs`
    pub queued: u32,
    /// `num_used_tokens`
    pub used_tokens: u64,
    /// `max_total_num_tokens`, 0 if not reported.
    pub kv_tokens: u64,
    /// Share of the KV cache in use, 0 to 1, of an engine that does not report tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kv_share: Option<f64>,
}

impl EngineReport {
    /// Share of the KV cache in use, 0 to 1; `None` if it is not reported.
    pub fn kv_use(&self) -> Option<f64> {
        match self.kv_tokens {
            0 => self.kv_share,
            most => Some(self.used_tokens as f64 / most as f64),
        }
    }
}

/// An engine's report and the time it was received.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EngineReading {
    /// The report.
    pub report: EngineReport,
    /// When it was received.
    pub at: Time,
}
