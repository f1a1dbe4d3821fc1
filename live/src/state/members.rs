//! The replicas of the fleet: found by name, added, removed, and how many are usable.

use super::AppState;
use crate::config::ReplicaConfig;
use crate::config::replica_name::{check_name, shown_name};
use crate::observe::changes::Change;
use crate::upstream::connect::{Endpoint, shown_url};
use crate::upstream::replica::{Authorization, Upstream};
use crate::upstream::transport::transport;
use gorgo_core::MAX_REPLICAS;
use gorgo_core::fleet::{Kind, Replica, ReplicaSpec};
use gorgo_core::router::ReplicaEvent;
use http::HeaderValue;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;

impl AppState {
    /// The replicas' names in order of their slots; a removed replica keeps its slot until another needs it.
    pub fn names(&self) -> Vec<String> {
        self.driver.read(|_, upstreams, _| upstreams.iter().map(|u| u.name.clone()).collect())
    }

    /// The replica of the fleet with this name or `host:port`.
    pub fn find(&self, name: &str) -> Option<Arc<Upstream>> {
        // Hosts are the same in upper and lower case.
        let wanted = Endpoint::parse(name).ok();
        let is_at = |u: &Upstream| {
            wanted.as_ref().is_some_and(|at| at.authority == u.endpoint.authority && at.base == u.endpoint.base)
        };
        self.driver.read(|router, upstreams, _| {
            let here = upstreams.iter().zip(router.replicas()).filter(|(_, r)| !r.removed);
            let mut here = here.map(|(u, _)| u);
            here.find(|u| u.name == name || is_at(u)).cloned()
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
        let endpoint = Endpoint::parse(&replica.url).map_err(|advice| {
            AddError::Wrong(format!("`{}` is no address of a replica; {advice}", shown_url(&replica.url)))
        })?;
        if endpoint.leads_to(self.config().listen) {
            let why = format!("`{}` is the address this router listens on; name an engine", replica.url);
            return Err(AddError::Wrong(why));
        }
        let name = replica.name.clone().unwrap_or_else(|| endpoint.name());
        if let Err(advice) = check_name(&name) {
            return Err(AddError::Wrong(format!("`name` is {}; {advice}", shown_name(&name))));
        }
        if let Some(there) = self.find(&name).or_else(|| self.find(&endpoint.name())) {
            return Err(AddError::Exists(there.name.clone()));
        }
        let authorization = self.authorization(replica, kind)?;
        let config = self.config();
        let keep_alive = Duration::from_millis(config.timeouts.keep_alive_ms);
        let transport = transport(&config, &endpoint, keep_alive, 1.0, false);
        let spec = ReplicaSpec { transport, is_probed: config.probes.period_ms > 0, ..spec(&name, replica, kind) };
        let added = self.driver.add(&spec, |id| {
            let upstream = Upstream::new(id, name, kind, endpoint);
            upstream.authorize(authorization);
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

    /// Puts other settings of a replica in force: region, labels, rate, capacity, models, key. The engine is the same, so
    /// what was learned of it stays.
    ///
    /// # Errors
    /// One sentence when the key cannot be sent.
    pub(crate) fn describe(&self, upstream: &Upstream, replica: &ReplicaConfig) -> Result<(), AddError> {
        let _held = self.fleet_lock.lock();
        upstream.authorize(self.authorization(replica, upstream.kind)?);
        self.models.renamed(upstream, &replica.models);
        let spec = Box::new(spec(&upstream.name, replica, upstream.kind));
        self.driver.handle_for(upstream, ReplicaEvent::Described { replica: upstream.id, spec });
        self.joined.lock().insert(upstream.name.clone(), (replica.clone(), upstream.kind));
        Ok(())
    }

    fn authorization(&self, replica: &ReplicaConfig, kind: Kind) -> Result<Authorization, AddError> {
        Ok(match (&replica.api_key, kind) {
            (Some(key), _) => Authorization::Own(bearer(key.expose())?),
            (None, Kind::Peer) => Authorization::Peers(Arc::clone(&self.peer_authorization)),
            _ => Authorization::None,
        })
    }

    /// Removes a replica from the fleet: requests that wait at it are dispatched to others, those that run finish.
    pub fn remove(&self, upstream: &Upstream) {
        let _held = self.fleet_lock.lock();
        self.joined.lock().remove(&upstream.name);
        upstream.stop();
        self.models.left(upstream);
        self.driver.handle_for(upstream, ReplicaEvent::Removed { replica: upstream.id });
    }

    /// Takes out a replica that has proved to be this router itself, if a source of discovery lists it.
    pub(crate) fn leave_out_itself(&self, name: &str) {
        let Some(source) = self.discovered.is_own(name) else { return };
        self.driver.observers().tell(Change::Itself { source, endpoint: name.to_owned() });
        if let Some(upstream) = self.find(name) {
            self.remove(&upstream);
        }
    }

    /// The number of replicas that are known to be usable now, and of all replicas. With probes, one that was not probed yet
    /// does not count.
    pub fn usable(&self) -> (usize, usize) {
        let all = self.are_usable();
        (all.iter().filter(|(_, usable)| *usable).count(), all.len())
    }

    /// The replicas of the fleet by name, and whether each is known to be usable now.
    pub(crate) fn are_usable(&self) -> Vec<(String, bool)> {
        self.driver.read(|router, _, now| {
            let gates = &router.config().gates;
            let usable = |r: &Replica| !r.is_unprobed() && r.is_usable(now, gates);
            let all = router.replicas().iter().filter(|r| !r.removed);
            all.map(|r| (r.spec.name.clone(), usable(r))).collect()
        })
    }
}

/// The settings of a replica as the core knows them.
fn spec(name: &str, replica: &ReplicaConfig, kind: Kind) -> ReplicaSpec {
    ReplicaSpec {
        ms_per_token: replica.ms_per_token,
        kv_tokens: replica.kv_tokens,
        region: replica.region.clone(),
        labels: replica.labels.clone(),
        ..ReplicaSpec::new(name, kind)
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

/// The `Authorization` header with this key.
pub(super) fn bearer(key: &str) -> Result<HeaderValue, AddError> {
    let value = HeaderValue::try_from(format!("Bearer {key}"));
    let mut value = value.map_err(|_| AddError::Wrong("the API key holds characters no header can".to_owned()))?;
    value.set_sensitive(true);
    Ok(value)
}
