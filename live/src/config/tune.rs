//! The section `[tune]`: online search for better weights of the policy.

use super::ConfigError;
use gorgo_core::policy::PolicyConfig;
use gorgo_core::tuner::{Dimension, OnlineConfig, usual, weights, with_weights};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The search for better weights of the policy on the router's own requests, by trials of four blocks: incumbent, candidate,
/// candidate, incumbent. A candidate is taken if `mean ln TTFT + mean ln E2E` of its requests is better by a standard
/// error. A candidate serves real requests, so tune, then freeze.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Tune {
    /// Whether it runs.
    pub enabled: bool,
    /// Settings of the policy with their bounds, `{ rtt_weight = [0.05, 5.0] }`; the policy's usual ones when empty.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub keys: BTreeMap<String, [f64; 2]>,
    /// Requests of a block. Only requests that finished count, in the block in which they were dispatched.
    pub block: u32,
    /// Loss over the incumbent's at which a candidate's block is ended early: 0.4 is half more TTFT at the same E2E.
    pub guard: f64,
    /// Requests of a candidate before that is judged.
    pub guard_after: u32,
}

impl Default for Tune {
    fn default() -> Self {
        let OnlineConfig { block, guard, guard_after } = OnlineConfig::default();
        Self { enabled: false, keys: BTreeMap::new(), block, guard, guard_after }
    }
}

impl Tune {
    /// The settings searched of `policy`; none when it has no usual ones and none are named.
    pub(crate) fn dimensions(&self, policy: &PolicyConfig) -> Vec<Dimension> {
        if self.keys.is_empty() {
            return usual(policy);
        }
        self.keys.iter().filter_map(|(key, &[low, high])| Dimension::new(key, low, high).ok()).collect()
    }

    pub(crate) fn online(&self) -> OnlineConfig {
        OnlineConfig { block: self.block, guard: self.guard, guard_after: self.guard_after }
    }

    /// Checks ranges, and that `policy` has the settings.
    ///
    /// # Errors
    /// The first value that is wrong.
    pub(super) fn check(&self, policy: &PolicyConfig) -> Result<(), ConfigError> {
        let bad = |key: &str, value: String, advice: String| {
            Err(ConfigError::Value { key: format!("tune.{key}"), value, advice })
        };
        for (key, value, low, high) in
            [("block", self.block, 8, 1_000_000), ("guard_after", self.guard_after, 2, 1_000_000)]
        {
            if !(low..=high).contains(&value) {
                return bad(key, value.to_string(), format!("it must lie between {low} and {high}"));
            }
        }
        if !(0.01..=100.0).contains(&self.guard) {
            return bad("guard", self.guard.to_string(), "it must lie between 0.01 and 100".to_owned());
        }
        for (key, &[low, high]) in &self.keys {
            if let Err(wrong) = Dimension::new(key, low, high) {
                return bad(&format!("keys.{key}"), format!("[{low}, {high}]"), wrong.to_string());
            }
        }
        if !self.enabled {
            return Ok(());
        }
        let dimensions = self.dimensions(policy);
        if dimensions.is_empty() {
            let advice = format!("policy `{}` has no usual weights; name settings under tune.keys", policy.name());
            return bad("enabled", "true".to_owned(), advice);
        }
        let bounds = |low: bool| dimensions.iter().map(|d| if low { d.low } else { d.high }).collect::<Vec<_>>();
        for point in [weights(policy, &dimensions), bounds(true), bounds(false)] {
            if let Err(wrong) = with_weights(policy, &dimensions, &point) {
                return bad("keys", format!("{point:?}"), wrong.to_string());
            }
        }
        Ok(())
    }
}
