//! Retries a 404 at other engines if the request names an id or a model that the router cannot map to an engine.
//!
//! The router learns ids from the responses that create them, and models from the engines' lists. After a restart, or
//! with engines that publish no list, some are not known: the request then goes to the next engine, and the router
//! records the engine that has the id or the model.

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
    /// A model that engines list: one that denies it has just unloaded it.
    Listed,
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
