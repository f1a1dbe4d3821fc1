//! A 404 for an id or a model of which this router does not know which engine has it: another one may.
//!
//! Ids that an engine keeps are known from when it made them, models from the engines' lists; after a restart, or with
//! engines that show no list, some are not. The request then goes on to the next engine, and what is found is kept.

use parking_lot::Mutex;
use tokio::time::Instant;

/// Most look-ups at once.
const BURST: f64 = 64.0;
/// Look-ups that are added a second. Clients that invent names must not use up the retries of others.
const RATE: f64 = 1.0;

/// What a request names that some engine may have while others do not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Sought {
    /// What an engine keeps, by its key.
    Kept(u64),
    /// A model, while some engine's list is not known.
    Model(String),
}

/// How many look-ups are free, and since when.
#[derive(Debug, Default)]
pub(crate) struct LookUps(Mutex<Option<(f64, Instant)>>);

impl LookUps {
    /// Takes one if one is free.
    pub(super) fn take(&self) -> bool {
        let mut inner = self.0.lock();
        let now = Instant::now();
        let (left, since) = inner.unwrap_or((BURST, now));
        let left = (left + now.duration_since(since).as_secs_f64() * RATE).min(BURST);
        let is_free = left >= 1.0;
        *inner = Some((left - f64::from(u8::from(is_free)), now));
        is_free
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn look_ups_are_bounded_and_come_back() {
        let look_ups = LookUps::default();
        let taken = || (0..100).filter(|_| look_ups.take()).count();
        assert_eq!((taken(), taken()), (64, 0));
        tokio::time::advance(Duration::from_secs(3)).await;
        assert_eq!(taken(), 3);
    }
}
