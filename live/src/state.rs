//! One router process: what its tasks share.

use crate::config::{Config, Role};
use crate::driver::Driver;
use crate::driver::clock::Clock;
use crate::observe::capture::Capture;
use crate::observe::metrics::Metrics;
use crate::observe::request_log::Table;
use crate::observe::shadow::Figures;
use crate::tokens::Counter;
use crate::tokens::bytes_per_token::Ratios;
use crate::upstream::connect::{Connector, Endpoint};
use crate::upstream::replica::Upstream;
use gorgo_core::MAX_REPLICAS;
use gorgo_core::fleet::{Kind, ReplicaSpec};
use gorgo_core::router::Event;
use http::HeaderValue;
use parking_lot::{Mutex, RwLock};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use subtle::ConstantTimeEq;
use tokio::sync::Semaphore;

/// Whether the router takes requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// It does.
    Serving,
    /// It was told to stop: not ready, but still answering.
    Settling,
    /// No new connections; open requests finish.
    Draining,
    /// Their time is up: what is open ends.
    Ending,
}

/// The keys in force. Never logged: there is no way to print them.
#[derive(Clone, Default)]
pub struct Keys {
    /// What clients show.
    pub api: Option<String>,
    /// What operators and peers show.
    pub admin: Option<String>,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keys(..)")
    }
}

impl Keys {
    /// The keys of a configuration, their files read.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn load(config: &Config) -> Result<Self, crate::config::ConfigError> {
        let one = |inline: &Option<String>, file: &Option<std::path::PathBuf>| match file {
            Some(path) => Config::secret(path).map(Some),
            None => Ok(inline.clone()),
        };
        let security = &config.security;
        Ok(Self {
            api: one(&security.api_key, &security.api_key_file)?,
            admin: one(&security.admin_key, &security.admin_key_file)?,
        })
    }

    /// Whether a client showing `key` may send requests. The admin key may do what the API key may.
    pub fn may_ask(&self, key: Option<&[u8]>) -> bool {
        self.api.is_none() || matches(self.api.as_deref(), key) || matches(self.admin.as_deref(), key)
    }

    /// Whether it may administrate.
    pub fn may_administrate(&self, key: Option<&[u8]>) -> bool {
        match (&self.admin, &self.api) {
            (Some(_), _) => matches(self.admin.as_deref(), key),
            // With an API key only, nobody who lacks it may change anything.
            (None, Some(_)) => matches(self.api.as_deref(), key),
            (None, None) => true,
        }
    }
}

fn matches(known: Option<&str>, shown: Option<&[u8]>) -> bool {
    match (known, shown) {
        (Some(known), Some(shown)) => bool::from(known.as_bytes().ct_eq(shown)),
        _ => false,
    }
}

/// Reads the configuration again: the file, with what the command line lays over it.
#[derive(Clone)]
pub struct Reread(pub Arc<dyn Fn() -> Result<Config, crate::config::ConfigError> + Send + Sync>);

impl std::fmt::Debug for Reread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Reread(..)")
    }
}

/// The shared state. See the module page.
#[derive(Debug)]
pub struct Node {
    /// The core router's driver.
    pub driver: Driver,
    /// Opens connections to replicas.
    pub connector: Connector,
    /// Metrics.
    pub metrics: Metrics,
    /// Rows of requests.
    pub table: Table,
    /// Bytes a token.
    pub ratios: Ratios,
    /// Counts tokens, if a tokenizer is configured.
    pub counter: Option<Arc<Counter>>,
    /// What shadow policies would have done.
    pub shadows: Figures,
    /// Timeline capture.
    pub capture: Capture,
    /// Traces for a collector.
    #[cfg(feature = "otel")]
    pub otel: crate::observe::otel::Otel,
    /// Requests that may still be let in.
    pub slots: Arc<Semaphore>,
    /// KiB of bodies that may still be read.
    pub body_kib: Arc<Semaphore>,
    /// Keys the hashes of prompts; random per process.
    pub seed: u64,
    /// Reads the configuration again, for reloads.
    pub reread: Option<Reread>,
    config: RwLock<Arc<Config>>,
    keys: RwLock<Arc<Keys>>,
    phase: AtomicU8,
    /// Adding and removing replicas is one at a time.
    pub(crate) fleet_lock: Mutex<()>,
}

/// What a node is made of.
pub(crate) struct Parts {
    pub(crate) driver: Driver,
    pub(crate) connector: Connector,
    pub(crate) shadows: Figures,
    pub(crate) config: Config,
    pub(crate) keys: Keys,
    pub(crate) counter: Option<Arc<Counter>>,
    pub(crate) reread: Option<Reread>,
}

impl Node {
    pub(crate) fn new(parts: Parts) -> Self {
        use std::hash::BuildHasher;
        let Parts { driver, connector, shadows, config, keys, counter, reread } = parts;
        Self {
            driver,
            connector,
            metrics: Metrics::default(),
            table: Table::new(config.explain.rows),
            ratios: Ratios::default(),
            counter,
            shadows,
            capture: Capture::default(),
            #[cfg(feature = "otel")]
            otel: crate::observe::otel::Otel::default(),
            slots: Arc::new(Semaphore::new(config.limits.requests)),
            body_kib: Arc::new(Semaphore::new(config.limits.bodies_bytes >> 10)),
            // The standard library's hasher is keyed at random per process; that is all that is wanted here.
            seed: std::hash::RandomState::new().hash_one(std::process::id()),
            reread,
            config: RwLock::new(Arc::new(config)),
            keys: RwLock::new(Arc::new(keys)),
            phase: AtomicU8::new(0),
            fleet_lock: Mutex::new(()),
        }
    }

    /// The configuration in force.
    pub fn config(&self) -> Arc<Config> {
        Arc::clone(&self.config.read())
    }

    pub(crate) fn set_config(&self, config: Config) {
        *self.config.write() = Arc::new(config);
    }

    /// The keys in force.
    pub fn keys(&self) -> Arc<Keys> {
        Arc::clone(&self.keys.read())
    }

    /// Looks at the keys in force, without holding on to them.
    pub(crate) fn with_keys<T>(&self, look: impl FnOnce(&Keys) -> T) -> T {
        look(&self.keys.read())
    }

    pub(crate) fn set_keys(&self, keys: Keys) {
        *self.keys.write() = Arc::new(keys);
    }

    /// The clock.
    pub fn clock(&self) -> Clock {
        self.driver.clock()
    }

    /// Whether it takes requests.
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

    /// Names of all replicas by slot, removed ones included until another has their slot.
    pub fn names(&self) -> Vec<String> {
        self.driver.read(|_, upstreams, _| upstreams.iter().map(|u| u.name.clone()).collect())
    }

    /// The replica of this name or `host:port` that is in the fleet.
    pub fn find(&self, name: &str) -> Option<Arc<Upstream>> {
        let wanted = Endpoint::parse(name).ok().map(|e| e.name());
        self.driver.read(|router, upstreams, _| {
            let here = upstreams.iter().zip(router.replicas()).filter(|(_, r)| !r.removed);
            let mut here = here.map(|(u, _)| u);
            here.find(|u| u.name == name || Some(u.endpoint.name()) == wanted).cloned()
        })
    }

    /// Adds a replica and begins to watch it.
    ///
    /// # Errors
    /// One sentence when the URL is wrong, the name is taken or the fleet is full.
    pub fn add(
        self: &Arc<Self>,
        replica: &crate::config::ReplicaConfig,
        kind: Kind,
    ) -> Result<Arc<Upstream>, AddError> {
        let _one_at_a_time = self.fleet_lock.lock();
        let endpoint = Endpoint::parse(&replica.url)
            .map_err(|advice| AddError::Wrong(format!("`{}` is no address of a replica; {advice}", replica.url)))?;
        let name = replica.name.clone().unwrap_or_else(|| endpoint.name());
        if let Some(there) = self.find(&name).or_else(|| self.find(&endpoint.name())) {
            return Err(AddError::Exists(there.name.clone()));
        }
        let authorization = match (&replica.api_key, kind, &self.keys().admin) {
            (Some(key), ..) => Some(bearer(key)?),
            (None, Kind::Peer, Some(admin)) => Some(bearer(admin)?),
            _ => None,
        };
        let spec =
            ReplicaSpec { name: name.clone(), kind, ms_per_token: replica.ms_per_token, kv_tokens: replica.kv_tokens };
        let region = replica.region.clone();
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
        crate::signals::probe::watch(self, &upstream);
        Ok(upstream)
    }

    /// Takes a replica out of the fleet: what waits there goes elsewhere, what runs there may finish.
    pub fn remove(&self, upstream: &Upstream) {
        let _one_at_a_time = self.fleet_lock.lock();
        upstream.stop();
        self.driver.tell_of(upstream, Event::ReplicaRemoved { replica: upstream.id });
    }

    /// Whether some replica can be used now.
    pub fn usable(&self) -> (usize, usize) {
        self.driver.read(|router, _, now| {
            let gates = &router.config().gates;
            let here = router.replicas().iter().filter(|r| !r.removed);
            let usable = here.clone().filter(|r| {
                !matches!(
                    r.closed(now, gates),
                    Some(gorgo_core::policy::Exclusion::Unhealthy | gorgo_core::policy::Exclusion::Draining)
                )
            });
            (usable.count(), here.count())
        })
    }

    /// Proxy or edge.
    pub fn role(&self) -> Role {
        self.config().role
    }
}

/// Why a replica was not added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AddError {
    /// It is there already, under this name.
    Exists(String),
    /// It cannot be, for this reason.
    Wrong(String),
}

impl std::fmt::Display for AddError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exists(name) => write!(f, "`{name}` is in the fleet already"),
            Self::Wrong(why) => f.write_str(why),
        }
    }
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

    #[test]
    fn keys_open_what_they_should_and_nothing_else() {
        let keys = |api: &str, admin: &str| Keys {
            api: (!api.is_empty()).then(|| api.to_owned()),
            admin: (!admin.is_empty()).then(|| admin.to_owned()),
        };
        let both = keys("a", "b");
        assert!(
            both.may_ask(Some(b"a")) && both.may_ask(Some(b"b")) && !both.may_ask(Some(b"c")) && !both.may_ask(None)
        );
        assert!(
            both.may_administrate(Some(b"b")) && !both.may_administrate(Some(b"a")) && !both.may_administrate(None)
        );
        assert!(keys("", "").may_ask(None) && keys("", "").may_administrate(None));
        assert!(keys("", "b").may_ask(None) && !keys("", "b").may_administrate(None));
        assert!(!keys("a", "").may_administrate(None) && keys("a", "").may_administrate(Some(b"a")));
        assert_eq!(format!("{both:?}"), "Keys(..)");
    }
}
