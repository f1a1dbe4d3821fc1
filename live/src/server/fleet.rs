//! Adds replicas and peers to the router and starts their probes and scrapes.

use crate::config::{Config, ReplicaConfig, Role};
use crate::kv_events;
use crate::signals::probe;
use crate::state::{AddError, AppState};
use crate::upstream::replica::Upstream;
use gorgo_core::fleet::Kind;
use std::sync::Arc;

/// Adds a replica to the fleet and starts to watch it.
///
/// # Errors
/// As [`AppState::add`].
pub(crate) fn join(state: &Arc<AppState>, replica: &ReplicaConfig, kind: Kind) -> Result<Arc<Upstream>, AddError> {
    let upstream = state.add(replica, kind)?;
    state.joined.lock().insert(upstream.name.clone(), (replica.clone(), kind));
    probe::watch(state, &upstream);
    kv_events::watch(state, &upstream);
    Ok(upstream)
}

/// How engines of a router with this role are reached.
pub(super) fn kind(role: Role) -> Kind {
    if role == Role::Edge { Kind::Local } else { Kind::Remote }
}

/// Every replica and peer of a configuration.
pub(super) fn configured(config: &Config) -> Vec<(ReplicaConfig, Kind)> {
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
