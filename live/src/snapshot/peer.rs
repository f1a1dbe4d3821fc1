//! Snapshot transfer between routers of the same replicas: a starting router loads the snapshot of a ready one before
//! it becomes ready itself.

use super::{Kept, codec};
use crate::request::headers::ROUTER;
use crate::signals::loops;
use crate::state::{AppState, Phase};
use crate::supervise;
use crate::upstream::connection;
use crate::upstream::replica::Upstream;
use bytes::Bytes;
use http::header::HeaderMap;
use http::uri::PathAndQuery;
use http::{Method, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// Where it is asked for.
pub(crate) const PATH: &str = "/proxy/snapshot";

/// The snapshot of this router, for one that starts.
///
/// # Errors
/// The status and a sentence, when this router gives none.
pub(crate) fn serve(state: &AppState) -> Result<Bytes, (StatusCode, &'static str)> {
    if state.sharing.is_none() {
        return Err((StatusCode::CONFLICT, "this router shares nothing; list its peers in sharing.peers"));
    }
    if !state.config().residency.rules.is_empty() {
        let why = "this router has rules of residency, and what a fence holds is told to no other router";
        return Err((StatusCode::CONFLICT, why));
    }
    if state.warming.load(Ordering::Relaxed) || state.phase() != Phase::Serving {
        return Err((StatusCode::SERVICE_UNAVAILABLE, "this router is starting or stopping; ask another"));
    }
    Ok(codec::encode(&Kept::of(state).for_others()).into())
}

/// Requests a snapshot from the peers, one after the other, until one gives it or `sharing.snapshot_ms` is over. The
/// router is not ready meanwhile.
pub(crate) fn start(state: &Arc<AppState>) {
    let limit = Duration::from_millis(state.config().sharing.snapshot_ms);
    if state.sharing.is_none() || limit.is_zero() {
        return;
    }
    state.warming.store(true, Ordering::Relaxed);
    let state = Arc::clone(state);
    tokio::spawn(supervise::logged("snapshot of a peer", async move {
        ask(&state, Instant::now() + limit).await;
        state.warming.store(false, Ordering::Relaxed);
    }));
}

async fn ask(state: &AppState, until: Instant) {
    let Some(sharing) = &state.sharing else { return };
    let mut refusals = Vec::new();
    let peers: Vec<_> = sharing.upstreams().collect();
    for (at, (url, upstream)) in peers.iter().enumerate() {
        // One that says nothing leaves time for the others.
        let share = until.saturating_duration_since(Instant::now()) / (peers.len() - at) as u32;
        let answer = timeout(share, fetch(state, upstream)).await;
        let answer = answer.unwrap_or_else(|_| Err("no answer in time".to_owned()));
        match answer {
            // The list of peers may name this router.
            Ok(None) => {}
            Ok(Some(kept)) if state.router_id.to_str().is_ok_and(|own| own == kept.router) => {}
            Ok(Some(mut kept)) => match kept.match_seed(state.sharing_seed()) {
                Ok(()) => return kept.restore(state, url),
                Err(why) => refusals.push(format!("{url}: {why}")),
            },
            Err(why) => refusals.push(format!("{url}: {why}")),
        }
    }
    if refusals.is_empty() {
        return tracing::info!("no other router is listed in sharing.peers; this router starts cold");
    }
    tracing::info!("no peer sent a snapshot ({}); this router starts cold", refusals.join("; "));
}

/// The snapshot of a peer; `None` if this router itself answers.
async fn fetch(state: &AppState, upstream: &Arc<Upstream>) -> Result<Option<Kept>, String> {
    let path = PathAndQuery::from_static(PATH);
    let request = || {
        let mut headers = HeaderMap::new();
        headers.insert(ROUTER, state.router_id.clone());
        upstream.request(Method::GET, &path, headers, Full::new(Bytes::new()))
    };
    let keep_alive = Duration::from_millis(state.config().timeouts.keep_alive_ms);
    let response = connection::send(&state.connector, upstream, keep_alive, request).await;
    let response = response.map_err(|error| error.to_string())?;
    let status = response.status();
    if loops::routers(response.headers()).first().is_some_and(|id| *id == state.router_id) {
        return Ok(None);
    }
    if !status.is_success() {
        return Err(format!("answered {status}"));
    }
    let body = Limited::new(response.into_body(), codec::LONGEST).collect().await.map_err(|error| error.to_string())?;
    codec::decode(&body.to_bytes()).map(Some).map_err(|why| why.to_string())
}
