//! Asks one source again and again, and changes the fleet by its answers.

use super::discovered::SourceState;
use super::endpoint::{Known, Step, steps};
use super::{DiscoveredEndpoint, DiscoveryError, Source};
use crate::config::{Config, Role};
use crate::observe::changes::Change;
use crate::server::fleet;
use crate::state::{AddError, AppState};
use crate::supervise;
use gorgo_core::fleet::Kind;
use gorgo_core::router::ReplicaEvent;
use std::sync::{Arc, Weak};
use std::time::Duration;

/// Starts a task for each source.
///
/// # Errors
/// As [`Source::all`].
pub(crate) fn start(state: &Arc<AppState>) -> Result<(), DiscoveryError> {
    for source in Source::all(&state.config().discovery)? {
        state.discovered.lock().insert(source.name(), SourceState::default());
        tokio::spawn(supervise::logged("discovery", poll(Arc::downgrade(state), source)));
    }
    Ok(())
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
fn take(state: &Arc<AppState>, config: &Config, source: &str, answer: Result<Vec<DiscoveredEndpoint>, DiscoveryError>) {
    let told = |change| state.driver.observers().tell(change);
    let mut sources = state.discovered.lock();
    let Some(entry) = sources.get_mut(source) else { return };
    let endpoints = match answer {
        Err(wrong) => {
            let why = wrong.to_string();
            if entry.error.as_ref() != Some(&why) {
                told(Change::SourceStale { source: source.to_owned(), why: why.clone(), kept: entry.known.len() });
            }
            entry.error = Some(why);
            return;
        }
        Ok(endpoints) => endpoints,
    };
    if entry.error.take().is_some() {
        told(Change::SourceFresh { source: source.to_owned(), endpoints: endpoints.len() });
    }
    entry.answered = Some(state.clock().now());
    let known = entry.known.clone();
    // Joining a replica starts tasks: the lock is not held over it.
    drop(sources);
    let update = |change: &dyn Fn(&mut Known)| {
        if let Some(entry) = state.discovered.lock().get_mut(source) {
            change(&mut entry.known);
        }
    };
    for step in steps(&known, &endpoints) {
        match step {
            Step::Leave(name) => {
                if let Some(upstream) = state.find(&name) {
                    state.remove(&upstream);
                }
                update(&|known| {
                    known.remove(&name);
                });
            }
            // Known before it joins: a replica of the fleet that is not known is saved as one that an operator added.
            Step::Join(endpoint) if state.find(&endpoint.name).is_none() => {
                update(&|known| {
                    known.insert(endpoint.name.clone(), endpoint.clone());
                });
                if !join(state, config, source, &endpoint) {
                    update(&|known| {
                        known.remove(&endpoint.name);
                    });
                }
            }
            Step::Join(_) => {} // the name is in the fleet by other means
            Step::Drain { name, draining } => {
                drain(state, &name, draining);
                update(&|known| {
                    if let Some(endpoint) = known.get_mut(&name) {
                        endpoint.draining = draining;
                    }
                });
            }
        }
    }
}

/// Whether the endpoint joined. An address that is in the fleet by other means is left alone.
fn join(state: &Arc<AppState>, config: &Config, source: &str, endpoint: &DiscoveredEndpoint) -> bool {
    let kind = if config.role == Role::Edge { Kind::Peer } else { Kind::Remote };
    let key = config.discovery.engine_key().map_err(|wrong| AddError::Wrong(wrong.to_string()));
    match key.and_then(|key| fleet::join(state, &endpoint.replica(key.as_ref()), kind)) {
        Ok(_) => {
            if endpoint.draining {
                drain(state, &endpoint.name, true);
            }
            true
        }
        Err(AddError::Exists(_)) => false,
        Err(AddError::Wrong(why)) => {
            let (source, endpoint) = (source.to_owned(), endpoint.name.clone());
            state.driver.observers().tell(Change::EndpointRefused { source, endpoint, why });
            false
        }
    }
}

fn drain(state: &AppState, name: &str, draining: bool) {
    if let Some(upstream) = state.find(name) {
        state.driver.handle_for(&upstream, ReplicaEvent::Draining { replica: upstream.id, draining });
    }
}
