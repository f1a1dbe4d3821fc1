//! The search as a router with `[tune]` makes it: on the requests of one run while it serves them, block by block.

use super::{TRAINING, score};
use crate::build::build;
use crate::runner::RunError;
use crate::spec::{Experiment, PlannedArm};
use gorgo_core::policy::PolicyConfig;
use gorgo_core::tuner::{Dimension, OnlineConfig, Trials, with_weights};
use gorgo_sim::world::{self, TuneConfig};

/// What came of it.
#[derive(Debug, Clone, PartialEq)]
pub struct OnlineTuned {
    /// Trials of the run.
    pub trials: Trials,
    /// Requests of the run.
    pub requests: usize,
    /// Mean loss, TTFT and E2E (ms) of that run, and of the same requests with the weights of the start.
    pub means: [[f64; 3]; 2],
}

/// Runs the arm once with a tuner and once without; returns the policy found, too.
///
/// # Errors
/// A run that fails, or an arm with several routers, each of which would find weights of its own.
pub(super) fn run(
    experiment: &Experiment,
    arm: &PlannedArm,
    dimensions: &[Dimension],
    seed: u64,
) -> Result<(PolicyConfig, OnlineTuned), RunError> {
    let (seed, policy) = (TRAINING + seed, &arm.spec.policy);
    let requests = arm.spec.workload.load(&experiment.dir, seed)?;
    let mut built = build(&experiment.file, &arm.spec, seed, &requests)?;
    let mut go = |tune: Option<TuneConfig>| {
        built.world.tune = tune;
        let failed = |source| RunError::World { arm: arm.label.clone(), seed, source: Box::new(source) };
        world::run(&built.world, &|| policy.build(), requests.iter().cloned()).map_err(failed)
    };
    let plain = go(None)?;
    let (policy, dimensions) = (policy.clone(), dimensions.to_vec());
    let online = OnlineConfig::default();
    let tuned = go(Some(TuneConfig { policy: policy.clone(), dimensions: dimensions.clone(), online }))?;
    let bad = |message: String| super::bad(experiment, message);
    let [found] = &tuned.tuned[..] else {
        let message = format!("--online tunes one router, and arm `{}` has {}", arm.label, tuned.tuned.len());
        return Err(bad(format!("{message}; set topology = \"proxy\"")));
    };
    let policy = with_weights(&policy, &dimensions, &found.weights).map_err(|wrong| bad(wrong.to_string()))?;
    let means = [score(&tuned.records), score(&plain.records)];
    Ok((policy, OnlineTuned { trials: found.trials, requests: requests.len(), means }))
}
