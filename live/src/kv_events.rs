//! KV events of engines: what they publish of their caches over ZeroMQ, so that the index forgets what they evicted.
//!
//! One task a replica and data-parallel rank ([`follow`]) reads the [`decode`]d batches, in order and without gaps as far
//! as the engine can replay them; [`streams`] keeps a [`gorgo_core::kv_events::Ledger`] of each rank and what operators
//! see of the streams. Dispatches to vLLM carry a tag as their session, so that stored blocks name them.

use crate::state::AppState;
use crate::supervise;
use crate::upstream::replica::Upstream;
use gorgo_core::fleet::Kind;
use gorgo_core::suggest::near;
use std::sync::Arc;
use streams::KvStreams;

pub(crate) mod decode;
mod follow;
pub(crate) mod streams;

/// Starts to read a replica's events, if they are to be read; ends when the replica is removed.
pub(crate) fn watch(state: &Arc<AppState>, upstream: &Arc<Upstream>) {
    let config = state.config();
    let source = config.kv_events.source(&upstream.name, upstream.endpoint.host());
    let Some(source) = source.filter(|_| upstream.kind != Kind::Peer) else { return };
    let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
    let streams = Arc::new(KvStreams::new(source, config.kv_events.tag_dispatches));
    if upstream.kv.set(Arc::clone(&streams)).is_err() {
        return;
    }
    let mut tasks = upstream.tasks.lock();
    for rank in 0..streams.ranks.len() {
        let task = follow::follow(Arc::clone(state), Arc::clone(upstream), Arc::clone(&streams), rank);
        tasks.push(runtime.spawn(supervise::logged("KV events", task)).abort_handle());
    }
}

/// Logs the names in `[kv_events.replicas]` that no replica of the fleet has; discovery or an operator may add them later.
pub(crate) fn warn_of_unknown_names(state: &AppState) {
    let names = state.names();
    for name in state.config().kv_events.replicas.keys().filter(|name| !names.contains(name)) {
        let near = near(name, names.iter().map(String::as_str));
        let hint = near.map_or(String::new(), |near| format!("; did you mean `{near}`?"));
        tracing::warn!("kv_events.replicas.{name} names no replica of the fleet so far{hint}");
    }
}

#[cfg(test)]
mod tests;
