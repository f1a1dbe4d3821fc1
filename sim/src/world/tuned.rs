//! Routers that tune their policy's weights on their own requests, as `[tune]` of a live router does.

use super::{Flight, Key, TraceRequest, World};
use gorgo_core::policy::PolicyConfig;
use gorgo_core::rng::{self, ChaCha8Rng};
use gorgo_core::router::AdminEvent;
use gorgo_core::tuner::{Dimension, Online, OnlineConfig, Paired, PairedConfig, Trials, weights, with_weights};

/// How every router of a run tunes its policy.
#[derive(Debug, Clone)]
pub struct TuneConfig {
    /// The policy, which the run must begin with.
    pub policy: PolicyConfig,
    /// The settings that are searched.
    pub dimensions: Vec<Dimension>,
    /// Blocks and guard.
    pub online: OnlineConfig,
}

/// What the tuner of a router found.
#[derive(Debug, Clone, PartialEq)]
pub struct Tuned {
    /// The incumbent's weights, one for each dimension.
    pub weights: Vec<f64>,
    /// Trials.
    pub trials: Trials,
}

#[derive(Debug)]
pub(super) struct Tuner {
    policy: PolicyConfig,
    online: Online,
    rng: ChaCha8Rng,
}

impl Tuner {
    pub(super) fn new(config: &TuneConfig, seed: u64, router: usize) -> Self {
        let mut rng = rng::stream(seed, "tuner", router as u64);
        let start = weights(&config.policy, &config.dimensions);
        let search = Paired::new(PairedConfig::default(), config.dimensions.clone(), &start);
        let online = Online::new(config.online, search, &mut rng);
        Self { policy: config.policy.clone(), online, rng }
    }

    pub(super) fn found(&self) -> Tuned {
        Tuned { weights: self.online.search().incumbent().to_vec(), trials: self.online.trials() }
    }
}

impl<I: Iterator<Item = TraceRequest>> World<'_, I> {
    /// The block in which a router dispatches now.
    pub(super) fn block(&self, router: u16) -> u64 {
        self.tuners.get(usize::from(router)).map_or(0, |tuner| tuner.online.block())
    }

    /// A request that `router` dispatched for its user finished.
    pub(super) fn tune(&mut self, router: u16, key: Key) {
        let Some(tuner) = self.tuners.get_mut(usize::from(router)) else { return };
        let (Flight { block, .. }, record) = (&self.flights[key.slot()], &self.records[key.index() as usize]);
        let (Some(arrived), Some(first)) = (record.arrived.get(), record.router_first.get()) else { return };
        let (ttft, e2e) = (first - arrived, self.now - arrived);
        let (changed, _) = tuner.online.finished(*block, ttft.ms(), e2e.ms(), &mut tuner.rng);
        if !changed {
            return;
        }
        let (dimensions, weights) = (tuner.online.search().dimensions(), tuner.online.weights());
        // Out of range nowhere: the search stays within bounds that the policy takes.
        if let Ok(policy) = with_weights(&tuner.policy, dimensions, weights) {
            self.handle(router, AdminEvent::PolicySet(policy));
        }
    }
}
