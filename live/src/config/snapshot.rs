//! The section `[snapshot]`: the file in which a router keeps its learned state for the next start.

use super::ConfigError;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What the router has learned (prefixes, round trips, rates, breakers), kept in a file for its next start.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Snapshots {
    /// The file; `STATE.snapshot` beside the file of `state` when absent, and none without that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// An older one is not used at a start, ms: engines have evicted by then.
    pub max_age_ms: u64,
    /// Time between two writes, ms; it is also written at the end.
    pub every_ms: u64,
}

impl Default for Snapshots {
    fn default() -> Self {
        Self { file: None, max_age_ms: 600_000, every_ms: 60_000 }
    }
}

impl Snapshots {
    /// Checks ranges.
    ///
    /// # Errors
    /// The first value that is wrong.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        for (key, value, low, high) in
            [("max_age_ms", self.max_age_ms, 0, 604_800_000), ("every_ms", self.every_ms, 100, 86_400_000)]
        {
            if !(low..=high).contains(&value) {
                let advice = format!("it must lie between {low} and {high}");
                return Err(ConfigError::Value { key: format!("snapshot.{key}"), value: value.to_string(), advice });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::config::Config;

    #[test]
    fn times_have_bounds() {
        let error = Config::parse("snapshot = {every_ms = 1}").unwrap_err().to_string();
        assert!(error.starts_with("`snapshot.every_ms` is 1; it must lie between 100"), "{error}");
        assert!(Config::parse("snapshot = {file = \"x\", max_age_ms = \"5m\"}").is_ok());
    }
}
