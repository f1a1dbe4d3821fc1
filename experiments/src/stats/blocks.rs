//! The noise of one recorded run: the moving-block bootstrap over time.
//!
//! Requests that lie near each other in time share queues, caches and the state of the network, so they are not
//! independent, and blocks of time are drawn instead of requests. A replicate of a run of length T joins `ceil(T / L)`
//! blocks of length L, each from a start drawn uniformly in `[0, T - L]`. All arms of a recording meet the same draws, so
//! differences between arms are paired.

use gorgo_core::rng;
use rand::RngExt;

/// Replicates of a run of up to [`FULL`] requests; fewer for longer runs, so that the cost stays linear.
const REPLICATES: usize = 400;
const FULL: usize = 100_000;
const LEAST_REPLICATES: usize = 60;

/// Blocks of one replicate at most: the work grows with their number.
const MAX_BLOCKS: f64 = 100_000.0;

/// Why no blocks of time can be drawn.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub(crate) enum NoBlocks {
    /// Fewer than three blocks.
    #[error("the recording has fewer than three blocks of time, so its noise is not known")]
    Short,
    /// More than [`MAX_BLOCKS`].
    #[error(
        "the recording takes {seconds:.0} s, more than {MAX_BLOCKS} blocks of {block} s, so the unit of times may be wrong; correct it with --columns, or give a longer --block"
    )]
    Long {
        /// From the first request to the last, s.
        seconds: f64,
        /// Length of a block, s.
        block: f64,
    },
}

/// How often each request of a run stands in each replicate.
#[derive(Debug, Clone)]
pub(crate) struct Blocks {
    replicates: Vec<Vec<u32>>,
}

impl Blocks {
    /// Draws replicates of requests at `times` (ms, in any order) from blocks of `block_ms`.
    ///
    /// # Errors
    /// When the run has fewer than three blocks, which is too few to show its noise, or more than [`MAX_BLOCKS`].
    pub(crate) fn draw(times: &[f64], block_ms: f64) -> Result<Self, NoBlocks> {
        let mut order: Vec<usize> = (0..times.len()).collect();
        order.sort_by(|&a, &b| times[a].total_cmp(&times[b]));
        let sorted: Vec<f64> = order.iter().map(|&i| times[i]).collect();
        let first = sorted.first().copied().unwrap_or_default();
        let length = sorted.last().copied().unwrap_or_default() - first;
        if length.is_nan() || length < 3.0 * block_ms {
            return Err(NoBlocks::Short);
        }
        let blocks = (length / block_ms).ceil();
        if blocks > MAX_BLOCKS {
            return Err(NoBlocks::Long { seconds: length / 1e3, block: block_ms / 1e3 });
        }
        let blocks = blocks as usize;
        let count = (REPLICATES * FULL / times.len().max(FULL)).max(LEAST_REPLICATES);
        let replicates = (0..count)
            .map(|replicate| {
                let mut draw = rng::stream(1, "blocks", replicate as u64);
                // Requests at the begin of a block gain one, those after its end lose one.
                let mut steps = vec![0i32; sorted.len() + 1];
                for _ in 0..blocks {
                    let start = first + draw.random::<f64>() * (length - block_ms);
                    steps[sorted.partition_point(|&t| t < start)] += 1;
                    steps[sorted.partition_point(|&t| t < start + block_ms)] -= 1;
                }
                let (mut weights, mut level) = (vec![0; sorted.len()], 0);
                for (&i, step) in order.iter().zip(steps) {
                    level += step;
                    weights[i] = level.max(0) as u32;
                }
                weights
            })
            .collect();
        Ok(Self { replicates })
    }

    /// A statistic of each replicate, given how often each request stands in it.
    pub(crate) fn each<'a>(
        &'a self,
        statistic: impl Fn(&[u32]) -> Option<f64> + 'a,
    ) -> impl Iterator<Item = Option<f64>> + 'a {
        self.replicates.iter().map(move |weights| statistic(weights))
    }

    /// How often each request stands in each replicate, in the order of the requests.
    pub(crate) fn weights(&self) -> impl Iterator<Item = &[u32]> + '_ {
        self.replicates.iter().map(Vec::as_slice)
    }

    /// The central 95 % of a statistic over the replicates.
    pub(crate) fn interval(&self, statistic: impl Fn(&[u32]) -> Option<f64>) -> Option<(f64, f64)> {
        central(self.each(statistic).collect::<Option<Vec<f64>>>()?)
    }
}

/// The 2.5th and the 97.5th percentile.
pub(crate) fn central(mut values: Vec<f64>) -> Option<(f64, f64)> {
    if values.is_empty() || values.iter().any(|v| !v.is_finite()) {
        return None;
    }
    values.sort_by(f64::total_cmp);
    let at = |p: f64| {
        let rank = (values.len() - 1) as f64 * p;
        let (low, part) = (rank.floor() as usize, rank.fract());
        values[low] + part * (values[(low + 1).min(values.len() - 1)] - values[low])
    };
    Some((at(0.025), at(0.975)))
}

/// Values in ascending order, each with the request it belongs to.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sample {
    values: Vec<(f64, usize)>,
}

impl Sample {
    /// The values of requests, by their positions.
    pub(crate) fn of(values: impl IntoIterator<Item = (f64, usize)>) -> Self {
        let mut values: Vec<(f64, usize)> = values.into_iter().filter(|(value, _)| value.is_finite()).collect();
        values.sort_by(|a, b| a.0.total_cmp(&b.0));
        Self { values }
    }

    pub(crate) fn len(&self) -> usize {
        self.values.len()
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = f64> + '_ {
        self.values.iter().map(|(value, _)| *value)
    }

    /// The mean with each value counted by its request's weight; `None` without any.
    pub(crate) fn mean(&self, weights: &[u32]) -> Option<f64> {
        let (sum, count) = self.values.iter().fold((0.0, 0.0), |(sum, count), &(value, i)| {
            let weight = f64::from(weights[i]);
            (sum + weight * value, count + weight)
        });
        (count > 0.0).then(|| sum / count)
    }

    /// The percentile of the values repeated by weight: linear interpolation at rank `(n - 1) p`.
    pub(crate) fn quantile(&self, weights: &[u32], p: f64) -> Option<f64> {
        let count: u64 = self.values.iter().map(|&(_, i)| u64::from(weights[i])).sum();
        let rank = count.checked_sub(1)? as f64 * p;
        let (low, part) = (rank.floor() as u64, rank.fract());
        let (mut seen, mut below) = (0, None);
        for &(value, i) in &self.values {
            seen += u64::from(weights[i]);
            if seen > low && below.is_none() {
                below = Some(value);
            }
            if let Some(below) = below
                && (part == 0.0 || seen > low + 1)
            {
                return Some(below + part * (value - below));
            }
        }
        below
    }

    /// The Wasserstein-1 distance between the values as they are and repeated by weight.
    pub(crate) fn shift(&self, weights: &[u32]) -> Option<f64> {
        let count: f64 = self.values.iter().map(|&(_, i)| f64::from(weights[i])).sum();
        if count == 0.0 {
            return None;
        }
        let (mut gap, mut sum, step) = (0.0, 0.0, 1.0 / self.values.len() as f64);
        for pair in self.values.windows(2) {
            gap += step - f64::from(weights[pair[0].1]) / count;
            sum += f64::abs(gap) * (pair[1].0 - pair[0].0);
        }
        Some(sum)
    }
}

/// The Wasserstein-1 distance of two samples: the area between their distribution functions.
pub(crate) fn distance(a: &Sample, b: &Sample) -> Option<f64> {
    if a.len() == 0 || b.len() == 0 {
        return None;
    }
    let (mut i, mut j, mut sum) = (0, 0, 0.0);
    let mut at = a.values[0].0.min(b.values[0].0);
    while i < a.len() || j < b.len() {
        let next = [a.values.get(i), b.values.get(j)].into_iter().flatten().map(|v| v.0).fold(f64::INFINITY, f64::min);
        sum += (i as f64 / a.len() as f64 - j as f64 / b.len() as f64).abs() * (next - at);
        at = next;
        while a.values.get(i).is_some_and(|v| v.0 <= at) {
            i += 1;
        }
        while b.values.get(j).is_some_and(|v| v.0 <= at) {
            j += 1;
        }
    }
    Some(sum)
}

/// Spearman's rank correlation; equal values share their mean rank. `None` below three pairs or without spread.
pub(crate) fn spearman(pairs: &[(f64, f64)]) -> Option<f64> {
    if pairs.len() < 3 {
        return None;
    }
    let ranks = |pick: fn(&(f64, f64)) -> f64| {
        let mut order: Vec<usize> = (0..pairs.len()).collect();
        order.sort_by(|&a, &b| pick(&pairs[a]).total_cmp(&pick(&pairs[b])));
        let mut ranks = vec![0.0; pairs.len()];
        for equal in order.chunk_by(|&a, &b| pick(&pairs[a]) == pick(&pairs[b])) {
            let before = order.partition_point(|&i| pick(&pairs[i]) < pick(&pairs[equal[0]]));
            equal.iter().for_each(|&i| ranks[i] = before as f64 + (equal.len() as f64 - 1.0) / 2.0);
        }
        ranks
    };
    let (a, b) = (ranks(|p| p.0), ranks(|p| p.1));
    let middle = (pairs.len() as f64 - 1.0) / 2.0;
    let (mut ab, mut aa, mut bb) = (0.0, 0.0, 0.0);
    for (x, y) in a.iter().map(|x| x - middle).zip(b.iter().map(|y| y - middle)) {
        (ab, aa, bb) = (ab + x * y, aa + x * x, bb + y * y);
    }
    (aa > 0.0 && bb > 0.0).then(|| ab / (aa * bb).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(values: &[f64]) -> Sample {
        Sample::of(values.iter().copied().enumerate().map(|(i, v)| (v, i)))
    }

    #[test]
    fn weighted_figures_are_those_of_the_repeated_values() {
        let values = [9.0, 1.0, 4.0, 4.0, 7.0];
        let weights = [2, 0, 1, 3, 1];
        let repeated: Vec<f64> =
            values.iter().zip(weights).flat_map(|(&v, w)| std::iter::repeat_n(v, w as usize)).collect();
        let (s, r, ones) = (sample(&values), sample(&repeated), vec![1; repeated.len()]);
        assert_eq!(s.mean(&weights), r.mean(&ones));
        for p in [0.0, 0.1, 0.5, 0.77, 0.95, 1.0] {
            assert_eq!(s.quantile(&weights, p), r.quantile(&ones, p), "{p}");
        }
        assert!((s.shift(&weights).unwrap() - distance(&s, &r).unwrap()).abs() < 1e-12);
        assert_eq!((s.mean(&[0; 5]), s.quantile(&[0; 5], 0.5), s.shift(&[0; 5])), (None, None, None));
    }

    // scipy: `stats.wasserstein_distance([0, 1, 3], [5, 6, 8])` is 5.0;
    // `stats.spearmanr([1, 2, 2, 5], [3, 1, 4, 9])` is 0.6324555320336759.
    #[test]
    fn distance_and_rank_correlation_agree_with_scipy() {
        assert!((distance(&sample(&[0.0, 1.0, 3.0]), &sample(&[5.0, 6.0, 8.0])).unwrap() - 5.0).abs() < 1e-12);
        assert_eq!(distance(&sample(&[2.0, 1.0]), &sample(&[1.0, 2.0])), Some(0.0));
        assert_eq!(distance(&sample(&[]), &sample(&[1.0])), None);
        let rho = spearman(&[(1.0, 3.0), (2.0, 1.0), (2.0, 4.0), (5.0, 9.0)]).unwrap();
        assert!((rho - 0.632_455_532_033_675_9).abs() < 1e-12, "{rho}");
        assert_eq!(spearman(&[(1.0, 2.0), (1.0, 3.0), (1.0, 4.0)]), None);
    }

    /// Independent requests: the interval of the mean is close to the central limit theorem's, and requests that come
    /// in waves longer than the spacing have a wider one.
    #[test]
    fn blocks_show_the_noise_of_waves_that_single_requests_hide() {
        let mut draw = rng::stream(4, "test", 0);
        let times: Vec<f64> = (0..4000).map(|i| f64::from(i) * 200.0).collect();
        let blocks = Blocks::draw(&times, 30_000.0).unwrap();
        let half = |values: &[f64]| {
            let s = sample(values);
            let (low, high) = blocks.interval(|w| s.mean(w)).unwrap();
            (high - low) / 2.0
        };
        let noise: Vec<f64> = times.iter().map(|_| draw.random::<f64>()).collect();
        let expected = 1.96 * (1.0f64 / 12.0 / 4000.0).sqrt();
        let plain = half(&noise);
        assert!((0.7..1.3).contains(&(plain / expected)), "{plain} {expected}");
        let waves: Vec<f64> = times.iter().zip(&noise).map(|(t, n)| n + (t / 20_000.0).sin()).collect();
        assert!(half(&waves) > 3.0 * plain, "{} {plain}", half(&waves));
        for short in [&times[..100], &[]] {
            assert_eq!(Blocks::draw(short, 30_000.0).unwrap_err(), NoBlocks::Short);
        }
    }

    #[test]
    fn a_run_of_too_many_blocks_is_refused_and_not_drawn() {
        for last in [1e300, f64::INFINITY, 30_000.0 * 100_001.0] {
            let message = Blocks::draw(&[0.0, 1.0, last], 30_000.0).unwrap_err().to_string();
            assert!(message.contains("the unit of times may be wrong"), "{message}");
        }
        assert!(Blocks::draw(&[0.0, 1.0, 30_000.0 * 1000.0], 30_000.0).is_ok());
    }
}
