//! Statistics of a set of samples, with GuideLLM's field names.

use serde::Serialize;

/// Statistics of one quantity.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Distribution {
    /// Mean.
    pub mean: f64,
    /// 50th percentile.
    pub median: f64,
    /// Population variance.
    pub variance: f64,
    /// Standard deviation.
    pub std_dev: f64,
    /// Smallest sample.
    pub min: f64,
    /// Largest sample.
    pub max: f64,
    /// Number of samples.
    pub count: u64,
    /// Sum of the samples.
    pub total_sum: f64,
    /// Percentiles.
    pub percentiles: Percentiles,
}

/// Percentiles, linearly interpolated at rank `(n - 1) p`.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
#[allow(missing_docs)]
pub struct Percentiles {
    pub p001: f64,
    pub p01: f64,
    pub p05: f64,
    pub p10: f64,
    pub p25: f64,
    pub p50: f64,
    pub p75: f64,
    pub p90: f64,
    pub p95: f64,
    pub p99: f64,
    pub p999: f64,
}

impl Distribution {
    /// Computes the statistics of the finite samples. Without samples, all fields are 0.
    pub fn of(samples: impl IntoIterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = samples.into_iter().filter(|x| x.is_finite()).collect();
        sorted.sort_by(f64::total_cmp);
        let (Some(&min), Some(&max)) = (sorted.first(), sorted.last()) else { return Self::default() };
        let n = sorted.len() as f64;
        let total_sum: f64 = sorted.iter().sum();
        let mean = total_sum / n;
        let variance = sorted.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
        let p = |p: f64| quantile(&sorted, p);
        Self {
            mean,
            median: p(0.5),
            variance,
            std_dev: variance.sqrt(),
            min,
            max,
            count: sorted.len() as u64,
            total_sum,
            percentiles: Percentiles {
                p001: p(0.001),
                p01: p(0.01),
                p05: p(0.05),
                p10: p(0.1),
                p25: p(0.25),
                p50: p(0.5),
                p75: p(0.75),
                p90: p(0.9),
                p95: p(0.95),
                p99: p(0.99),
                p999: p(0.999),
            },
        }
    }
}

/// The `p` quantile of ascending samples, linearly interpolated at rank `(n - 1) p`; 0 without samples.
pub fn quantile(sorted: &[f64], p: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return 0.0 };
    let rank = p.clamp(0.0, 1.0) * last as f64;
    let (low, high) = (sorted[rank.floor() as usize], sorted[rank.ceil() as usize]);
    low + (high - low) * rank.fract()
}

#[cfg(test)]
mod tests {
    use super::*;

    // numpy 1.24: percentile([15, 20, 35, 40, 50], [5, 50, 90]) and var().
    #[test]
    fn figures_agree_with_numpy() {
        let d = Distribution::of([40.0, f64::NAN, 15.0, 50.0, 20.0, 35.0]);
        assert_eq!((d.count, d.mean, d.median, d.min, d.max, d.total_sum), (5, 32.0, 35.0, 15.0, 50.0, 160.0));
        assert!((d.percentiles.p05 - 16.0).abs() < 1e-12 && (d.percentiles.p90 - 46.0).abs() < 1e-12);
        assert!((d.variance - 166.0).abs() < 1e-12);
    }

    #[test]
    fn nothing_gives_zeros() {
        assert_eq!(Distribution::of([]), Distribution::default());
    }
}
