//! Figures of a run while it goes on, and the way to stop it.

use gorgo_core::record::{RequestRecord, Status};
use gorgo_sim::engine::GapHistogram;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Figures while it runs; shared with whoever shows them.
#[derive(Debug, Default)]
pub struct Live {
    sent: AtomicU64,
    finished: AtomicU64,
    failed: AtomicU64,
    tokens: AtomicU64,
    stop: AtomicBool,
    ttft: Mutex<GapHistogram>,
}

/// What a [`Live`] shows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Now {
    /// Requests sent.
    pub sent: u64,
    /// Answered in full.
    pub finished: u64,
    /// Ended otherwise.
    pub failed: u64,
    /// Tokens of answers.
    pub tokens: u64,
    /// Median time to first token of the run, ms.
    pub ttft_p50_ms: Option<f64>,
    /// Its 99th percentile, ms.
    pub ttft_p99_ms: Option<f64>,
}

impl Live {
    /// Sends nothing more and gives up what is in flight.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    pub(super) fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Where it stands.
    pub fn now(&self) -> Now {
        let ttft = self.ttft.lock().unwrap_or_else(PoisonError::into_inner);
        let load = |n: &AtomicU64| n.load(Ordering::Relaxed);
        Now {
            sent: load(&self.sent),
            finished: load(&self.finished),
            failed: load(&self.failed),
            tokens: load(&self.tokens),
            ttft_p50_ms: ttft.quantile(0.5),
            ttft_p99_ms: ttft.quantile(0.99),
        }
    }

    pub(super) fn sending(&self) {
        self.sent.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn ended(&self, record: &RequestRecord) {
        if record.status == Status::Finished {
            self.finished.fetch_add(1, Ordering::Relaxed);
        } else {
            self.failed.fetch_add(1, Ordering::Relaxed);
        }
        self.tokens.fetch_add(u64::from(record.output_tokens), Ordering::Relaxed);
        if let Some(ttft) = record.ttft() {
            self.ttft.lock().unwrap_or_else(PoisonError::into_inner).add(ttft.ms(), 1);
        }
    }
}
