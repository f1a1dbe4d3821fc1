//! The server's sockets: accept, serve, and reset connections as a process that crashes does.

use super::app::{App, Process};
use super::config::EmulatorConfig;
use super::handle::{EngineHandle, EngineStartError};
use super::kv_events::{self, Feed, KvEventsConfig, Sockets};
use super::routes::routes;
use crate::input_error::InputError;
use crate::timer::PreciseTimer;
use axum::Router;
use axum::extract::ConnectInfo;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;

/// Idle connections are closed after this long, as in uvicorn.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// Pause after a failed accept (no file descriptors left), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A setting of the server is out of range.
    #[error("emulator setting {0}")]
    Setting(#[from] InputError),
    /// The engine.
    #[error(transparent)]
    Engine(#[from] EngineStartError),
    /// The address to listen on.
    #[error("cannot listen on {addr} ({source}); is the port taken? choose another address")]
    Listen {
        /// The address.
        addr: SocketAddr,
        /// The system's error.
        source: std::io::Error,
    },
    /// No thread.
    #[error("cannot start a thread ({0}); the machine is out of resources")]
    Thread(#[from] std::io::Error),
}

/// A running emulated server. Dropping it stops it and cuts its connections.
#[derive(Debug)]
pub struct Emulator {
    addr: SocketAddr,
    app: Arc<App>,
    accepting: JoinHandle<()>,
    kv_events: Option<KvEventsConfig>,
    publishing: Option<JoinHandle<()>>,
}

impl Emulator {
    /// Starts a server on `listen`; port 0 chooses a free port.
    ///
    /// # Errors
    /// A setting is out of range, or the address cannot be bound.
    pub async fn start(config: EmulatorConfig, listen: SocketAddr) -> Result<Self, StartError> {
        config.validate()?;
        let (sockets, feed) = match config.kv_events {
            Some(kv_events) => {
                let bound = Sockets::bind(kv_events).await;
                let sockets = bound.map_err(|(addr, source)| StartError::Listen { addr, source })?;
                (Some(sockets), Some(Feed::new()))
            }
            None => (None, None),
        };
        let (feed, fed) = feed.unzip();
        let engine = EngineHandle::start(&config, feed)?;
        let listener = bind(listen).await?;
        let kv_events = sockets.as_ref().map(|sockets| sockets.at);
        let publishing = sockets.zip(fed).map(|(sockets, fed)| tokio::spawn(kv_events::publish(fed, sockets)));
        let addr = listener.local_addr()?;
        let app = App::new(config, engine, PreciseTimer::start()?);
        let accepting = tokio::spawn(run(Arc::clone(&app), listener, addr));
        Ok(Self { addr, app, accepting, kv_events, publishing })
    }

    /// Address the server listens on.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Where it publishes KV events, with the ports that were free; `None` if it does not.
    pub fn kv_events(&self) -> Option<KvEventsConfig> {
        self.kv_events
    }

    /// Base URL of the server.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Number of requests in flight.
    pub fn in_flight(&self) -> usize {
        self.app.in_flight()
    }

    /// Crashes the process: connections are reset and refused for `down`, then it restarts cold. `cold_start_s` replaces
    /// the engine's time to ready.
    pub fn crash(&self, down: Duration, cold_start_s: Option<f64>) {
        self.app.crash(down, cold_start_s);
    }

    /// The engine behind the server.
    pub fn engine(&self) -> &EngineHandle {
        &self.app.engine
    }

    /// Drains the server as SIGTERM does: `/health` answers 503 and running requests go on. Returns when there are none,
    /// or after `limit`.
    pub async fn drain(&self, limit: Duration) {
        self.app.start_draining();
        let idle = async {
            while self.in_flight() > 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let _ = tokio::time::timeout(limit, idle).await; // what is left then is cut off
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        self.accepting.abort();
        self.publishing.iter().for_each(JoinHandle::abort);
        // No task accepts connections any more; this cuts the open ones.
        self.app.process.send_replace(Process::Crashed { until: Instant::now(), cold_start_s: None });
    }
}

async fn bind(addr: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(addr).await.map_err(|source| StartError::Listen { addr, source })
}

/// Serves connections, through any number of crashes and restarts.
async fn run(app: Arc<App>, mut listener: TcpListener, addr: SocketAddr) {
    let routes = routes(Arc::clone(&app));
    let open = Arc::new(Semaphore::new(app.config.max_connections));
    let mut process = app.process.subscribe();
    loop {
        let state = accept_until_crash(&app, &routes, &open, listener, &mut process).await;
        let Process::Crashed { until, cold_start_s } = state else { return };
        tokio::time::sleep_until(until.into()).await;
        app.process.send_replace(Process::Running);
        app.engine.restart(cold_start_s);
        listener = loop {
            match bind(addr).await {
                Ok(listener) => break listener,
                // Another process took the port meanwhile: wait for it.
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            }
        };
    }
}

/// Accepts connections until the process crashes, and returns its new state.
async fn accept_until_crash(
    app: &Arc<App>,
    routes: &Router,
    open: &Arc<Semaphore>,
    listener: TcpListener,
    process: &mut watch::Receiver<Process>,
) -> Process {
    loop {
        let accepted = tokio::select! {
            crashed = process.wait_for(|p| *p != Process::Running) => return crashed.map_or(Process::Running, |p| *p),
            accepted = accept(&listener, open) => accepted,
        };
        match accepted {
            Ok((permit, stream, peer)) => {
                let (routes, process) = (routes.clone(), app.process.subscribe());
                tokio::spawn(async move {
                    serve_connection(stream, peer, routes, process).await;
                    drop(permit);
                });
            }
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

type Accepted = (tokio::sync::OwnedSemaphorePermit, TcpStream, SocketAddr);

async fn accept(listener: &TcpListener, open: &Arc<Semaphore>) -> std::io::Result<Accepted> {
    let permit = Arc::clone(open).acquire_owned().await.map_err(std::io::Error::other)?;
    let (stream, peer) = listener.accept().await?;
    stream.set_nodelay(true)?;
    Ok((permit, stream, peer))
}

/// Serves one connection to its end. A crash of the process resets it.
async fn serve_connection(stream: TcpStream, peer: SocketAddr, routes: Router, mut process: watch::Receiver<Process>) {
    let service = TowerToHyperService::new(routes.layer(axum::Extension(ConnectInfo(peer))));
    let mut serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(KEEP_ALIVE)
        .serve_connection(TokioIo::new(stream), service);
    let crashed = tokio::select! {
        _ = &mut serving => false, // an error means that the client disconnected
        _ = process.wait_for(|p| *p != Process::Running) => true,
    };
    if crashed {
        // The system resets the sockets of a process that dies; it does not close them in order.
        let _ = serving.into_parts().io.into_inner().set_zero_linger();
    }
}
