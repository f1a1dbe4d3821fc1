//! A replica as this process talks to it.

use crate::upstream::connect::Endpoint;
use crate::upstream::connection::Links;
use gorgo_core::ReplicaId;
use gorgo_core::fleet::Kind;
use http::header::{AUTHORIZATION, HOST, HeaderMap};
use http::uri::PathAndQuery;
use http::{HeaderValue, Method, Request};
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use tokio::task::AbortHandle;

/// One replica or peer; lives as long as requests to it do.
#[derive(Debug)]
pub struct Upstream {
    /// Its slot in the router.
    pub id: ReplicaId,
    /// Shown everywhere.
    pub name: String,
    /// The same for rows of requests.
    pub label: Arc<str>,
    /// The same as `X-Gorgo-Replica`; `None` if it cannot stand in a header.
    pub shown: Option<HeaderValue>,
    /// How it is reached.
    pub kind: Kind,
    /// Where it stands, if told.
    pub region: Option<String>,
    /// Where it is.
    pub endpoint: Endpoint,
    /// What it is told as `Host`.
    pub host: HeaderValue,
    /// What it wants as `Authorization`.
    pub authorization: Option<HeaderValue>,
    /// Its clock less ours, ns, by the last peer report.
    pub clock_offset_ns: AtomicI64,
    /// Whether its metrics showed it to be SGLang.
    pub sglang: AtomicBool,
    /// Requests given to it since the start.
    pub dispatched: AtomicU64,
    /// Counts requests given to it, as a metric.
    pub(crate) dispatches: OnceLock<Counter>,
    /// Idle connections for requests.
    pub(crate) links: Links,
    /// Tasks that watch it, stopped when it leaves.
    pub tasks: Mutex<Vec<AbortHandle>>,
}

impl Upstream {
    /// A replica nothing watches yet.
    pub fn new(id: ReplicaId, name: String, kind: Kind, region: Option<String>, endpoint: Endpoint) -> Self {
        let host = endpoint.host_header();
        Self {
            id,
            label: name.as_str().into(),
            shown: HeaderValue::try_from(name.as_str()).ok(),
            name,
            kind,
            region,
            endpoint,
            host,
            authorization: None,
            clock_offset_ns: AtomicI64::new(0),
            sglang: AtomicBool::new(false),
            dispatched: AtomicU64::new(0),
            dispatches: OnceLock::new(),
            links: Links::default(),
            tasks: Mutex::new(Vec::new()),
        }
    }

    /// A request to it, as it goes over a connection that leads there, with its `Host` and key.
    pub(crate) fn request<B>(&self, method: Method, path: &PathAndQuery, headers: HeaderMap, body: B) -> Request<B> {
        let mut request = Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = self.endpoint.target(path);
        *request.headers_mut() = headers;
        request.headers_mut().insert(HOST, self.host.clone());
        if let Some(key) = &self.authorization {
            request.headers_mut().insert(AUTHORIZATION, key.clone());
        }
        request
    }

    /// Stops watching it.
    pub fn stop(&self) {
        let mut tasks = self.tasks.lock();
        tasks.drain(..).for_each(|task| task.abort());
    }

    /// Whether it is known to be SGLang.
    pub fn is_sglang(&self) -> bool {
        self.sglang.load(Ordering::Relaxed)
    }

    /// Counts a dispatch.
    pub fn count(&self) {
        self.dispatched.fetch_add(1, Ordering::Relaxed);
    }
}
