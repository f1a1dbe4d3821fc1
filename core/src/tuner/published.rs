//! The (1+1)-ES of the GORGO repository (`gorgo/tuner.py`), as it ran.
//!
//! ```text
//! candidate = clamp(exp(ln best + sigma N(0,1)), low, high)           all keys at once
//! first score                -> the incumbent's; it is never scored again
//! accept iff score > best (1 + tolerance)       scores are negative: up to 0.5 % worse is accepted
//! of the last 8 outcomes, share accepted > 0.2 -> sigma /= 0.817,  < 0.2 -> sigma *= 0.817
//! sigma < sigma_min, or max_steps outcomes     -> converged: the best is pinned
//! ```

use super::{Dimension, step};
use crate::rng::ChaCha8Rng;
use std::collections::VecDeque;

/// Outcomes that the success rate is over.
const MEMORY: usize = 8;
/// Factor on sigma.
const SHRINK: f64 = 0.817;
/// Share of successes at which sigma stays.
const TARGET: f64 = 0.2;

/// Settings of [`Published`]; the defaults are those of its online use.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PublishedConfig {
    /// First standard deviation of a step, in log space.
    pub sigma: f64,
    /// The search ends below it.
    pub sigma_min: f64,
    /// The search ends after so many outcomes.
    pub max_steps: u32,
    /// Relative gain that a candidate needs.
    pub tolerance: f64,
}

impl Default for PublishedConfig {
    fn default() -> Self {
        Self { sigma: 0.5, sigma_min: 0.05, max_steps: 10_000, tolerance: 0.005 }
    }
}

/// What a score changed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepOutcome {
    /// The candidate is the incumbent now.
    pub accepted: bool,
    /// Standard deviation of the next step.
    pub sigma: f64,
    /// Share accepted of the last outcomes; `None` before the first.
    pub success_rate: Option<f64>,
    /// The search has ended.
    pub converged: bool,
}

/// The published search.
#[derive(Debug, Clone)]
pub struct Published {
    config: PublishedConfig,
    dimensions: Vec<Dimension>,
    best: Vec<f64>,
    best_score: Option<f64>,
    sigma: f64,
    outcomes: VecDeque<bool>,
    steps: u32,
    converged: bool,
}

impl Published {
    /// Starts at `start`, one value for each dimension.
    pub fn new(config: PublishedConfig, dimensions: Vec<Dimension>, start: Vec<f64>) -> Self {
        Self {
            sigma: config.sigma,
            config,
            dimensions,
            best: start,
            best_score: None,
            outcomes: VecDeque::new(),
            steps: 0,
            converged: false,
        }
    }

    /// The weights to measure next; the best ones before the first score and once the search has ended.
    pub fn ask(&self, rng: &mut ChaCha8Rng) -> Vec<f64> {
        if self.best_score.is_none() || self.converged {
            return self.best.clone();
        }
        step(&self.dimensions, &self.best, self.sigma, rng)
    }

    /// The score of `candidate`, more is better. The first one is the incumbent's.
    pub fn tell(&mut self, candidate: &[f64], score: f64) -> StepOutcome {
        let Some(best) = self.best_score else {
            self.best_score = Some(score);
            return self.outcome(true);
        };
        if self.converged {
            return self.outcome(false);
        }
        let accepted = score > best * (1.0 + self.config.tolerance);
        if accepted {
            (self.best, self.best_score) = (candidate.to_vec(), Some(score));
        }
        self.outcomes.push_back(accepted);
        if self.outcomes.len() > MEMORY {
            self.outcomes.pop_front();
        }
        if let (MEMORY, Some(rate)) = (self.outcomes.len(), self.success_rate()) {
            if rate > TARGET {
                self.sigma /= SHRINK;
            } else if rate < TARGET {
                self.sigma *= SHRINK;
            }
        }
        self.steps += 1;
        self.converged = self.sigma < self.config.sigma_min || self.steps >= self.config.max_steps;
        self.outcome(accepted)
    }

    /// The best weights and their score.
    pub fn best(&self) -> (&[f64], Option<f64>) {
        (&self.best, self.best_score)
    }

    fn success_rate(&self) -> Option<f64> {
        let accepted = self.outcomes.iter().filter(|&&accepted| accepted).count();
        (!self.outcomes.is_empty()).then(|| accepted as f64 / self.outcomes.len() as f64)
    }

    fn outcome(&self, accepted: bool) -> StepOutcome {
        StepOutcome { accepted, sigma: self.sigma, success_rate: self.success_rate(), converged: self.converged }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::stream;

    #[test]
    fn proposals_stay_in_the_box_and_the_best_is_pinned_at_the_end() {
        let dimensions = vec![Dimension::new("a", 0.05, 2.0).unwrap(), Dimension::new("b", 0.05, 0.5).unwrap()];
        let config = PublishedConfig { max_steps: 30, ..PublishedConfig::default() };
        let mut search = Published::new(config, dimensions, vec![0.5, 0.1]);
        let mut rng = stream(1, "tuner", 0);
        assert_eq!(search.ask(&mut rng), [0.5, 0.1], "the incumbent is scored first");
        search.tell(&[0.5, 0.1], -5.0);
        for step in 0..30 {
            let asked = search.ask(&mut rng);
            assert!((0.05..=2.0).contains(&asked[0]) && (0.05..=0.5).contains(&asked[1]), "{asked:?}");
            assert_eq!(search.tell(&asked, -4.0 + 0.1 * f64::from(step)).converged, step == 29);
        }
        let best = search.best().0.to_vec();
        assert_eq!(search.ask(&mut rng), best);
    }
}
