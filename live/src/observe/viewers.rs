//! Open streams of the overview: a bounded number, which share one rendered text each second.

use bytes::Bytes;
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// Most streams of the overview at once.
pub(crate) const VIEWERS: usize = 16;
/// Time between two events of a stream.
pub(crate) const PERIOD: Duration = Duration::from_secs(1);

/// The streams of the overview.
#[derive(Debug)]
pub(crate) struct Viewers {
    permits: Arc<Semaphore>,
    /// The text of the last event and when it was made.
    latest: Mutex<Option<(Instant, Bytes)>>,
}

impl Default for Viewers {
    fn default() -> Self {
        Self { permits: Arc::new(Semaphore::new(VIEWERS)), latest: Mutex::default() }
    }
}

impl Viewers {
    /// A place for one more stream; `None` when all are taken.
    pub(crate) fn enter(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.permits).try_acquire_owned().ok()
    }

    /// The text of an event: `make` is called if the last one is older than half a period, so that viewers share one.
    pub(crate) fn text(&self, make: impl FnOnce() -> Bytes) -> Bytes {
        let mut latest = self.latest.lock();
        match &*latest {
            Some((at, text)) if at.elapsed() < PERIOD / 2 => text.clone(),
            _ => {
                let text = make();
                *latest = Some((Instant::now(), text.clone()));
                text
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn viewers_share_a_text_and_are_bounded() {
        let viewers = Viewers::default();
        let mut made = 0;
        for _ in 0..3 {
            viewers.text(|| {
                made += 1;
                Bytes::new()
            });
        }
        tokio::time::sleep(PERIOD).await;
        viewers.text(|| {
            made += 1;
            Bytes::new()
        });
        assert_eq!(made, 2);
        let mut held: Vec<_> = (0..VIEWERS).map(|_| viewers.enter()).collect();
        assert!(held.iter().all(Option::is_some) && viewers.enter().is_none());
        held.pop();
        assert!(viewers.enter().is_some());
    }
}
