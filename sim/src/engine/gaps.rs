//! Histogram of inter-token latencies with 64 buckets per octave, each 0.8 to 1.6 % wide.

use serde::{Deserialize, Serialize};

/// Inter-token latencies of many requests, in logarithmic buckets from 1/16 ms to 17 minutes. Histograms of several
/// engines can be merged.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GapHistogram {
    /// Empty until the first gap, then [`BUCKETS`] counts.
    counts: Vec<u64>,
}

/// A bucket that is not empty.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct GapBucket {
    /// Upper bound of its gaps, ms.
    pub upper_ms: f64,
    /// Gaps in it.
    pub count: u64,
}

const OCTAVES: usize = 24;
/// A power of two, so that a bucket is read off the mantissa's top bits.
const PER_OCTAVE: usize = 64;
const BUCKETS: usize = OCTAVES * PER_OCTAVE;
const LEAST_MS: f64 = 0.0625;

impl GapHistogram {
    /// Counts `count` gaps of `ms` milliseconds. Gaps out of range are counted in the first or last bucket.
    pub fn add(&mut self, ms: f64, count: u64) {
        if count > 0 {
            if self.counts.is_empty() {
                self.counts = vec![0; BUCKETS];
            }
            self.counts[bucket(ms)] += count;
        }
    }

    /// Adds another histogram's counts.
    pub fn merge(&mut self, other: &Self) {
        if self.counts.is_empty() {
            self.counts.clone_from(&other.counts);
        } else {
            for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
                *mine += theirs;
            }
        }
    }

    /// Number of gaps counted.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The `q`-quantile in ms, interpolated inside its bucket; `None` when nothing was counted.
    pub fn quantile(&self, q: f64) -> Option<f64> {
        let total = self.count();
        if total == 0 {
            return None;
        }
        let rank = q.clamp(0.0, 1.0) * total as f64;
        let mut below = 0.0;
        for (b, &count) in self.counts.iter().enumerate().filter(|&(_, &count)| count > 0) {
            let count = count as f64;
            if below + count >= rank {
                let low = if b == 0 { 0.0 } else { upper_ms(b - 1) };
                return Some(low + (upper_ms(b) - low) * ((rank - below) / count));
            }
            below += count;
        }
        self.counts.iter().rposition(|&count| count > 0).map(upper_ms)
    }

    /// The buckets that are not empty, ascending.
    pub fn buckets(&self) -> impl Iterator<Item = GapBucket> + '_ {
        let bucket = |(b, &count): (usize, &u64)| (count > 0).then(|| GapBucket { upper_ms: upper_ms(b), count });
        self.counts.iter().enumerate().filter_map(bucket)
    }
}

/// The bucket of `ms`, without a logarithm: the octave is the exponent, the part of the octave the top bits of the
/// mantissa.
fn bucket(ms: f64) -> usize {
    let scaled = ms / LEAST_MS;
    if scaled.is_nan() || scaled < 1.0 {
        return 0;
    }
    let kept = PER_OCTAVE.trailing_zeros();
    let bits = scaled.to_bits() >> (52 - kept); // sign 0, 11 bits of exponent, then the mantissa's top bits
    ((bits - (1023 << kept)) as usize).min(BUCKETS - 1)
}

/// Where bucket `b` ends, ms.
pub(super) fn upper_ms(b: usize) -> f64 {
    let (octave, part) = (b / PER_OCTAVE, b % PER_OCTAVE);
    LEAST_MS * (1u64 << octave) as f64 * (1.0 + (part + 1) as f64 / PER_OCTAVE as f64)
}

/// Where the bucket of `ms` ends, ms; infinite for the last one.
pub(super) fn limit_ms(ms: f64) -> f64 {
    match bucket(ms) {
        b if b == BUCKETS - 1 => f64::INFINITY,
        b => upper_ms(b),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_gap_falls_inside_its_bucket(ms in 0.0625f64..900_000.0) {
            let b = bucket(ms);
            prop_assert!(ms < upper_ms(b));
            prop_assert!(b == 0 || ms >= upper_ms(b - 1));
            prop_assert!(limit_ms(ms) > ms);
        }

        #[test]
        fn quantiles_are_right_within_a_bucket(mut gaps in prop::collection::vec(0.1f64..5000.0, 1..300), q in 0.0f64..1.0) {
            let mut histogram = GapHistogram::default();
            gaps.iter().for_each(|&ms| histogram.add(ms, 1));
            gaps.sort_by(f64::total_cmp);
            let exact = gaps[((q * gaps.len() as f64).ceil() as usize).max(1) - 1];
            let found = histogram.quantile(q).unwrap();
            prop_assert!(found >= exact / 1.017 && found <= exact * 1.017, "{found} for {exact}");
        }
    }

    #[test]
    fn histograms_add_up_and_the_empty_one_has_no_quantile() {
        let (mut a, mut b) = (GapHistogram::default(), GapHistogram::default());
        assert_eq!(a.quantile(0.5), None);
        b.add(10.0, 3);
        a.merge(&b);
        a.merge(&b);
        assert_eq!((a.count(), a.buckets().count()), (6, 1));
        b.add(f64::MAX, 1);
        b.add(0.0, 1);
        assert_eq!(b.count(), 5);
    }
}
