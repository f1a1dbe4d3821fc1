//! What the sources of discovery have said so far.

use super::endpoint::Known;
use gorgo_core::Time;
use parking_lot::{Mutex, MutexGuard};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// What all sources have said, by the source's name.
#[derive(Debug, Default)]
pub(crate) struct Discovered(Mutex<BTreeMap<String, SourceState>>);

/// State of one source.
#[derive(Debug, Default)]
pub(super) struct SourceState {
    /// The endpoints that joined the fleet from this source.
    pub(super) known: Known,
    /// The last complete answer.
    pub(super) answered: Option<Time>,
    /// Why the source is stale.
    pub(super) error: Option<String>,
}

/// What operators see of one source.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct SourceLevel {
    pub(crate) source: String,
    pub(crate) endpoints: usize,
    /// Seconds since the last complete answer.
    pub(crate) age_s: Option<f64>,
    /// Why the last set is kept.
    pub(crate) error: Option<String>,
}

impl Discovered {
    pub(super) fn lock(&self) -> MutexGuard<'_, BTreeMap<String, SourceState>> {
        self.0.lock()
    }

    /// Whether this replica joined from a source: such a replica is not saved across restarts.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.lock().values().any(|source| source.known.contains_key(name))
    }

    /// The state of each source.
    pub(crate) fn levels(&self, now: Time) -> Vec<SourceLevel> {
        let level = |(name, state): (&String, &SourceState)| SourceLevel {
            source: name.clone(),
            endpoints: state.known.len(),
            age_s: state.answered.map(|at| (now - at).ms() / 1e3),
            error: state.error.clone(),
        };
        self.0.lock().iter().map(level).collect()
    }

    /// The state of each source, for `status`.
    pub(crate) fn json(&self, now: Time) -> Vec<Value> {
        let shown = |level: SourceLevel| {
            json!({"source": level.source, "endpoints": level.endpoints, "age_s": level.age_s,
                "stale": level.error.is_some(), "error": level.error})
        };
        self.levels(now).into_iter().map(shown).collect()
    }
}
