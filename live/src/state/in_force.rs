//! What is in force: configuration, keys, rules of residency and policy, and how others replace them.

use super::AppState;
use super::members::bearer;
use crate::config::{Config, Role};
use crate::request::residency::ResidencyRules;
use crate::server::keys::Keys;
use crate::server::tls;
use crate::tuner::Tuner;
use gorgo_core::policy::PolicyConfig;
use std::sync::Arc;

impl AppState {
    /// Replaces the policy, as an operator asked; the search for weights restarts from it.
    pub(crate) fn set_policy(&self, policy: PolicyConfig) {
        match &self.tuner {
            Some(tuner) => tuner.set_policy(&self.driver, &policy),
            None => self.driver.set_policy(policy),
        }
    }

    /// The policy without what the tuner tries at the moment.
    pub(crate) fn policy(&self) -> PolicyConfig {
        self.tuner.as_ref().map_or_else(|| self.driver.policy(), Tuner::incumbent)
    }

    /// The configuration in force.
    pub fn config(&self) -> Arc<Config> {
        Arc::clone(&self.config.read())
    }

    /// The configuration that changes are compared with.
    pub(crate) fn base(&self) -> Arc<Config> {
        Arc::clone(&self.base.read())
    }

    pub(crate) fn set_base(&self, config: Config) {
        *self.base.write() = Arc::new(config);
    }

    pub(crate) fn set_config(&self, config: Config) {
        *self.residency.write() = Arc::new(ResidencyRules::new(&config.residency));
        *self.config.write() = Arc::new(config);
    }

    /// The keys in force.
    pub fn keys(&self) -> Arc<Keys> {
        Arc::clone(&self.keys.read())
    }

    /// The rules of residency in force.
    pub(crate) fn residency(&self) -> Arc<ResidencyRules> {
        Arc::clone(&self.residency.read())
    }

    /// Calls `f` with the keys in force; cheaper than [`Self::keys`].
    pub(crate) fn with_keys<T>(&self, f: impl FnOnce(&Keys) -> T) -> T {
        f(&self.keys.read())
    }

    /// The certificates that clients are shown.
    pub(crate) fn certificates(&self) -> Option<tls::Shown> {
        self.certificates.read().clone()
    }

    /// Shows clients these certificates from now on; returns whether they are others.
    pub(crate) fn show_certificates(&self, new: Option<tls::Shown>) -> bool {
        let mut shown = self.certificates.write();
        let is_other = *shown != new;
        *shown = new;
        is_other
    }

    /// Puts other keys in force, here and towards peers.
    pub(crate) fn set_keys(&self, keys: Keys) {
        *self.peer_authorization.write() = keys.for_peers().and_then(|key| bearer(key).ok());
        *self.keys.write() = Arc::new(keys);
    }

    /// Proxy or edge.
    pub fn role(&self) -> Role {
        self.config().role
    }
}
