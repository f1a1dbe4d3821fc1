//! Percentiles, intervals and paired differences: definitions of all figures in tables, plots and reports.
//!
//! **Percentile**: linear interpolation between the two nearest of the sorted samples (rank `(n - 1) * p`, the
//! "type 7" of R and NumPy's default), see [`Digest::quantile`].
//!
//! **Over seeds**: each seed gives one value of a statistic; what is shown is the mean of these values, so that the
//! difference of two arms is the difference of what is shown. The interval is Student's t at 95 %, two-sided,
//! `mean ± t(0.975, n - 1) * s / sqrt(n)`, and needs two seeds.
//!
//! **Against the baseline**: the same interval over the differences seed by seed (arms share their seeds' workload, so
//! they are paired). The verdict is `same` when the interval contains 0.
//!
//! **Of one recording**: the moving-block bootstrap over time, see `blocks`.

pub(crate) mod blocks;
mod digest;

pub use digest::Digest;

use serde::{Deserialize, Serialize};
use statrs::distribution::{ContinuousCDF, StudentsT};

/// The definition of percentiles, as printed under tables.
pub const PERCENTILES: &str = "percentiles: linear interpolation at rank (n - 1) p";

/// A value over seeds with half the width of its 95 % interval; `None` with fewer than two seeds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// Mean over seeds.
    pub value: f64,
    /// Half-width of the 95 % interval.
    pub ci95: Option<f64>,
}

impl Estimate {
    /// The estimate from one value a seed; `None` from no values. Values that are not finite are left out.
    pub fn over(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let values: Vec<f64> = values.into_iter().filter(|v| v.is_finite()).collect();
        let n = values.len() as f64;
        if values.is_empty() {
            return None;
        }
        let value = values.iter().sum::<f64>() / n;
        let ci95 = (values.len() > 1).then(|| {
            let variance = values.iter().map(|v| (v - value).powi(2)).sum::<f64>() / (n - 1.0);
            t_975(n - 1.0) * (variance / n).sqrt()
        });
        Some(Self { value, ci95 })
    }

    /// Lower and upper end of the interval; both the value itself with one seed.
    pub fn range(&self) -> (f64, f64) {
        let half = self.ci95.unwrap_or(0.0);
        (self.value - half, self.value + half)
    }
}

/// The 97.5 % point of Student's t with `degrees` degrees of freedom.
fn t_975(degrees: f64) -> f64 {
    StudentsT::new(0.0, 1.0, degrees).map_or(f64::NAN, |t| t.inverse_cdf(0.975))
}

/// Half the width of the 95 % interval of a pooled statistic, from its values with each of `n` groups left out: the
/// grouped jackknife. `None` with fewer than three.
pub fn jackknife(left_out: &[f64]) -> Option<f64> {
    let n = left_out.len() as f64;
    if left_out.len() < 3 {
        return None;
    }
    let mean = left_out.iter().sum::<f64>() / n;
    let spread = left_out.iter().map(|v| (v - mean).powi(2)).sum::<f64>();
    Some(t_975(n - 1.0) * ((n - 1.0) / n * spread).sqrt())
}

/// Whether an arm is better than the baseline, for a quantity where less is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The whole interval of the difference is below 0.
    Better,
    /// The whole interval is above 0.
    Worse,
    /// The interval contains 0.
    Same,
}

impl Verdict {
    /// Its text in tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Better => "better",
            Self::Worse => "worse",
            Self::Same => "same",
        }
    }
}

/// The difference between an arm and the baseline, paired by seed.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Difference {
    /// Mean of the differences, in the unit of the values.
    pub value: f64,
    /// Half-width of its 95 % interval.
    pub ci95: Option<f64>,
    /// The mean difference in per cent of the baseline's mean.
    pub percent: Option<f64>,
    /// Half-width in per cent of the baseline's mean.
    pub percent_ci95: Option<f64>,
    /// `None` with fewer than two common seeds: one run shows no difference from chance.
    pub verdict: Option<Verdict>,
    /// Common seeds.
    pub seeds: usize,
}

/// The paired difference of `(arm, baseline)` values, one pair a common seed; `None` without pairs.
pub fn paired(pairs: &[(f64, f64)]) -> Option<Difference> {
    let difference = Estimate::over(pairs.iter().map(|(arm, base)| arm - base))?;
    let base = pairs.iter().map(|(_, base)| base).sum::<f64>() / pairs.len() as f64;
    let percent = |v: f64| (base > 0.0).then(|| 100.0 * v / base);
    let verdict = difference.ci95.map(|_| match difference.range() {
        (_, high) if high < 0.0 => Verdict::Better,
        (low, _) if low > 0.0 => Verdict::Worse,
        _ => Verdict::Same,
    });
    Some(Difference {
        value: difference.value,
        ci95: difference.ci95,
        percent: percent(difference.value),
        percent_ci95: difference.ci95.and_then(percent),
        verdict,
        seeds: pairs.len(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_jackknife_of_a_mean_is_its_students_interval() {
        let values = [3.0, 5.0, 4.0, 9.0];
        let sum: f64 = values.iter().sum();
        let left_out = values.map(|v| (sum - v) / 3.0);
        let student = Estimate::over(values).unwrap().ci95.unwrap();
        assert!((jackknife(&left_out).unwrap() - student).abs() < 1e-9);
        assert_eq!(jackknife(&left_out[..2]), None);
    }

    fn close(a: f64, b: f64) {
        assert!((a - b).abs() <= 1e-9 * b.abs().max(1.0), "{a} is not {b}");
    }

    // Constants: scipy 1.10.1, `stats.t.ppf(0.975, df)`.
    #[test]
    fn t_points_agree_with_scipy() {
        for (degrees, expected) in [
            (1.0, 12.706_204_736_432_095),
            (2.0, 4.302_652_729_911_275),
            (4.0, 2.776_445_105_197_798_7),
            (9.0, 2.262_157_162_740_991_5),
            (29.0, 2.045_229_642_132_703),
        ] {
            close(t_975(degrees), expected);
        }
    }

    // scipy 1.10.1: `stats.t.interval(0.95, 4, np.mean(x), stats.sem(x))`.
    #[test]
    fn interval_over_seeds_agrees_with_scipy() {
        let estimate = Estimate::over([12.1, 11.4, 13.9, 12.8, 12.2]).unwrap();
        close(estimate.value, 12.48);
        close(estimate.ci95.unwrap(), 1.162_796_954_695_794_6);
    }

    // scipy 1.10.1: `stats.ttest_rel(a, b).confidence_interval()`.
    #[test]
    fn paired_difference_agrees_with_scipy_and_gives_a_verdict() {
        let pairs = [(10.2, 12.1), (11.0, 11.4), (9.7, 11.9), (10.9, 12.8), (10.1, 12.2)];
        let difference = paired(&pairs).unwrap();
        close(difference.value, -1.7);
        close(difference.value - difference.ci95.unwrap(), -2.616_647_461_687_029_4);
        close(difference.percent.unwrap(), 100.0 * -1.7 / 12.08);
        assert_eq!(difference.verdict, Some(Verdict::Better));
        let turned: Vec<_> = pairs.iter().map(|&(a, b)| (b, a)).collect();
        assert_eq!(paired(&turned).unwrap().verdict, Some(Verdict::Worse));
        assert_eq!(paired(&[(1.0, 2.0), (2.0, 1.0)]).unwrap().verdict, Some(Verdict::Same));
    }

    #[test]
    fn one_seed_has_a_value_but_no_interval_and_no_verdict() {
        assert_eq!(Estimate::over([5.0]), Some(Estimate { value: 5.0, ci95: None }));
        assert_eq!(paired(&[(1.0, 2.0)]).unwrap().verdict, None);
        assert_eq!((Estimate::over([]), paired(&[])), (None, None));
    }

    #[test]
    fn equal_arms_are_the_same() {
        let difference = paired(&[(3.0, 3.0), (4.0, 4.0)]).unwrap();
        assert_eq!((difference.value, difference.verdict), (0.0, Some(Verdict::Same)));
    }
}
