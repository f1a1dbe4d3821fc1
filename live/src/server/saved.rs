//! Changes made over the admin API, kept in a file so that they survive a restart.
//!
//! The file holds what differs from the configuration that the router was started with: policy, router settings,
//! limits, timeouts, probes, residency, CORS, replicas added, removed and drained. It is computed from the state in
//! force after each change and replaced as a whole, so it never holds part of a change. It contains the keys of added
//! replicas, so only its owner can read it.

use crate::config::{Config, ConfigError, Cors, Limits, Probes, ReplicaConfig, Residency, Timeouts};
use crate::server::{fleet, private_file};
use crate::state::AppState;
use crate::tuner::Tuner;
use gorgo_core::fleet::{Kind, SavedRates};
use gorgo_core::policy::PolicyConfig;
use gorgo_core::router::RouterConfig;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::Path;

/// The differences from the configuration of the start.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Saved {
    /// Names of configured and discovered replicas and peers that were removed.
    removed: Vec<String>,
    /// Names of replicas that get no new requests by an operator's word.
    draining: Vec<String>,
    policy: Option<PolicyConfig>,
    router: Option<RouterConfig>,
    limits: Option<Limits>,
    timeouts: Option<Timeouts>,
    probes: Option<Probes>,
    residency: Option<Residency>,
    cors: Option<Cors>,
    /// An operator stopped the search for weights.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    tuner_frozen: bool,
    /// Replicas and peers that were added.
    added: Vec<Added>,
    /// Rates learned from requests; written every minute and at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    rates: Option<SavedRates>,
}

/// A replica or peer that was added, with its key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Added {
    url: String,
    name: String,
    peer: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    region: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    labels: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ms_per_token: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    kv_tokens: Option<u64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    models: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    api_key: Option<String>,
}

impl Saved {
    /// Reads the file; a file that does not exist holds nothing.
    ///
    /// # Errors
    /// When it cannot be read or is damaged.
    pub(crate) fn read(path: &Path) -> Result<Self, ConfigError> {
        let shown = path.display().to_string();
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(ConfigError::Read { path: shown, why: error.to_string() }),
        };
        toml::from_str(&text).map_err(|error| ConfigError::Read {
            path: shown,
            why: format!("{}; remove the file to start without the changes it holds", error.message()),
        })
    }

    /// Lays the settings over those of the configuration file.
    pub(crate) fn apply(&self, config: &mut Config) {
        let Self { policy, router, limits, timeouts, probes, residency, cors, .. } = self.clone();
        config.policy = policy.unwrap_or(std::mem::take(&mut config.policy));
        config.router = router.unwrap_or(std::mem::take(&mut config.router));
        config.limits = limits.unwrap_or(std::mem::take(&mut config.limits));
        config.timeouts = timeouts.unwrap_or(std::mem::take(&mut config.timeouts));
        config.probes = probes.unwrap_or(std::mem::take(&mut config.probes));
        config.residency = residency.unwrap_or(std::mem::take(&mut config.residency));
        config.cors = cors.unwrap_or(std::mem::take(&mut config.cors));
    }

    /// The replicas and peers to begin with: the configured ones less those removed, and those added.
    pub(crate) fn fleet(&self, config: &Config) -> Vec<(ReplicaConfig, Kind)> {
        let mut all = fleet::configured(config);
        all.retain(|(replica, _)| !self.removed.contains(&replica.shown_name()));
        let remote = fleet::kind(config.role);
        all.extend(self.added.iter().cloned().map(|one| {
            let replica = ReplicaConfig {
                url: one.url,
                name: Some(one.name),
                region: one.region,
                labels: one.labels,
                ms_per_token: one.ms_per_token,
                kv_tokens: one.kv_tokens,
                api_key: one.api_key.map(Into::into),
                api_key_file: None,
                models: one.models,
            };
            (replica, if one.peer { Kind::Peer } else { remote })
        }));
        all
    }

    /// Rates learned before the restart.
    pub(crate) fn rates(&self) -> Option<&SavedRates> {
        self.rates.as_ref()
    }

    /// Hands what operators said of replicas and of the tuner to the state.
    pub(crate) fn restore(&self, state: &AppState) {
        state.by_operator.restore(&self.draining, &self.removed);
        if let Some(tuner) = state.tuner.as_ref().filter(|_| self.tuner_frozen) {
            tuner.freeze(&state.driver, true);
        }
    }

    /// What differs now from the configuration of the start.
    pub(crate) fn of(state: &AppState) -> Self {
        let (base, config, policy) = (state.base(), state.config(), state.policy());
        let configured: Vec<String> = fleet::configured(&base).iter().map(|(one, _)| one.shown_name()).collect();
        let mut saved = Self {
            policy: (policy != base.policy).then_some(policy),
            router: (config.router != base.router).then(|| config.router.clone()),
            limits: (config.limits != base.limits).then(|| config.limits.clone()),
            timeouts: (config.timeouts != base.timeouts).then(|| config.timeouts.clone()),
            probes: (config.probes != base.probes).then(|| config.probes.clone()),
            residency: (config.residency != base.residency).then(|| config.residency.clone()),
            cors: (config.cors != base.cors).then(|| config.cors.clone()),
            tuner_frozen: state.tuner.as_ref().is_some_and(Tuner::is_frozen),
            ..Self::default()
        };
        let mut here = Vec::new();
        state.driver.read(|router, upstreams, _| {
            for (upstream, _) in upstreams.iter().zip(router.replicas()).filter(|(_, r)| !r.removed) {
                here.push(upstream.name.clone());
            }
            saved.rates = Some(router.saved_rates()).filter(|rates| rates.ended > 0);
        });
        saved.draining = state.by_operator.drained();
        // A configured replica may also be absent because a discovered one has its address.
        saved.removed = state.by_operator.removed();
        let joined = state.joined.lock();
        for name in here.iter().filter(|name| !configured.contains(name) && !state.discovered.has(name)) {
            let Some((replica, kind)) = joined.get(name) else { continue };
            saved.added.push(Added {
                url: replica.url.clone(),
                name: name.clone(),
                peer: *kind == Kind::Peer,
                region: replica.region.clone(),
                labels: replica.labels.clone(),
                ms_per_token: replica.ms_per_token,
                kv_tokens: replica.kv_tokens,
                api_key: replica.api_key.as_ref().map(|key| key.expose().to_owned()),
                models: replica.models.clone(),
            });
        }
        saved
    }

    /// Replaces the file.
    ///
    /// # Errors
    /// Those of the file system; the file before stays then.
    pub(crate) fn write(&self, path: &Path) -> io::Result<()> {
        let text = toml::to_string(self).map_err(io::Error::other)?;
        private_file::replace(path, &[b"# Changes over the admin API of a router; written by it.\n", text.as_bytes()])
    }
}

/// Saves the changes in force if there is a file for them.
pub(crate) fn save(state: &AppState) {
    let Some(path) = &state.config().state else { return };
    let _held = state.saving.lock(); // in the order of the changes
    if state.is_handed_over() {
        return; // the file is the next process's
    }
    if let Err(error) = Saved::of(state).write(path) {
        tracing::warn!(%error, path = %path.display(), "cannot write the changes; they are lost at the next start");
    }
}
