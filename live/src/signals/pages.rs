//! Pages that replicas are asked for, over the pool that clients' requests use, and the turns of the tasks that ask.

use crate::state::AppState;
use crate::upstream::connection::{self, ConnectionError, UpstreamBody};
use crate::upstream::replica::Upstream;
use bytes::Bytes;
use gorgo_core::rng;
use http::header::HeaderMap;
use http::uri::PathAndQuery;
use http::{Method, Response, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt, Full, Limited};
use rand::RngExt;
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Longest page of metrics that is read.
pub(super) const PAGE: usize = 8 << 20;

/// The turns of a periodic task. The second turn comes after a random part of the period, so that routers started
/// together do not send their probes at the same moments.
pub(super) struct Turns {
    phase: Option<f64>,
}

impl Turns {
    pub(super) fn new(node: &AppState, upstream: &Upstream, clock: &'static str) -> Self {
        Self { phase: Some(rng::stream(node.config().seed, clock, u64::from(upstream.id.0)).random()) }
    }

    /// Waits for the next turn of a watch whose period may change; 0 pauses it.
    pub(super) async fn next(&mut self, began: Instant, period_ms: u64) {
        let period = Duration::from_millis(if period_ms == 0 { 1_000 } else { period_ms });
        tokio::time::sleep_until(began + period.mul_f64(self.phase.take().unwrap_or(1.0))).await;
    }
}

/// Why a replica was not read.
#[derive(Debug)]
pub(crate) struct Unanswered {
    pub(crate) why: String,
    /// Whether it was connected.
    pub(crate) connected: bool,
    /// Whether only the time was up.
    pub(super) late: bool,
}

/// Sends a request over the pool that clients' requests use, which keeps a connection open for them.
pub(super) async fn ask(
    node: &AppState,
    upstream: &Arc<Upstream>,
    method: Method,
    path: PathAndQuery,
) -> Result<Response<UpstreamBody>, ConnectionError> {
    let request = || upstream.request(method.clone(), &path, HeaderMap::new(), Full::new(Bytes::new()));
    let keep_alive = Duration::from_millis(node.config().timeouts.keep_alive_ms);
    connection::send(&node.connector, upstream, keep_alive, request).await
}

/// The whole body; of one that breaks off or is longer than `most`, why `what` ended.
pub(super) async fn page_of<B>(body: B, most: usize, what: &str) -> Result<Bytes, String>
where
    B: Body,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let page = Limited::new(body, most).collect().await;
    Ok(page.map_err(|error| format!("{what} broke off: {error}"))?.to_bytes())
}

/// Fetches a page: its status and body, or why there is none.
pub(crate) async fn fetch(
    node: &AppState,
    upstream: &Arc<Upstream>,
    path: &'static str,
) -> Result<(StatusCode, Bytes), Unanswered> {
    fetch_up_to(PAGE, node, upstream, PathAndQuery::from_static(path)).await
}

/// The same for a page of at most `most` bytes.
pub(super) async fn fetch_up_to(
    most: usize,
    node: &AppState,
    upstream: &Arc<Upstream>,
    path: PathAndQuery,
) -> Result<(StatusCode, Bytes), Unanswered> {
    let limit = Duration::from_millis(node.config().probes.scrape_timeout_ms);
    let page = async {
        let response = ask(node, upstream, Method::GET, path).await.map_err(|error| {
            let connected = !matches!(error, ConnectionError::Connect(_));
            Unanswered { why: error.to_string(), connected, late: false }
        })?;
        let status = response.status();
        let page = page_of(response.into_body(), most, "the answer").await;
        Ok((status, page.map_err(|why| Unanswered { why, connected: true, late: false })?))
    };
    let page = tokio::time::timeout(limit, page).await;
    page.unwrap_or_else(|_| {
        let why = format!("no answer within {} ms", limit.as_millis());
        Err(Unanswered { why, connected: true, late: true })
    })
}

pub(super) fn unusable(status: StatusCode) -> Unanswered {
    Unanswered { why: format!("the answer is {status}"), connected: true, late: false }
}
