//! What a router has learned, as bytes: prefix index, round trips, breakers, learned rates, bytes per token, ids of
//! responses, discovered replicas.
//!
//! One format ([`codec`]) serves three ways: a [`file`] for the next start of this router, a [`peer`] that starts, and
//! the process that follows this one in an upgrade ([`crate::upgrade`]). Prefixes are hashes, so they can be used only
//! under the hash seed they were made with: routers with a configured seed compare its id, and the seed of others,
//! random per process, travels with the file and to the next process, never to a peer.

use crate::config::Config;
use crate::discovery::discovered::Sets;
use crate::sharing::HashSeed;
use crate::state::AppState;
use gorgo_core::router::{AdminEvent, SavedReplica, Snapshot};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;

pub(crate) mod codec;
pub(crate) mod file;
pub(crate) mod peer;

/// Most bytes of prefixes in a snapshot.
pub(crate) const MOST: usize = 64 << 20;

/// Under which seed the prefixes were hashed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum SeedMark {
    /// A configured one, with this id.
    Key(String),
    /// This one, drawn at random by a router without one.
    Own(u64),
}

/// A snapshot of a process.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Kept {
    /// When, ms since 1970.
    pub(crate) unix_ms: u64,
    /// The id of the process.
    pub(crate) router: String,
    pub(crate) seed: SeedMark,
    pub(crate) bytes_per_token: Vec<(String, f64)>,
    /// Ids of what engines keep, as hashes, with the position of the engine among the replicas.
    pub(crate) ids: Vec<(u64, u16)>,
    /// The endpoints of each source of discovery.
    pub(crate) discovered: Sets,
    pub(crate) core: Snapshot,
}

impl Kept {
    /// The present learned state of the router.
    pub(crate) fn of(state: &AppState) -> Self {
        let (core, now, slots) =
            state.driver.read(|router, upstreams, now| (router.snapshot(now, MOST), now, upstreams.to_vec()));
        Self {
            unix_ms: state.clock().unix_ns(now) / 1_000_000,
            router: state.router_id.to_str().unwrap_or_default().to_owned(),
            seed: state.seed_mark.clone(),
            bytes_per_token: state.bytes_per_token.all(),
            ids: state.kept_ids.all(&slots),
            discovered: state.discovered.sets(),
            core,
        }
    }

    /// What a router elsewhere can use of it: distances, failures and sources of discovery are this router's own.
    fn for_others(mut self) -> Self {
        for SavedReplica { rtt, breaker, down, .. } in &mut self.core.replicas {
            (*rtt, *breaker, *down) = (None, Default::default(), false);
        }
        self.discovered.clear();
        self
    }

    /// How long ago it was made.
    pub(crate) fn age(&self, now_unix_ms: u64) -> Duration {
        Duration::from_millis(now_unix_ms.saturating_sub(self.unix_ms))
    }

    /// Drops the prefixes if they were hashed under another seed than the configured one.
    ///
    /// # Errors
    /// In one sentence, when they were.
    pub(crate) fn match_seed(&mut self, configured: Option<&HashSeed>) -> Result<(), String> {
        let why = match (&self.seed, configured) {
            (SeedMark::Own(_), None) => return Ok(()),
            (SeedMark::Key(id), Some(seed)) if *id == seed.key_id => return Ok(()),
            (SeedMark::Key(id), Some(seed)) => format!("hash seed {id}, and this router has {}", seed.key_id),
            (SeedMark::Key(id), None) => format!("hash seed {id}, and this router has no configured one"),
            (SeedMark::Own(_), Some(seed)) => format!("a random hash seed, and this router has {}", seed.key_id),
        };
        self.core.index = Default::default();
        Err(format!("its prefixes were made with {why}; all else is used"))
    }

    /// Restores the snapshot into the router, and logs what was restored.
    pub(crate) fn restore(self, state: &AppState, from: &str) {
        let age = self.age(state.clock().unix_ns(state.clock().now()) / 1_000_000);
        for (model, ratio) in &self.bytes_per_token {
            state.bytes_per_token.restore(model, *ratio);
        }
        let here: Vec<_> = state.driver.read(|router, upstreams, _| {
            let here = |saved: &SavedReplica| {
                let mut here = upstreams.iter().zip(router.replicas()).filter(|(_, r)| !r.removed);
                here.find(|(upstream, _)| upstream.name == saved.name).map(|(upstream, _)| Arc::clone(upstream))
            };
            self.core.replicas.iter().map(here).collect()
        });
        for &(id, at) in &self.ids {
            if let Some(Some(upstream)) = here.get(usize::from(at)) {
                state.kept_ids.restore(id, upstream);
            }
        }
        let named = self.core.replicas.iter().filter(|saved| !saved.name.is_empty()).count();
        let known = here.iter().flatten().count();
        let bytes = self.core.index.bytes();
        state.driver.handle(AdminEvent::Restored(Arc::new(self.core)));
        let nodes = state.driver.read(|router, _, _| router.index().nodes());
        tracing::info!(
            "restored from {from}, {:.1} s old: {} kB of prefixes ({nodes} nodes), {known} replicas, {} unknown here",
            age.as_secs_f64(),
            bytes >> 10,
            named - known
        );
    }
}

/// Where the snapshot of this router is kept: `snapshot.file`, else beside the file of changes; nowhere without either.
pub(crate) fn path(config: &Config) -> Option<std::path::PathBuf> {
    config.snapshot.file.clone().or_else(|| {
        let mut beside = config.state.as_ref()?.as_os_str().to_owned();
        beside.push(".snapshot");
        Some(beside.into())
    })
}
