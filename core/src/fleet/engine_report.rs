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
}

/// An engine's report and the time it was received.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EngineReading {
    /// The report.
    pub report: EngineReport,
    /// When it was received.
    pub at: Time,
}
