//! The latest endpoints of each source of discovery.

use super::DiscoveredEndpoint;
use super::endpoint::Known;
use gorgo_core::Time;
use parking_lot::{Mutex, MutexGuard};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// What all sources have said, by the source's name.
#[derive(Debug, Default)]
pub(crate) struct Discovered(Mutex<BTreeMap<String, SourceState>>);

/// The endpoints of each source that are in the fleet, as snapshots and the next process of an upgrade get them.
pub(crate) type Sets = BTreeMap<String, Vec<DiscoveredEndpoint>>;

/// State of one source.
#[derive(Debug, Default)]
pub(super) struct SourceState {
    /// The endpoints that joined the fleet from this source.
    pub(super) known: Known,
    /// The endpoints of the last answer.
    pub(super) listed: Known,
    /// URLs of endpoints that are this router itself, by name.
    pub(super) own: BTreeMap<String, String>,
    /// Why endpoints cannot be used, by name.
    pub(super) refused: BTreeMap<String, String>,
    /// Why engines of the fleet keep their former settings, by name.
    pub(super) kept: BTreeMap<String, String>,
    /// Endpoints of the last answer beyond those that a fleet holds.
    pub(super) beyond: usize,
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
    /// Endpoints that it lists and that are not used: the fleet has no room for them, or their entries are wrong.
    pub(crate) left_out: usize,
    /// Seconds since the last complete answer.
    pub(crate) age_s: Option<f64>,
    /// Why the last set is kept.
    pub(crate) error: Option<String>,
}

impl Discovered {
    pub(super) fn lock(&self) -> MutexGuard<'_, BTreeMap<String, SourceState>> {
        self.0.lock()
    }

    /// Whether any source is asked.
    pub(crate) fn has_sources(&self) -> bool {
        !self.0.lock().is_empty()
    }

    /// Whether this replica joined from a source: such a replica is not saved across restarts.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.lock().values().any(|source| source.known.contains_key(name))
    }

    /// Whether this replica joined from this source.
    pub(super) fn owns(&self, source: &str, name: &str) -> bool {
        self.0.lock().get(source).is_some_and(|source| source.known.contains_key(name))
    }

    /// Whether a source lists this name, or did so last.
    pub(crate) fn lists(&self, name: &str) -> bool {
        self.0.lock().values().any(|source| source.known.contains_key(name) || source.listed.contains_key(name))
    }

    /// The endpoint of this name that a source lists, with the source's name.
    pub(super) fn listed(&self, name: &str) -> Option<(String, DiscoveredEndpoint)> {
        let sources = self.0.lock();
        sources.iter().find_map(|(source, state)| Some((source.clone(), state.listed.get(name)?.clone())))
    }

    /// The source of each discovered replica.
    pub(crate) fn sources_by_replica(&self) -> BTreeMap<String, String> {
        let sources = self.0.lock();
        let of = |(source, state): (&String, &SourceState)| -> Vec<(String, String)> {
            state.known.keys().map(|name| (name.clone(), source.clone())).collect()
        };
        sources.iter().flat_map(of).collect()
    }

    /// Why the fleet may be empty or old, in one sentence; `None` while every source answers.
    pub(crate) fn trouble(&self) -> Option<String> {
        let sources = self.0.lock();
        let stale = |(source, state): (&String, &SourceState)| {
            let why = state.error.as_deref().or(state.answered.is_none().then_some("it has not answered yet"))?;
            Some(format!("discovery from {source}: {why}"))
        };
        let all: Vec<String> = sources.iter().filter_map(stale).collect();
        (!all.is_empty()).then(|| all.join("; "))
    }

    /// Whether a source says that this replica takes no new requests.
    pub(crate) fn drains(&self, name: &str) -> bool {
        self.0.lock().values().any(|source| source.known.get(name).is_some_and(|endpoint| endpoint.draining))
    }

    /// An operator removed this replica.
    pub(crate) fn forget(&self, name: &str) {
        self.0.lock().values_mut().for_each(|source| drop(source.known.remove(name)));
    }

    /// Records that this replica is this router itself. Returns the source that lists it, once per replica.
    pub(crate) fn is_own(&self, name: &str) -> Option<String> {
        let mut sources = self.0.lock();
        let (source, state) = sources.iter_mut().find(|(_, state)| state.known.contains_key(name))?;
        let endpoint = state.known.remove(name)?;
        state.own.insert(endpoint.name, endpoint.url);
        Some(source.clone())
    }

    /// The endpoints of each source that are in the fleet.
    pub(crate) fn sets(&self) -> Sets {
        let sources = self.0.lock();
        let set = |(name, state): (&String, &SourceState)| (name.clone(), state.known.values().cloned().collect());
        sources.iter().map(set).collect()
    }

    /// The state of each source.
    pub(crate) fn levels(&self, now: Time) -> Vec<SourceLevel> {
        let level = |(name, state): (&String, &SourceState)| SourceLevel {
            source: name.clone(),
            endpoints: state.known.len(),
            left_out: state.beyond + state.refused.len(),
            age_s: state.answered.map(|at| (now - at).ms() / 1e3),
            error: state.error.clone(),
        };
        self.0.lock().iter().map(level).collect()
    }

    /// The state of each source, for `status`.
    pub(crate) fn json(&self, now: Time) -> Vec<Value> {
        let shown = |level: SourceLevel| {
            json!({"source": level.source, "endpoints": level.endpoints, "left_out": level.left_out,
                "age_s": level.age_s, "stale": level.error.is_some(), "error": level.error})
        };
        self.levels(now).into_iter().map(shown).collect()
    }
}
