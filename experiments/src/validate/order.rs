//! The order of the arms: which pairs the recording tells apart, and whether the simulation orders them alike.

use super::figures::EACH_ONCE;
use super::join::Joined;
use super::rows::samples;
use crate::stats::blocks::{Sample, central};
use serde::Serialize;

/// A pair of arms whose difference in the recording is larger than its noise.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Order {
    /// The figure that they are ordered by.
    pub figure: String,
    /// The better arm of the recording.
    pub better: String,
    /// The worse arm of the recording.
    pub worse: String,
    /// By how many ms, in the recording.
    pub measured: f64,
    /// By how many ms, in the simulation; below 0 where it has the opposite order.
    pub simulated: f64,
    /// Whether the simulation has the same order.
    pub agrees: bool,
}

/// Arms beyond which no pairs are compared: their number is quadratic.
const MOST: usize = 40;

type Statistic = fn(&Sample, &[u32]) -> Option<f64>;

/// Every pair of arms that the recording tells apart.
pub(super) fn of(arms: &[(String, String, Joined<'_>)]) -> Vec<Order> {
    let mut found = Vec::new();
    let figures: [(&str, bool, Statistic); 4] = [
        ("TTFT mean", false, |s, w| s.mean(w)),
        ("TTFT p95", false, |s, w| s.quantile(w, 0.95)),
        ("E2E mean", true, |s, w| s.mean(w)),
        ("E2E p95", true, |s, w| s.quantile(w, 0.95)),
    ];
    for (name, e2e, statistic) in figures {
        let values = arms.iter().take(MOST).filter_map(|(arm, _, joined)| {
            let (a, b) = samples(joined, |row| if e2e { row.e2e } else { row.ttft });
            let measured = statistic(&a, &vec![1; joined.pairs.len()])?;
            let simulated = statistic(&b, &EACH_ONCE)?;
            let replicates: Vec<f64> =
                joined.blocks.as_ref()?.each(|weights| statistic(&a, weights)).collect::<Option<_>>()?;
            Some((arm, measured, simulated, replicates))
        });
        let values: Vec<_> = values.collect();
        for (i, a) in values.iter().enumerate() {
            for b in &values[i + 1..] {
                // The same draws for both arms: their common waves cancel.
                let differences = a.3.iter().zip(&b.3).map(|(a, b)| b - a).collect();
                let Some((low, high)) = central(differences) else { continue };
                if low <= 0.0 && high >= 0.0 {
                    continue;
                }
                let (better, worse) = if a.1 < b.1 { (a, b) } else { (b, a) };
                let simulated = worse.2 - better.2;
                found.push(Order {
                    figure: name.to_owned(),
                    better: better.0.clone(),
                    worse: worse.0.clone(),
                    measured: worse.1 - better.1,
                    simulated,
                    agrees: simulated > 0.0,
                });
            }
        }
    }
    found
}
