//! A replica as this process connects to it: address, headers, connection pool, probes. Its load and health are the
//! core's `Replica`.

use crate::kv_events::streams::KvStreams;
use crate::signals::digest::counts::PeerDigest;
use crate::upstream::absent_paths::AbsentPaths;
use crate::upstream::cache_report::CacheReport;
use crate::upstream::connect::Endpoint;
use crate::upstream::multiplexed::Multiplexed;
use crate::upstream::pool::IdlePool;
use gorgo_core::fleet::Kind;
use gorgo_core::{ReplicaId, Time};
use http::header::{AUTHORIZATION, HOST, HeaderMap};
use http::uri::PathAndQuery;
use http::{HeaderValue, Method, Request};
use parking_lot::{Mutex, RwLock};
use prometheus_client::metrics::counter::Counter;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use tokio::task::AbortHandle;

/// The `Authorization` header of requests to a replica.
#[derive(Debug, Clone, Default)]
pub(crate) enum Authorization {
    /// None: the replica asks for no key.
    #[default]
    None,
    /// The replica's own key.
    Own(HeaderValue),
    /// The key of all peers, which changes when the configuration does.
    Peers(Arc<RwLock<Option<HeaderValue>>>),
}

/// An error of a replica.
#[derive(Debug, Clone, PartialEq)]
pub struct LastError {
    /// When.
    pub at: Time,
    /// What, in a few words.
    pub why: String,
}

/// A replica or peer. Removed ones live until their last request ends.
#[derive(Debug)]
pub struct Upstream {
    /// The replica's slot in the router.
    pub id: ReplicaId,
    /// A number that no other replica of this process has; a slot is used again.
    pub(crate) serial: u64,
    /// Name in logs, metrics and the admin API.
    pub name: String,
    /// The name, shared with entries of the request log.
    pub label: Arc<str>,
    /// The name as `X-Gorgo-Replica`; `None` if it is not a valid header value.
    pub shown: Option<HeaderValue>,
    /// Own engine, remote engine or peer router.
    pub kind: Kind,
    /// Address.
    pub endpoint: Endpoint,
    /// `Host` header of requests to it.
    pub host: HeaderValue,
    /// `Authorization` header of requests to it.
    authorization: RwLock<Authorization>,
    /// Clock of a peer minus our clock, ns, from the last peer report.
    pub clock_offset_ns: AtomicI64,
    /// Whether the engine's metrics are SGLang's.
    pub sglang: AtomicBool,
    /// Whether the engine's metrics are vLLM's.
    pub(crate) vllm: AtomicBool,
    /// Paths that it does not have, by its own answers.
    pub(crate) absent: AbsentPaths,
    /// What it publishes of its KV cache, if that is read.
    pub(crate) kv: RwLock<Option<Arc<KvStreams>>>,
    /// Whether it has refused this router's key since it answered last; for the log.
    pub(crate) refuses_key: AtomicBool,
    /// Whether it reports how much of a prompt was cached.
    pub(crate) cache_report: CacheReport,
    /// Requests dispatched to it since the router started.
    pub dispatched: AtomicU64,
    /// The same as a metric.
    pub(crate) dispatches: OnceLock<Counter>,
    /// Idle connections for requests.
    pub(crate) pool: IdlePool,
    /// The HTTP/2 connection to a peer that speaks it.
    pub(crate) multiplexed: Multiplexed,
    /// Ids of the routers behind it, by the last answer to a probe.
    routers: RwLock<Vec<String>>,
    /// Whether it refused our key at the last probe.
    refused: AtomicBool,
    /// Whether it is a peer that reads request bodies packed with zstd, by its last report.
    reads_zstd: AtomicBool,
    /// Whether it may be a router: until a probe shows that it is an engine.
    may_be_router: AtomicBool,
    /// The last error of a probe, a scrape or a request, and when.
    last_error: Mutex<Option<LastError>>,
    /// Of a peer: the questions for its digest.
    pub(crate) digest: Mutex<PeerDigest>,
    /// Probe and scrape tasks, stopped when the replica is removed.
    pub tasks: Mutex<Vec<AbortHandle>>,
}

impl Upstream {
    /// Creates a replica without probes.
    pub fn new(id: ReplicaId, name: String, kind: Kind, endpoint: Endpoint) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let host = endpoint.host_header();
        Self {
            id,
            serial: NEXT.fetch_add(1, Ordering::Relaxed),
            label: name.as_str().into(),
            shown: HeaderValue::try_from(name.as_str()).ok(),
            name,
            kind,
            endpoint,
            host,
            authorization: RwLock::default(),
            clock_offset_ns: AtomicI64::new(0),
            sglang: AtomicBool::new(false),
            vllm: AtomicBool::new(false),
            absent: AbsentPaths::default(),
            kv: RwLock::new(None),
            refuses_key: AtomicBool::new(false),
            cache_report: CacheReport::default(),
            dispatched: AtomicU64::new(0),
            dispatches: OnceLock::new(),
            pool: IdlePool::default(),
            multiplexed: Multiplexed::default(),
            routers: RwLock::new(Vec::new()),
            refused: AtomicBool::new(false),
            reads_zstd: AtomicBool::new(false),
            may_be_router: AtomicBool::new(true),
            last_error: Mutex::new(None),
            digest: Mutex::default(),
            tasks: Mutex::new(Vec::new()),
        }
    }

    /// The streams of its KV events, if they are read.
    pub(crate) fn kv(&self) -> Option<Arc<KvStreams>> {
        self.kv.read().clone()
    }

    /// Builds a request to the replica, with its `Host` and `Authorization` headers.
    pub(crate) fn request<B>(&self, method: Method, path: &PathAndQuery, headers: HeaderMap, body: B) -> Request<B> {
        let mut request = Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = self.endpoint.target(path);
        *request.headers_mut() = headers;
        request.headers_mut().insert(HOST, self.host.clone());
        match &*self.authorization.read() {
            Authorization::None => {}
            Authorization::Own(key) => drop(request.headers_mut().insert(AUTHORIZATION, key.clone())),
            Authorization::Peers(key) => {
                if let Some(key) = key.read().clone() {
                    request.headers_mut().insert(AUTHORIZATION, key);
                }
            }
        }
        request
    }

    /// Shows it this key from now on.
    pub(crate) fn authorize(&self, authorization: Authorization) {
        *self.authorization.write() = authorization;
    }

    /// Whether this router has no key for it.
    pub(crate) fn is_keyless(&self) -> bool {
        matches!(*self.authorization.read(), Authorization::None)
    }

    /// Whether requests to it must carry the routers they have passed.
    pub(crate) fn may_be_router(&self) -> bool {
        self.may_be_router.load(Ordering::Relaxed)
    }

    /// The routers behind it, by its last answer.
    pub(crate) fn routers(&self) -> Vec<String> {
        self.routers.read().clone()
    }

    /// Keeps what an answer showed of routers.
    pub(crate) fn set_routers(&self, routers: Vec<String>) {
        self.may_be_router.store(!routers.is_empty(), Ordering::Relaxed);
        *self.routers.write() = routers;
    }

    /// Whether requests to it carry a key of this router's.
    pub(crate) fn has_own_key(&self) -> bool {
        match &*self.authorization.read() {
            Authorization::None => false,
            Authorization::Own(_) => true,
            Authorization::Peers(key) => key.read().is_some(),
        }
    }

    /// Whether it refused our key at the last probe.
    pub(crate) fn is_refusing(&self) -> bool {
        self.refused.load(Ordering::Relaxed)
    }

    /// Keeps whether it refuses our key; true if that changed.
    pub(crate) fn set_refused(&self, refused: bool) -> bool {
        self.refused.swap(refused, Ordering::Relaxed) != refused
    }

    /// Whether it is a peer that reads request bodies packed with zstd.
    pub(crate) fn reads_zstd(&self) -> bool {
        self.reads_zstd.load(Ordering::Relaxed)
    }

    /// Keeps whether it reads zstd.
    pub(crate) fn set_reads_zstd(&self, reads: bool) {
        self.reads_zstd.store(reads, Ordering::Relaxed);
    }

    /// Keeps an error, to be logged with the state that follows from it.
    pub(crate) fn note_error(&self, at: Time, why: impl Into<String>) {
        *self.last_error.lock() = Some(LastError { at, why: why.into() });
    }

    /// The last error.
    pub fn last_error(&self) -> Option<LastError> {
        self.last_error.lock().clone()
    }

    /// Stops probes and scrapes, and the connection to a peer once its last stream has ended.
    pub fn stop(&self) {
        let mut tasks = self.tasks.lock();
        tasks.drain(..).for_each(|task| task.abort());
        self.multiplexed.close();
    }

    /// Whether the engine is known to be SGLang.
    pub fn is_sglang(&self) -> bool {
        self.sglang.load(Ordering::Relaxed)
    }

    /// Counts a dispatch.
    pub fn count(&self) {
        self.dispatched.fetch_add(1, Ordering::Relaxed);
    }
}
