//! Asks one source again and again, and changes the fleet by its answers.

use super::discovered::{Sets, SourceState};
use super::endpoint::{Step, steps};
use super::{DiscoveredEndpoint, DiscoveryError, Listed, Source};
use crate::config::{Config, Role, is_same_address};
use crate::observe::changes::Change;
use crate::server::fleet;
use crate::state::{AddError, AppState};
use crate::supervise;
use crate::upstream::connect::Endpoint;
use gorgo_core::fleet::Kind;
use std::sync::{Arc, Weak};
use std::time::Duration;

/// Fills the fleet with what the sources said before this process began (`before`, told by `from`), and returns the
/// sources, which are to be asked next.
///
/// # Errors
/// As [`Source::all`].
pub(crate) fn begin(state: &Arc<AppState>, mut before: Sets, from: &str) -> Result<Vec<Source>, DiscoveryError> {
    let config = state.config();
    let sources = Source::all(&config.discovery)?;
    for source in &sources {
        let name = source.name();
        state.discovered.lock().insert(name.clone(), SourceState::default());
        let last = before.remove(&name).unwrap_or_default();
        for endpoint in &last {
            add(state, &config, &name, endpoint);
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
    entry.listed = endpoints.iter().map(|endpoint| (endpoint.name.clone(), endpoint.clone())).collect();
    let SourceState { listed, refused, own, .. } = &mut *entry;
    refused.retain(|name, _| listed.contains_key(name));
    own.retain(|name, _| listed.contains_key(name));
    let known = entry.known.clone();
    // Joining a replica starts tasks: the lock is not held over it.
    drop(sources);
    for step in steps(&known, &endpoints) {
        match step {
            Step::Leave(name) => {
                if let Some(upstream) = state.find(&name) {
                    state.remove(&upstream);
                }
                if let Some(entry) = state.discovered.lock().get_mut(source) {
                    entry.known.remove(&name);
                }
            }
            Step::Join(endpoint) => add(state, config, source, &endpoint),
            Step::Change(endpoint) => change(state, config, source, &endpoint),
        }
    }
}

/// Adds an endpoint, unless an operator has removed it, it is this router, or it is in the fleet by other means.
fn add(state: &Arc<AppState>, config: &Config, source: &str, endpoint: &DiscoveredEndpoint) {
    let name = &endpoint.name;
    if state.by_operator.removes(name) || state.find(name).is_some() {
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
    let kind = if config.role == Role::Edge { Kind::Peer } else { Kind::Remote };
    let key = config.discovery.engine_key().map_err(|wrong| AddError::Wrong(wrong.to_string()));
    let why = match key.and_then(|key| fleet::join(state, &endpoint.replica(key.as_ref()), kind)) {
        Ok(_) => None,
        // An address that is in the fleet by other means is left alone.
        Err(AddError::Exists(_)) => Some(None),
        Err(AddError::Wrong(why)) => Some(Some(why)),
    };
    let mut sources = state.discovered.lock();
    let Some(entry) = sources.get_mut(source) else { return };
    match why {
        None => drop(entry.refused.remove(name)),
        Some(None) => drop(entry.known.remove(name)),
        Some(Some(why)) => {
            entry.known.remove(name);
            if entry.refused.insert(name.clone(), why.clone()).as_ref() != Some(&why) {
                let (source, endpoint) = (source.to_owned(), name.clone());
                state.driver.observers().tell(Change::EndpointRefused { source, endpoint, why });
            }
        }
    }
}

/// Takes back that an operator has removed this replica. If a source lists it at this address it joins from there, and
/// true is returned.
pub(crate) fn admit(state: &Arc<AppState>, name: &str, url: &str) -> bool {
    let was_removed = state.by_operator.admit(name);
    let listed = state.discovered.listed(name).filter(|(_, endpoint)| is_same_address(&endpoint.url, url));
    let Some((source, endpoint)) = listed.filter(|_| was_removed) else { return false };
    add(state, &state.config(), &source, &endpoint);
    state.find(name).is_some()
}

/// Puts in force what else is said of an engine of the fleet.
fn change(state: &Arc<AppState>, config: &Config, source: &str, endpoint: &DiscoveredEndpoint) {
    let old = match state.discovered.lock().get_mut(source) {
        Some(entry) => entry.known.insert(endpoint.name.clone(), endpoint.clone()),
        None => return,
    };
    let Some(upstream) = state.find(&endpoint.name) else { return };
    let settings = |of: &DiscoveredEndpoint| of.replica(None);
    if old.as_ref().map(settings) != Some(settings(endpoint)) {
        let key = config.discovery.engine_key().map_err(|wrong| AddError::Wrong(wrong.to_string()));
        match key.and_then(|key| state.describe(&upstream, &endpoint.replica(key.as_ref()))) {
            Ok(()) => state.driver.observers().tell(Change::Described { replica: endpoint.name.clone() }),
            Err(why) => {
                let (source, endpoint, why) = (source.to_owned(), endpoint.name.clone(), why.to_string());
                state.driver.observers().tell(Change::EndpointRefused { source, endpoint, why });
            }
        }
    }
    if old.is_none_or(|old| old.draining != endpoint.draining) {
        fleet::drain_again(state, &upstream);
    }
}
