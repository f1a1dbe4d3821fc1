//! Progress of a running benchmark, and the means to stop it.

use gorgo_core::record::{RequestRecord, Status};
use gorgo_sim::engine::GapHistogram;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Counters of a running benchmark, shared with the display, and its stop flag.
#[derive(Debug, Default)]
pub struct Progress {
    sent: AtomicU64,
    finished: AtomicU64,
    failed: AtomicU64,
    tokens: AtomicU64,
    stop: AtomicBool,
    ttft: Mutex<GapHistogram>,
}

/// Values of a [`Progress`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Figures {
    /// Requests sent.
    pub sent: u64,
    /// Requests answered in full.
    pub finished: u64,
    /// Requests that ended otherwise.
    pub failed: u64,
    /// Output tokens.
    pub tokens: u64,
    /// Median TTFT so far, ms.
    pub ttft_p50_ms: Option<f64>,
    /// 99th percentile of the TTFT so far, ms.
    pub ttft_p99_ms: Option<f64>,
}

impl Progress {
    /// Stops the benchmark: no more requests are sent, those in flight are abandoned.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// The current values.
    pub fn figures(&self) -> Figures {
        let ttft = self.ttft.lock();
        let load = |n: &AtomicU64| n.load(Ordering::Relaxed);
        Figures {
            sent: load(&self.sent),
            finished: load(&self.finished),
            failed: load(&self.failed),
            tokens: load(&self.tokens),
            ttft_p50_ms: ttft.quantile(0.5),
            ttft_p99_ms: ttft.quantile(0.99),
        }
    }

    pub(super) fn request_sent(&self) {
        self.sent.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn request_ended(&self, record: &RequestRecord) {
        if record.status == Status::Finished {
            self.finished.fetch_add(1, Ordering::Relaxed);
        } else {
            self.failed.fetch_add(1, Ordering::Relaxed);
        }
        self.tokens.fetch_add(u64::from(record.output_tokens), Ordering::Relaxed);
        if let Some(ttft) = record.ttft() {
            self.ttft.lock().add(ttft.ms(), 1);
        }
    }
}
