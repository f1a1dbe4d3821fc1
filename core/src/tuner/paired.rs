//! A (1+1)-ES with paired comparison: every step scores both candidate and incumbent, under the same conditions.
//!
//! ```text
//! d      = candidate's loss - incumbent's loss, one for each pair (a seed, or a block of requests)
//! accept iff mean d < -z * standard error of d
//! accepted -> sigma * 1.5,  else sigma * 1.5^(-1/4), within sigma_min..sigma_max
//! step   = sigma N(0,1) in log space, no longer than 2 sigma, within the box
//! ```
//!
//! Losses are `mean ln TTFT + mean ln E2E` over the requests of a pair ([`loss`]): a gain of one per cent in either
//! counts the same, so no unit matters, and a policy that only minimises its own TTFT loses on the second term.

use super::{Dimension, moved};
use crate::rng::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

/// Settings of [`Paired`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PairedConfig {
    /// First standard deviation of a step, in log space.
    pub sigma: f64,
    /// Least standard deviation; the search has converged there.
    pub sigma_min: f64,
    /// Greatest standard deviation.
    pub sigma_max: f64,
    /// Standard errors that a candidate must be better by.
    pub z: f64,
}

impl Default for PairedConfig {
    fn default() -> Self {
        Self { sigma: 0.4, sigma_min: 0.03, sigma_max: 0.8, z: 1.0 }
    }
}

/// The outcome of a comparison.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Verdict {
    /// The candidate is the incumbent now.
    pub accepted: bool,
    /// Mean difference of losses; below 0 the candidate is better. NaN without pairs.
    pub difference: f64,
    /// Its standard error; infinite with fewer than two pairs.
    pub error: f64,
}

/// The search.
#[derive(Debug, Clone)]
pub struct Paired {
    config: PairedConfig,
    dimensions: Vec<Dimension>,
    incumbent: Vec<f64>,
    sigma: f64,
}

/// The loss of one request: `ln TTFT + ln E2E`, in ln ms. Times below a microsecond count as one.
pub fn loss(ttft_ms: f64, e2e_ms: f64) -> f64 {
    ttft_ms.max(1e-3).ln() + e2e_ms.max(1e-3).ln()
}

impl Paired {
    /// Starts at `start`, one value for each dimension, moved into the box.
    pub fn new(config: PairedConfig, dimensions: Vec<Dimension>, start: &[f64]) -> Self {
        let incumbent = dimensions.iter().zip(start).map(|(dimension, &from)| moved(dimension, from, 0.0)).collect();
        Self { sigma: config.sigma, config, dimensions, incumbent }
    }

    /// The weights in force.
    pub fn incumbent(&self) -> &[f64] {
        &self.incumbent
    }

    /// Standard deviation of the next step, in log space.
    pub fn sigma(&self) -> f64 {
        self.sigma
    }

    /// Whether steps cannot become smaller.
    pub fn has_converged(&self) -> bool {
        self.sigma <= self.config.sigma_min
    }

    /// The keys and bounds searched.
    pub fn dimensions(&self) -> &[Dimension] {
        &self.dimensions
    }

    /// Weights to compare with the incumbent.
    pub fn ask(&self, rng: &mut ChaCha8Rng) -> Vec<f64> {
        let drawn: Vec<f64> = self.dimensions.iter().map(|_| StandardNormal.sample(rng)).collect();
        let length = drawn.iter().map(|z: &f64| z * z).sum::<f64>().sqrt();
        let scale = self.sigma * (2.0 / length).min(1.0);
        let one = |((dimension, from), z): ((&Dimension, &f64), f64)| moved(dimension, *from, scale * z);
        self.dimensions.iter().zip(&self.incumbent).zip(drawn).map(one).collect()
    }

    /// The losses of `candidate` and of the incumbent, pair by pair.
    pub fn tell(&mut self, candidate: &[f64], pairs: &[(f64, f64)]) -> Verdict {
        let differences: Vec<f64> = pairs.iter().map(|(candidate, incumbent)| candidate - incumbent).collect();
        let n = differences.len() as f64;
        let mean = differences.iter().sum::<f64>() / n;
        let variance = differences.iter().map(|d| (d - mean).powi(2)).sum::<f64>() / (n - 1.0);
        let error = if differences.len() > 1 { (variance / n).sqrt() } else { f64::INFINITY };
        self.decide(candidate, mean, error)
    }

    /// The same from a mean difference and its standard error.
    pub fn decide(&mut self, candidate: &[f64], difference: f64, error: f64) -> Verdict {
        let accepted = difference < -self.config.z * error;
        let factor = if accepted { 1.5 } else { 1.5f64.powf(-0.25) };
        if accepted {
            self.incumbent = candidate.to_vec();
        }
        self.sigma = (self.sigma * factor).clamp(self.config.sigma_min, self.config.sigma_max);
        Verdict { accepted, difference, error }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::stream;
    use rand::RngExt;

    fn dimensions() -> Vec<Dimension> {
        ["a", "b"].map(|key| Dimension::new(key, 0.01, 10.0).unwrap()).to_vec()
    }

    /// A bowl around (0.3, 2) in log space.
    fn bowl(x: &[f64]) -> f64 {
        (x[0] / 0.3).ln().powi(2) + (x[1] / 2.0).ln().powi(2)
    }

    #[test]
    fn finds_the_bottom_of_a_noisy_bowl_though_minutes_differ() {
        let mut search = Paired::new(PairedConfig::default(), dimensions(), &[5.0, 0.05]);
        let mut rng = stream(1, "tuner", 0);
        for _ in 0..150 {
            let candidate = search.ask(&mut rng);
            let pairs: Vec<(f64, f64)> = (0..5)
                .map(|_| {
                    // A minute is good or bad for both.
                    let minute: f64 = rng.random_range(-5.0..5.0);
                    let mut noisy = |x: &[f64]| bowl(x) + minute + rng.random_range(-0.05..0.05);
                    (noisy(&candidate), noisy(search.incumbent()))
                })
                .collect();
            search.tell(&candidate, &pairs);
        }
        assert!(bowl(search.incumbent()) < 0.05, "{:?}", search.incumbent());
    }

    #[test]
    fn steps_are_bounded_and_one_pair_decides_nothing() {
        let config = PairedConfig { sigma: 0.8, ..PairedConfig::default() };
        let mut search = Paired::new(config, dimensions(), &[1.0, 1.0]);
        let mut rng = stream(2, "tuner", 0);
        for _ in 0..500 {
            let asked = search.ask(&mut rng);
            let length = asked.iter().map(|x| x.ln().powi(2)).sum::<f64>().sqrt();
            assert!(length <= 1.6 + 1e-9, "{asked:?}");
        }
        assert!(!search.tell(&[2.0, 2.0], &[(-100.0, 0.0)]).accepted);
        assert!(!search.tell(&[2.0, 2.0], &[]).accepted);
        assert!(!search.tell(&[2.0, 2.0], &[(f64::NAN, 0.0), (0.0, 1.0)]).accepted);
        for _ in 0..100 {
            search.tell(&[2.0, 2.0], &[(1.0, 0.0), (1.0, 0.0)]);
        }
        assert!(search.has_converged() && search.incumbent() == [1.0, 1.0]);
    }
}
