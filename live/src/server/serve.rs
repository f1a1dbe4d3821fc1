//! The accept loop: each connection goes to the worker thread with the fewest connections.

use crate::admin;
use crate::server::connection::Connection;
use crate::server::drain;
use crate::server::listener::{Listener, Opening};
use crate::server::start::StartError;
use crate::server::tls;
use crate::server::workers::Workers;
use crate::state::AppState;
use crate::supervise;
use crate::upstream::self_wake::PollSelfWaking;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
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
    serve_on(&Workers::none(), state, listener, stop).await
}

/// Serves until `stop`, then shuts down: not ready, port open for a while; then no new connections; then open requests
/// finish, or are ended after `timeouts.drain_ms`. Returns the number of connections that did not finish in time.
///
/// # Errors
/// When the TLS certificates cannot be used.
pub(crate) async fn serve_on(
    workers: &Workers,
    state: Arc<AppState>,
    mut listener: impl Listener,
    stop: impl Future<Output = ()>,
) -> Result<usize, StartError> {
    let config = state.config();
    let tls = tls::acceptor(&config.tls)?;
    let admin = admin::routes(Arc::clone(&state));
    let connections = Arc::new(Semaphore::new(config.limits.connections));
    let (closing, _) = watch::channel(false);
    let mut open = JoinSet::new();
    let settle = drain::settle(&state, stop);
    tokio::pin!(settle);
    loop {
        let (opening, from) = tokio::select! {
            () = &mut settle => break,
            accepted = listener.accept_for_another() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of file descriptors, or the client gave up: both pass.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    continue;
                }
            },
            Some(_) = open.join_next(), if !open.is_empty() => continue,
        };
        let Ok(permit) = Arc::clone(&connections).try_acquire_owned() else {
            open.spawn(supervise::logged("connection over the limit", turn_away(opening)));
            continue;
        };
        let connection = Connection::new(&state, &admin, from.ip(), closing.subscribe());
        let tls = tls.clone();
        let place = workers.place();
        let handle = place.as_ref().map_or_else(Handle::current, |place| place.handle.clone());
        let driven = async move {
            let _held = (permit, place);
            match opening() {
                Ok(io) => PollSelfWaking::new(connection.run(io, tls)).await,
                Err(error) => tracing::warn!(%error, "cannot take over a connection"),
            }
        };
        open.spawn_on(supervise::logged("connection", driven), &handle);
    }
    drop(listener);
    Ok(drain::drain(&state, &mut open, &closing).await)
}

/// Answers a connection over `limits.connections` with 503, without reading from it.
async fn turn_away(opening: Opening) {
    const BODY: &str = "{\"error\":{\"message\":\"the router holds as many connections as it may (limits.connections); try again soon\",\
        \"type\":\"server_error\",\"param\":null,\"code\":\"too_many_connections\"}}";
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 1\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n{BODY}",
        BODY.len()
    );
    let Ok(mut io) = opening() else { return };
    let send = async {
        io.write_all(answer.as_bytes()).await?;
        io.shutdown().await
    };
    let _ = tokio::time::timeout(Duration::from_secs(1), send).await;
}
