//! The index of the worker thread that runs this code, for data that is kept once per worker.

use std::cell::Cell;

/// Most worker threads. Decisions are made one at a time, so more threads would only wait for each other.
pub(crate) const MAX_WORKERS: usize = 8;

thread_local! {
    static INDEX: Cell<usize> = const { Cell::new(0) };
}

/// The index of this thread: workers count from 1, any other thread is 0.
pub(crate) fn current() -> usize {
    INDEX.get()
}

/// Gives this thread its index.
pub(crate) fn set(index: usize) {
    INDEX.set(index);
}
