//! The front: connections in, requests to the admin API or to the replicas, and an orderly end.

use crate::admin;
use crate::config::{Config, ConfigError, PeerConfig, ReplicaConfig, Role};
use crate::driver::Driver;
use crate::driver::clock::Clock;
use crate::driver::observers::Watchers;
use crate::observe::decision_log;
use crate::observe::shadow::Figures;
use crate::request::body::Body;
use crate::request::errors::refusal;
use crate::request::forward;
use crate::request::headers::{Client, Present};
use crate::server::header_timeout::Alarm;
use crate::server::listener::{Listener, Opening};
use crate::server::workers::Workers;
use crate::state::{Keys, Node, Parts, Phase, Reread};
use crate::tokens::Counter;
use crate::upstream::connect::{Connector, Dial, Io};
use crate::upstream::self_wake::Steady;
use gorgo_core::fleet::Kind;
use gorgo_core::router::RouterConfig;
use http::{Request, StatusCode};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;
use thiserror::Error;
use tls::TlsError;
use tokio::io::AsyncWriteExt;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tower::ServiceExt;

pub mod listener;
pub mod tls;
pub mod workers;

mod header_timeout;

/// Most that is read from a client at once, bytes: a long prompt comes in one piece then, which nobody has to put
/// together again.
const READ: usize = 96 << 10;

/// How long streams that are ended have for their last event.
const LAST_WORD: Duration = Duration::from_secs(1);

/// Why a router did not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// Its configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Its certificates cannot.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A replica cannot be added.
    #[error("{0}")]
    Replica(String),
    /// A variable of the environment cannot be used.
    #[error("{0}")]
    Environment(String),
    /// The decision log cannot be written.
    #[error("cannot write the decision log `{path}`: {why}; choose another with explain.log.path")]
    Log {
        /// The file.
        path: String,
        /// The system's reason.
        why: io::Error,
    },
    /// No threads.
    #[error("cannot start threads: {0}; lower limits.threads")]
    Threads(io::Error),
    /// The address cannot be listened on.
    #[error("cannot listen on {listen}: {why}; choose another address with --listen")]
    Listen {
        /// The address.
        listen: SocketAddr,
        /// The system's reason.
        why: io::Error,
    },
}

/// Makes a router: reads its keys and certificates, starts its background tasks, adds its replicas. It serves
/// nobody until [`serve`].
///
/// # Errors
/// See [`StartError`].
pub fn start(config: Config, reread: Option<Reread>, dial: Dial) -> Result<Arc<Node>, StartError> {
    config.check()?;
    let keys = Keys::load(&config)?;
    let counter = match &config.tokenizer {
        Some(path) => {
            let unread = |why| ConfigError::Read { path: path.display().to_string(), why };
            Some(Arc::new(Counter::load(path, config.limits.tokenizer_entries).map_err(unread)?))
        }
        None => None,
    };
    let times = &config.timeouts;
    let connector = Connector::new(dial, tls::client(&config.tls)?, Duration::from_millis(times.connect_ms));
    let figures = Figures::default();
    let shadow = (!config.shadow.policies.is_empty()).then(|| {
        let (sender, events) = mpsc::channel(65_536);
        let (policies, seed, figures) = (config.shadow.policies.clone(), config.seed, Arc::clone(&figures));
        let router = RouterConfig { index_bytes: config.shadow.index_bytes, ..config.router.clone() };
        tokio::spawn(async move { crate::observe::shadow::run(&policies, &router, seed, events, figures).await });
        sender
    });
    let (log, log_task) = match &config.explain.log {
        Some(log) => {
            let file = decision_log::Log::open(log)
                .map_err(|why| StartError::Log { path: log.path.display().to_string(), why })?;
            let (sender, records) = mpsc::channel(4_096);
            (Some(sender), Some((file, records)))
        }
        None => (None, None),
    };
    let watchers = Watchers::new(config.explain.decisions, log, shadow);
    let recorded = RouterConfig { record_decisions: true, index_bytes: index_room(&config), ..config.router.clone() };
    let driver = Driver::new(recorded, config.policy.clone(), config.seed, Clock::start(), watchers);
    let (replicas, peers, role) = (config.replicas.clone(), config.peers.clone(), config.role);
    let node = Arc::new(Node::new(Parts { driver, connector, shadows: figures, config, keys, counter, reread }));
    let timer = Arc::clone(&node);
    tokio::spawn(async move { timer.driver.run_timer().await });
    tokio::spawn(close_idle(Arc::downgrade(&node)));
    if let Some((file, records)) = log_task {
        tokio::spawn(file.run(records));
    }
    let kind = if role == Role::Edge { Kind::Local } else { Kind::Remote };
    let peers = peers.iter().map(|peer| (peer_as_replica(peer), Kind::Peer));
    for (replica, kind) in replicas.into_iter().map(|replica| (replica, kind)).chain(peers) {
        node.add(&replica, kind).map_err(|error| StartError::Replica(error.to_string()))?;
    }
    Ok(node)
}

/// What of the configured memory the index itself may take: the rows of requests come out of it, the buffers of
/// connections and what an allocator cannot give back at once, so that the process as a whole stays within. At least
/// a quarter of it.
fn index_room(config: &Config) -> usize {
    // A row; a decision about a few replicas. The process was measured to hold 35 MB more than the index by its own
    // count after 64 connections sent 80 kB prompts, and up to 40 MB while they did: buffers, and an allocator's rest.
    const ROW: usize = 400;
    const DECISION: usize = 1_200;
    const BUFFERS: usize = 36 << 20;
    let index = config.router.index_bytes;
    let kept = config.explain.rows * ROW + config.explain.decisions * DECISION;
    index.saturating_sub(kept + BUFFERS).max(index / 4)
}

/// Closes connections to replicas that nobody used for a while.
async fn close_idle(node: Weak<Node>) {
    loop {
        let Some(keep_alive) = node.upgrade().map(|node| Duration::from_millis(node.config().timeouts.keep_alive_ms))
        else {
            return;
        };
        tokio::time::sleep((keep_alive / 4).max(Duration::from_millis(100))).await;
        let Some(node) = node.upgrade() else { return };
        let upstreams = node.driver.read(|_, upstreams, _| upstreams.to_vec());
        upstreams.iter().for_each(|upstream| upstream.links.sweep(keep_alive));
    }
}

pub(crate) fn peer_as_replica(peer: &PeerConfig) -> ReplicaConfig {
    ReplicaConfig {
        url: peer.url.clone(),
        name: peer.name.clone(),
        region: None,
        ms_per_token: None,
        kv_tokens: None,
        api_key: None,
    }
}

/// As [`serve_on`], all by the runtime this is called in.
///
/// # Errors
/// When the listener fails for good.
pub async fn serve(
    node: Arc<Node>,
    listener: impl Listener,
    stop: impl Future<Output = ()>,
) -> Result<usize, StartError> {
    serve_on(&Workers::none(), node, listener, stop).await
}

/// Serves until `stop`, then: not ready, port open for a while; then no new connections; then the open streams
/// finish, or their time is up. Returns how many connections were cut.
///
/// # Errors
/// When the listener fails for good.
pub async fn serve_on(
    workers: &Workers,
    node: Arc<Node>,
    mut listener: impl Listener,
    stop: impl Future<Output = ()>,
) -> Result<usize, StartError> {
    let config = node.config();
    let tls = tls::server(&config.tls)?;
    let admin = admin::routes(Arc::clone(&node));
    let connections = Arc::new(Semaphore::new(config.limits.connections));
    let (closing, _) = watch::channel(false);
    let mut open = JoinSet::new();
    let settle = async {
        stop.await;
        node.set_phase(Phase::Settling);
        tracing::info!("told to stop; not ready from now on");
        tokio::time::sleep(Duration::from_millis(node.config().timeouts.settle_ms)).await;
    };
    tokio::pin!(settle);
    loop {
        let (opening, from) = tokio::select! {
            () = &mut settle => break,
            accepted = listener.accept_for_another() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of file descriptors, or the client gave up: neither is for ever.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    continue;
                }
            },
            Some(_) = open.join_next(), if !open.is_empty() => continue,
        };
        let Ok(permit) = Arc::clone(&connections).try_acquire_owned() else {
            open.spawn(turn_away(opening));
            continue;
        };
        let connection =
            Connection { node: Arc::clone(&node), admin: admin.clone(), from, closing: closing.subscribe() };
        let tls = tls.clone();
        let place = workers.place();
        let handle = place.as_ref().map_or_else(Handle::current, |place| place.handle.clone());
        let driven = async move {
            let _held = (permit, place);
            match opening() {
                Ok(io) => Steady::new(connection.run(io, tls)).await,
                Err(error) => tracing::warn!(%error, "cannot take over a connection"),
            }
        };
        open.spawn_on(driven, &handle);
    }
    drop(listener);
    node.set_phase(Phase::Draining);
    closing.send_replace(true);
    let limit = Duration::from_millis(node.config().timeouts.drain_ms);
    let drained = tokio::time::timeout(limit, ended(&mut open)).await;
    let cut = if drained.is_ok() { 0 } else { open.len() };
    if cut > 0 {
        tracing::warn!(cut, "time to drain is up; the rest ends here");
        node.set_phase(Phase::Ending);
        node.driver.stop_requests();
        let _ = tokio::time::timeout(LAST_WORD, ended(&mut open)).await;
    }
    open.shutdown().await;
    Ok(cut)
}

/// When all connections have ended.
async fn ended(open: &mut JoinSet<()>) {
    while open.join_next().await.is_some() {}
}

/// More connections than allowed: a short 503, without reading.
async fn turn_away(opening: Opening) {
    const BODY: &str = "{\"error\":{\"message\":\"the router holds as many connections as it may (limits.connections); try again soon\",\
        \"type\":\"server_error\",\"param\":null,\"code\":\"too_many_connections\"}}";
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 1\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n{BODY}",
        BODY.len()
    );
    let Ok(mut io) = opening() else { return };
    let tell = async {
        io.write_all(answer.as_bytes()).await?;
        io.shutdown().await
    };
    let _ = tokio::time::timeout(Duration::from_secs(1), tell).await;
}

struct Connection {
    node: Arc<Node>,
    admin: axum::Router,
    from: SocketAddr,
    closing: watch::Receiver<bool>,
}

impl Connection {
    async fn run(mut self, io: Io, tls: Option<tokio_rustls::TlsAcceptor>) {
        let config = self.node.config();
        let patience = Duration::from_millis(config.timeouts.header_ms);
        let io: Io = match tls {
            Some(tls) => match tokio::time::timeout(patience, tls.accept(io)).await {
                Ok(Ok(stream)) => Box::new(stream),
                _ => return,
            },
            None => io,
        };
        let (mut alarm, timer) = Alarm::new(patience);
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(timer)
            .header_read_timeout(patience)
            .max_buf_size(config.limits.header_bytes.max(READ))
            .max_headers(config.limits.headers);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(1_000)
            .max_header_list_size(u32::try_from(config.limits.header_bytes).unwrap_or(u32::MAX));
        let (from, asked) = (Client::new(self.from.ip()), AtomicBool::new(false));
        let front = Arc::new(Front { node: self.node, admin: self.admin, from, asked });
        let asking = Arc::clone(&front);
        let service = service_fn(move |request| answer(Arc::clone(&asking), request));
        let connection = builder.serve_connection(TokioIo::new(io), service);
        tokio::pin!(connection);
        if *self.closing.borrow() {
            connection.as_mut().graceful_shutdown();
        }
        loop {
            tokio::select! {
                biased;
                _ = connection.as_mut() => return,
                told = self.closing.changed() => match told {
                    Ok(()) => connection.as_mut().graceful_shutdown(), // no request may follow
                    Err(_) => break,
                },
                // One that never asked anything ends here; any other looks itself whether it has waited too long.
                () = alarm.rings() => if !front.asked.load(Ordering::Relaxed) { return },
            }
        }
        let _ = connection.await;
    }
}

/// What the requests of one connection share. A count of holders for each connection: one for all would go from core
/// to core with every request.
#[derive(Debug)]
pub(crate) struct Front {
    pub(crate) node: Arc<Node>,
    admin: axum::Router,
    pub(crate) from: Client,
    /// Whether there was a request.
    asked: AtomicBool,
}

fn answer(front: Arc<Front>, request: Request<Incoming>) -> forward::Answering {
    front.asked.store(true, Ordering::Relaxed);
    let present = Present::of(request.headers());
    let target = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
    let config = front.node.config();
    let (head, most) = (target + present.bytes, config.limits.header_bytes);
    if head > most {
        let message = format!("the request's head is longer than {most} bytes; send fewer or shorter headers");
        let refused = refusal(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "headers_too_large", &message);
        return Box::pin(std::future::ready(Ok(refused)));
    }
    if !admin::is_admin(request.uri().path()) {
        return forward::handle(front, config, request, present);
    }
    let answer = front.admin.clone().oneshot(request.map(axum::body::Body::new));
    Box::pin(async { Ok(answer.await?.map(Body::Admin)) })
}

/// Reads the configuration again and takes over what can change while running.
///
/// # Errors
/// The reason; the configuration in force stays.
pub fn reload(node: &Arc<Node>) -> Result<Vec<String>, ConfigError> {
    let Some(reread) = &node.reread else {
        let why = "the router was started without --config".to_owned();
        return Err(ConfigError::Read { path: "(none)".to_owned(), why });
    };
    apply(node, reread.0()?)
}

/// Takes over another configuration: policy, router settings, timeouts, limits of new requests, probes, keys and
/// the fleet. Returns what changed.
///
/// # Errors
/// When it is wrong, or changes what needs a restart.
pub fn apply(node: &Arc<Node>, new: Config) -> Result<Vec<String>, ConfigError> {
    new.check()?;
    let old = node.config();
    for (key, same) in [
        ("role", old.role == new.role),
        ("listen", old.listen == new.listen),
        ("tls", old.tls == new.tls),
        ("shadow", old.shadow == new.shadow),
        ("explain", old.explain == new.explain),
        ("router.index_bytes", old.router.index_bytes == new.router.index_bytes),
        ("limits.threads", old.limits.threads == new.limits.threads),
        ("limits.connections", old.limits.connections == new.limits.connections),
        ("limits.requests", old.limits.requests == new.limits.requests),
        ("limits.bodies_bytes", old.limits.bodies_bytes == new.limits.bodies_bytes),
        ("timeouts.connect_ms", old.timeouts.connect_ms == new.timeouts.connect_ms),
        ("timeouts.keep_alive_ms", old.timeouts.keep_alive_ms == new.timeouts.keep_alive_ms),
        ("seed", old.seed == new.seed),
        ("tokenizer", old.tokenizer == new.tokenizer),
        ("limits.tokenizer_entries", old.limits.tokenizer_entries == new.limits.tokenizer_entries),
    ] {
        if !same {
            let advice = "it cannot change while the router runs; restart it or put the old value back".to_owned();
            return Err(ConfigError::Value { key: key.to_owned(), value: "different".to_owned(), advice });
        }
    }
    let keys = Keys::load(&new)?;
    let mut changes = Vec::new();
    if old.policy != new.policy {
        node.driver.set_policy(new.policy.clone());
        changes.push(format!("policy: {}", new.policy.name()));
    }
    if old.router != new.router {
        let router = RouterConfig { record_decisions: true, ..new.router.clone() };
        node.driver.change(|r| r.set_config(router));
        changes.push("router".to_owned());
    }
    node.set_keys(keys);
    let wanted: Vec<(ReplicaConfig, Kind)> = {
        let kind = if new.role == Role::Edge { Kind::Local } else { Kind::Remote };
        let peers = new.peers.iter().map(|peer| (peer_as_replica(peer), Kind::Peer));
        new.replicas.iter().map(|r| (r.clone(), kind)).chain(peers).collect()
    };
    let was = |r: &ReplicaConfig| old.replicas.contains(r) || old.peers.iter().any(|p| peer_as_replica(p) == *r);
    for gone in old.replicas.iter().cloned().chain(old.peers.iter().map(peer_as_replica)) {
        if !wanted.iter().any(|(r, _)| *r == gone)
            && let Some(upstream) = node.find(gone.name.as_deref().unwrap_or(&gone.url))
        {
            node.remove(&upstream);
            changes.push(format!("removed {}", upstream.name));
        }
    }
    for (replica, kind) in wanted {
        if !was(&replica) {
            match node.add(&replica, kind) {
                Ok(upstream) => changes.push(format!("added {}", upstream.name)),
                Err(error) => changes.push(format!("not added: {error}")),
            }
        }
    }
    if (&old.limits, &old.timeouts, &old.probes) != (&new.limits, &new.timeouts, &new.probes) {
        changes.push("limits, timeouts or probes".to_owned());
    }
    node.set_config(new);
    tracing::info!(?changes, "configuration taken over");
    Ok(changes)
}
