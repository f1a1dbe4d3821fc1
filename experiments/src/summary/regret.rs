//! How far each arm is from the best oracle of its load.
//!
//! An oracle is greedy with perfect information, so it is no bound: regret may be negative. The reference of a load is
//! its oracle of the least product of mean TTFT and mean E2E, so that a gain of one per cent in either counts the same.

use super::{ArmSummary, OneSeed};
use crate::results::Point;
use crate::stats::{Difference, paired};
use crate::table::ms;
use serde::{Deserialize, Serialize};

/// Means against those of an oracle, seed by seed, ms; above 0 is slower.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Regret {
    /// Name of the oracle's arm.
    pub oracle: String,
    /// Of the mean TTFT.
    pub ttft: Option<Difference>,
    /// Of the mean E2E.
    pub e2e: Option<Difference>,
}

/// Whether a policy of this name is an oracle.
pub(crate) fn is_oracle(policy: &str) -> bool {
    policy.starts_with("oracle-")
}

/// Fills in the regret of every arm whose load has an oracle.
pub(super) fn fill(arms: &mut [ArmSummary], groups: &[&[Point]]) {
    let product = |arm: &ArmSummary| Some(arm.ttft_ms.as_ref()?.mean.value * arm.e2e_ms.as_ref()?.mean.value);
    let reference = |load: &ArmSummary| {
        let of_load = |arm: &&ArmSummary| arm.settings == load.settings && is_oracle(&arm.policy);
        let best = arms.iter().filter(of_load).filter_map(|arm| Some((product(arm)?, &arm.arm)));
        best.min_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, arm)| arm.clone())
    };
    let regrets: Vec<Option<Regret>> = arms
        .iter()
        .zip(groups)
        .map(|(arm, group)| {
            let oracle = reference(arm).filter(|oracle| *oracle != arm.arm)?;
            let against = groups.iter().find(|group| group[0].arm == oracle)?;
            let mean = |pick: fn(&Point) -> &crate::stats::Digest| {
                let of = |point: &Point| OneSeed::of(pick(point)).map(|one| one.mean);
                let pairs = group.iter().filter_map(|point| {
                    let other = against.iter().find(|other| other.seed == point.seed)?;
                    Some((of(point)?, of(other)?))
                });
                paired(&pairs.collect::<Vec<_>>())
            };
            Some(Regret { oracle, ttft: mean(|p| &p.latency.ttft), e2e: mean(|p| &p.latency.e2e) })
        })
        .collect();
    for (arm, regret) in arms.iter_mut().zip(regrets) {
        arm.regret = regret;
    }
}

/// The regrets in sentences, one for each oracle that others are compared with.
pub(crate) fn sentences(arms: &[ArmSummary]) -> Vec<String> {
    let mut oracles: Vec<&str> = arms.iter().filter_map(|arm| Some(arm.regret.as_ref()?.oracle.as_str())).collect();
    oracles.dedup();
    let sentence = |oracle: &&str| {
        let of = |arm: &ArmSummary| {
            let regret = arm.regret.as_ref().filter(|regret| regret.oracle == **oracle)?;
            let (ttft, e2e) = (regret.ttft?.value, regret.e2e?.value);
            let sign = |value: f64| if value < 0.0 { "" } else { "+" };
            Some((ttft, format!("{} {}{} / {}{}", arm.arm, sign(ttft), ms(ttft), sign(e2e), ms(e2e))))
        };
        let mut named: Vec<(f64, String)> = arms.iter().filter_map(of).collect();
        named.sort_by(|a, b| a.0.total_cmp(&b.0));
        let named: Vec<String> = named.into_iter().map(|(_, text)| text).collect();
        format!("Regret to {oracle}, mean TTFT / mean E2E in ms: {}", named.join(", "))
    };
    oracles.iter().map(sentence).collect()
}

#[cfg(test)]
mod tests {
    use crate::results::test_data::points;
    use crate::summary::summarize;

    #[test]
    fn arms_regret_what_the_best_oracle_of_their_load_saves() {
        let mut points = points(&["gorgo", "oracle-ttft", "oracle-sum"], 3, 200);
        for point in &mut points {
            point.policy.clone_from(&point.arm);
        }
        let arms = summarize(&points);
        let product = |i: usize| arms[i].ttft_ms.unwrap().mean.value * arms[i].e2e_ms.unwrap().mean.value;
        let best = if product(1) <= product(2) { 1 } else { 2 };
        assert_eq!(arms[best].regret, None);
        let regret = arms[0].regret.as_ref().unwrap();
        assert_eq!(regret.oracle, arms[best].arm);
        let expected = arms[0].ttft_ms.unwrap().mean.value - arms[best].ttft_ms.unwrap().mean.value;
        assert!((regret.ttft.unwrap().value - expected).abs() < 1e-6);
        assert!(super::sentences(&arms)[0].starts_with("Regret to oracle-"), "{:?}", super::sentences(&arms));
        assert!(summarize(&points[..3]).iter().all(|arm| arm.regret.is_none()));
    }
}
