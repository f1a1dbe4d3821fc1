//! The policy in force, and how it is replaced.

use super::{Driver, Inner};
use crate::observe::changes::Change;
use gorgo_core::policy::PolicyConfig;
use gorgo_core::router::AdminEvent;

impl Driver {
    /// The policy as configured.
    pub fn policy(&self) -> PolicyConfig {
        self.inner.lock().policy.clone()
    }

    /// Replaces the policy.
    pub fn set_policy(&self, policy: PolicyConfig) {
        let mut inner = self.inner.lock();
        let change =
            (policy != inner.policy).then(|| Change::Policy { old: shown(&inner.policy), new: shown(&policy) });
        self.replace_policy(&mut inner, policy);
        if let Some(change) = change {
            self.observers.tell(change);
        }
    }

    /// Replaces the weights of the policy for a block of the tuner. Logs nothing: the tuner logs the outcome.
    pub(crate) fn set_weights(&self, policy: PolicyConfig) {
        self.replace_policy(&mut self.inner.lock(), policy);
    }

    fn replace_policy(&self, inner: &mut Inner, policy: PolicyConfig) {
        self.process(inner, AdminEvent::PolicySet(policy.clone()));
        inner.policy = policy;
    }
}

/// A policy with its settings, for the log.
fn shown(policy: &PolicyConfig) -> String {
    let settings: Vec<String> = policy.settings().iter().map(|(key, value)| format!("{key}={value}")).collect();
    if settings.is_empty() { policy.name().to_owned() } else { format!("{} ({})", policy.name(), settings.join(" ")) }
}
