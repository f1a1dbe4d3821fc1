//! How long the other side keeps an idle connection, learned without risk.
//!
//! A request on a connection that the replica is closing is lost, so a connection is used only while it is younger
//! than the limit: `timeouts.keep_alive_ms` at first. One older connection per thread stays open, unused. As long as
//! it survives, the limit follows at four fifths of its age; when the replica closes it, the limit stays below that
//! age. A far replica then needs no new connection, and no handshakes, for requests that are minutes apart.

use parking_lot::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// A close may have been a restart, so that it bounds the limit only for this long.
const CLOSE_COUNTS: Duration = Duration::from_secs(600);

/// What idle connections to one replica showed.
#[derive(Debug, Default)]
pub(crate) struct IdleLimit {
    shown: Mutex<Shown>,
    /// The learned limit, ns: every request reads it, so that no request takes the lock.
    learned_ns: AtomicU64,
}

#[derive(Debug, Default, Clone, Copy)]
struct Shown {
    /// The greatest age at which an idle connection was open.
    open_at: Duration,
    /// The least age, from the configured limit on, at which one was found closed, and when.
    closed_at: Option<(Duration, Instant)>,
}

impl Shown {
    /// The least age of a close that still counts.
    fn closed(&self) -> Option<Duration> {
        self.closed_at.filter(|(_, at)| at.elapsed() < CLOSE_COUNTS).map(|(age, _)| age)
    }
}

impl IdleLimit {
    /// An idle connection of this age is open.
    pub(crate) fn open(&self, age: Duration) {
        let mut shown = self.shown.lock();
        shown.open_at = shown.open_at.max(age);
        self.store(*shown);
    }

    /// An idle connection of this age was found closed; it may have been closed up to `period` ago. A close before
    /// `configured` is the replica's own business: the next use finds it.
    pub(crate) fn closed(&self, age: Duration, period: Duration, configured: Duration) {
        let age = age.saturating_sub(period);
        if age < configured {
            return;
        }
        let mut shown = self.shown.lock();
        let least = shown.closed().map_or(age, |least| least.min(age));
        (shown.closed_at, shown.open_at) = (Some((least, Instant::now())), shown.open_at.min(least));
        self.store(*shown);
    }

    fn store(&self, shown: Shown) {
        let least = shown.open_at.min(shown.closed().unwrap_or(Duration::MAX)).mul_f64(0.8);
        self.learned_ns.store(u64::try_from(least.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// The age below which an idle connection may be used.
    pub(crate) fn usable(&self, configured: Duration) -> Duration {
        configured.max(Duration::from_nanos(self.learned_ns.load(Ordering::Relaxed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIGURED: Duration = Duration::from_secs(4);
    const PERIOD: Duration = Duration::from_secs(1);

    fn secs(s: u64) -> Duration {
        Duration::from_secs(s)
    }

    #[tokio::test(start_paused = true)]
    async fn the_limit_follows_the_oldest_open_connection_and_stays_below_a_close() {
        let limit = IdleLimit::default();
        assert_eq!(limit.usable(CONFIGURED), CONFIGURED);
        limit.open(secs(5));
        assert_eq!(limit.usable(CONFIGURED), CONFIGURED, "four fifths of 5 s");
        limit.open(secs(60));
        assert_eq!(limit.usable(CONFIGURED), secs(48));
        limit.closed(secs(2), PERIOD, CONFIGURED);
        assert_eq!(limit.usable(CONFIGURED), secs(48), "sooner than configured: a restart, or found at the next use");
        limit.closed(secs(31), PERIOD, CONFIGURED);
        assert_eq!(limit.usable(CONFIGURED), secs(24));
        tokio::time::advance(CLOSE_COUNTS).await;
        limit.open(secs(50));
        assert_eq!(limit.usable(CONFIGURED), secs(40), "the close may have been a restart");
    }
}
