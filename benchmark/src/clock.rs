//! Wall-clock time as the core's integer time.

use gorgo_core::{Span, Time};
use std::time::{Duration, Instant};

/// Real time since a start, optionally accelerated.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    start: Instant,
    speed: f64,
}

impl Clock {
    /// Starts the clock; with `speed` 2 it advances two seconds per real second. A `speed` that is not a positive
    /// finite number counts as 1.
    pub fn start(speed: f64) -> Self {
        Self { start: Instant::now(), speed: if speed.is_finite() && speed > 0.0 { speed } else { 1.0 } }
    }

    /// Time since the start.
    pub fn now(&self) -> Time {
        let elapsed = self.start.elapsed();
        if self.speed == 1.0 {
            return Time(u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX));
        }
        Time((elapsed.as_secs_f64() * self.speed * 1e9) as u64)
    }

    /// When the clock reaches `at`; [`Time::NEVER`] is a century away.
    pub fn instant(&self, at: Time) -> Instant {
        const CENTURY: Duration = Duration::from_secs(100 * 365 * 86_400);
        let ns = if self.speed == 1.0 { at.0 } else { (at.0 as f64 / self.speed).ceil() as u64 };
        self.start + Duration::from_nanos(ns).min(CENTURY)
    }

    /// The clock's time at `instant`.
    pub fn at(&self, instant: Instant) -> Time {
        let since = instant.saturating_duration_since(self.start);
        Time((Span(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)).0 as f64 * self.speed) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speed_scales_both_ways() {
        let clock = Clock::start(20.0);
        let real = clock.instant(Time::from_ms(1000.0)) - clock.start;
        assert_eq!(real, Duration::from_millis(50));
        assert_eq!(clock.at(clock.start + Duration::from_millis(50)), Time::from_ms(1000.0));
        assert!(clock.instant(Time::NEVER) > clock.start);
        assert!(Clock::start(f64::NAN).speed == 1.0);
    }
}
