//! Reads the KV events that engines publish over ZeroMQ, so that the prefix index drops evicted blocks.
//!
//! SGLang reports the ports of its streams at [`server_info`]; those of other engines are in the configuration.
//! One task for each replica and data-parallel rank ([`follow`]) reads the batches ([`decode`]), in order and without
//! gaps as far as the engine can replay them, through a [`relay`] that limits the size of messages. [`streams`] keeps a
//! [`gorgo_core::kv_events::Ledger`] of each rank and the status for operators. Dispatches to vLLM carry a tag as their
//! session id, which vLLM copies into the events of the blocks that it stores.

use crate::state::AppState;
use crate::supervise;
use crate::upstream::replica::Upstream;
use gorgo_core::fleet::Kind;
use gorgo_core::kv_events::CacheChange;
use gorgo_core::suggest::near;
use server_info::ServerInfo;
use std::sync::Arc;
use std::time::Duration;
use streams::KvStreams;
use tokio::task::JoinSet;

pub(crate) mod decode;
mod follow;
mod relay;
pub(crate) mod server_info;
pub(crate) mod streams;

/// Time from a stream that broke to the question whether the engine publishes elsewhere now.
const ASK_AGAIN: Duration = Duration::from_secs(5);

/// Starts to read a replica's events, if they are to be read; ends when the replica is removed.
pub(crate) fn watch(state: &Arc<AppState>, upstream: &Arc<Upstream>) {
    let config = state.config();
    let source = config.kv_events.source(&upstream.name, upstream.endpoint.host(), &ServerInfo::Unknown);
    let Some(source) = source.filter(|_| upstream.kind != Kind::Peer) else { return };
    let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
    *upstream.kv.write() = Some(Arc::new(KvStreams::new(source, config.kv_events.tag_dispatches)));
    let task = keep(Arc::clone(state), Arc::clone(upstream));
    upstream.tasks.lock().push(runtime.spawn(supervise::logged("KV events", task)).abort_handle());
}

/// Reads the streams where the engine says that they are, and asks it again when one broke.
async fn keep(state: Arc<AppState>, upstream: Arc<Upstream>) {
    let mut readers = JoinSet::new();
    let mut told = ServerInfo::Unknown;
    while let Some(mut streams) = upstream.kv() {
        let config = state.config();
        if config.kv_events.ask {
            // Without an answer the last one stays in force.
            match server_info::ask(&state, &upstream).await {
                ServerInfo::Unknown => {}
                news => told = news,
            }
        }
        let source = config.kv_events.source(&upstream.name, upstream.endpoint.host(), &told);
        let Some(source) = source else { return };
        if streams.source != source {
            readers.shutdown().await;
            streams = Arc::new(KvStreams::new(source, config.kv_events.tag_dispatches));
            *upstream.kv.write() = Some(Arc::clone(&streams));
            // Another process publishes there, of whose cache nothing is known.
            follow::tell(&state, &upstream, vec![CacheChange::Cleared, CacheChange::Measured(None)]);
        }
        if readers.is_empty() {
            for rank in 0..streams.ranks.len() {
                let task = follow::follow(Arc::clone(&state), Arc::clone(&upstream), Arc::clone(&streams), rank);
                readers.spawn(supervise::logged("KV events", task));
            }
        }
        streams.broken.notified().await;
        tokio::time::sleep(ASK_AGAIN).await;
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
