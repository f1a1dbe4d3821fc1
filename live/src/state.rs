//! The state that all tasks of one router share.

use crate::config::{Config, ReplicaConfig};
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
use crate::request::elsewhere::LookUps;
use crate::request::residency::ResidencyRules;
use crate::server::keys::Keys;
use crate::server::tls;
use crate::sharing::{HashSeed, Sharing};
use crate::signals::digest::counts::DigestCounts;
use crate::snapshot::SeedMark;
use crate::tokens::bytes_per_token::BytesPerToken;
use crate::tokens::counter::Counter;
use crate::tuner::Tuner;
use crate::upstream::absent_paths::AbsentPaths;
use crate::upstream::compression::Compression;
use crate::upstream::connect::{Connector, Endpoint};
use crate::upstream::replica::{Authorization, Upstream};
use gorgo_core::ReplicaId;
use gorgo_core::fleet::Kind;
use http::HeaderValue;
use parking_lot::{Mutex, RwLock};
use rustc_hash::FxHashMap;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize};
use std::sync::{Arc, OnceLock};
use tokio::sync::Semaphore;

mod by_operator;
mod config_source;
mod in_force;
mod members;
mod phase;
use by_operator::ByOperator;
pub use config_source::ConfigSource;
pub(crate) use members::AddError;
use members::bearer;
pub(crate) use phase::Phase;

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
    /// Paths that some engine does not have.
    pub(crate) absent: AbsentPaths,
    /// Which engine made what clients name by an id.
    pub(crate) kept_ids: KeptIds,
    /// How often another engine is asked for what one does not have.
    pub(crate) look_ups: LookUps,
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
    /// Most of them: what `limits.connections` and the process's descriptors allow.
    pub(crate) most_connections: AtomicUsize,
    /// A permit for each further request.
    pub request_permits: Arc<Semaphore>,
    /// A permit for each further KiB of request bodies.
    pub body_kib: Arc<Semaphore>,
    /// How far bodies are packed for peers.
    pub(crate) compression: Compression,
    /// Seed of request ids; random per process.
    pub seed: u64,
    /// Seed of the prompts' hashes; random per process unless configured.
    pub(crate) hash_seed: u64,
    /// The same, as snapshots name it.
    pub(crate) seed_mark: SeedMark,
    configured_seed: Option<HashSeed>,
    /// Whether the router still requests a snapshot from its peers.
    pub(crate) warming: AtomicBool,
    /// Whether the next process of an upgrade has the port and the files by now.
    handed_over: AtomicBool,
    /// Whether the next process of an upgrade is being given what this one has.
    upgrading: AtomicBool,
    /// The exchange with other routers of the same replicas; `None` without `[sharing]`.
    pub(crate) sharing: Option<Sharing>,
    /// Counters of the digests that this edge sent to its peers.
    pub(crate) digests: DigestCounts,
    /// This router's id, random per process: how it is found in a loop of routers.
    pub router_id: HeaderValue,
    /// Where a reload reads the configuration; `None` without a file.
    pub config_source: Option<ConfigSource>,
    config: RwLock<Arc<Config>>,
    keys: RwLock<Arc<Keys>>,
    /// The certificates that clients are shown; `None` for plain HTTP.
    certificates: RwLock<Option<tls::Shown>>,
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
    /// What operators said of replicas.
    pub(crate) by_operator: ByOperator,
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
    let upstream = Upstream::new(ReplicaId(0), endpoint.name(), Kind::Peer, endpoint);
    upstream.authorize(Authorization::Peers(Arc::clone(authorization)));
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
            absent: AbsentPaths::default(),
            kept_ids: KeptIds::default(),
            look_ups: LookUps::default(),
            counter,
            shadows,
            tuner: Tuner::new(&config.tune, &config.policy, config.seed),
            capture: Capture::default(),
            #[cfg(feature = "otel")]
            otel: crate::observe::otel::Otel::default(),
            dashboard: OnceLock::new(),
            viewers: Viewers::default(),
            connections: AtomicUsize::new(0),
            most_connections: AtomicUsize::new(usize::MAX),
            request_permits: Arc::new(Semaphore::new(config.limits.requests)),
            body_kib: Arc::new(Semaphore::new(config.limits.bodies_bytes >> 10)),
            compression: Compression::default(),
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
            digests: DigestCounts::default(),
            router_id: HeaderValue::try_from(format!("{:016x}", std::hash::RandomState::new().hash_one("router")))
                .unwrap_or(HeaderValue::from_static("router")),
            config_source,
            residency: RwLock::new(Arc::new(ResidencyRules::new(&config.residency))),
            config: RwLock::new(Arc::new(config)),
            keys: RwLock::new(Arc::new(keys)),
            certificates: RwLock::default(),
            peer_authorization,
            phase: AtomicU8::new(0),
            base: RwLock::new(Arc::new(base)),
            joined: Mutex::default(),
            discovered: Discovered::default(),
            by_operator: ByOperator::default(),
            saving: Mutex::new(()),
            fleet_lock: Mutex::new(()),
        }
    }

    /// The clock of the core's times.
    pub fn clock(&self) -> Clock {
        self.driver.clock()
    }

    /// The configured seed of the prompts' hashes.
    pub(crate) fn sharing_seed(&self) -> Option<&HashSeed> {
        self.configured_seed.as_ref()
    }
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
