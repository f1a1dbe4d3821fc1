//! Replaces the configuration while the router runs: all of it, or nothing if a value is wrong.

use crate::config::{Config, ConfigError, ReplicaConfig, is_same_address};
use crate::discovery::watch;
use crate::observe::changes::Change;
use crate::server::fleet;
use crate::server::keys::Keys;
use crate::server::saved;
use crate::server::tls;
use crate::state::AppState;
use gorgo_core::fleet::Kind;
use std::collections::BTreeSet;
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
    let mut read = source.read()?;
    read.read_engine_keys()?;
    let mut new = read.clone();
    let (before, in_force) = (state.base(), state.config());
    refuse_empty_fleet(state, &in_force, &new)?;
    // What an operator chose stays until the file says something else, after a restart, too.
    macro_rules! keep {
        ($($section:ident),*) => {$(
            if before.$section == read.$section {
                new.$section = in_force.$section.clone();
            }
        )*};
    }
    keep!(policy, router, limits, timeouts, probes, residency, cors);
    let changes = apply(state, new)?;
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
    new.read_engine_keys()?;
    new.check()?;
    refuse_fixed_keys(&old, &new)?;
    let keys = Keys::load(&new)?;
    // The files may have been replaced: certificates are renewed.
    let certificates = tls::shown(&new.tls)?;
    let (mut changes, mut settings) = (Vec::new(), differences(&old, &new));
    if old.policy != new.policy {
        state.set_policy(new.policy.clone());
        changes.push(format!("policy: {}", new.policy.name()));
    }
    if old.core_router() != new.core_router() {
        state.driver.set_config(new.core_router());
    }
    if state.with_keys(|old| *old != keys) {
        settings.push("security: other keys".to_owned());
        state.set_keys(keys);
    }
    if certificates.is_some() && state.show_certificates(certificates) {
        settings.push("tls: other certificates for new connections".to_owned());
    }
    apply_fleet(state, &fleet::configured(&old), &fleet::configured(&new), (&mut changes, &mut settings));
    state.set_config(new);
    // The policy and the replicas have lines of their own.
    let what = match (settings.is_empty(), changes.is_empty()) {
        (false, _) => settings.join("; "),
        (true, false) => String::new(),
        (true, true) => "none (the configuration is as before)".to_owned(),
    };
    if !what.is_empty() {
        state.driver.observers().tell(Change::Settings { what });
    }
    changes.extend(settings);
    Ok(changes)
}

/// Refuses a file that has lost its replicas, as a template or a torn copy may: clients would meet an empty fleet.
fn refuse_empty_fleet(state: &AppState, old: &Config, new: &Config) -> Result<(), ConfigError> {
    let gone = fleet::configured(old).len();
    if gone == 0 || !fleet::configured(new).is_empty() || state.discovered.has_sources() {
        return Ok(());
    }
    Err(ConfigError::Value {
        key: "replicas".to_owned(),
        value: "empty".to_owned(),
        advice: format!(
            "the {gone} replicas of the file before would leave the fleet; remove them with `gorgo proxy servers remove`, or \
             stop the router"
        ),
    })
}

/// The settings that differ, except the policy and the fleet, as `KEY = NEW (was OLD)`. Secrets are shown as
/// placeholders.
fn differences(old: &Config, new: &Config) -> Vec<String> {
    let table = |config| toml::Value::try_from(config).unwrap_or(toml::Value::Boolean(false));
    let mut found = Vec::new();
    compare("", Some(&table(old)), Some(&table(new)), &mut found);
    found
}

fn compare(key: &str, old: Option<&toml::Value>, new: Option<&toml::Value>, found: &mut Vec<String>) {
    if old == new || matches!(key, "policy" | "replicas" | "peers") {
        return;
    }
    let empty = toml::Table::new();
    let table = |value: Option<&toml::Value>| value.map_or(Some(&empty), toml::Value::as_table).cloned();
    if let (Some(old), Some(new)) = (table(old), table(new)) {
        let keys: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
        let inside = |name: &str| if key.is_empty() { name.to_owned() } else { format!("{key}.{name}") };
        return keys.into_iter().for_each(|name| compare(&inside(name), old.get(name), new.get(name), found));
    }
    let shown = |value: Option<&toml::Value>| match value {
        None => "unset".to_owned(),
        Some(toml::Value::Array(_) | toml::Value::Table(_)) => "...".to_owned(),
        Some(value) => value.to_string(),
    };
    found.push(format!("{key} = {} (was {})", shown(new), shown(old)));
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

/// Applies the configured replicas to the fleet; changes that failed are returned apart from those that were made. A
/// replica of the same name at the same address is the same engine, whatever its other settings.
fn apply_fleet(state: &Arc<AppState>, old: &Fleet, new: &Fleet, (changes, not): (&mut Vec<String>, &mut Vec<String>)) {
    let named = |fleet: &'_ Fleet, name: &str| fleet.iter().find(|(one, _)| one.shown_name() == name).cloned();
    let is_same = |(one, kind): &(ReplicaConfig, Kind), (other, as_kind): &(ReplicaConfig, Kind)| {
        kind == as_kind && is_same_address(&one.url, &other.url)
    };
    for was in old {
        let name = was.0.shown_name();
        let stays = named(new, &name).is_some_and(|now| is_same(was, &now));
        let is_wanted = || new.iter().any(|(one, _)| one.shown_name() == name || is_same_address(&one.url, &was.0.url));
        if let Some(upstream) = state.find(&name).filter(|_| !stays) {
            if !is_wanted() && watch::adopt(state, &upstream, &was.0.url) {
                changes.push(format!("{name} is kept, since discovery lists it"));
                continue;
            }
            state.remove(&upstream);
            changes.push(format!("removed {}", upstream.name));
        }
    }
    for now in new {
        let (replica, kind) = now;
        let name = replica.shown_name();
        match named(old, &name) {
            // An operator removed it.
            Some(_) if state.by_operator.removes(&name) => {}
            Some(was) if is_same(&was, now) && state.find(&name).is_some() => {
                let Some(upstream) = state.find(&name).filter(|_| was.0 != *replica) else { continue };
                match state.describe(&upstream, replica) {
                    Ok(()) => changes.push(format!("changed {name}")),
                    Err(error) => not.push(format!("replica `{name}` keeps its settings: {error}")),
                }
            }
            // It is new, or had no room in the fleet before.
            _ => {
                state.by_operator.admit(&name);
                if watch::give(state, replica, *kind) {
                    changes.push(format!("changed {name}, which discovery listed"));
                    continue;
                }
                match fleet::join(state, replica, *kind) {
                    Ok(upstream) => changes.push(format!("added {}", upstream.name)),
                    Err(error) => not.push(format!("a replica is not added: {error}")),
                }
            }
        }
    }
}
