//! A set of endpoints, by their numbers below 64.

use std::sync::atomic::{AtomicU64, Ordering};

/// Endpoints that an engine, or some engine, does not have.
#[derive(Debug, Default)]
pub(crate) struct AbsentPaths(AtomicU64);

impl AbsentPaths {
    pub(crate) fn insert(&self, number: usize) {
        self.0.fetch_or(1 << number, Ordering::Relaxed);
    }

    pub(crate) fn has(&self, number: usize) -> bool {
        self.0.load(Ordering::Relaxed) & (1 << number) != 0
    }

    /// Another process, maybe of another version, may have the endpoints.
    pub(crate) fn clear(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}
