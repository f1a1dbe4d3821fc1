//! Tunes the policy's weights on this router's requests ([`gorgo_core::tuner::Online`]).
//!
//! Each request carries the number of the block in which it was dispatched. When a request finishes, its block's loss
//! grows, and with the last one the weights of the next block come into force. A change of policy by an operator begins
//! the search anew from that policy.

use crate::config::Tune;
use crate::driver::Driver;
use crate::observe::changes::Change;
use gorgo_core::policy::PolicyConfig;
use gorgo_core::rng::{self, ChaCha8Rng};
use gorgo_core::tuner::{Online, Paired, PairedConfig, Stage, Trial, Trials, weights, with_weights};
use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use std::sync::atomic::{AtomicU64, Ordering};

/// The tuner of a router; it exists only where it is enabled.
#[derive(Debug)]
pub(crate) struct Tuner {
    config: Tune,
    /// The number that a request dispatched now carries.
    block: AtomicU64,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// The policy whose weights are searched.
    policy: PolicyConfig,
    /// `None` if the policy has none of the settings.
    online: Option<Online>,
    rng: ChaCha8Rng,
    /// Blocks of former searches: their numbers do not come again.
    blocks_before: u64,
}

impl Inner {
    /// The number of the present block.
    fn block(&self) -> u64 {
        self.blocks_before + self.online.as_ref().map_or(0, Online::block)
    }

    /// The policy with these weights.
    fn with(&self, online: &Online, weights: &[f64]) -> PolicyConfig {
        with_weights(&self.policy, online.search().dimensions(), weights).unwrap_or_else(|_| self.policy.clone())
    }

    /// The policy with the weights in force.
    fn in_force(&self) -> PolicyConfig {
        self.online.as_ref().map_or_else(|| self.policy.clone(), |online| self.with(online, online.weights()))
    }
}

impl Tuner {
    /// A tuner of `policy`; `None` where it is not enabled.
    pub(crate) fn new(config: &Tune, policy: &PolicyConfig, seed: u64) -> Option<Self> {
        if !config.enabled {
            return None;
        }
        let rng = rng::stream(seed, "tuner", 0);
        let inner = Inner { policy: policy.clone(), online: None, rng, blocks_before: 0 };
        let tuner = Self { config: config.clone(), block: AtomicU64::new(0), inner: Mutex::new(inner) };
        tuner.begin(&mut tuner.inner.lock(), policy);
        Some(tuner)
    }

    /// Puts the operator's policy in force, and restarts the search from it.
    pub(crate) fn set_policy(&self, driver: &Driver, policy: &PolicyConfig) {
        let mut inner = self.inner.lock(); // no request that finishes meanwhile puts the old policy back
        driver.set_policy(policy.clone());
        self.begin(&mut inner, policy);
    }

    fn begin(&self, inner: &mut Inner, policy: &PolicyConfig) {
        let frozen = inner.online.as_ref().is_some_and(Online::is_frozen);
        inner.blocks_before = inner.block() + 1;
        let dimensions = self.config.dimensions(policy);
        let start = weights(policy, &dimensions);
        let fits = !dimensions.is_empty() && with_weights(policy, &dimensions, &start).is_ok();
        inner.policy = policy.clone();
        inner.online = fits.then(|| {
            let search = Paired::new(PairedConfig::default(), dimensions, &start);
            let mut online = Online::new(self.config.online(), search, &mut inner.rng);
            online.freeze(frozen);
            online
        });
        self.block.store(inner.block(), Ordering::Relaxed);
    }

    /// The number that a request dispatched now carries.
    pub(crate) fn block(&self) -> u64 {
        self.block.load(Ordering::Relaxed)
    }

    /// Counts a request that was dispatched in `block` and finished.
    pub(crate) fn finished(&self, driver: &Driver, block: u64, ttft_ms: f64, e2e_ms: f64) {
        if block != self.block() {
            return; // dispatched by other weights
        }
        let mut inner = self.inner.lock();
        let Some(own) = block.checked_sub(inner.blocks_before) else { return };
        let Inner { online: Some(online), rng, .. } = &mut *inner else { return };
        let (changed, verdict) = online.finished(own, ttft_ms, e2e_ms, rng);
        if let (Some(_), Some(Trial { weights, guarded, verdict })) = (verdict, online.last_trial()) {
            driver.observers().tell(Change::Tuned {
                weights: Value::Object(named(online, weights)).to_string(),
                taken: verdict.accepted,
                guarded: *guarded,
                loss: format!("{:+.3} ± {:.3}", verdict.difference, verdict.error),
            });
        }
        self.block.store(inner.block(), Ordering::Relaxed);
        if changed {
            driver.set_weights(inner.in_force());
        }
    }

    /// Stops or resumes. Stopped, the incumbent's weights are in force.
    pub(crate) fn freeze(&self, driver: &Driver, frozen: bool) {
        let mut inner = self.inner.lock();
        let Some(online) = &mut inner.online else { return };
        online.freeze(frozen);
        self.block.store(inner.block(), Ordering::Relaxed);
        driver.set_weights(inner.in_force());
    }

    pub(crate) fn is_frozen(&self) -> bool {
        self.inner.lock().online.as_ref().is_some_and(Online::is_frozen)
    }

    /// The policy with the incumbent's weights: what outlives the process.
    pub(crate) fn incumbent(&self) -> PolicyConfig {
        let inner = self.inner.lock();
        let incumbent = |online: &Online| inner.with(online, online.search().incumbent());
        inner.online.as_ref().map_or_else(|| inner.policy.clone(), incumbent)
    }

    /// The state of the search, as JSON.
    pub(crate) fn state(&self) -> Value {
        let inner = self.inner.lock();
        let policy = inner.policy.name();
        let Some(online) = &inner.online else {
            return json!({"enabled": true, "policy": policy, "stage": null,
                "why": "this policy has none of the settings that tune.keys names"});
        };
        let (search, last) = (online.search(), online.last_trial().map(|trial| trial.verdict));
        let bounds: Map<String, Value> =
            search.dimensions().iter().map(|d| (d.key.clone(), json!([d.low, d.high]))).collect();
        json!({
            "enabled": true,
            "frozen": online.is_frozen(),
            "policy": policy,
            "stage": match online.stage() { Stage::Incumbent => "incumbent", Stage::Candidate => "candidate" },
            "incumbent": named(online, search.incumbent()),
            "candidate": online.candidate().map(|weights| named(online, weights)),
            "bounds": bounds,
            "sigma": search.sigma(),
            "converged": search.has_converged(),
            "trials": online.trials().ended,
            "taken": online.trials().taken,
            "guarded": online.trials().guarded,
            "last_loss_difference": last.map(|verdict| verdict.difference),
            "last_loss_error": last.map(|verdict| verdict.error),
        })
    }

    /// The weights in force, by setting, and the trials so far.
    pub(crate) fn levels(&self) -> (Vec<(String, f64)>, Trials) {
        let inner = self.inner.lock();
        inner.online.as_ref().map_or_else(Default::default, |online| {
            let keys = online.search().dimensions().iter().map(|dimension| dimension.key.clone());
            (keys.zip(online.weights().iter().copied()).collect(), online.trials())
        })
    }
}

/// Weights by their settings' names.
fn named(online: &Online, weights: &[f64]) -> Map<String, Value> {
    let keys = online.search().dimensions().iter().map(|dimension| dimension.key.clone());
    keys.zip(weights).map(|(key, weight)| (key, json!(weight))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::clock::Clock;
    use crate::driver::observers::Observers;
    use gorgo_core::router::RouterConfig;

    fn driver() -> Driver {
        Driver::new(RouterConfig::default(), PolicyConfig::default(), 1, Clock::start(), Observers::new(0, None, None))
    }

    fn tuner() -> Tuner {
        let config = Tune { enabled: true, block: 16, guard_after: 8, ..Tune::default() };
        Tuner::new(&config, &PolicyConfig::default(), 1).unwrap()
    }

    fn finish(tuner: &Tuner, driver: &Driver, count: u32, ttft_ms: f64) {
        for _ in 0..count {
            tuner.finished(driver, tuner.block(), ttft_ms, 1_000.0);
        }
    }

    #[tokio::test]
    async fn a_candidate_comes_into_force_and_is_taken_back_when_it_is_bad() {
        let (driver, tuner) = (driver(), tuner());
        let before = driver.policy();
        finish(&tuner, &driver, 16, 100.0);
        assert_ne!(driver.policy(), before, "the candidate's weights are in force");
        assert_eq!(tuner.incumbent().name(), "gorgo");
        finish(&tuner, &driver, 8, 300.0);
        assert_eq!(tuner.state()["guarded"], 1);
        assert_eq!(driver.policy(), tuner.incumbent(), "the guard took the weights back");
    }

    #[tokio::test]
    async fn a_better_candidate_stays() {
        let (driver, tuner) = (driver(), tuner());
        finish(&tuner, &driver, 16, 100.0);
        let candidate = driver.policy();
        finish(&tuner, &driver, 32, 50.0);
        finish(&tuner, &driver, 16, 100.0);
        assert_eq!((tuner.state()["taken"].clone(), tuner.incumbent()), (json!(1), candidate.clone()));
        assert_eq!(driver.policy(), candidate);
    }

    #[tokio::test]
    async fn frozen_the_incumbent_serves_and_requests_change_nothing() {
        let (driver, tuner) = (driver(), tuner());
        finish(&tuner, &driver, 16, 100.0);
        tuner.freeze(&driver, true);
        assert_eq!(driver.policy(), tuner.incumbent());
        finish(&tuner, &driver, 500, 1.0);
        assert_eq!((tuner.state()["trials"].clone(), driver.policy()), (json!(0), tuner.incumbent()));
        assert_eq!(tuner.state()["candidate"], Value::Null, "nothing is tried");
    }

    #[tokio::test]
    async fn another_policy_begins_the_search_anew_and_old_blocks_do_not_count() {
        let (driver, tuner) = (driver(), tuner());
        let old = tuner.block();
        let other = PolicyConfig::parse("kv-cost", Map::new()).unwrap();
        tuner.set_policy(&driver, &other);
        for _ in 0..100 {
            tuner.finished(&driver, old, 1.0, 1.0);
        }
        assert_eq!((driver.policy(), tuner.state()["stage"].clone()), (other, json!("incumbent")));
        let plain = PolicyConfig::parse("random", Map::new()).unwrap();
        tuner.set_policy(&driver, &plain);
        assert_eq!((tuner.state()["stage"].clone(), tuner.incumbent()), (Value::Null, plain));
    }
}
