//! Time as integer nanoseconds, so that equal seeds give identical results; milliseconds as `f64` appear only in costs
//! and reports.

use serde::{Deserialize, Serialize};
use std::ops::{Add, AddAssign, Sub};

/// An instant: nanoseconds since the start of the run (simulated) or of the process (live).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Time(pub u64);

/// A length of time in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Span(pub u64);

impl Time {
    /// The start of the run.
    pub const ZERO: Self = Self(0);
    /// Later than any event; limits of "no deadline" use it.
    pub const NEVER: Self = Self(u64::MAX);

    /// Milliseconds since the start.
    pub fn ms(self) -> f64 {
        self.0 as f64 / 1e6
    }

    /// Seconds since the start.
    pub fn secs(self) -> f64 {
        self.0 as f64 / 1e9
    }

    /// The instant `ms` milliseconds after the start; negative and NaN become the start.
    pub fn from_ms(ms: f64) -> Self {
        Self(Span::from_ms(ms).0)
    }

    /// Time since `earlier`, zero if `earlier` is later.
    pub fn since(self, earlier: Self) -> Span {
        Span(self.0.saturating_sub(earlier.0))
    }
}

impl Span {
    /// No time.
    pub const ZERO: Self = Self(0);

    /// A span of `ms` milliseconds, rounded to the nanosecond; negative and NaN become zero.
    #[inline]
    pub fn from_ms(ms: f64) -> Self {
        // As `f64::round`, which is a call of the C library on machines without SSE4.1: the cast cuts off the part behind
        // the point, which is exact below 2^53; greater numbers have none.
        let ns = ms * 1e6;
        if ns < 9.2e18 {
            let whole = ns as i64;
            return Self(whole.max(0) as u64 + u64::from(ns - whole as f64 >= 0.5));
        }
        Self(ns.round().max(0.0) as u64)
    }

    /// A span of `s` seconds.
    pub fn from_secs(s: f64) -> Self {
        Self::from_ms(s * 1e3)
    }

    /// The span in milliseconds.
    pub fn ms(self) -> f64 {
        self.0 as f64 / 1e6
    }
}

impl Add<Span> for Time {
    type Output = Self;
    fn add(self, span: Span) -> Self {
        Self(self.0.saturating_add(span.0))
    }
}

impl AddAssign<Span> for Time {
    fn add_assign(&mut self, span: Span) {
        *self = *self + span;
    }
}

impl Sub for Time {
    type Output = Span;
    fn sub(self, earlier: Self) -> Span {
        self.since(earlier)
    }
}

impl Add for Span {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn spans_are_rounded_as_by_the_library(any: f64, near in 0u64..1 << 60, below in 1e-7f64..1e-5) {
            let rounded = |ms: f64| (ms * 1e6).round().max(0.0) as u64;
            let near = near as f64 / 1e6;
            for ms in [any, near, near + 5e-7, near - 5e-7, near + below, f64::INFINITY, f64::NAN, -0.0, 1.8e13, 1.9e13] {
                prop_assert_eq!(Span::from_ms(ms).0, rounded(ms), "{}", ms);
            }
        }
    }

    #[test]
    fn conversions_round_and_never_wrap() {
        assert_eq!(Span::from_ms(1.5), Span(1_500_000));
        assert_eq!(Span::from_ms(-3.0), Span::ZERO);
        assert_eq!(Span::from_ms(f64::NAN), Span::ZERO);
        assert_eq!(Time(5) - Time(9), Span::ZERO);
        assert_eq!(Time::NEVER + Span(1), Time::NEVER);
    }
}
