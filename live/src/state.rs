//! The state that all tasks of one router share.

use crate::config::{Config, ConfigError, ReplicaConfig, Role};
use crate::discovery::discovered::Discovered;
use crate::driver::Driver;
use crate::driver::clock::Clock;
use crate::kept_ids::KeptIds;
use crate::models::Models;
use crate::observe::capture::Capture;
use crate::observe::dashboard::Dashboard;
use crate::observe::metrics::Metrics;
use crate::observe::request_log::RequestLog;
use crate::observe::shadow::SharedStats;
use crate::observe::viewers::Viewers;
use crate::request::residency::ResidencyRules;
use crate::server::keys::Keys;
use crate::sharing::{HashSeed, Sharing};
use crate::snapshot::SeedMark;
use crate::tokens::bytes_per_token::BytesPerToken;
use crate::tokens::counter::Counter;
use crate::tuner::Tuner;
use crate::upstream::connect::{Connector, Endpoint};
use crate::upstream::replica::{Authorization, Upstream};
use crate::upstream::transport::transport;
use gorgo_core::fleet::{Health, Kind, Replica, ReplicaSpec};
use gorgo_core::policy::{Exclusion, PolicyConfig};
use gorgo_core::router::ReplicaEvent;
use gorgo_core::{MAX_REPLICAS, ReplicaId};
use http::HeaderValue;
use parking_lot::{Mutex, RwLock};
use rustc_hash::FxHashMap;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use thiserror::Error;
use tokio::sync::Semaphore;

/// How far the router's shutdown is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Not stopping.
    Serving,
    /// Not ready any more, but still accepting connections and requests.
    Settling,
    /// No new connections; open requests finish.
    Draining,
    /// The time to drain is over: open requests are ended.
    Ending,
}

/// Reads the configuration again: the file, with the command line's settings over it.
#[derive(Clone)]
pub struct ConfigSource(Arc<dyn Fn() -> Result<Config, ConfigError> + Send + Sync>);

impl std::fmt::Debug for ConfigSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ConfigSource(..)")
    }
}

impl ConfigSource {
    /// A source that calls `read` for each reload.
    pub fn new(read: impl Fn() -> Result<Config, ConfigError> + Send + Sync + 'static) -> Self {
        Self(Arc::new(read))
    }

    /// Reads the configuration.
    ///
    /// # Errors
    /// When it cannot be read or used.
    pub(crate) fn read(&self) -> Result<Config, ConfigError> {
        (self.0)()
    }
}

/// The state of one router.
#[derive(Debug)]
pub struct AppState {
    /// The driver of the core router.
    pub driver: Driver,
    /// Opens connections to replicas.
    pub connector: Connector,
    /// Metrics.
    pub metrics: Metrics,
    /// The latest requests.
    pub request_log: RequestLog,
    /// Learned bytes a token, per model.
    pub bytes_per_token: BytesPerToken,
    /// Counts prompts' tokens, if a tokenizer is configured.
    pub counter: Option<Arc<Counter>>,
    /// Which replicas serve which models.
    pub(crate) models: Models,
    /// Which engine made what clients name by an id.
    pub(crate) kept_ids: KeptIds,
    /// SharedStats of the shadow policies.
    pub shadows: SharedStats,
    /// The search for better weights, if it is enabled.
    pub(crate) tuner: Option<Tuner>,
    /// Timeline capture.
    pub capture: Capture,
    /// Traces for an OpenTelemetry collector.
    #[cfg(feature = "otel")]
    pub otel: crate::observe::otel::Otel,
    /// The page of operators, if the program has one.
    pub dashboard: OnceLock<Dashboard>,
    /// Who watches the overview.
    pub(crate) viewers: Viewers,
    /// Open connections of clients.
    pub(crate) connections: AtomicUsize,
    /// A permit for each further request.
    pub request_permits: Arc<Semaphore>,
    /// A permit for each further KiB of request bodies.
    pub body_kib: Arc<Semaphore>,
    /// Seed of request ids; random per process.
    pub seed: u64,
    /// Seed of the prompts' hashes; random per process unless configured.
    pub(crate) hash_seed: u64,
    /// The same, as snapshots name it.
    pub(crate) seed_mark: SeedMark,
    configured_seed: Option<HashSeed>,
    /// Whether the router still asks a peer for what it knows.
    pub(crate) warming: AtomicBool,
    /// Whether the next process of an upgrade has the port and the files by now.
    handed_over: AtomicBool,
    /// Whether the next process of an upgrade is being given what this one has.
    upgrading: AtomicBool,
    /// What other routers of the same replicas tell and are told, if there are any.
    pub(crate) sharing: Option<Sharing>,
    /// This router's id, random per process: how it is found in a loop of routers.
    pub router_id: HeaderValue,
    /// Where a reload reads the configuration; `None` without a file.
    pub config_source: Option<ConfigSource>,
    config: RwLock<Arc<Config>>,
    keys: RwLock<Arc<Keys>>,
    /// `[residency]` of the configuration in force.
    residency: RwLock<Arc<ResidencyRules>>,
    /// The `Authorization` header of all peers, which follows the keys in force.
    peer_authorization: Arc<RwLock<Option<HeaderValue>>>,
    phase: AtomicU8,
    /// The configuration that changes over the admin API are compared with: that of the start, or of the last reload.
    base: RwLock<Arc<Config>>,
    /// How each replica joined, by name.
    pub(crate) joined: Mutex<FxHashMap<String, (ReplicaConfig, Kind)>>,
    /// What the sources of discovery have said.
    pub(crate) discovered: Discovered,
    /// Held while changes are written to the file that keeps them.
    pub(crate) saving: Mutex<()>,
    /// Held while a replica is added or removed.
    pub(crate) fleet_lock: Mutex<()>,
}

/// What [`AppState::new`] takes.
pub(crate) struct AppParts {
    pub(crate) driver: Driver,
    pub(crate) connector: Connector,
    pub(crate) shadows: SharedStats,
    pub(crate) config: Config,
    pub(crate) base: Config,
    pub(crate) keys: Keys,
    pub(crate) counter: Option<Arc<Counter>>,
    pub(crate) config_source: Option<ConfigSource>,
    pub(crate) hash_seed: Option<HashSeed>,
    /// The random seed of the process before, for a router without a configured one.
    pub(crate) own_seed: Option<u64>,
}

/// The connection to another router of the same replicas.
fn peer(url: &str, authorization: &Arc<RwLock<Option<HeaderValue>>>) -> Option<Arc<Upstream>> {
    let endpoint = Endpoint::parse(url).ok()?;
    let mut upstream = Upstream::new(ReplicaId(0), endpoint.name(), Kind::Peer, None, endpoint);
    upstream.authorization = Authorization::Peers(Arc::clone(authorization));
    Some(Arc::new(upstream))
}

impl AppState {
    pub(crate) fn new(parts: AppParts) -> Self {
        use std::hash::BuildHasher;
        let AppParts { driver, connector, shadows, config, base, keys, counter, config_source, hash_seed, own_seed } =
            parts;
        let peer_authorization = Arc::new(RwLock::new(keys.for_peers().and_then(|key| bearer(key).ok())));
        let sharing = hash_seed.as_ref().filter(|_| !config.sharing.peers.is_empty()).map(|seed| {
            let peers =
                config.sharing.peers.iter().filter_map(|url| Some((url.clone(), peer(url, &peer_authorization)?)));
            Sharing::new(peers.collect(), seed.key_id.clone())
        });
        let own_seed = own_seed.unwrap_or_else(|| std::hash::RandomState::new().hash_one(std::process::id()));
        // The standard library keys its hasher at random per process.
        let seed = std::hash::RandomState::new().hash_one(std::process::id());
        Self {
            driver,
            connector,
            metrics: Metrics::default(),
            request_log: RequestLog::new(config.explain.rows),
            bytes_per_token: BytesPerToken::default(),
            models: Models::default(),
            kept_ids: KeptIds::default(),
            counter,
            shadows,
            tuner: Tuner::new(&config.tune, &config.policy, config.seed),
            capture: Capture::default(),
            #[cfg(feature = "otel")]
            otel: crate::observe::otel::Otel::default(),
            dashboard: OnceLock::new(),
            viewers: Viewers::default(),
            connections: AtomicUsize::new(0),
            request_permits: Arc::new(Semaphore::new(config.limits.requests)),
            body_kib: Arc::new(Semaphore::new(config.limits.bodies_bytes >> 10)),
            seed,
            hash_seed: hash_seed.as_ref().map_or(own_seed, |seed| seed.seed),
            seed_mark: match &hash_seed {
                Some(seed) => SeedMark::Key(seed.key_id.clone()),
                None => SeedMark::Own(own_seed),
            },
            configured_seed: hash_seed,
            warming: AtomicBool::new(false),
            handed_over: AtomicBool::new(false),
            upgrading: AtomicBool::new(false),
            sharing,
            router_id: HeaderValue::try_from(format!("{:016x}", std::hash::RandomState::new().hash_one("router")))
                .unwrap_or(HeaderValue::from_static("router")),
            config_source,
            residency: RwLock::new(Arc::new(ResidencyRules::new(&config.residency))),
            config: RwLock::new(Arc::new(config)),
            keys: RwLock::new(Arc::new(keys)),
            peer_authorization,
            phase: AtomicU8::new(0),
            base: RwLock::new(Arc::new(base)),
            joined: Mutex::default(),
            discovered: Discovered::default(),
            saving: Mutex::new(()),
            fleet_lock: Mutex::new(()),
        }
    }

    /// Replaces the policy, as an operator asked; the search for weights begins anew from it.
    pub(crate) fn set_policy(&self, policy: PolicyConfig) {
        match &self.tuner {
            Some(tuner) => tuner.set_policy(&self.driver, &policy),
            None => self.driver.set_policy(policy),
        }
    }

    /// The policy without what the tuner tries at the moment.
    pub(crate) fn policy(&self) -> PolicyConfig {
        self.tuner.as_ref().map_or_else(|| self.driver.policy(), Tuner::incumbent)
    }

    /// The configuration in force.
    pub fn config(&self) -> Arc<Config> {
        Arc::clone(&self.config.read())
    }

    /// The configuration that changes are compared with.
    pub(crate) fn base(&self) -> Arc<Config> {
        Arc::clone(&self.base.read())
    }

    pub(crate) fn set_base(&self, config: Config) {
        *self.base.write() = Arc::new(config);
    }

    pub(crate) fn set_config(&self, config: Config) {
        *self.residency.write() = Arc::new(ResidencyRules::new(&config.residency));
        *self.config.write() = Arc::new(config);
    }

    /// The keys in force.
    pub fn keys(&self) -> Arc<Keys> {
        Arc::clone(&self.keys.read())
    }

    /// The rules of residency in force.
    pub(crate) fn residency(&self) -> Arc<ResidencyRules> {
        Arc::clone(&self.residency.read())
    }

    /// Calls `f` with the keys in force; cheaper than [`Self::keys`].
    pub(crate) fn with_keys<T>(&self, f: impl FnOnce(&Keys) -> T) -> T {
        f(&self.keys.read())
    }

    /// Puts other keys in force, here and towards peers.
    pub(crate) fn set_keys(&self, keys: Keys) {
        *self.peer_authorization.write() = keys.for_peers().and_then(|key| bearer(key).ok());
        *self.keys.write() = Arc::new(keys);
    }

    /// The clock of the core's times.
    pub fn clock(&self) -> Clock {
        self.driver.clock()
    }

    /// How far the shutdown is.
    pub fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Relaxed) {
            0 => Phase::Serving,
            1 => Phase::Settling,
            2 => Phase::Draining,
            _ => Phase::Ending,
        }
    }

    pub(crate) fn set_phase(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Relaxed);
    }

    /// The configured seed of the prompts' hashes.
    pub(crate) fn sharing_seed(&self) -> Option<&HashSeed> {
        self.configured_seed.as_ref()
    }

    /// Whether the next process of an upgrade has the port and the files by now.
    pub(crate) fn is_handed_over(&self) -> bool {
        self.handed_over.load(Ordering::Relaxed)
    }

    /// Whether changes would be lost, since the next process of an upgrade has those before.
    pub(crate) fn is_upgrading(&self) -> bool {
        self.upgrading.load(Ordering::Relaxed)
    }

    /// The next process of an upgrade is given what this one has.
    pub(crate) fn begin_upgrade(&self) {
        self.upgrading.store(true, Ordering::Relaxed);
    }

    /// The upgrade failed: all is this process's again.
    pub(crate) fn take_back(&self) {
        self.upgrading.store(false, Ordering::Relaxed);
        self.handed_over.store(false, Ordering::Relaxed);
    }

    /// The port and the files belong to the next process from now on. Files that are being written are complete then.
    pub(crate) fn hand_over(&self) {
        let _held = self.saving.lock();
        self.handed_over.store(true, Ordering::Relaxed);
    }

    /// The replicas' names in order of their slots; a removed replica keeps its slot until another needs it.
    pub fn names(&self) -> Vec<String> {
        self.driver.read(|_, upstreams, _| upstreams.iter().map(|u| u.name.clone()).collect())
    }

    /// The replica of the fleet with this name or `host:port`.
    pub fn find(&self, name: &str) -> Option<Arc<Upstream>> {
        let wanted = Endpoint::parse(name).ok().map(|e| e.name());
        self.driver.read(|router, upstreams, _| {
            let here = upstreams.iter().zip(router.replicas()).filter(|(_, r)| !r.removed);
            let mut here = here.map(|(u, _)| u);
            here.find(|u| u.name == name || Some(u.endpoint.name()) == wanted).cloned()
        })
    }

    /// Whether a replica is in the fleet.
    pub(crate) fn has(&self, upstream: &Arc<Upstream>) -> bool {
        self.driver.read(|router, upstreams, _| {
            let slot = upstream.id.index();
            upstreams.get(slot).is_some_and(|u| Arc::ptr_eq(u, upstream)) && !router.replicas()[slot].removed
        })
    }

    /// Adds a replica. It is not probed yet: see `server::fleet::join`.
    ///
    /// # Errors
    /// One sentence when the URL is wrong, the name is taken or the fleet is full.
    pub(crate) fn add(&self, replica: &ReplicaConfig, kind: Kind) -> Result<Arc<Upstream>, AddError> {
        let _held = self.fleet_lock.lock();
        let endpoint = Endpoint::parse(&replica.url)
            .map_err(|advice| AddError::Wrong(format!("`{}` is no address of a replica; {advice}", replica.url)))?;
        if endpoint.leads_to(self.config().listen) {
            let why = format!("`{}` is the address this router listens on; name an engine", replica.url);
            return Err(AddError::Wrong(why));
        }
        let name = replica.name.clone().unwrap_or_else(|| endpoint.name());
        if let Some(there) = self.find(&name).or_else(|| self.find(&endpoint.name())) {
            return Err(AddError::Exists(there.name.clone()));
        }
        let authorization = match (&replica.api_key, kind) {
            (Some(key), _) => Authorization::Own(bearer(key.expose())?),
            (None, Kind::Peer) => Authorization::Peers(Arc::clone(&self.peer_authorization)),
            _ => Authorization::None,
        };
        let (ms_per_token, kv_tokens) = (replica.ms_per_token, replica.kv_tokens);
        let config = self.config();
        let keep_alive = Duration::from_millis(config.timeouts.keep_alive_ms);
        let transport = transport(&config, &endpoint, keep_alive);
        let (region, labels) = (replica.region.clone(), replica.labels.clone());
        let spec = ReplicaSpec {
            name: name.clone(),
            kind,
            ms_per_token,
            kv_tokens,
            transport,
            region: region.clone(),
            labels,
        };
        let added = self.driver.add(&spec, |id| {
            let mut upstream = Upstream::new(id, name, kind, region, endpoint);
            upstream.authorization = authorization;
            upstream
        });
        let (upstream, old) = added.ok_or_else(|| {
            let why =
                format!("the fleet has {MAX_REPLICAS} replicas, removed ones that still answer included; remove one");
            AddError::Wrong(why)
        })?;
        if let Some(old) = old.filter(|old| !self.names().contains(&old.name)) {
            self.metrics.forget(&old.name);
        }
        if let Some(sharing) = &self.sharing {
            sharing.forget(&self.driver, upstream.id);
        }
        self.models.joined(&upstream, &replica.models);
        Ok(upstream)
    }

    /// Removes a replica from the fleet: requests that wait at it are dispatched to others, those that run finish.
    pub fn remove(&self, upstream: &Upstream) {
        let _held = self.fleet_lock.lock();
        self.joined.lock().remove(&upstream.name);
        upstream.stop();
        self.models.left(upstream);
        self.driver.handle_for(upstream, ReplicaEvent::Removed { replica: upstream.id });
    }

    /// The number of replicas that are known to be usable now, and of all replicas. With probes, one that was not probed yet
    /// does not count.
    pub fn usable(&self) -> (usize, usize) {
        let has_probes = self.config().probes.period_ms > 0;
        self.driver.read(|router, _, now| {
            let gates = &router.config().gates;
            let usable = |r: &&Replica| {
                let is_known = !has_probes || r.health != Health::Unknown;
                is_known && !matches!(r.closed(now, gates), Some(Exclusion::Unhealthy | Exclusion::Draining))
            };
            let all = router.replicas().iter().filter(|r| !r.removed);
            (all.clone().filter(usable).count(), all.count())
        })
    }

    /// Proxy or edge.
    pub fn role(&self) -> Role {
        self.config().role
    }
}

/// Why a replica was not added.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum AddError {
    /// A replica with this name or address is in the fleet.
    #[error("`{0}` is in the fleet already")]
    Exists(String),
    /// One sentence on what is wrong.
    #[error("{0}")]
    Wrong(String),
}

fn bearer(key: &str) -> Result<HeaderValue, AddError> {
    let value = HeaderValue::try_from(format!("Bearer {key}"));
    let mut value = value.map_err(|_| AddError::Wrong("the API key holds characters no header can".to_owned()))?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{PeerConfig, Security};
    use http::header::{AUTHORIZATION, HeaderMap};
    use http::uri::PathAndQuery;

    #[tokio::test]
    async fn peers_are_shown_the_key_in_force() {
        let mut config = Config::parse("role = \"edge\"\nreplicas = [{url = \"http://127.0.0.1:9\"}]").unwrap();
        config.peers = vec![PeerConfig {
            url: "http://127.0.0.1:10".to_owned(),
            name: Some("p".to_owned()),
            region: None,
            labels: Vec::new(),
        }];
        config.security = Security { admin_key: Some("old".into()), ..Security::default() };
        let state = crate::start(config.clone(), None, crate::tcp()).unwrap();
        let peer = state.find("p").unwrap();
        let shown = || {
            let request = peer.request(http::Method::GET, &PathAndQuery::from_static("/"), HeaderMap::new(), ());
            request.headers().get(AUTHORIZATION).and_then(|key| key.to_str().ok().map(str::to_owned))
        };
        assert_eq!(shown().as_deref(), Some("Bearer old"));
        config.security.admin_key = Some("new".into());
        crate::server::reload::apply(&state, config.clone()).unwrap();
        assert_eq!(shown().as_deref(), Some("Bearer new"));
        config.security.peer_key = Some("peers".into());
        crate::server::reload::apply(&state, config).unwrap();
        assert_eq!(shown().as_deref(), Some("Bearer peers"), "an edge does not show others the key that rules it");
    }
}
