//! Samples of one quantity, small enough to keep for every point of a sweep and mergeable without order.

use gorgo_core::Span;
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

    /// The digest of a histogram of `(upper edge ms, count)`: each sample counts as its bucket's upper edge.
    pub fn of_histogram(buckets: &[(f64, u64)]) -> Self {
        let mut buckets: Vec<(u64, u64)> =
            buckets.iter().filter(|b| b.1 > 0).map(|&(upper_ms, count)| (Span::from_ms(upper_ms).0, count)).collect();
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
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ms(values: &[f64]) -> Digest {
        Digest::of(values.iter().map(|&v| Span::from_ms(v)))
    }

    // numpy 1.24.2: `np.percentile(v, p)` with its default method, "linear".
    #[test]
    fn percentiles_agree_with_numpy() {
        let digest = ms(&[90.0, 15.0, 35.0, 20.0, 55.5, 40.0, 50.0]);
        let expected = [15.0, 40.0, 69.3, 79.65, 87.93, 90.0];
        for (got, expected) in digest.quantiles(&[0.0, 0.5, 0.9, 0.95, 0.99, 1.0]).into_iter().zip(expected) {
            assert!((got - expected).abs() < 1e-9, "{got} is not {expected}");
        }
        assert!((digest.mean_ms().unwrap() - 305.5 / 7.0).abs() < 1e-12);
        assert_eq!(digest.max_ms(), Some(90.0));
    }

    #[test]
    fn no_samples_have_no_figures_and_one_sample_is_every_percentile() {
        let none = Digest::default();
        assert_eq!((none.mean_ms(), none.max_ms(), none.quantile(0.5)), (None, None, None));
        assert_eq!(ms(&[7.0]).quantiles(&[0.0, 0.5, 0.99, 1.0]), [7.0; 4]);
    }

    #[test]
    fn a_histogram_counts_each_sample_at_its_upper_edge() {
        let digest = Digest::of_histogram(&[(20.0, 1), (5.0, 0), (10.0, 3)]);
        assert_eq!(digest.samples(), 4);
        assert_eq!(digest.mean_ms(), Some(12.5));
        assert_eq!(digest.quantile(1.0 / 3.0), Some(10.0));
        assert_eq!(digest.quantile(5.0 / 6.0), Some(15.0));
    }

    fn sorted_quantile(values: &[u64], p: f64) -> f64 {
        let rank = (values.len() - 1) as f64 * p;
        let low = values[rank.floor() as usize] as f64;
        let high = values[rank.ceil() as usize] as f64;
        (low + (high - low) * rank.fract()) / 1e6
    }

    #[test]
    fn many_samples_stay_small_and_within_a_thousandth() {
        let mut values: Vec<u64> =
            (1..=200_000u64).map(|i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15) % (1 << 40)).collect();
        let digest = Digest::of(values.iter().map(|&v| Span(v)));
        values.sort_unstable();
        assert!(digest.values.len() < 16_000, "{}", digest.values.len());
        for p in [0.001, 0.5, 0.9, 0.99, 0.9999, 1.0] {
            let (got, exact) = (digest.quantile(p).unwrap(), sorted_quantile(&values, p));
            assert!((got / exact - 1.0).abs() <= 1.0 / 1024.0, "p={p}: {got} for {exact}");
        }
        assert_eq!(digest.max_ms(), Some(values[values.len() - 1] as f64 / 1e6));
    }

    proptest! {
        #[test]
        fn quantiles_are_those_of_the_sorted_samples(mut values in prop::collection::vec(0u64..1 << 50, 1..200), p in 0.0f64..=1.0) {
            let digest = Digest::of(values.iter().map(|&v| Span(v)));
            values.sort_unstable();
            let (got, exact) = (digest.quantile(p).unwrap(), sorted_quantile(&values, p));
            prop_assert!((got - exact).abs() <= 1e-9 * exact.max(1.0), "{} for {}", got, exact);
        }

        #[test]
        fn merging_in_any_grouping_gives_the_digest_of_all(sizes in prop::array::uniform3(0usize..3000), spread in 1u64..1 << 40) {
            let mut next = 1u64;
            let parts = sizes.map(|size| {
                Digest::of((0..size).map(|_| {
                    next = next.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(99);
                    Span(next % spread)
                }))
            });
            let left = parts[0].merge(&parts[1]).merge(&parts[2]);
            let right = parts[2].merge(&parts[1]).merge(&parts[0]);
            prop_assert_eq!(&left, &right);
            prop_assert_eq!(left.samples(), sizes.iter().sum::<usize>() as u64);
        }

        #[test]
        fn files_give_the_digest_back(values in prop::collection::vec(0u64..1 << 44, 0..6000)) {
            let digest = Digest::of(values.iter().map(|&v| Span(v)));
            let text = serde_json::to_string(&digest).unwrap();
            prop_assert_eq!(serde_json::from_str::<Digest>(&text).unwrap(), digest);
        }
    }
}
