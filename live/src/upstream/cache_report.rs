//! Whether an engine reports how much of a prompt was cached. SGLang and vLLM do so only with a flag; without it the
//! prefix index is never corrected, which costs hits and shows nowhere.

use std::sync::atomic::{AtomicU32, Ordering};

/// Answers without a report after which an engine counts as one that never reports.
const SILENT: u32 = 20;
/// vLLM leaves the report out when nothing was cached, so only answers count for which the router expected this much.
const EXPECTED: u32 = 256;
/// The count of an engine that has reported.
const REPORTS: u32 = u32::MAX;

/// What the answers of one engine have shown.
#[derive(Debug, Default)]
pub(crate) struct CacheReport(AtomicU32);

impl CacheReport {
    /// An answer with a usage came; `expected` tokens were believed cached. True when this one shows that the engine
    /// never reports: once.
    pub(crate) fn answered(&self, reported: bool, expected: u32) -> bool {
        let seen = self.0.load(Ordering::Relaxed);
        if seen == REPORTS || (!reported && expected < EXPECTED) {
            return false;
        }
        if reported {
            self.0.store(REPORTS, Ordering::Relaxed);
            return false;
        }
        // Beyond the limit it stands still. A report at the same time wins or comes again.
        seen < SILENT && self.0.fetch_add(1, Ordering::Relaxed) + 1 == SILENT
    }

    /// Whether the engine reports; `None` until its answers have shown.
    pub(crate) fn seen(&self) -> Option<bool> {
        match self.0.load(Ordering::Relaxed) {
            REPORTS => Some(true),
            count => (count >= SILENT).then_some(false),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_that_never_reports_is_told_of_once() {
        let engine = CacheReport::default();
        assert!((0..100).all(|_| !engine.answered(false, EXPECTED - 1)), "nothing was expected");
        let told = (0..100).filter(|_| engine.answered(false, EXPECTED)).count();
        assert_eq!((told, engine.seen()), (1, Some(false)));
        assert!(!engine.answered(true, 0), "it was restarted with the flag");
        assert_eq!(engine.seen(), Some(true));
        assert!((0..100).all(|_| !engine.answered(false, EXPECTED)));
        assert_eq!(CacheReport::default().seen(), None);
    }
}
