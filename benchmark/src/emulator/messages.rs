//! Messages between the HTTP handlers and the engine's thread.
//!
//! A handler follows its request through a watch channel that holds the newest [`RequestProgress`] only. So memory
//! does not grow when a client reads slowly; the handler finds several tokens in one update, as behind an SGLang that
//! lags.

use gorgo_core::{RequestId, Time};
use gorgo_sim::engine::{Counters, EngineError, EngineRequest, Gauges, Health, Loads};
use std::time::Duration;
use tokio::sync::{oneshot, watch};

/// Progress of one request. Times are those of the engine's clock.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RequestProgress {
    /// When the engine accepted it.
    pub accepted: Time,
    /// When its first prefill step started.
    pub prefill: Option<Time>,
    /// When its first token left.
    pub first: Option<Time>,
    /// Tokens generated.
    pub generated: u32,
    /// Prompt tokens found in the cache.
    pub cached_tokens: u32,
    /// When and how it ended.
    pub end: Option<(Time, Result<Completed, EngineError>)>,
}

/// Result of a request that was answered in full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Completed {
    /// Tokens generated.
    pub output_tokens: u32,
    /// How often the request was retracted.
    pub retractions: u32,
}

/// State of the scheduler at one time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Snapshot {
    /// Gauges as `/metrics` shows them; they may be stale.
    pub gauges: Gauges,
    /// Counters since the process started.
    pub counters: Counters,
    /// The true load.
    pub loads: Loads,
    /// Whether it serves.
    pub health: Health,
    /// Time of the engine's clock.
    pub now: Time,
}

/// A command to the engine's thread.
pub(super) enum Command {
    Submit {
        request: EngineRequest,
        stream: bool,
        session: Option<String>,
        progress: watch::Sender<RequestProgress>,
        accepted: oneshot::Sender<Result<(), EngineError>>,
    },
    Cancel(RequestId),
    /// Ask the scheduler, which does not answer while it hangs.
    Read(oneshot::Sender<Snapshot>),
    /// Read the metrics, which the API process of SGLang can do without the scheduler.
    ReadMetrics(oneshot::Sender<Snapshot>),
    Flush(oneshot::Sender<bool>),
    Crash,
    Restart {
        cold_start_s: Option<f64>,
    },
    Hang(Duration),
}
