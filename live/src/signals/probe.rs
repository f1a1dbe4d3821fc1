//! Probes and scrapes: tasks per replica that measure its round trip and read its load or its peer report, and pass
//! both to the core.

use crate::observe::changes::Change;
use crate::request::headers::ROUTER;
use crate::signals::digest;
use crate::signals::health::{self, Health};
use crate::signals::loops;
use crate::signals::model_list;
use crate::signals::pages::{PAGE, Turns, Unanswered, ask, fetch, page_of, unusable};
use crate::signals::peer_report::PeerMessage;
use crate::signals::scrapes::scrapes;
use crate::state::AppState;
use crate::supervise;
use crate::upstream::replica::Upstream;
use crate::wire::content_type;
use bytes::Bytes;
use gorgo_core::fleet::Kind;
use gorgo_core::router::ReplicaEvent;
use http::header::HeaderMap;
use http::uri::{PathAndQuery, Scheme};
use http::{Method, StatusCode};
use http_body_util::{Empty, Full};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::Instant;

/// Starts the probes and scrapes of a replica; they end when it is removed.
pub(crate) fn watch(node: &Arc<AppState>, upstream: &Arc<Upstream>) {
    let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
    let mut tasks = upstream.tasks.lock();
    let (n, u) = (Arc::clone(node), Arc::clone(upstream));
    tasks.push(runtime.spawn(supervise::logged("probes", probes(n, u))).abort_handle());
    let (n, u) = (Arc::clone(node), Arc::clone(upstream));
    let task = if upstream.kind == Kind::Peer {
        let digests = digest::questions(Arc::clone(node), Arc::clone(upstream));
        tasks.push(runtime.spawn(supervise::logged("digests", digests)).abort_handle());
        runtime.spawn(supervise::logged("peer reports", reports(n, u)))
    } else {
        runtime.spawn(supervise::logged("scrapes", scrapes(n, u)))
    };
    tasks.push(task.abort_handle());
}

/// Measures round trips on a connection of its own, so that neither connection set-up nor a busy pool counts.
async fn probes(node: Arc<AppState>, upstream: Arc<Upstream>) {
    let mut connection: Option<SendRequest<Empty<Bytes>>> = None;
    let mut turns = Turns::new(&node, &upstream, "probe-clock");
    let mut asked_models = false;
    loop {
        let began = Instant::now();
        let config = node.config();
        if config.probes.period_ms > 0 {
            let path = if upstream.kind == Kind::Peer { "/health" } else { config.probes.path.as_str() };
            let limit = Duration::from_millis(config.probes.timeout_ms);
            let mut result = probe_within(limit, &node, &upstream, path, &mut connection).await;
            if path == health::MODELS && result.as_ref().is_err_and(|error| error.connected && error.late) {
                // A list of models may be long in coming though the engine serves.
                connection = None;
                result = probe_within(limit, &node, &upstream, "/health", &mut connection)
                    .await
                    .map_err(|_| result.unwrap_err());
            }
            let event = match result {
                Ok(rtt) => {
                    if !std::mem::replace(&mut asked_models, true) {
                        upstream.absent.clear();
                        // Requests come once it is up, and go wrong if it is not known by then what it serves.
                        let _ = tokio::time::timeout(limit, model_list::read(&node, &upstream)).await;
                    }
                    ReplicaEvent::Probed { replica: upstream.id, rtt_ms: rtt.as_secs_f64() * 1e3 }
                }
                Err(Unanswered { why, connected, .. }) => {
                    (connection, asked_models) = (None, false);
                    upstream.note_error(node.clock().now(), why);
                    ReplicaEvent::ProbeFailed { replica: upstream.id, connected }
                }
            };
            node.driver.handle_for(&upstream, event);
        }
        turns.next(began, config.probes.period_ms).await;
    }
}

/// A probe that may take so long.
async fn probe_within(
    limit: Duration,
    node: &AppState,
    upstream: &Upstream,
    path: &str,
    connection: &mut Option<SendRequest<Empty<Bytes>>>,
) -> Result<Duration, Unanswered> {
    let mut connected = false;
    let result = tokio::time::timeout(limit, probe(node, upstream, path, connection, &mut connected)).await;
    match result {
        Ok(result) => result.map_err(|why| Unanswered { why, connected, late: false }),
        Err(_) => {
            let why = format!("no answer to a probe within {} ms", limit.as_millis());
            Err(Unanswered { why, connected, late: true })
        }
    }
}

async fn probe(
    node: &AppState,
    upstream: &Upstream,
    path: &str,
    connection: &mut Option<SendRequest<Empty<Bytes>>>,
    connected: &mut bool,
) -> Result<Duration, String> {
    let reused = connection.as_ref().is_some_and(|c| !c.is_closed());
    *connected = reused;
    if reused
        && let Some(sender) = connection
        && let Ok(rtt) = round_trip(node, upstream, path, sender).await
    {
        return Ok(rtt);
    }
    // The engine may have closed it between two probes: that is no failure.
    *connected = false;
    let endpoint = &upstream.endpoint;
    let https = endpoint.scheme == Scheme::HTTPS;
    let io = node.connector.connect(https, endpoint.host(), endpoint.port()).await;
    let io = io.map_err(|error| format!("cannot connect: {error}"))?;
    let (mut sender, driver) = hyper::client::conn::http1::handshake(TokioIo::new(io)).await.map_err(told)?;
    tokio::spawn(driver);
    *connected = true;
    let rtt = round_trip(node, upstream, path, &mut sender).await?;
    *connection = Some(sender);
    Ok(rtt)
}

fn told(error: impl Error) -> String {
    let source = error.source().map_or(String::new(), |source| format!(": {source}"));
    format!("the probe was not answered: {error}{source}")
}

async fn round_trip(
    node: &AppState,
    upstream: &Upstream,
    path: &str,
    sender: &mut SendRequest<Empty<Bytes>>,
) -> Result<Duration, String> {
    let path = PathAndQuery::try_from(path).map_err(told)?;
    let mut request = upstream.request(Method::GET, &path, HeaderMap::new(), Empty::new());
    request.headers_mut().insert(ROUTER, node.router_id.clone());
    sender.ready().await.map_err(told)?;
    let sent = Instant::now();
    let response = sender.send_request(request).await.map_err(told)?;
    let rtt = sent.elapsed();
    let status = response.status();
    let is_html = content_type::is_html(response.headers());
    let routers = loops::routers(response.headers());
    let is_loop = routers.iter().any(|id| *id == node.router_id);
    // The answering router names itself first.
    let is_itself = upstream.kind == Kind::Peer && routers.first().is_some_and(|id| *id == node.router_id);
    if upstream.kind != Kind::Peer {
        upstream.set_routers(routers);
    }
    let page = page_of(response.into_body(), PAGE, "a probe's answer").await?;
    let is_refused = matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
    if upstream.set_refused(is_refused) && is_refused {
        let change =
            Change::KeyRefused { replica: upstream.name.clone(), why: format!("a probe is answered {status}") };
        node.driver.observers().tell(change);
    }
    if is_itself {
        // One that a source of discovery lists leaves the fleet, and this task ends with it.
        node.leave_out_itself(&upstream.name);
        return Err("it is this router itself; take it out of this router's peers".to_owned());
    }
    if is_loop {
        return Err("it leads back to this router; take it out of the replicas of one of the two".to_owned());
    }
    if is_refused && upstream.has_own_key() {
        return Err(format!("a probe of `{}` was answered with {status}: it refuses this router's key", path.path()));
    }
    // A 503 of a peer does not count here: the peer's reports carry its health.
    if upstream.kind == Kind::Peer {
        return Ok(rtt);
    }
    match health::judge(path.path(), status, is_html, &page) {
        Health::Alive => Ok(rtt),
        Health::Elsewhere => {
            let ask =
                upstream.request(Method::GET, &PathAndQuery::from_static("/health"), HeaderMap::new(), Empty::new());
            sender.ready().await.map_err(told)?;
            let response = sender.send_request(ask).await.map_err(told)?;
            let (found, is_html) = (response.status(), content_type::is_html(response.headers()));
            page_of(response.into_body(), PAGE, "a probe's answer").await?;
            if health::judge("/health", found, is_html, b"") == Health::Alive {
                return Ok(rtt);
            }
            Err(format!("probes of `{path}` and `/health` were answered with {status} and {found}: it is no engine"))
        }
        Health::Failing => Err(format!("a probe of `{path}` was answered with {status}")),
        Health::NoEngine(what) => {
            Err(format!("a probe of `{path}` was answered with {status} and {what}: it is no engine"))
        }
    }
}

/// Reads a peer's report on its engine and requests.
async fn reports(node: Arc<AppState>, upstream: Arc<Upstream>) {
    let replica = upstream.id;
    let mut count = 0u64;
    let mut turns = Turns::new(&node, &upstream, "peer-clock");
    loop {
        let began = Instant::now();
        let period = node.config().probes.peer_ms;
        if count.is_multiple_of(10) {
            model_list::read(&node, &upstream).await;
        }
        count += 1;
        if period > 0 {
            let asked = node.clock().now();
            let word = match fetch(&node, &upstream, "/lb/report").await {
                Ok((status, body)) if status.is_success() => {
                    let message = serde_json::from_slice::<PeerMessage>(&body);
                    message.map_err(|error| Unanswered { why: error.to_string(), connected: true, late: false })
                }
                Ok((status, _)) => Err(unusable(status)),
                Err(error) => Err(error),
            };
            // After an error it may be another version that answers next.
            upstream.set_reads_zstd(word.as_ref().is_ok_and(|word| word.reads_zstd));
            let shares = node.config().upstream.http2_to_peers && word.as_ref().is_ok_and(|word| word.speaks_http2);
            if !shares {
                upstream.multiplexed.close();
            }
            let event = match word {
                Ok(word) => {
                    let now = node.clock().now();
                    // The report was made about half way through.
                    let middle = node.clock().unix_ns(asked).midpoint(node.clock().unix_ns(now));
                    upstream.clock_offset_ns.store(word.unix_ns.wrapping_sub(middle) as i64, Ordering::Relaxed);
                    let seen = node.driver.read(|router, _, _| router.counted_until(replica, asked));
                    ReplicaEvent::PeerReported { replica, report: word.report, seen }
                }
                Err(Unanswered { why, connected, .. }) => {
                    upstream.note_error(node.clock().now(), format!("its report cannot be read: {why}"));
                    ReplicaEvent::ScrapeFailed { replica, connected }
                }
            };
            node.driver.handle_for(&upstream, event);
            if shares {
                share_connection(&node, &upstream).await;
            }
        }
        turns.next(began, period).await;
    }
}

/// Opens the HTTP/2 connection to a peer, if there is none.
async fn share_connection(node: &AppState, peer: &Upstream) {
    let limit = Duration::from_millis(node.config().probes.scrape_timeout_ms);
    let path = PathAndQuery::from_static("/lb/report");
    let first = peer.request(Method::GET, &path, HeaderMap::new(), Full::new(Bytes::new()));
    peer.multiplexed.keep_open(&node.connector, &peer.endpoint, first, limit).await;
}

/// Asks an engine to empty its KV cache (SGLang's `/flush_cache`, else vLLM's `/reset_prefix_cache`), and on success
/// forgets what the index holds for it.
///
/// # Errors
/// When the engine refuses or does not answer in time.
pub(crate) async fn flush(node: &AppState, upstream: &Arc<Upstream>) -> Result<(), String> {
    let limit = Duration::from_millis(node.config().probes.scrape_timeout_ms);
    let flush = async |path| {
        let response =
            tokio::time::timeout(limit, ask(node, upstream, Method::POST, PathAndQuery::from_static(path))).await;
        let response = response.map_err(|_| "no answer in time".to_owned())?.map_err(|e| e.to_string())?;
        Ok::<_, String>(response.status())
    };
    let mut status = flush("/flush_cache").await?;
    if matches!(status, StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED) {
        status = flush("/reset_prefix_cache").await?;
    }
    if !status.is_success() {
        return Err(format!("answered {status}"));
    }
    node.driver.handle_for(upstream, ReplicaEvent::Flushed { replica: upstream.id });
    Ok(())
}
