//! The phase of the router's shutdown, and of an upgrade to another process.

use super::AppState;
use std::sync::atomic::Ordering;

/// How far the router's shutdown is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Not stopping.
    Serving,
    /// Not ready any more, but still accepting connections and requests.
    Settling,
    /// No new connections; open requests finish.
    Draining,
    /// The time to drain is over: open requests are ended.
    Ending,
}

impl AppState {
    /// How far the shutdown is.
    pub fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Relaxed) {
            0 => Phase::Serving,
            1 => Phase::Settling,
            2 => Phase::Draining,
            _ => Phase::Ending,
        }
    }

    pub(crate) fn set_phase(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Relaxed);
    }

    /// Whether the next process of an upgrade has the port and the files by now.
    pub(crate) fn is_handed_over(&self) -> bool {
        self.handed_over.load(Ordering::Relaxed)
    }

    /// Whether changes would be lost, since the next process of an upgrade has those before.
    pub(crate) fn is_upgrading(&self) -> bool {
        self.upgrading.load(Ordering::Relaxed)
    }

    /// The next process of an upgrade is given what this one has.
    pub(crate) fn begin_upgrade(&self) {
        self.upgrading.store(true, Ordering::Relaxed);
    }

    /// The upgrade failed: all is this process's again.
    pub(crate) fn take_back(&self) {
        self.upgrading.store(false, Ordering::Relaxed);
        self.handed_over.store(false, Ordering::Relaxed);
    }

    /// The port and the files belong to the next process from now on. Files that are being written are complete then.
    pub(crate) fn hand_over(&self) {
        let _held = self.saving.lock();
        self.handed_over.store(true, Ordering::Relaxed);
    }
}
