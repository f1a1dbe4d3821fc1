//! Decisions of a log whose outcome has not been read yet.

use rustc_hash::FxHashMap;
use std::collections::VecDeque;

/// Decisions that may wait at once; the oldest are dropped beyond.
const MOST_OPEN: usize = 200_000;

/// By the request's name; a request that was decided more than once has nothing.
#[derive(Debug)]
pub(super) struct Open<T> {
    decided: FxHashMap<String, Option<T>>,
    order: VecDeque<String>,
    /// Requests that were decided more than once and met their outcome: it follows from all of their decisions.
    pub(super) retried: usize,
}

impl<T> Default for Open<T> {
    fn default() -> Self {
        Self { decided: FxHashMap::default(), order: VecDeque::new(), retried: 0 }
    }
}

impl<T> Open<T> {
    /// Adds a decision.
    pub(super) fn decided(&mut self, id: String, what: T) {
        if let Some(open) = self.decided.get_mut(&id) {
            *open = None;
            return;
        }
        if self.order.len() >= MOST_OPEN
            && let Some(oldest) = self.order.pop_front()
        {
            self.decided.remove(&oldest);
        }
        self.order.push_back(id.clone());
        self.decided.insert(id, Some(what));
    }

    /// The only decision of a request whose outcome came.
    pub(super) fn ended(&mut self, id: &str) -> Option<T> {
        let found = self.decided.remove(id)?;
        self.retried += usize::from(found.is_none());
        found
    }
}
