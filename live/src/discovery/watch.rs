//! Polls one source, and applies each answer to the fleet.

use super::discovered::{Sets, SourceState};
use super::endpoint::{Known, Step, steps};
use super::{DiscoveredEndpoint, DiscoveryError, Listed, Source};
use crate::config::{Config, ReplicaConfig, Role, Secret, is_same_address};
use crate::observe::changes::Change;
use crate::server::fleet;
use crate::state::{AddError, AppState};
use crate::supervise;
use crate::upstream::connect::Endpoint;
use crate::upstream::replica::Upstream;
use gorgo_core::fleet::Kind;
use std::sync::{Arc, Weak};
use std::time::Duration;

/// Fills the fleet with the endpoints that the sources listed before this process started (`before`, loaded from
/// `from`), and returns the sources, which are to be polled next.
///
/// # Errors
/// As [`Source::all`].
pub(crate) fn begin(state: &Arc<AppState>, mut before: Sets, from: &str) -> Result<Vec<Source>, DiscoveryError> {
    let config = state.config();
    let sources = Source::all(&config.discovery)?;
    let key = engine_key(&config);
    for source in &sources {
        let name = source.name();
        state.discovered.lock().insert(name.clone(), SourceState::default());
        let last = before.remove(&name).unwrap_or_default();
        for endpoint in &last {
            add(state, &config, &name, endpoint, &key);
        }
        if let Some(entry) = state.discovered.lock().get_mut(&name).filter(|entry| !entry.known.is_empty()) {
            tracing::info!("discovery from {name}: the {} endpoints of {from} are used until it answers", last.len());
            entry.error = Some(format!("no answer yet; the endpoints are those of {from}"));
        }
    }
    Ok(sources)
}

/// Starts a task for each source.
pub(crate) fn start(state: &Arc<AppState>, sources: Vec<Source>) {
    for source in sources {
        tokio::spawn(supervise::logged("discovery", poll(Arc::downgrade(state), source)));
    }
}

async fn poll(state: Weak<AppState>, source: Source) {
    loop {
        let Some(config) = state.upgrade().map(|state| state.config()) else { return };
        let answer = source.ask(&config.discovery).await;
        let Some(router) = state.upgrade() else { return };
        take(&router, &config, &source.name(), answer);
        drop(router);
        source.pause(Duration::from_millis(config.discovery.poll_ms)).await;
    }
}

/// Changes the fleet by an answer, or marks the source as stale.
fn take(state: &Arc<AppState>, config: &Config, source: &str, answer: Result<Listed, DiscoveryError>) {
    let told = |change| state.driver.observers().tell(change);
    let mut sources = state.discovered.lock();
    let Some(entry) = sources.get_mut(source) else { return };
    let Listed { endpoints, beyond } = match answer {
        Err(wrong) => {
            let why = wrong.to_string();
            if entry.error.as_ref() != Some(&why) {
                told(Change::SourceStale { source: source.to_owned(), why: why.clone(), kept: entry.known.len() });
            }
            entry.error = Some(why);
            return;
        }
        Ok(listed) => listed,
    };
    if entry.error.take().is_some() {
        told(Change::SourceFresh { source: source.to_owned(), endpoints: endpoints.len() });
    }
    entry.answered = Some(state.clock().now());
    if std::mem::replace(&mut entry.beyond, beyond) != beyond && beyond > 0 {
        told(Change::LeftOut { source: source.to_owned(), used: endpoints.len(), left_out: beyond });
    }
    entry.listed = endpoints.into_iter().map(|endpoint| (endpoint.name.clone(), endpoint)).collect();
    let SourceState { known, listed, refused, kept, own, .. } = &mut *entry;
    refused.retain(|name, _| listed.contains_key(name));
    kept.retain(|name, _| listed.contains_key(name));
    own.retain(|name, _| listed.contains_key(name));
    let (known, listed) = (known.clone(), listed.clone());
    // Joining a replica starts tasks: the lock is not held over it.
    drop(sources);
    let key = engine_key(config);
    let mut has_left = false;
    for step in steps(&known, &listed) {
        match step {
            Step::Leave(name) => {
                let is_same = |(one, _): &(ReplicaConfig, Kind)| {
                    one.shown_name() == name && is_same_address(&one.url, &known[&name].url)
                };
                let configured = fleet::configured(&state.config()).into_iter().find(is_same);
                // The configuration names the same engine: what was learned of it stays.
                if configured.is_some_and(|(replica, kind)| give(state, &replica, kind)) {
                    continue;
                }
                has_left = true;
                if let Some(upstream) = state.find(&name) {
                    state.remove(&upstream);
                }
                if let Some(entry) = state.discovered.lock().get_mut(source) {
                    entry.known.remove(&name);
                }
            }
            Step::Join(endpoint) => add(state, config, source, &endpoint, &key),
            Step::Change(endpoint) => change(state, source, &endpoint),
        }
    }
    settle(state, source, &listed, &key);
    if has_left {
        fleet::join_missing(state);
    }
}

/// The key for the engines that sources list, or why it cannot be read. Its file is read at each answer, so that a
/// rotated key comes into force.
fn engine_key(config: &Config) -> Result<Option<Secret>, String> {
    config.discovery.engine_key().map_err(|wrong| wrong.to_string())
}

/// Adds an endpoint, unless an operator has removed it, it is this router, or it is in the fleet by other means.
fn add(
    state: &Arc<AppState>,
    config: &Config,
    source: &str,
    endpoint: &DiscoveredEndpoint,
    key: &Result<Option<Secret>, String>,
) {
    let name = &endpoint.name;
    if state.by_operator.removes(name) {
        return;
    }
    if let Some(there) = state.find(name) {
        let is_elsewhere = Endpoint::parse(&endpoint.url).is_ok_and(|at| at.name() != there.endpoint.name());
        if is_elsewhere && !state.discovered.owns(source, name) {
            let why = format!("the fleet has another replica of its name, at {}", there.endpoint.name());
            refuse(state, source, name, why);
        }
        return;
    }
    {
        let mut sources = state.discovered.lock();
        let Some(entry) = sources.get_mut(source) else { return };
        if entry.own.get(name) == Some(&endpoint.url) {
            return;
        }
        // Known before it joins: a replica of the fleet that is not known is saved as one that an operator added.
        entry.known.insert(name.clone(), endpoint.clone());
    }
    if Endpoint::parse(&endpoint.url).is_ok_and(|at| at.leads_to(config.listen)) {
        return state.leave_out_itself(name);
    }
    let kind = kind(config.role);
    let key = key.as_ref().map_err(|why| AddError::Wrong(why.clone()));
    let why = match key.and_then(|key| fleet::join(state, &endpoint.replica(key.as_ref()), kind)) {
        Ok(_) => None,
        // An address that is in the fleet by other means is left alone.
        Err(AddError::Exists(other)) => Some(format!("replica `{other}` of the fleet has its address")),
        Err(AddError::Wrong(why)) => Some(why),
    };
    match why {
        None => {
            if let Some(entry) = state.discovered.lock().get_mut(source) {
                entry.refused.remove(name);
            }
        }
        Some(why) => refuse(state, source, name, why),
    }
}

/// Notes why an endpoint is not used, and logs it once.
fn refuse(state: &AppState, source: &str, name: &str, why: String) {
    let mut sources = state.discovered.lock();
    let Some(entry) = sources.get_mut(source) else { return };
    entry.known.remove(name);
    if entry.refused.insert(name.to_owned(), why.clone()).as_ref() != Some(&why) {
        let (source, endpoint) = (source.to_owned(), name.to_owned());
        state.driver.observers().tell(Change::EndpointRefused { source, endpoint, why });
    }
}

/// Takes back that an operator has removed this replica. If a source lists it at this address it joins from there, and
/// true is returned.
pub(crate) fn admit(state: &Arc<AppState>, name: &str, url: &str) -> bool {
    let was_removed = state.by_operator.admit(name);
    let listed = state.discovered.listed(name).filter(|(_, endpoint)| is_same_address(&endpoint.url, url));
    let Some((source, endpoint)) = listed.filter(|_| was_removed) else { return false };
    let config = state.config();
    add(state, &config, &source, &endpoint, &engine_key(&config));
    state.find(name).is_some()
}

/// How endpoints are reached that a router with this role discovers.
fn kind(role: Role) -> Kind {
    if role == Role::Edge { Kind::Peer } else { Kind::Remote }
}

/// Takes over a replica that the configuration no longer names, if a source lists its name at this address: it is the same
/// engine, so what was learned of it stays. Returns whether one does.
pub(crate) fn adopt(state: &Arc<AppState>, upstream: &Upstream, url: &str) -> bool {
    let config = state.config();
    let listed = state.discovered.listed(&upstream.name);
    let is_same =
        |(_, one): &(String, DiscoveredEndpoint)| is_same_address(&one.url, url) && upstream.kind == kind(config.role);
    let Some((source, endpoint)) = listed.filter(is_same) else { return false };
    change(state, &source, &endpoint);
    let listed = Known::from([(endpoint.name.clone(), endpoint)]);
    settle(state, &source, &listed, &engine_key(&config));
    true
}

/// Gives a discovered replica of this name and address to the configuration, which names it: it is the same engine. Returns
/// whether there is one.
pub(crate) fn give(state: &Arc<AppState>, replica: &ReplicaConfig, kind: Kind) -> bool {
    let name = replica.shown_name();
    let is_same = || {
        state.joined.lock().get(&name).is_some_and(|(one, of)| is_same_address(&one.url, &replica.url) && *of == kind)
    };
    let Some(upstream) = state.find(&name).filter(|one| one.name == name && state.discovered.has(&name) && is_same())
    else {
        return false;
    };
    if state.describe(&upstream, replica).is_err() {
        return false;
    }
    state.discovered.forget(&name);
    fleet::drain_again(state, &upstream);
    true
}

/// Puts in force whether an engine of the fleet drains.
fn change(state: &Arc<AppState>, source: &str, endpoint: &DiscoveredEndpoint) {
    let old = match state.discovered.lock().get_mut(source) {
        Some(entry) => entry.known.insert(endpoint.name.clone(), endpoint.clone()),
        None => return,
    };
    if let Some(upstream) =
        state.find(&endpoint.name).filter(|_| old.is_none_or(|old| old.draining != endpoint.draining))
    {
        fleet::drain_again(state, &upstream);
    }
}

/// Puts the settings in force that the source and the key's file give to engines of the fleet. What fails is tried again
/// with the next answer. While the key cannot be read, engines keep the one they have.
fn settle(state: &Arc<AppState>, source: &str, listed: &Known, key: &Result<Option<Secret>, String>) {
    let known = match state.discovered.lock().get(source) {
        Some(entry) => entry.known.clone(),
        None => return,
    };
    let other_settings = |(name, (in_force, _)): (&String, &(ReplicaConfig, Kind))| {
        let endpoint = listed.get(name).filter(|_| known.contains_key(name))?;
        let settings = endpoint.replica(key.as_ref().unwrap_or(&in_force.api_key).as_ref());
        (settings != *in_force).then_some((name.clone(), settings))
    };
    let differ: Vec<(String, ReplicaConfig)> = state.joined.lock().iter().filter_map(other_settings).collect();
    for (name, settings) in differ {
        let Some(upstream) = state.find(&name) else { continue };
        let failed = state.describe(&upstream, &settings).err().map(|why| why.to_string());
        let mut sources = state.discovered.lock();
        let Some(entry) = sources.get_mut(source) else { return };
        let before = match &failed {
            None => entry.kept.remove(&name),
            Some(why) => entry.kept.insert(name.clone(), why.clone()),
        };
        drop(sources);
        match failed {
            None => state.driver.observers().tell(Change::Described { replica: name }),
            Some(why) if before.as_ref() != Some(&why) => {
                state.driver.observers().tell(Change::EndpointKept { source: source.to_owned(), endpoint: name, why });
            }
            Some(_) => {}
        }
    }
}
