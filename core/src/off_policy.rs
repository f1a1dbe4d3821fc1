//! Off-policy evaluation: estimates the TTFT and E2E of another policy from a decision log with random choices.
//!
//! ```text
//! odds   = explore / eligible + (1 - explore) [chosen = the policy's own choice]    of the choice that was made
//! weight = [the other policy chooses the same] / odds
//! mean   = sum weight * outcome / sum weight                                        self-normalised
//! ess    = (sum weight)^2 / sum weight^2
//! ```
//!
//! The estimate needs no model of the engine. It evaluates single decisions: the other policy would also have produced
//! other queues, which no log shows; with a small random share the state is that of the logging policy. Source:
//! inverse propensity scoring, self-normalised (Swaminathan and Joachims, 2015).

mod log;
mod open;
pub mod predictions;
pub use log::{Log, Outcome};

use crate::rng::ChaCha8Rng;
use rand::RngExt;

/// Resamples behind an interval.
pub const RESAMPLES: usize = 1_000;

/// One logged decision with its outcome.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Logged {
    /// Probability with which the router chose as it did, above 0 and at most 1.
    pub odds: f64,
    /// Whether the other policy chooses the same.
    pub same: bool,
    /// What came of it, ms.
    pub outcome_ms: f64,
}

/// An estimate of a mean.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// The mean under the other policy, ms.
    pub mean_ms: f64,
    /// 2.5th and 97.5th percentile of the resampled means, ms.
    pub interval_ms: (f64, f64),
    /// The mean of the log itself, ms.
    pub logged_ms: f64,
    /// Equivalent number of decisions by the other policy.
    pub effective: f64,
    /// Decisions in which both choose the same.
    pub same: usize,
    /// Decisions.
    pub decisions: usize,
}

/// Estimates the mean outcome of the other policy; `None` if it never chooses as the log does.
pub fn estimate(log: &[Logged], rng: &mut ChaCha8Rng) -> Option<Estimate> {
    let weight = |one: &Logged| if one.same { 1.0 / one.odds } else { 0.0 };
    let sum: f64 = log.iter().map(weight).sum();
    if sum <= 0.0 || !sum.is_finite() {
        return None;
    }
    let mean_of = |log: &mut dyn Iterator<Item = &Logged>| {
        let (weights, weighted) = log.fold((0.0, 0.0), |(weights, weighted), one| {
            (weights + weight(one), weighted + weight(one) * one.outcome_ms)
        });
        (weights > 0.0).then(|| weighted / weights)
    };
    let mut means: Vec<f64> = (0..RESAMPLES)
        .filter_map(|_| mean_of(&mut (0..log.len()).map(|_| &log[rng.random_range(0..log.len())])))
        .collect();
    means.sort_by(f64::total_cmp);
    let at = |p: f64| means.get(((means.len() - 1) as f64 * p).round() as usize).copied().unwrap_or(f64::NAN);
    let squares: f64 = log.iter().map(|one| weight(one).powi(2)).sum();
    Some(Estimate {
        mean_ms: mean_of(&mut log.iter())?,
        interval_ms: (at(0.025), at(0.975)),
        logged_ms: log.iter().map(|one| one.outcome_ms).sum::<f64>() / log.len() as f64,
        effective: sum * sum / squares,
        same: log.iter().filter(|one| one.same).count(),
        decisions: log.len(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::stream;

    /// Two replicas of 100 and 200 ms; the router chooses the second, one in ten decisions is random.
    fn log(n: usize, always: usize) -> Vec<Logged> {
        let mut rng = stream(5, "log", 0);
        (0..n)
            .map(|_| {
                let explored = rng.random_range(0..10) == 0;
                let chosen = if explored { rng.random_range(0..2usize) } else { 1 };
                let odds = 0.05 + if chosen == 1 { 0.9 } else { 0.0 };
                let outcome_ms = [100.0, 200.0][chosen] + rng.random_range(-50.0..50.0);
                Logged { odds, same: chosen == always, outcome_ms }
            })
            .collect()
    }

    #[test]
    fn the_other_policys_mean_is_found_and_its_interval_is_honest() {
        let rng = || stream(1, "bootstrap", 0);
        let first = estimate(&log(4_000, 0), &mut rng()).unwrap();
        assert!((first.mean_ms - 100.0).abs() < 8.0 && first.logged_ms > 190.0, "{first:?}");
        assert!(first.interval_ms.0 < 100.0 && 100.0 < first.interval_ms.1, "{first:?}");
        assert!((150.0..260.0).contains(&first.effective), "{first:?}");
        let own = estimate(&log(4_000, 1), &mut rng()).unwrap();
        assert!((own.mean_ms - 200.0).abs() < 3.0 && own.effective > 3_500.0, "{own:?}");
    }

    #[test]
    fn a_policy_that_never_agrees_has_no_estimate() {
        let log = [Logged { odds: 0.5, same: false, outcome_ms: 1.0 }];
        assert_eq!(estimate(&log, &mut stream(1, "bootstrap", 0)), None);
        assert_eq!(estimate(&[], &mut stream(1, "bootstrap", 0)), None);
    }
}
