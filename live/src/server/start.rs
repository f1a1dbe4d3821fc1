//! Builds a router from its configuration and starts its background tasks.

use crate::config::{Config, ConfigError, LogFile};
use crate::discovery::discovered::Sets;
use crate::discovery::{DiscoveryError, watch};
use crate::driver::Driver;
use crate::driver::clock::Clock;
use crate::driver::observers::{DecisionLine, Observers};
use crate::kv_events;
use crate::observe::access_log::{self, AccessEntry};
use crate::observe::changes::Changes;
use crate::observe::line_log::LineLog;
use crate::observe::shadow::{self, SharedStats};
use crate::server::fleet;
use crate::server::keys::Keys;
use crate::server::saved::{self, Saved};
use crate::server::tls::{self, TlsError};
use crate::sharing::{self, HashSeed};
use crate::signals::digest;
use crate::snapshot::{self, Kept, SeedMark};
use crate::state::{AppParts, AppState, ConfigSource};
use crate::supervise;
use crate::tokens::counter::{Counter, TokenizerError};
use crate::upstream::connect::{Connector, Dial};
use crate::upstream::transport::transport;
use gorgo_core::router::{AdminEvent, ReplicaEvent, RouterConfig};
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Weak};
use std::time::Duration;
use thiserror::Error;
use tokio::sync::mpsc;

/// Why a router did not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The certificates cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A replica cannot be added.
    #[error("{0}")]
    Replica(String),
    /// An environment variable cannot be used.
    #[error("{0}")]
    Environment(String),
    /// A log cannot be written.
    #[error("cannot write the {what} `{path}`: {why}; choose another with {key}")]
    Log {
        /// Which log.
        what: &'static str,
        /// The setting that names the file.
        key: &'static str,
        /// The file.
        path: String,
        /// The system's reason.
        why: io::Error,
    },
    /// No worker threads.
    #[error("cannot start threads: {0}; lower limits.threads")]
    Threads(io::Error),
    /// A file for the next start is another router's, or cannot be written.
    #[error("{0}")]
    Kept(String),
    /// A source of discovery cannot be asked.
    #[error("discovery: {0}")]
    Discovery(#[from] DiscoveryError),
    /// The process before was not taken over.
    #[error("{0}")]
    Upgrade(String),
    /// Other programs cannot find the router.
    #[error("{0}")]
    Presence(String),
    /// No signal handlers.
    #[error("cannot handle signals: {0}")]
    Signals(io::Error),
    /// The address cannot be listened on.
    #[error("cannot listen on {listen}: {why}; choose another address with --listen")]
    Listen {
        /// The address.
        listen: SocketAddr,
        /// The system's reason.
        why: io::Error,
    },
}

/// Builds a router: reads keys and certificates, starts the background tasks and adds the configured replicas. It
/// accepts no requests before [`serve`](super::serve::serve).
///
/// # Errors
/// See [`StartError`].
pub fn start(config: Config, source: Option<ConfigSource>, dial: Dial) -> Result<Arc<AppState>, StartError> {
    start_after(config, source, dial, None)
}

/// Reads the files that a configuration names (keys, certificates, `state`, tokenizer) as a start does, and starts nothing.
///
/// # Errors
/// What a start would fail with.
pub fn check_files(config: &Config) -> Result<(), StartError> {
    let mut config = config.clone();
    config.read_engine_keys()?;
    config.discovery.engine_key()?;
    if let Some(path) = &config.state {
        Saved::read(path)?.apply(&mut config);
    }
    config.check()?;
    Keys::load(&config)?;
    HashSeed::load(&config)?;
    tls::shown(&config.tls)?;
    tls::client_config(&config.tls)?;
    counter(&config)?;
    Ok(())
}

fn counter(config: &Config) -> Result<Option<Arc<Counter>>, ConfigError> {
    let Some(path) = &config.tokenizer else { return Ok(None) };
    let unread = |why: TokenizerError| ConfigError::Read { path: path.display().to_string(), why: why.to_string() };
    Ok(Some(Arc::new(Counter::load(path, config.limits.tokenizer_entries).map_err(unread)?)))
}

/// What the process before in an upgrade gave to go on with.
pub(crate) struct Inherited {
    /// Changes over the admin API.
    pub(crate) saved: Saved,
    /// What it knew, or a sentence why that cannot be read.
    pub(crate) kept: Result<Kept, String>,
    /// The endpoints of each source of discovery.
    pub(crate) discovered: Sets,
}

/// As [`start`], in an upgrade with what the process before gave.
///
/// # Errors
/// See [`StartError`].
pub(crate) fn start_after(
    config: Config,
    source: Option<ConfigSource>,
    dial: Dial,
    given: Option<Inherited>,
) -> Result<Arc<AppState>, StartError> {
    let mut config = config;
    config.read_engine_keys()?;
    let base = config.clone();
    let (before, kept, discovered, from) = match given {
        Some(Inherited { saved, kept, discovered }) => {
            let unread = |why| tracing::warn!("not using the state of the previous process: {why}; starting cold");
            (saved, kept.map_err(unread).ok(), discovered, "the process before")
        }
        None => {
            let before = config.state.as_deref().map_or_else(|| Ok(Saved::default()), Saved::read)?;
            let kept = snapshot::file::read(&config);
            let discovered = kept.as_ref().map_or_else(Sets::default, |kept| kept.discovered.clone());
            (before, kept, discovered, "the snapshot")
        }
    };
    before.apply(&mut config);
    config.check()?;
    let keys = Keys::load(&config)?;
    let hash_seed = HashSeed::load(&config)?;
    let kept = kept.map(|mut kept| {
        if let Err(why) = kept.match_seed(hash_seed.as_ref()) {
            tracing::warn!("{from}: {why}");
        }
        kept
    });
    let own_seed = kept.as_ref().and_then(|kept| if let SeedMark::Own(seed) = kept.seed { Some(seed) } else { None });
    let counter = counter(&config)?;
    let connect_limit = Duration::from_millis(config.timeouts.connect_ms);
    let connector = Connector::new(dial, tls::client_config(&config.tls)?, connect_limit);
    let shadows = SharedStats::default();
    let clock = Clock::start();
    let observers = observers(&config, &shadows, clock)?;
    let recorded = RouterConfig { index_bytes: index_bytes(&config), ..config.core_router() };
    let driver = Driver::new(recorded, config.policy.clone(), config.seed, clock, observers);
    let replicas = before.fleet(&config);
    let driver = if config.sharing.peers.is_empty() { driver } else { driver.sharing() };
    let parts = AppParts {
        driver,
        connector,
        shadows,
        config,
        base,
        keys,
        counter,
        config_source: source,
        hash_seed,
        own_seed,
    };
    let state = Arc::new(AppState::new(parts));
    digest::start(&state);
    let timer = Arc::clone(&state);
    // Without its timer the router would never end a queued request or close a breaker.
    tokio::spawn(supervise::essential("router timer", async move { timer.driver.run_timer().await }));
    tokio::spawn(supervise::logged("idle connections", close_idle(Arc::downgrade(&state))));
    before.restore(&state);
    for (replica, kind) in &replicas {
        fleet::join(&state, replica, *kind).map_err(|error| StartError::Replica(error.to_string()))?;
    }
    let sources = watch::begin(&state, discovered, from)?;
    kv_events::warn_of_unknown_names(&state);
    if let Some(rates) = before.rates() {
        state.driver.handle(AdminEvent::RatesRestored(Box::new(rates.clone())));
    }
    if let Some(kept) = kept {
        kept.restore(&state, from);
    }
    // Not before: an answer may remove replicas of which something is restored.
    watch::start(&state, sources);
    snapshot::file::start(&state);
    sharing::start(&state);
    if from != "the process before" {
        snapshot::peer::start(&state);
    }
    if state.config().state.is_some() {
        tokio::spawn(supervise::logged("learned rates", keep_rates(Arc::downgrade(&state))));
    }
    Ok(state)
}

/// Writes the state file every minute, so that a crash costs at most a minute of learning.
async fn keep_rates(state: Weak<AppState>) {
    loop {
        tokio::time::sleep(RATES_KEPT).await;
        let Some(state) = state.upgrade() else { return };
        saved::save(&state);
    }
}

/// How often learned rates are written to the state file.
const RATES_KEPT: Duration = Duration::from_secs(60);

/// Starts the tasks that observe: shadow policies, the decision log and the access log, each if configured, and the log
/// of changes.
fn observers(config: &Config, shadows: &SharedStats, clock: Clock) -> Result<Observers, StartError> {
    let mut reopen = Vec::new();
    let shadow = (!config.shadow.policies.is_empty()).then(|| {
        let (sender, events) = mpsc::channel(65_536);
        let (policies, seed, figures) = (config.shadow.policies.clone(), config.seed, Arc::clone(shadows));
        let router = RouterConfig { index_bytes: config.shadow.index_bytes, ..config.core_router() };
        let run = async move { shadow::run(&policies, &router, seed, events, figures).await };
        tokio::spawn(supervise::logged("shadow policies", run));
        sender
    });
    let log = match &config.explain.log {
        Some(log) => {
            let (file, flag) = open_log("decision log", "explain.log.path", log)?;
            reopen.push(flag);
            let (sender, records) = mpsc::channel(4_096);
            let run = file.run(records, DecisionLine::text);
            tokio::spawn(supervise::logged("decision log", run));
            Some(sender)
        }
        None => None,
    };
    let access = match &config.access_log {
        Some(log) => {
            let (file, flag) = open_log("access log", "access_log.path", log)?;
            reopen.push(flag);
            let (sender, entries) = mpsc::channel(4_096);
            let run = file
                .run(entries, move |entry: &AccessEntry| access_log::line(entry, &clock.rfc3339(entry.row.arrived)));
            tokio::spawn(supervise::logged("access log", run));
            Some(sender)
        }
        None => None,
    };
    let mut observers = Observers::new(config.explain.decisions, log, shadow);
    observers.outcomes = config.explain.outcomes || config.router.explore > 0.0;
    (observers.changes, observers.access, observers.reopen) = (Some(Changes::start()), access, reopen);
    Ok(observers)
}

/// Opens a log file; returns it with the flag that makes it reopen the file.
fn open_log(what: &'static str, key: &'static str, log: &LogFile) -> Result<(LineLog, Arc<AtomicBool>), StartError> {
    let flag = Arc::new(AtomicBool::new(false));
    let file = LineLog::open(what, log, Arc::clone(&flag));
    let file = file.map_err(|why| StartError::Log { what, key, path: log.path.display().to_string(), why })?;
    Ok((file, flag))
}

/// Bytes of `router.index_bytes` for the index itself. The rest is for request rows, decisions, connection buffers and
/// what an allocator cannot return at once, so that the process as a whole stays within the setting. At least a quarter
/// is the index's.
fn index_bytes(config: &Config) -> usize {
    // A row; a decision about a few replicas. The process was measured to hold 35 MB more than the index by its own
    // count after 64 connections sent 80 kB prompts, and up to 40 MB while they did: buffers, and an allocator's rest.
    const ROW: usize = 400;
    const DECISION: usize = 1_200;
    const BUFFERS: usize = 36 << 20;
    let all = config.router.index_bytes;
    let kept = config.explain.rows * ROW + config.explain.decisions * DECISION;
    all.saturating_sub(kept + BUFFERS).max(all / 4)
}

/// Closes idle connections to replicas, learns how long each replica keeps them, and tells the core that and how far long
/// requests are packed; until the router is dropped.
async fn close_idle(state: Weak<AppState>) {
    loop {
        let Some(config) = state.upgrade().map(|state| state.config()) else { return };
        let keep_alive = Duration::from_millis(config.timeouts.keep_alive_ms);
        let most = Duration::from_millis(config.upstream.max_keep_alive_ms).max(keep_alive);
        let period = (keep_alive / 4).max(Duration::from_millis(100));
        tokio::time::sleep(period).await;
        let Some(state) = state.upgrade() else { return };
        let fleet: Vec<_> = state.driver.read(|router, upstreams, _| {
            let told = router.replicas().iter().map(|replica| (!replica.removed).then_some(replica.spec.transport));
            upstreams.iter().cloned().zip(told).collect()
        });
        for (upstream, told) in &fleet {
            upstream.pool.close_expired(keep_alive, most, period);
            let usable = upstream.pool.usable(keep_alive);
            let packs = config.upstream.compress_to_peers && upstream.reads_zstd();
            let compression = if packs { state.compression.expected() } else { 1.0 };
            let is_shared = upstream.multiplexed.is_open();
            let transport = transport(&config, &upstream.endpoint, usable, compression, is_shared);
            if told.is_some_and(|told| told != transport) {
                let learned = ReplicaEvent::TransportLearned { replica: upstream.id, transport };
                state.driver.handle_for(upstream, learned);
            }
        }
    }
}
