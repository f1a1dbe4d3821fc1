//! One line of log for each change of state.
//!
//! The driver compares the state that operators care about before and after the events that can change it
//! (`tracker`); other changes are logged where they happen. Lines are written by one task, so that a slow log delays no
//! request, and limited in number for each thing they are about (`limits`).

mod change;
mod limits;
mod tracker;

pub(crate) use change::Change;
use limits::Limits;
pub(crate) use tracker::Tracker;

use crate::supervise;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::mpsc;

/// Changes that wait to be written; more are counted.
const WAITING: usize = 1_024;

/// The sending side: the task behind it writes one line per change.
#[derive(Debug, Clone)]
pub(crate) struct Changes(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    lines: mpsc::Sender<Change>,
    lost: AtomicU64,
}

impl Changes {
    /// Starts the task that writes the lines; call it in a runtime.
    pub(crate) fn start() -> Self {
        let (changes, lines) = Self::channel();
        let inner = Arc::downgrade(&changes.0);
        tokio::spawn(supervise::logged("log of changes", async move {
            write(lines, move || inner.upgrade().map_or(0, |inner| inner.lost.swap(0, Ordering::Relaxed))).await;
        }));
        changes
    }

    fn channel() -> (Self, mpsc::Receiver<Change>) {
        let (sender, lines) = mpsc::channel(WAITING);
        (Self(Arc::new(Inner { lines: sender, lost: AtomicU64::new(0) })), lines)
    }

    /// Queues a change for the log. Does not wait.
    pub(crate) fn tell(&self, change: Change) {
        if self.0.lines.try_send(change).is_err() {
            self.0.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

async fn write(mut lines: mpsc::Receiver<Change>, lost: impl Fn() -> u64) {
    let mut limits = Limits::default();
    while let Some(change) = lines.recv().await {
        let Some(before) = limits.pass(&change) else { continue };
        let before = before + lost();
        let more = if before == 0 { String::new() } else { format!(" ({before} like it not shown)") };
        if change.warns() {
            tracing::warn!("{change}{more}");
        } else {
            tracing::info!("{change}{more}");
        }
    }
}
