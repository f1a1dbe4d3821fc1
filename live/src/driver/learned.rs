//! Learned paths that wait to be sent to other routers, or to the next process of an upgrade.

use super::Driver;
use gorgo_core::sharing::Path;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::atomic::Ordering;

/// Most learned paths that wait to be sent; beyond it the oldest is dropped.
const MAX_LEARNED: usize = 4_096;

impl Driver {
    /// Keeps what the router learns for others, to be taken by [`Self::take_learned`].
    pub(crate) fn sharing(mut self) -> Self {
        self.learned = Some(Mutex::default());
        self.inner.get_mut().router.share_prefixes(true);
        self
    }

    /// Keeps what is learned from now on for the next process of an upgrade.
    pub(crate) fn begin_heir(&self) {
        let mut inner = self.inner.lock();
        *self.heir.lock() = Some(VecDeque::new());
        inner.router.share_prefixes(true);
    }

    /// The upgrade failed: there is no next process.
    pub(crate) fn forget_heir(&self) {
        let mut inner = self.inner.lock();
        *self.heir.lock() = None;
        inner.router.share_prefixes(self.learned.is_some());
    }

    /// Keeps a path for the next process, if there is one.
    pub(crate) fn pass_to_heir(&self, path: &Path) {
        if let Some(heir) = &mut *self.heir.lock() {
            push_bounded(heir, path.clone());
        }
    }

    /// What was learned for the next process since the last call.
    pub(crate) fn take_for_heir(&self) -> VecDeque<Path> {
        self.heir.lock().as_mut().map_or_else(VecDeque::new, std::mem::take)
    }

    pub(super) fn learned(&self, path: Path) {
        self.pass_to_heir(&path);
        if let Some(learned) = &self.learned
            && push_bounded(&mut learned.lock(), path)
        {
            self.learned_dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// What was learned since the last call.
    pub(crate) fn take_learned(&self) -> VecDeque<Path> {
        self.learned.as_ref().map_or_else(VecDeque::new, |learned| std::mem::take(&mut *learned.lock()))
    }

    /// Paths that were learned faster than they were taken, and dropped.
    pub(crate) fn learned_dropped(&self) -> u64 {
        self.learned_dropped.load(Ordering::Relaxed)
    }
}

/// Appends a path to those that wait to be sent. True if the oldest path was dropped.
fn push_bounded(waiting: &mut VecDeque<Path>, path: Path) -> bool {
    let is_full = waiting.len() >= MAX_LEARNED;
    if is_full {
        waiting.pop_front();
    }
    waiting.push_back(path);
    is_full
}
