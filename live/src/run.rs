//! A router as a process: real sockets, signals, keys from the environment.

use crate::config::Config;
use crate::server::workers::Workers;
use crate::server::{self, StartError};
use crate::state::Reread;
use crate::upstream::connect;
use std::sync::Arc;
use tokio::net::TcpListener;

/// Fills keys that no file gives from `GORGO_API_KEY` and `GORGO_ADMIN_KEY`.
pub fn keys_from_environment(config: &mut Config) {
    let security = &mut config.security;
    let from = |name| std::env::var(name).ok().filter(|key| !key.is_empty());
    if security.api_key.is_none() && security.api_key_file.is_none() {
        security.api_key = from("GORGO_API_KEY");
    }
    if security.admin_key.is_none() && security.admin_key_file.is_none() {
        security.admin_key = from("GORGO_ADMIN_KEY");
    }
}

/// Serves until SIGTERM or SIGINT; SIGHUP reads the configuration again. `ready` is told the address.
///
/// # Errors
/// When it cannot start; see [`StartError`].
pub async fn run(
    config: Config,
    reread: Option<Reread>,
    ready: impl FnOnce(std::net::SocketAddr),
) -> Result<usize, StartError> {
    let listen = config.listen;
    let listener = TcpListener::bind(listen).await.map_err(|why| StartError::Listen { listen, why })?;
    let workers = Workers::start(config.limits.threads).map_err(StartError::Threads)?;
    let node = server::start(config, reread, connect::tcp())?;
    #[cfg(feature = "otel")]
    if let Some(settings) = crate::observe::otel::Settings::from_environment(|name| std::env::var(name).ok())
        .map_err(StartError::Environment)?
    {
        let trust = crate::server::tls::client(&crate::config::Tls::default())?;
        let connector = connect::Connector::new(connect::tcp(), trust, settings.timeout);
        crate::observe::otel::start(&node, settings, connect::pool(connector, std::time::Duration::from_secs(4)));
    }
    let reloading = Arc::clone(&node);
    let hangups = tokio::spawn(async move {
        use tokio::signal::unix::{SignalKind, signal};
        let Ok(mut hangup) = signal(SignalKind::hangup()) else { return };
        while hangup.recv().await.is_some() {
            if let Err(error) = server::reload(&reloading) {
                tracing::error!(%error, "configuration not taken over; the old one stays");
            }
        }
    });
    ready(listener.local_addr().unwrap_or(listen));
    let cut = server::serve_on(&workers, Arc::clone(&node), listener, stop_signal()).await;
    hangups.abort();
    #[cfg(feature = "otel")]
    node.otel.flush(std::time::Duration::from_secs(5)).await;
    cut
}

async fn stop_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let (terminate, interrupt) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
    match (terminate, interrupt) {
        (Ok(mut terminate), Ok(mut interrupt)) => {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        }
        // Without signals the process ends when it is killed.
        _ => std::future::pending().await,
    }
}
