//! State shared by the HTTP handlers of one emulated server.

use super::config::EmulatorConfig;
use super::handle::EngineHandle;
use super::response::Path;
use crate::timer::PreciseTimer;
use gorgo_core::RequestId;
use gorgo_sim::engine::EngineKind;
use parking_lot::{Mutex, MutexGuard};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// State shared by the HTTP handlers.
#[derive(Debug)]
pub struct App {
    pub(super) config: EmulatorConfig,
    pub(super) engine: EngineHandle,
    pub(super) timer: PreciseTimer,
    /// Requests in flight by the id (`rid`) that clients know.
    by_rid: Mutex<BTreeMap<String, RequestId>>,
    rids_made: AtomicU64,
    draining: AtomicBool,
    pub(super) process: watch::Sender<Process>,
}

/// State of the emulated server process.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Process {
    Running,
    /// Crashed until the given time; restarts then and needs `cold_start_s` to be ready.
    Crashed {
        until: Instant,
        cold_start_s: Option<f64>,
    },
}

impl App {
    pub(super) fn new(config: EmulatorConfig, engine: EngineHandle, timer: PreciseTimer) -> Arc<Self> {
        Arc::new(Self {
            config,
            engine,
            timer,
            by_rid: Mutex::default(),
            rids_made: AtomicU64::new(0),
            draining: AtomicBool::new(false),
            process: watch::channel(Process::Running).0,
        })
    }

    /// A new request id. Ids are hashes of a counter: unique, and none is a prefix of another.
    pub(super) fn new_rid(&self, path: Path) -> String {
        let n = self.rids_made.fetch_add(1, Ordering::Relaxed).to_le_bytes();
        let kind = match (self.config.engine.kind, path) {
            (EngineKind::Sglang, _) => "",
            (EngineKind::Vllm, Path::Chat) => "chatcmpl-",
            (EngineKind::Vllm, _) => "cmpl-",
        };
        format!("{kind}{:032x}", xxhash_rust::xxh3::xxh3_128_with_seed(&n, self.config.seed))
    }

    fn by_rid(&self) -> MutexGuard<'_, BTreeMap<String, RequestId>> {
        self.by_rid.lock()
    }

    /// Registers a request under its `rid`; false if another request in flight has the same.
    pub(super) fn register(&self, rid: &str, id: RequestId) -> bool {
        match self.by_rid().entry(rid.to_owned()) {
            Entry::Occupied(_) => false,
            Entry::Vacant(place) => {
                place.insert(id);
                true
            }
        }
    }

    pub(super) fn unregister(&self, rid: &str) {
        self.by_rid().remove(rid);
    }

    /// Requests whose `rid` starts with `prefix`; an empty prefix matches none.
    pub(super) fn requests_with_prefix(&self, prefix: &str) -> Vec<RequestId> {
        if prefix.is_empty() {
            return Vec::new();
        }
        let by_rid = self.by_rid();
        by_rid.range(prefix.to_owned()..).take_while(|(rid, _)| rid.starts_with(prefix)).map(|(_, &id)| id).collect()
    }

    /// All requests in flight.
    pub(super) fn requests(&self) -> Vec<RequestId> {
        self.by_rid().values().copied().collect()
    }

    /// Number of requests in flight.
    pub(super) fn in_flight(&self) -> usize {
        self.by_rid().len()
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    pub(super) fn start_draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Crashes the process; it restarts after `down` with an empty cache.
    pub(super) fn crash(&self, down: Duration, cold_start_s: Option<f64>) {
        self.engine.crash();
        self.process.send_replace(Process::Crashed { until: Instant::now() + down, cold_start_s });
    }
}
