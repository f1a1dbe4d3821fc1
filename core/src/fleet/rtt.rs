//! Round-trip time to a replica: EWMA, extremes and recent samples of the probes.

use crate::Time;
use serde::{Deserialize, Serialize};

/// Weight of a new sample in the moving average (the value of gotoni and of GORGO's proxy).
const ALPHA: f64 = 0.3;

/// Samples kept for the 95th percentile.
const HISTORY: usize = 32;

/// Round-trip statistics of one replica, ms.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Rtt {
    ewma: f64,
    last: f64,
    min: f64,
    max: f64,
    history: Vec<f64>,
    next: usize,
    at: Option<Time>,
}

impl Rtt {
    /// Adds the round trip of a probe, ms; the first sample initializes the average. Ignores negative and non-finite values.
    pub fn add(&mut self, now: Time, ms: f64) {
        if !ms.is_finite() || ms < 0.0 {
            return;
        }
        if self.at.is_none() {
            (self.ewma, self.min, self.max) = (ms, ms, ms);
        } else {
            self.ewma += ALPHA * (ms - self.ewma);
            self.min = self.min.min(ms);
            self.max = self.max.max(ms);
        }
        if self.history.len() < HISTORY {
            self.history.push(ms);
        } else {
            self.history[self.next] = ms;
            self.next = (self.next + 1) % HISTORY;
        }
        self.last = ms;
        self.at = Some(now);
    }

    /// These statistics as another process takes them over at `now`; none if a number is wrong.
    pub(crate) fn taken_over(&self, now: Time) -> Self {
        let sane = |ms: &f64| ms.is_finite() && *ms >= 0.0;
        let numbers = [self.ewma, self.last, self.min, self.max];
        let sound = numbers.iter().chain(&self.history).all(sane) && self.history.len() <= HISTORY;
        if !sound || self.history.is_empty() {
            return Self::default();
        }
        Self { next: self.next % HISTORY, at: Some(now), ..self.clone() }
    }

    /// The moving average, ms; 0 before the first sample.
    #[inline]
    pub fn smoothed_ms(&self) -> f64 {
        self.ewma
    }

    /// The latest sample, ms; 0 before the first.
    pub fn last_ms(&self) -> f64 {
        self.last
    }

    /// The least sample, ms; 0 before the first.
    pub fn min_ms(&self) -> f64 {
        self.min
    }

    /// The greatest sample, ms; 0 before the first.
    pub fn max_ms(&self) -> f64 {
        self.max
    }

    /// 95th percentile (nearest rank) of the last 32 samples.
    pub fn p95_ms(&self) -> f64 {
        let mut sorted = self.history.clone();
        sorted.sort_by(f64::total_cmp);
        let rank = (sorted.len() as f64 * 0.95).ceil() as usize;
        sorted.get(rank.saturating_sub(1)).copied().unwrap_or(0.0)
    }

    /// Time of the latest sample.
    pub fn updated(&self) -> Option<Time> {
        self.at
    }
}
