//! A compact distribution of one quantity, small enough for every point of a sweep. Merging is order-independent.

use gorgo_core::Span;
use gorgo_sim::engine::GapBucket;
use serde::{Deserialize, Serialize};

/// Distinct values kept exactly; more are rounded.
const EXACT: usize = 4096;
/// Leading bits kept when rounding: buckets are at most 2^-9 of their value wide and stand for their middle, so a
/// rounded value is off by at most 2^-10, 0.1 %.
const BITS: u32 = 10;

/// Sorted samples in nanoseconds with their counts. Exact up to 4,096 distinct values; beyond, each value is off by at
/// most 0.1 %, while count, mean, minimum and maximum stay exact. Merging is associative and commutative, so shards
/// may be joined in any order.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "Wire", into = "Wire")]
pub struct Digest {
    /// Ascending distinct values, ns.
    values: Vec<u64>,
    counts: Vec<u64>,
    samples: u64,
    /// Exact, ns.
    sum: u128,
    min: u64,
    max: u64,
    rounded: bool,
}

impl Digest {
    /// The digest of spans of time.
    pub fn of(samples: impl IntoIterator<Item = Span>) -> Self {
        let mut values: Vec<u64> = samples.into_iter().map(|s| s.0).collect();
        values.sort_unstable();
        Self::sorted(values.into_iter().map(|v| (v, 1)), false)
    }

    /// The digest of a histogram: each sample counts as its bucket's upper bound.
    pub fn of_histogram(buckets: &[GapBucket]) -> Self {
        let mut buckets: Vec<(u64, u64)> =
            buckets.iter().filter(|b| b.count > 0).map(|b| (Span::from_ms(b.upper_ms).0, b.count)).collect();
        buckets.sort_unstable();
        Self::sorted(buckets.into_iter(), false)
    }

    /// The samples of both.
    #[must_use]
    pub fn merge(&self, other: &Self) -> Self {
        let mut all: Vec<(u64, u64)> = self.weighted().chain(other.weighted()).collect();
        all.sort_unstable();
        let mut merged = Self::sorted(all.into_iter(), self.rounded || other.rounded);
        // Rounding must not touch what is known exactly.
        merged.sum = self.sum + other.sum;
        let ends = [self, other].into_iter().filter(|d| d.samples > 0);
        merged.min = ends.clone().map(|d| d.min).min().unwrap_or(0);
        merged.max = ends.map(|d| d.max).max().unwrap_or(0);
        merged
    }

    /// From ascending values with counts.
    fn sorted(pairs: impl Iterator<Item = (u64, u64)>, rounded: bool) -> Self {
        let mut digest = Self { rounded, ..Self::default() };
        for (value, count) in pairs {
            if digest.samples == 0 {
                digest.min = value;
            }
            digest.max = value;
            digest.samples += count;
            digest.sum += u128::from(value) * u128::from(count);
            let value = if digest.rounded { round(value) } else { value };
            if digest.values.last() == Some(&value) {
                if let Some(last) = digest.counts.last_mut() {
                    *last += count;
                }
            } else {
                digest.values.push(value);
                digest.counts.push(count);
            }
            if digest.values.len() > EXACT && !digest.rounded {
                digest.round();
            }
        }
        digest
    }

    fn round(&mut self) {
        self.rounded = true;
        let mut kept = 0;
        for i in 0..self.values.len() {
            let (value, count) = (round(self.values[i]), self.counts[i]);
            if kept > 0 && self.values[kept - 1] == value {
                self.counts[kept - 1] += count;
            } else {
                (self.values[kept], self.counts[kept]) = (value, count);
                kept += 1;
            }
        }
        self.values.truncate(kept);
        self.counts.truncate(kept);
    }

    fn weighted(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.values.iter().copied().zip(self.counts.iter().copied())
    }

    /// Number of samples.
    pub fn samples(&self) -> u64 {
        self.samples
    }

    /// Mean in ms, exact; `None` without samples.
    pub fn mean_ms(&self) -> Option<f64> {
        (self.samples > 0).then(|| self.sum as f64 / self.samples as f64 / 1e6)
    }

    /// Largest sample in ms, exact; `None` without samples.
    pub fn max_ms(&self) -> Option<f64> {
        (self.samples > 0).then_some(self.max as f64 / 1e6)
    }

    /// The `p` quantile in ms (`0 <= p <= 1`): linear interpolation at rank `(n - 1) * p`; `None` without samples.
    pub fn quantile(&self, p: f64) -> Option<f64> {
        self.quantiles(&[p]).pop()
    }

    /// The quantiles at ascending `points`, in one pass; empty without samples.
    pub fn quantiles(&self, points: &[f64]) -> Vec<f64> {
        if self.samples == 0 {
            return Vec::new();
        }
        let (mut slot, mut before) = (0, 0u64);
        let last = self.samples - 1;
        points
            .iter()
            .map(|p| {
                let rank = last as f64 * p.clamp(0.0, 1.0);
                let lower = (rank.floor() as u64).min(last);
                while before + self.counts[slot] <= lower {
                    before += self.counts[slot];
                    slot += 1;
                }
                let upper = if lower < last && before + self.counts[slot] <= lower + 1 { slot + 1 } else { slot };
                let (low, high) = (self.at(slot), self.at(upper));
                (low + (high - low) * (rank - lower as f64)) / 1e6
            })
            .collect()
    }

    /// A value in ns, kept within the exact ends.
    fn at(&self, slot: usize) -> f64 {
        self.values[slot].clamp(self.min, self.max) as f64
    }
}

/// The middle of the bucket of `value`.
fn round(value: u64) -> u64 {
    let shift = (u64::BITS - value.leading_zeros()).saturating_sub(BITS);
    ((value >> shift) << shift) + ((1 << shift) >> 1)
}

/// The form in files: differences of the sorted values; counts only where some differ from 1.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    steps_ns: Vec<u64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    counts: Vec<u64>,
    /// Whole seconds and nanoseconds, because JSON readers lose digits of larger integers.
    sum: (u64, u64),
    min_ns: u64,
    max_ns: u64,
    rounded: bool,
}

impl From<Digest> for Wire {
    fn from(digest: Digest) -> Self {
        let before = std::iter::once(&0).chain(&digest.values);
        let steps_ns = digest.values.iter().zip(before).map(|(value, before)| value - before).collect();
        let plain = digest.counts.iter().all(|&c| c == 1);
        Self {
            steps_ns,
            counts: if plain { Vec::new() } else { digest.counts },
            sum: ((digest.sum / 1_000_000_000) as u64, (digest.sum % 1_000_000_000) as u64),
            min_ns: digest.min,
            max_ns: digest.max,
            rounded: digest.rounded,
        }
    }
}

impl From<Wire> for Digest {
    fn from(wire: Wire) -> Self {
        let mut at = 0u64;
        let values: Vec<u64> = wire
            .steps_ns
            .iter()
            .map(|step| {
                at = at.saturating_add(*step);
                at
            })
            .collect();
        let mut counts = wire.counts;
        // Missing counts are ones; a file with too few or zero counts must not make an index go astray.
        counts.resize(values.len(), 1);
        counts.iter_mut().for_each(|c| *c = (*c).max(1));
        Self {
            samples: counts.iter().fold(0, |sum: u64, c| sum.saturating_add(*c)),
            sum: u128::from(wire.sum.0) * 1_000_000_000 + u128::from(wire.sum.1),
            min: wire.min_ns.min(wire.max_ns),
            max: wire.max_ns,
            rounded: wire.rounded,
            values,
            counts,
        }
    }
}

#[cfg(test)]
mod tests;
