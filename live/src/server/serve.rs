//! The accept loop: each connection goes to the worker thread with the fewest connections.

use crate::admin;
use crate::observe::seldom::Seldom;
use crate::server::connection::Connection;
use crate::server::descriptors;
use crate::server::drain::{self, Closing, Ending, Stop};
use crate::server::listener::Listener;
use crate::server::reserve::{self, Reserve};
use crate::server::saved;
use crate::server::start::StartError;
use crate::server::tls;
use crate::server::workers::Workers;
use crate::snapshot::file;
use crate::state::AppState;
use crate::supervise;
use crate::upstream::self_wake::PollSelfWaking;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

/// As `serve_on`, with all connections on the calling runtime.
///
/// # Errors
/// When the TLS certificates cannot be used.
pub async fn serve(
    state: Arc<AppState>,
    listener: impl Listener,
    stop: impl Future<Output = ()>,
) -> Result<usize, StartError> {
    let told = async {
        stop.await;
        Stop::Requested
    };
    serve_on(&Workers::none(), state, listener, Ending::unhurried(told)).await
}

/// Serves until `stop`, then shuts down: not ready, port open for a while; then no new connections; then open requests
/// finish, or are ended after `timeouts.drain_ms` or when the ending is hurried. Returns the number of connections that did not finish in time.
///
/// # Errors
/// When the TLS certificates cannot be used.
pub(crate) async fn serve_on(
    workers: &Workers,
    state: Arc<AppState>,
    mut listener: impl Listener,
    ending: Ending<impl Future<Output = Stop>, impl Future<Output = ()>>,
) -> Result<usize, StartError> {
    let config = state.config();
    state.show_certificates(tls::shown(&config.tls)?);
    let admin = admin::routes(Arc::clone(&state));
    let room = descriptors::room(config.limits.connections, config.replicas.len() + config.peers.len());
    state.most_connections.store(room.clients, Ordering::Relaxed);
    let connections = Arc::new(Semaphore::new(room.clients));
    let mut reserve = Reserve::default();
    let not_accepted = Seldom::new(Duration::from_secs(60));
    let (closing, _) = watch::channel(Closing::No);
    let mut open = JoinSet::new();
    let Ending { stop, hurry } = ending;
    tokio::pin!(hurry);
    let (why, hurried) = {
        let settle = drain::settle(&state, stop, hurry.as_mut());
        tokio::pin!(settle);
        loop {
            let (opening, from) = tokio::select! {
                ended = &mut settle => break ended,
                accepted = listener.accept_for_another() => match accepted {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        // Out of file descriptors, or the client gave up: both pass.
                        if let Some(before) = not_accepted.take() {
                            tracing::warn!(%error, before, "cannot accept a connection");
                        }
                        tokio::time::sleep(Duration::from_millis(20)).await;
                        continue;
                    }
                },
                Some(_) = open.join_next(), if !open.is_empty() => continue,
            };
            let permit = Arc::clone(&connections).try_acquire_owned().ok();
            let place_beyond = if permit.is_none() { reserve.place(room.operators) } else { None };
            let connection = Connection::new(&state, &admin, from.ip(), closing.subscribe(), permit.is_none());
            let tls = state.certificates().map(|shown| shown.acceptor);
            let place = workers.place();
            let handle = place.as_ref().map_or_else(Handle::current, |place| place.handle.clone());
            let driven = async move {
                let _held = (&permit, place);
                let io = match opening() {
                    Ok(io) => io,
                    Err(error) => return tracing::warn!(%error, "cannot take over a connection"),
                };
                match (&permit, place_beyond) {
                    (Some(_), _) => PollSelfWaking::new(connection.run(io, tls)).await,
                    (None, None) => reserve::turn_away(io).await,
                    (None, Some(place)) => {
                        if let Some((io, _open)) = reserve::first_bytes(io, place).await {
                            connection.run(io, tls).await;
                        }
                    }
                }
            };
            open.spawn_on(supervise::logged("connection", driven), &handle);
        }
    };
    drop(listener);
    // A future that was ready must not be polled again.
    let hurry = async {
        if !hurried {
            hurry.await;
        }
    };
    let unfinished = drain::drain(&state, &mut open, &closing, why, hurry).await;
    saved::save(&state);
    file::save(&state);
    Ok(unfinished)
}
