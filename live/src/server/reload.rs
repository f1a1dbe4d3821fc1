//! Replaces the configuration while the router runs: all of it, or nothing if a value is wrong.

use crate::config::{Config, ConfigError, ReplicaConfig};
use crate::observe::changes::Change;
use crate::server::fleet;
use crate::server::keys::Keys;
use crate::server::saved;
use crate::state::AppState;
use gorgo_core::fleet::Kind;
use std::sync::Arc;

/// Reads the configuration again and applies it.
///
/// # Errors
/// As [`apply`], or when the router was started without a file; the configuration in force stays.
pub(crate) fn reload(state: &Arc<AppState>) -> Result<Vec<String>, ConfigError> {
    let Some(source) = &state.config_source else {
        let why = "the router was started without --config".to_owned();
        return Err(ConfigError::Read { path: "(none)".to_owned(), why });
    };
    let read = source.read()?;
    let changes = apply(state, read.clone())?;
    state.set_base(read);
    saved::save(state);
    Ok(changes)
}

/// Applies another configuration: policy, router settings, timeouts, limits of new requests, probes, keys and the
/// fleet. Returns what changed.
///
/// # Errors
/// When a value is wrong, or differs and can only change with a restart.
pub(crate) fn apply(state: &Arc<AppState>, mut new: Config) -> Result<Vec<String>, ConfigError> {
    let old = state.config();
    new.keep_keys(&old);
    new.check()?;
    refuse_fixed_keys(&old, &new)?;
    let keys = Keys::load(&new)?;
    let mut changes = Vec::new();
    if old.policy != new.policy {
        state.set_policy(new.policy.clone());
        changes.push(format!("policy: {}", new.policy.name()));
    }
    if old.core_router() != new.core_router() {
        state.driver.set_config(new.core_router());
        changes.push("router".to_owned());
    }
    state.set_keys(keys);
    apply_fleet(state, &fleet::configured(&old), &fleet::configured(&new), &mut changes);
    if (&old.limits, &old.timeouts, &old.probes) != (&new.limits, &new.timeouts, &new.probes) {
        changes.push("limits, timeouts or probes".to_owned());
    }
    if old.cors != new.cors {
        changes.push("cors".to_owned());
    }
    if old.residency != new.residency {
        changes.push("residency".to_owned());
    }
    state.set_config(new);
    let what = if changes.is_empty() { "none (the configuration is as before)".to_owned() } else { changes.join("; ") };
    state.driver.observers().tell(Change::Settings { what });
    Ok(changes)
}

fn refuse_fixed_keys(old: &Config, new: &Config) -> Result<(), ConfigError> {
    for (key, same) in [
        ("role", old.role == new.role),
        ("listen", old.listen == new.listen),
        ("tls", old.tls == new.tls),
        ("shadow", old.shadow == new.shadow),
        ("tune", old.tune == new.tune),
        ("explain", old.explain == new.explain),
        ("state", old.state == new.state),
        ("snapshot", old.snapshot == new.snapshot),
        ("access_log", old.access_log == new.access_log),
        ("router.index_bytes", old.router.index_bytes == new.router.index_bytes),
        ("limits.threads", old.limits.threads == new.limits.threads),
        ("limits.connections", old.limits.connections == new.limits.connections),
        ("limits.requests", old.limits.requests == new.limits.requests),
        ("limits.bodies_bytes", old.limits.bodies_bytes == new.limits.bodies_bytes),
        ("timeouts.connect_ms", old.timeouts.connect_ms == new.timeouts.connect_ms),
        ("timeouts.keep_alive_ms", old.timeouts.keep_alive_ms == new.timeouts.keep_alive_ms),
        ("upstream", old.upstream == new.upstream),
        ("discovery", old.discovery == new.discovery),
        ("sharing", old.sharing == new.sharing),
        ("kv_events", old.kv_events == new.kv_events),
        ("seed", old.seed == new.seed),
        ("tokenizer", old.tokenizer == new.tokenizer),
        ("limits.tokenizer_entries", old.limits.tokenizer_entries == new.limits.tokenizer_entries),
    ] {
        if !same {
            let advice = "it cannot change while the router runs; restart it or put the old value back".to_owned();
            return Err(ConfigError::Value { key: key.to_owned(), value: "different".to_owned(), advice });
        }
    }
    Ok(())
}

type Fleet = [(ReplicaConfig, Kind)];

fn apply_fleet(state: &Arc<AppState>, old: &Fleet, new: &Fleet, changes: &mut Vec<String>) {
    let is_in = |fleet: &Fleet, replica: &ReplicaConfig| fleet.iter().any(|(other, _)| other == replica);
    for (gone, _) in old.iter().filter(|(replica, _)| !is_in(new, replica)) {
        if let Some(upstream) = state.find(gone.name.as_deref().unwrap_or(&gone.url)) {
            state.remove(&upstream);
            changes.push(format!("removed {}", upstream.name));
        }
    }
    for (replica, kind) in new.iter().filter(|(replica, _)| !is_in(old, replica)) {
        match fleet::join(state, replica, *kind) {
            Ok(upstream) => changes.push(format!("added {}", upstream.name)),
            Err(error) => changes.push(format!("not added: {error}")),
        }
    }
}
