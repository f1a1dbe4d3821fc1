//! A router as a process: real sockets, signal handlers, keys from the environment.

use crate::config::{Config, Role, Secret};
use crate::observe::dashboard::Dashboard;
use crate::server::activation;
use crate::server::drain::{Ending, Stop};
use crate::server::kept_files::KeptFiles;
use crate::server::reload::reload;
use crate::server::serve::serve_on;
use crate::server::start::{StartError, start_after};
use crate::server::workers::Workers;
use crate::state::{AppState, ConfigSource};
use crate::supervise;
use crate::upgrade::control::Control;
use crate::upgrade::hand_over::{self, HandOver, Program};
use crate::upgrade::take_over::{Given, TakeOver};
use crate::upgrade::{Presence, systemd};
use crate::upstream::connect;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;

/// Fills keys that no file gives from `GORGO_API_KEY`, `GORGO_ADMIN_KEY`, `GORGO_PEER_KEY` and `GORGO_READ_KEY`.
pub fn keys_from_environment(config: &mut Config) {
    for (kind, key, file) in config.security.kinds_mut() {
        if key.is_none() && file.is_none() {
            let name = format!("GORGO_{}", kind.to_ascii_uppercase());
            let told = std::env::var(&name).ok();
            if told.as_ref().is_some_and(String::is_empty) {
                tracing::warn!("{name} is set and empty, so it gives no key; unset it, or write the key there");
            }
            *key = told.filter(|key| !key.is_empty()).map(Secret::from);
        }
    }
}

/// Handlers of SIGTERM, SIGINT and SIGHUP. A signal that arrives between [`Signals::install`] and [`run`] is handled
/// by `run`; before the handlers are installed, SIGTERM kills the process. So install them before anything shows other
/// programs that the router is there: a pid file, an open port.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    /// Installs the handlers; to be called in the runtime that runs the router.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn install() -> Result<Self, StartError> {
        let handle = |kind| signal(kind).map_err(StartError::Signals);
        Ok(Self {
            terminate: handle(SignalKind::terminate())?,
            interrupt: handle(SignalKind::interrupt())?,
            hangup: handle(SignalKind::hangup())?,
        })
    }
}

/// Serves until SIGTERM or SIGINT, or until another process has taken over; a second signal ends open requests at once.
/// A process that took over from another ends after that one.
/// SIGHUP reloads the configuration. `dashboard` is the page at `/dashboard`. `presence` shows the process to others once
/// the port is listened on. Returns the number of connections that were cut at the end.
///
/// # Errors
/// When it cannot start; see [`StartError`].
pub async fn run(
    config: Config,
    source: Option<ConfigSource>,
    dashboard: Option<Dashboard>,
    signals: Signals,
    presence: Arc<dyn Presence>,
) -> Result<usize, StartError> {
    let Signals { terminate, interrupt, mut hangup } = signals;
    let listen = config.listen;
    let program = Program::own();
    let refused = |why| StartError::Listen { listen, why };
    let taken = TakeOver::begin(listen).await?;
    let (listener, mut before, given) = match taken {
        Some((before, given)) => {
            let Given { listener, lock, inherited, usable } = given;
            (TcpListener::from_std(listener), Some((before, usable, lock)), Some(inherited))
        }
        None => match activation::socket(listen)? {
            Some(socket) => (TcpListener::from_std(socket), None, None),
            None => (TcpListener::bind(listen).await, None, None),
        },
    };
    let listener = listener.map_err(refused)?;
    let socket = listener.as_fd().try_clone_to_owned().map_err(refused)?;
    crate::server::tls::shown(&config.tls)?; // before the process before gives up anything
    let kept_files = Arc::new(KeptFiles::of(&config));
    if before.is_none() {
        kept_files.lock()?;
    }
    let workers = Workers::start(config.limits.threads).map_err(StartError::Threads)?;
    let dial = connect::tcp_with(config.upstream.congestion);
    let state = start_after(config, source, dial, given)?;
    if let Some(dashboard) = dashboard {
        let _ = state.dashboard.set(dashboard);
    }
    #[cfg(feature = "otel")]
    if let Some(settings) = crate::observe::otel::Settings::from_environment(|name| std::env::var(name).ok())
        .map_err(|wrong| StartError::Environment(wrong.to_string()))?
    {
        let trust = crate::server::tls::client_config(&crate::config::Tls::default())?;
        let connector = connect::Connector::new(connect::tcp(), trust, settings.timeout);
        let (pool, named) =
            (connect::pooled_client(connector, std::time::Duration::from_secs(4)), Arc::downgrade(&state));
        let name = move || named.upgrade().map_or_else(String::new, |state| state.config().shown_name());
        crate::observe::otel::start(&state.otel, state.clock(), name, settings, pool);
    }
    let reloaded = Arc::clone(&state);
    let reloads = tokio::spawn(supervise::logged("reload on SIGHUP", async move {
        while hangup.recv().await.is_some() {
            reloaded.driver.observers().reopen_logs();
            if let Err(error) = reload(&reloaded) {
                tracing::error!(%error, "cannot reload the configuration; the old one stays");
            }
        }
    }));
    let at = listener.local_addr().unwrap_or(listen);
    if let Some((before, usable, _)) = &mut before {
        before.ready(&state, usable).await?;
        kept_files.lock()?;
    }
    let lock = before.as_mut().and_then(|(_, _, lock)| lock.take());
    let control = presence.appear(at, lock).map_err(StartError::Presence)?;
    let control = control.and_then(|path| match Control::bind(&path) {
        Ok(control) => Some(control),
        Err(error) => {
            tracing::warn!("this process cannot be upgraded, since `{}` cannot be made: {error}", path.display());
            None
        }
    });
    let before = match before {
        Some((before, ..)) => Some(before.serving(&state).await?),
        None => {
            systemd::tell("READY=1");
            None
        }
    };
    let replaced = Arc::new(Notify::new());
    let upgrades = control.map(|control| {
        let done = Arc::clone(&replaced);
        let this = HandOver { state: Arc::downgrade(&state), socket, program, presence, kept_files, done };
        tokio::spawn(supervise::logged("upgrades", hand_over::run(control, this)))
    });
    banner(&state, at);
    let signals = tokio::sync::Mutex::new((terminate, interrupt));
    let next = async || {
        let (terminate, interrupt) = &mut *signals.lock().await;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    let first = Notify::new();
    let stop = async {
        let why = tokio::select! {
            () = next() => {
                // It holds the port, which must close when the router has settled.
                upgrades.iter().for_each(tokio::task::JoinHandle::abort);
                Stop::Requested
            }
            () = replaced.notified() => Stop::Replaced,
        };
        first.notify_one();
        why
    };
    let hurried = AtomicBool::new(false);
    let hurry = async {
        first.notified().await;
        next().await;
        hurried.store(true, Ordering::Relaxed);
    };
    let cut = serve_on(&workers, Arc::clone(&state), listener, Ending { stop, hurry }).await;
    reloads.abort();
    if let Some(before) = before.filter(|before| !before.is_finished() && !hurried.load(Ordering::Relaxed)) {
        // systemd kills what is left of a unit when its main process ends.
        tracing::info!("waiting for the previous process, which still finishes its requests");
        let limit = std::time::Duration::from_millis(state.config().timeouts.drain_ms);
        tokio::select! {
            _ = before => {}
            () = next() => {}
            () = tokio::time::sleep(limit) => {}
        }
    }
    #[cfg(feature = "otel")]
    state.otel.flush(std::time::Duration::from_secs(5)).await;
    cut
}

/// Says in the log what runs, where, and what is missing.
fn banner(state: &AppState, at: std::net::SocketAddr) {
    let config = state.config();
    let (role, scheme) = match config.role {
        Role::Proxy => ("proxy", if config.tls.cert.is_some() { "https" } else { "http" }),
        Role::Edge => ("edge", if config.tls.cert.is_some() { "https" } else { "http" }),
    };
    let names: Vec<&str> = config.replicas.iter().map(|r| r.name.as_deref().unwrap_or(&r.url)).collect();
    let policy = state.driver.policy();
    tracing::info!(
        "gorgo {} {role}: policy {}, {} replicas ({}), {} peers; requests to {scheme}://{at}/v1, metrics at \
         {scheme}://{at}/metrics",
        env!("CARGO_PKG_VERSION"),
        policy.name(),
        names.len(),
        names.join(", "),
        config.peers.len(),
    );
    let sources: Vec<String> = state.discovered.levels(state.clock().now()).into_iter().map(|one| one.source).collect();
    if !sources.is_empty() {
        tracing::info!("replicas come from discovery, too: {}", sources.join(", "));
    } else if names.is_empty() {
        tracing::warn!("no replica is configured: add one with `gorgo proxy servers add URL` or --servers");
    }
    if !config.security.has("admin_key") {
        tracing::info!(
            "no admin key is set (GORGO_ADMIN_KEY): every program on this machine can administer the router"
        );
    } else if !config.peers.is_empty() && !config.security.has("peer_key") {
        tracing::warn!("no key for peers is set (GORGO_PEER_KEY): this edge sends them the admin key");
    }
    if config.probes.period_ms == 0 {
        tracing::warn!("probes are off (probes.period_ms = 0): dead replicas are found by failing requests only");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::{Signal, getpid, kill_process};
    use std::os::fd::OwnedFd;
    use std::path::PathBuf;

    /// Notes that the router was up.
    #[derive(Default)]
    struct Seen(AtomicBool);

    impl Presence for Seen {
        fn appear(&self, _: std::net::SocketAddr, _: Option<OwnedFd>) -> Result<Option<PathBuf>, String> {
            self.0.store(true, Ordering::Relaxed);
            Ok(None)
        }

        fn lock(&self) -> Option<OwnedFd> {
            None
        }

        fn pass_on(&self) {}

        fn take_back(&self) {}
    }

    #[tokio::test]
    async fn a_router_that_is_stopped_before_it_is_up_stops_in_order() {
        let signals = Signals::install().unwrap();
        kill_process(getpid(), Signal::TERM).unwrap();
        let mut config = Config { listen: ([127, 0, 0, 1], 0).into(), ..Config::default() };
        config.limits.threads = 1;
        config.timeouts.settle_ms = 0;
        let presence = Arc::new(Seen::default());
        assert_eq!(run(config, None, None, signals, presence.clone()).await.unwrap(), 0, "no connection was cut");
        assert!(presence.0.load(Ordering::Relaxed));
    }
}
