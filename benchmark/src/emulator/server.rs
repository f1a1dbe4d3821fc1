//! Sockets: accept, serve, and die as a process does.

use super::actor::{EngineHandle, Snapshot};
use super::config::EmulatorConfig;
use super::errors::json_response;
use super::{admin, complete, faults, metrics};
use crate::clock::Alarms;
use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, DefaultBodyLimit, Request, State};
use axum::http::{Method, Response, StatusCode, header};
use axum::middleware::{self, Next};
use axum::routing::{any, get, post};
use gorgo_core::RequestId;
use gorgo_sim::engine::ConfigError;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde_json::json;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;

/// Idle connections are closed after this long, as uvicorn does.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// Pause after a failed accept (no file descriptors left), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A setting of the server.
    #[error("emulator setting {0}")]
    Setting(String),
    /// A setting of the engine.
    #[error(transparent)]
    Engine(#[from] ConfigError),
    /// The address.
    #[error("cannot listen on {addr} ({source}); is the port taken? choose another address")]
    Listen {
        /// Which.
        addr: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// No thread.
    #[error("cannot start a thread ({0}); the machine is out of resources")]
    Thread(#[from] std::io::Error),
}

/// A running server. Dropping it stops it.
#[derive(Debug)]
pub struct Emulator {
    addr: SocketAddr,
    app: Arc<App>,
    accepting: JoinHandle<()>,
}

/// What the handlers share.
#[derive(Debug)]
pub struct App {
    pub(super) config: EmulatorConfig,
    pub(super) engine: EngineHandle,
    alarms: Alarms,
    /// Ids of requests in flight, by the names clients know.
    names: Mutex<BTreeMap<String, RequestId>>,
    made: AtomicU64,
    draining: AtomicBool,
    last: Mutex<Option<Snapshot>>,
    power: watch::Sender<Power>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Power {
    On,
    /// Dead until the instant, then up again with this time to ready.
    Off {
        until: Instant,
        cold_start_s: Option<f64>,
    },
}

impl App {
    pub(super) fn fresh_rid(&self) -> String {
        let n = self.made.fetch_add(1, Ordering::Relaxed).to_le_bytes();
        // Hashes of a counter: unique enough, and no one is the beginning of another.
        format!("{:032x}", xxhash_rust::xxh3::xxh3_128_with_seed(&n, self.config.seed))
    }

    /// Enters a request's name; false if another in flight has it.
    pub(super) fn remember(&self, rid: &str, id: RequestId) -> bool {
        match self.names.lock().unwrap_or_else(PoisonError::into_inner).entry(rid.to_owned()) {
            Entry::Occupied(_) => false,
            Entry::Vacant(place) => {
                place.insert(id);
                true
            }
        }
    }

    pub(super) fn forget(&self, rid: &str) {
        self.names.lock().unwrap_or_else(PoisonError::into_inner).remove(rid);
    }

    /// Requests whose name begins with `prefix`, or all.
    pub(super) fn named(&self, prefix: &str, all: bool) -> Vec<RequestId> {
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        if all {
            return names.values().copied().collect();
        }
        if prefix.is_empty() {
            return Vec::new();
        }
        names.range(prefix.to_owned()..).take_while(|(name, _)| name.starts_with(prefix)).map(|(_, &id)| id).collect()
    }

    pub(super) fn draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Keeps the newest snapshot and gives the one to show.
    pub(super) fn last_snapshot(&self, fresh: Option<Snapshot>) -> Option<Snapshot> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        *last = fresh.or(*last);
        *last
    }

    /// Kills the process; it comes back after `down` with an empty cache.
    pub(super) fn crash(&self, down: Duration, cold_start_s: Option<f64>) {
        self.engine.crash();
        self.power.send_replace(Power::Off { until: Instant::now() + down, cold_start_s });
    }
}

impl Emulator {
    /// Starts a server; port 0 takes a free one.
    ///
    /// # Errors
    /// A setting is wrong or the address cannot be had.
    pub async fn start(config: EmulatorConfig, listen: SocketAddr) -> Result<Self, StartError> {
        config.validate().map_err(StartError::Setting)?;
        let engine = EngineHandle::start(&config)?;
        let listener = bind(listen).await?;
        let addr = listener.local_addr()?;
        let (power, _) = watch::channel(Power::On);
        let app = Arc::new(App {
            engine,
            alarms: Alarms::start()?,
            names: Mutex::default(),
            made: AtomicU64::new(0),
            draining: AtomicBool::new(false),
            last: Mutex::default(),
            power,
            config,
        });
        let accepting = tokio::spawn(live(Arc::clone(&app), listener, addr));
        Ok(Self { addr, app, accepting })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Its base URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Requests being answered.
    pub fn in_flight(&self) -> usize {
        self.app.names.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// The process dies: connections are reset, nothing listens for `down`, then it starts cold (after `cold_start_s`, or
    /// as its engine says).
    pub fn crash(&self, down: Duration, cold_start_s: Option<f64>) {
        self.app.crash(down, cold_start_s);
    }

    /// The engine behind it.
    pub fn engine(&self) -> &EngineHandle {
        &self.app.engine
    }

    /// As on SIGTERM: `/health` says 503, running requests go on, and this returns when there are none, or after `limit`.
    pub async fn drain(&self, limit: Duration) {
        self.app.draining.store(true, Ordering::Relaxed);
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
        // Nothing accepts any more; this cuts the connections that are open.
        self.app.power.send_replace(Power::Off { until: Instant::now(), cold_start_s: None });
    }
}

async fn bind(addr: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(addr).await.map_err(|source| StartError::Listen { addr, source })
}

/// Lives, dies and lives again.
async fn live(app: Arc<App>, mut listener: TcpListener, addr: SocketAddr) {
    let routes = routes(Arc::clone(&app));
    let open = Arc::new(Semaphore::new(app.config.max_connections));
    let mut power = app.power.subscribe();
    loop {
        let off = serve(&app, &routes, &open, listener, &mut power).await;
        let Power::Off { until, cold_start_s } = off else { return };
        tokio::time::sleep_until(until.into()).await;
        app.power.send_replace(Power::On);
        app.engine.restart(cold_start_s);
        listener = loop {
            match bind(addr).await {
                Ok(listener) => break listener,
                // Somebody else took the port meanwhile: wait for it.
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            }
        };
    }
}

/// Accepts until the power goes off.
async fn serve(
    app: &Arc<App>,
    routes: &Router,
    open: &Arc<Semaphore>,
    listener: TcpListener,
    power: &mut watch::Receiver<Power>,
) -> Power {
    loop {
        let accepted = tokio::select! {
            off = power.wait_for(|p| *p != Power::On) => return off.map_or(Power::On, |p| *p),
            accepted = accept(&listener, open) => accepted,
        };
        match accepted {
            Ok((permit, stream, peer)) => {
                let (routes, power) = (routes.clone(), app.power.subscribe());
                tokio::spawn(async move {
                    connection(stream, peer, routes, power).await;
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

async fn connection(stream: TcpStream, peer: SocketAddr, routes: Router, mut power: watch::Receiver<Power>) {
    let service = TowerToHyperService::new(routes.layer(axum::Extension(ConnectInfo(peer))));
    let mut serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(KEEP_ALIVE)
        .serve_connection(TokioIo::new(stream), service);
    let died = tokio::select! {
        _ = &mut serving => false, // errors are the client's leaving
        _ = power.wait_for(|p| *p != Power::On) => true,
    };
    if died {
        // Sockets of a dead process are reset, not closed in order.
        let _ = serving.into_parts().io.into_inner().set_zero_linger();
    }
}

fn routes(app: Arc<App>) -> Router {
    let limit = app.config.max_body_bytes;
    let faults = Router::new()
        .route("/gorgo/crash", post(faults::crash))
        .route("/gorgo/hang", post(faults::hang))
        .route("/gorgo/slow-start", post(faults::slow_start))
        .layer(middleware::from_fn(loopback_only));
    Router::new()
        .route("/v1/chat/completions", post(complete::chat))
        .route("/v1/completions", post(complete::completions))
        .route("/generate", post(complete::generate).put(complete::generate))
        .route("/v1/models", get(admin::models))
        .route("/model_info", get(admin::model_info))
        .route("/get_model_info", get(admin::model_info))
        .route("/server_info", get(admin::server_info))
        .route("/get_server_info", get(admin::server_info))
        .route("/get_load", get(admin::get_load))
        .route("/v1/loads", get(admin::loads))
        .route("/flush_cache", get(admin::flush_cache).post(admin::flush_cache))
        .route("/abort_request", post(admin::abort_request))
        .route("/tokenize", post(admin::tokenize))
        .route("/v1/tokenize", post(admin::tokenize))
        .route("/detokenize", post(admin::detokenize))
        .route("/v1/detokenize", post(admin::detokenize))
        .layer(middleware::from_fn_with_state(Arc::clone(&app), authorize))
        .route("/health", get(admin::health))
        .route("/health_generate", get(admin::health))
        .route("/metrics", get(metrics::metrics))
        .merge(faults)
        .fallback(any(not_found))
        .layer(DefaultBodyLimit::max(limit))
        .layer(middleware::from_fn_with_state(Arc::clone(&app), far_away))
        .with_state(app)
}

async fn not_found() -> Response<Body> {
    json_response(404, &json!({"detail": "Not Found"}))
}

/// Puts the whole round trip before the request: to the client it looks as if both ways took half.
async fn far_away(State(app): State<Arc<App>>, request: Request, next: Next) -> Response<Body> {
    if app.config.rtt_ms > 0.0 {
        app.alarms.sleep_until(Instant::now() + Duration::from_secs_f64(app.config.rtt_ms / 1e3)).await;
    }
    next.run(request).await
}

async fn authorize(State(app): State<Arc<App>>, request: Request, next: Next) -> Response<Body> {
    if let Some(key) = app.config.api_key.as_ref().filter(|_| request.method() != Method::OPTIONS) {
        let given = request.headers().get(header::AUTHORIZATION).and_then(|v| v.to_str().ok());
        if given.and_then(|v| v.strip_prefix("Bearer ")) != Some(key) {
            return json_response(401, &json!({"error": "Unauthorized"}));
        }
    }
    next.run(request).await
}

async fn loopback_only(request: Request, next: Next) -> Response<Body> {
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(peer)| peer.ip());
    if !peer.is_some_and(|ip| ip.is_loopback()) {
        let mut answer = json_response(403, &json!({"detail": "faults are taken from loopback only"}));
        *answer.status_mut() = StatusCode::FORBIDDEN;
        return answer;
    }
    next.run(request).await
}
