//! The weights of a policy as a point of the search.

use super::Dimension;
use crate::policy::{PolicyConfig, PolicyError};
use serde_json::Value;

/// The settings that are searched when none are named; none for a policy without weights.
pub fn usual(policy: &PolicyConfig) -> Vec<Dimension> {
    let keys: &[(&str, f64, f64)] = match policy.name() {
        "gorgo" => &[("rtt_weight", 0.05, 5.0), ("queue_factor", 0.02, 5.0), ("running_cost_factor", 0.005, 2.0)],
        "predictive" => &[("kappa", 0.005, 1.0)],
        "kv-cost" => &[("overlap_weight", 0.1, 5.0), ("prefill_weight", 0.1, 5.0)],
        "smetric" => &[("slack", 0.1, 10.0)],
        "dualmap" => &[("slo_ms", 50.0, 20_000.0)],
        _ => &[],
    };
    keys.iter().filter_map(|&(key, low, high)| Dimension::new(key, low, high).ok()).collect()
}

/// The weights in force, one for each dimension; the middle of its bounds, in log space, where the policy learns it.
pub fn weights(policy: &PolicyConfig, dimensions: &[Dimension]) -> Vec<f64> {
    let settings = match policy {
        PolicyConfig::Gorgo(config) => serde_json::to_value(config.weights()).unwrap_or_default(),
        other => Value::Object(other.settings()),
    };
    let middle = |dimension: &Dimension| (dimension.low * dimension.high).sqrt();
    let one = |dimension: &Dimension| settings.get(&dimension.key).and_then(Value::as_f64).unwrap_or(middle(dimension));
    dimensions.iter().map(one).collect()
}

/// The policy with these weights, in four digits: more would claim what no search can know.
///
/// # Errors
/// When the policy has no such setting, or does not take the value.
pub fn with_weights(
    policy: &PolicyConfig,
    dimensions: &[Dimension],
    weights: &[f64],
) -> Result<PolicyConfig, PolicyError> {
    dimensions.iter().zip(weights).try_fold(policy.clone(), |policy, (dimension, &weight)| {
        let short: f64 = format!("{weight:.3e}").parse().unwrap_or(weight);
        policy.with(&dimension.key, Value::from(short))
    })
}
