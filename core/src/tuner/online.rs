//! Tunes weights on a router's own requests, block by block.
//!
//! ```text
//! a trial is four blocks of `block` requests: incumbent, candidate, candidate, incumbent
//! ```
//!
//! so that a load that rises or falls through the trial is the same for both. Only requests that were dispatched in the
//! present block count: each carries the number of the block, and what the former weights dispatched is discarded.
//! The guard ends a candidate's block early and takes its weights back when its mean loss exceeds the incumbent's by
//! more than `guard` after `guard_after` requests: a bad minute costs no more than that.

use super::paired::{Paired, Verdict, loss};
use crate::rng::ChaCha8Rng;

/// Settings of [`Online`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OnlineConfig {
    /// Requests of a block.
    pub block: u32,
    /// Loss over the incumbent's at which a candidate is taken back; `ln 1.5` is half more TTFT at the same E2E.
    pub guard: f64,
    /// Requests before the guard judges.
    pub guard_after: u32,
}

impl Default for OnlineConfig {
    fn default() -> Self {
        Self { block: 128, guard: 0.4, guard_after: 24 }
    }
}

/// Whose block it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The incumbent's weights are in force, first or last block of a trial.
    Incumbent,
    /// The candidate's are.
    Candidate,
}

/// Sums over the losses of blocks.
#[derive(Debug, Clone, Copy, Default)]
struct Sums {
    n: f64,
    sum: f64,
    squares: f64,
}

impl Sums {
    fn add(&mut self, loss: f64) {
        self.n += 1.0;
        self.sum += loss;
        self.squares += loss * loss;
    }

    fn plus(self, other: Self) -> Self {
        Self { n: self.n + other.n, sum: self.sum + other.sum, squares: self.squares + other.squares }
    }

    fn mean(&self) -> f64 {
        self.sum / self.n
    }

    /// Variance of the mean.
    fn variance(&self) -> f64 {
        ((self.squares - self.sum * self.mean()) / (self.n - 1.0)).max(0.0) / self.n
    }
}

/// How many trials ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Trials {
    /// All of them.
    pub ended: u64,
    /// Those whose candidate became the incumbent.
    pub taken: u64,
    /// Those that the guard ended.
    pub guarded: u64,
}

/// A trial that ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Trial {
    /// The candidate's weights.
    pub weights: Vec<f64>,
    /// Whether the guard ended it.
    pub guarded: bool,
    /// Its outcome.
    pub verdict: Verdict,
}

/// The tuner of a router.
#[derive(Debug, Clone)]
pub struct Online {
    config: OnlineConfig,
    search: Paired,
    candidate: Vec<f64>,
    /// Position in the trial, 0 to 3.
    position: usize,
    /// Number of the block.
    block: u64,
    now: Sums,
    blocks: [Sums; 4],
    frozen: bool,
    trials: Trials,
    last: Option<Trial>,
}

const ORDER: [Stage; 4] = [Stage::Incumbent, Stage::Candidate, Stage::Candidate, Stage::Incumbent];

impl Online {
    /// Begins with a block of the incumbent of `search`.
    pub fn new(config: OnlineConfig, search: Paired, rng: &mut ChaCha8Rng) -> Self {
        let candidate = search.ask(rng);
        Self {
            config,
            search,
            candidate,
            position: 0,
            block: 0,
            now: Sums::default(),
            blocks: [Sums::default(); 4],
            frozen: false,
            trials: Trials::default(),
            last: None,
        }
    }

    /// The weights in force.
    pub fn weights(&self) -> &[f64] {
        match self.stage() {
            Stage::Incumbent => self.search.incumbent(),
            Stage::Candidate => &self.candidate,
        }
    }

    /// Whose block it is.
    pub fn stage(&self) -> Stage {
        if self.frozen { Stage::Incumbent } else { ORDER[self.position] }
    }

    /// The number that a request dispatched now carries.
    pub fn block(&self) -> u64 {
        self.block
    }

    /// The trials so far.
    pub fn trials(&self) -> Trials {
        self.trials
    }

    /// The trial that ended last.
    pub fn last_trial(&self) -> Option<&Trial> {
        self.last.as_ref()
    }

    /// The search: its incumbent, dimensions and step.
    pub fn search(&self) -> &Paired {
        &self.search
    }

    /// The weights that are compared with the incumbent's; `None` while it is stopped.
    pub fn candidate(&self) -> Option<&[f64]> {
        (!self.frozen).then_some(&*self.candidate)
    }

    /// Whether it is stopped.
    pub fn is_frozen(&self) -> bool {
        self.frozen
    }

    /// Stops or resumes. A frozen tuner keeps the incumbent's weights in force; the trial restarts when it resumes.
    pub fn freeze(&mut self, frozen: bool) {
        if self.frozen != frozen {
            self.frozen = frozen;
            self.begin(0);
        }
    }

    /// A request that was dispatched in `block` finished. Returns whether the weights in force changed, and the verdict
    /// of a trial that ended with it.
    pub fn finished(&mut self, block: u64, ttft_ms: f64, e2e_ms: f64, rng: &mut ChaCha8Rng) -> (bool, Option<Verdict>) {
        let loss = loss(ttft_ms, e2e_ms);
        if self.frozen || block != self.block || !loss.is_finite() {
            return (false, None);
        }
        self.now.add(loss);
        let is_bad = self.stage() == Stage::Candidate
            && self.now.n >= f64::from(self.config.guard_after)
            && self.now.mean() > self.blocks[0].mean() + self.config.guard;
        if is_bad {
            let difference = self.now.mean() - self.blocks[0].mean();
            return (true, Some(self.end(true, difference, 0.0, rng)));
        }
        if self.now.n < f64::from(self.config.block) {
            return (false, None);
        }
        self.blocks[self.position] = self.now;
        if self.position < 3 {
            let before = self.stage();
            self.begin(self.position + 1);
            return (before != self.stage(), None);
        }
        let candidate = self.blocks[1].plus(self.blocks[2]);
        let incumbent = self.blocks[0].plus(self.blocks[3]);
        let error = (candidate.variance() + incumbent.variance()).sqrt();
        let verdict = self.end(false, candidate.mean() - incumbent.mean(), error, rng);
        (verdict.accepted, Some(verdict))
    }

    fn end(&mut self, guarded: bool, difference: f64, error: f64, rng: &mut ChaCha8Rng) -> Verdict {
        let verdict = self.search.decide(&self.candidate, difference, error);
        self.trials.ended += 1;
        self.trials.taken += u64::from(verdict.accepted);
        self.trials.guarded += u64::from(guarded);
        let weights = std::mem::replace(&mut self.candidate, self.search.ask(rng));
        self.last = Some(Trial { weights, guarded, verdict });
        self.begin(0);
        verdict
    }

    fn begin(&mut self, position: usize) {
        (self.position, self.now) = (position, Sums::default());
        self.block += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::stream;
    use crate::tuner::{Dimension, PairedConfig};
    use rand::RngExt;

    fn online(start: f64) -> (Online, ChaCha8Rng) {
        let mut rng = stream(1, "tuner", 0);
        let dimensions = vec![Dimension::new("a", 0.01, 10.0).unwrap()];
        let search = Paired::new(PairedConfig::default(), dimensions, &[start]);
        (Online::new(OnlineConfig::default(), search, &mut rng), rng)
    }

    #[test]
    fn learns_under_a_load_that_drifts() {
        let (mut tuner, mut rng) = online(5.0);
        for i in 0..60_000u32 {
            let drift = 1.0 + (f64::from(i) / 9_000.0).sin().abs();
            let bad = (tuner.weights()[0] / 0.5).ln().powi(2);
            let ttft = 100.0 * drift * (1.0 + bad) * rng.random_range(0.5..1.5);
            tuner.finished(tuner.block(), ttft, 10.0 * ttft, &mut rng);
        }
        let found = tuner.search.incumbent()[0];
        assert!((0.3..0.8).contains(&found), "{found}");
    }

    #[test]
    fn samples_of_former_weights_are_discarded() {
        let (mut tuner, mut rng) = online(1.0);
        let first = tuner.block();
        for _ in 0..128 {
            tuner.finished(first, 100.0, 1_000.0, &mut rng);
        }
        assert_eq!(tuner.stage(), Stage::Candidate);
        for _ in 0..1_000 {
            assert_eq!(tuner.finished(first, 100.0, 1_000.0, &mut rng), (false, None));
        }
        assert_eq!(tuner.stage(), Stage::Candidate);
    }

    #[test]
    fn the_guard_takes_a_bad_candidate_back_early() {
        let (mut tuner, mut rng) = online(1.0);
        for _ in 0..128 {
            tuner.finished(tuner.block(), 100.0, 1_000.0, &mut rng);
        }
        let bad: Vec<_> = (0..24).map(|_| tuner.finished(tuner.block(), 200.0, 1_000.0, &mut rng)).collect();
        assert!(bad[..23].iter().all(|outcome| outcome.1.is_none()));
        assert!(bad[23].0 && !bad[23].1.unwrap().accepted);
        assert_eq!(
            (tuner.stage(), tuner.weights(), tuner.trials()),
            (Stage::Incumbent, &[1.0][..], Trials { ended: 1, taken: 0, guarded: 1 })
        );
    }

    #[test]
    fn a_frozen_tuner_keeps_the_incumbent_and_learns_nothing() {
        let (mut tuner, mut rng) = online(1.0);
        for _ in 0..128 {
            tuner.finished(tuner.block(), 100.0, 1_000.0, &mut rng);
        }
        tuner.freeze(true);
        assert_eq!(tuner.weights(), [1.0]);
        for _ in 0..2_000 {
            assert_eq!(tuner.finished(tuner.block(), 100.0, 1_000.0, &mut rng), (false, None));
        }
        tuner.freeze(false);
        assert_eq!(tuner.stage(), Stage::Incumbent);
    }
}
