//! Adds replicas and peers to the router and starts their probes and scrapes.

use crate::config::{Config, ReplicaConfig, Role};
use crate::kv_events;
use crate::signals::probe;
use crate::state::{AddError, AppState};
use crate::upstream::replica::Upstream;
use gorgo_core::fleet::Kind;
use gorgo_core::router::ReplicaEvent;
use std::sync::Arc;

/// Adds a replica to the fleet and starts to watch it.
///
/// # Errors
/// As [`AppState::add`].
pub(crate) fn join(state: &Arc<AppState>, replica: &ReplicaConfig, kind: Kind) -> Result<Arc<Upstream>, AddError> {
    let upstream = state.add(replica, kind)?;
    state.joined.lock().insert(upstream.name.clone(), (replica.clone(), kind));
    if is_drained(state, &upstream) {
        drain_again(state, &upstream);
    }
    probe::watch(state, &upstream);
    kv_events::watch(state, &upstream);
    Ok(upstream)
}

/// Whether a replica gets no new requests: an operator drained it, or the source of discovery that lists it does.
fn is_drained(state: &AppState, upstream: &Upstream) -> bool {
    state.by_operator.drains(&upstream.name) || state.discovered.drains(&upstream.name)
}

/// Puts in force whether a replica is drained, and returns it.
pub(crate) fn drain_again(state: &AppState, upstream: &Upstream) -> bool {
    let draining = is_drained(state, upstream);
    state.driver.handle_for(upstream, ReplicaEvent::Draining { replica: upstream.id, draining });
    draining
}

/// Removes a replica at an operator's request. The configuration or a source of discovery does not add it again.
pub(crate) fn remove_by_operator(state: &AppState, upstream: &Upstream) {
    let name = &upstream.name;
    let is_configured = || configured(&state.config()).iter().any(|(replica, _)| replica.shown_name() == *name);
    state.by_operator.drain(name, false);
    if state.discovered.lists(name) || is_configured() {
        state.by_operator.remove(name);
    }
    state.remove(upstream);
    state.discovered.forget(name);
}

/// Adds the configured replicas that are not in the fleet because a discovered one had their address.
pub(crate) fn join_missing(state: &Arc<AppState>) {
    for (replica, kind) in configured(&state.config()) {
        let name = replica.shown_name();
        if state.find(&name).is_none() && !state.by_operator.removes(&name) {
            // What still has the address keeps it until it leaves.
            let _ = join(state, &replica, kind);
        }
    }
}

/// How engines of a router with this role are reached.
pub(super) fn kind(role: Role) -> Kind {
    if role == Role::Edge { Kind::Local } else { Kind::Remote }
}

/// Every replica and peer of a configuration.
pub(crate) fn configured(config: &Config) -> Vec<(ReplicaConfig, Kind)> {
    let kind = kind(config.role);
    let peers = config.peers.iter().map(|peer| {
        let replica = ReplicaConfig {
            url: peer.url.clone(),
            name: peer.name.clone(),
            region: peer.region.clone(),
            labels: peer.labels.clone(),
            ms_per_token: None,
            kv_tokens: None,
            models: Vec::new(),
            api_key: None,
            api_key_file: None,
        };
        (replica, Kind::Peer)
    });
    config.replicas.iter().map(|replica| (replica.clone(), kind)).chain(peers).collect()
}
