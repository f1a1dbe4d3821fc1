//! The core's time, read from the runtime's clock. No other file of the live router converts between the two.

use gorgo_core::Time;
use std::time::SystemTime;
use tokio::time::Instant;

/// Counts time from the router's start.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    start: Instant,
    wall: SystemTime,
}

impl Clock {
    /// A clock whose time 0 is now.
    pub fn start() -> Self {
        Self { start: Instant::now(), wall: SystemTime::now() }
    }

    /// Nanoseconds since the start.
    pub fn now(&self) -> Time {
        Time(u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    /// The runtime's instant at a time.
    pub fn instant(&self, at: Time) -> Instant {
        // A century is far enough, and does not overflow.
        self.start + std::time::Duration::from_nanos(at.0.min(3_155_760_000_000_000_000))
    }

    /// Wall-clock time, ns since 1970: the wall clock at the start plus monotonic time, so that it never jumps.
    pub fn unix_ns(&self, at: Time) -> u64 {
        let start = self.wall.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_nanos());
        u64::try_from(start).unwrap_or(u64::MAX).saturating_add(at.0)
    }

    /// Wall-clock time as RFC 3339 in UTC, with milliseconds.
    pub fn rfc3339(&self, at: Time) -> String {
        let stamp = jiff::Timestamp::from_nanosecond(i128::from(self.unix_ns(at))).unwrap_or(jiff::Timestamp::MAX);
        format!("{stamp:.3}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn dates_are_civil() {
        let wall = SystemTime::UNIX_EPOCH + Duration::from_millis(1_709_210_096_789);
        let clock = Clock { start: Instant::now(), wall };
        assert_eq!(clock.rfc3339(Time::ZERO), "2024-02-29T12:34:56.789Z");
        let clock = Clock { start: Instant::now(), wall: SystemTime::UNIX_EPOCH };
        assert_eq!(clock.rfc3339(Time::from_ms(951_782_400_000.0)), "2000-02-29T00:00:00.000Z");
    }
}
