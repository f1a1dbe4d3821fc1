//! One HTTP/2 connection to a peer router, which all requests to that peer share.
//!
//! On a long path a request pays round trips by the congestion window of its connection. HTTP/1 spreads requests over
//! as many connections as there are requests at once, each with a window of its own; over HTTP/2 they share one window,
//! which the peer's reports keep open.
//!
//! The task that reads the peer's reports opens the connection, so that there is one opener. It publishes the
//! connection once the peer has answered a request on it. Until then requests use HTTP/1: none waits for a connection
//! that may never come (a balancer before the peer may not pass HTTP/2 on), and none is the first to try it. A report
//! that fails takes the connection back; streams that are open on it go on.
//!
//! hyper drives the connection in a task of its own, which ends when the connection is taken back and its last stream
//! has ended. A request that is dropped resets its own stream.

use crate::upstream::connect::{Connector, Endpoint};
use bytes::Bytes;
use http::header::HOST;
use http::uri::{Authority, Parts};
use http::{Request, Response, Uri, Version};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::{Mutex, RwLock};
use std::error::Error;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// Bytes of one answer that may wait here for a slow client.
const STREAM_WINDOW: u32 = 1 << 20;

/// Most streams at once; further requests use HTTP/1. The listener of a peer allows as many.
pub(crate) const STREAMS: u32 = 1_000;

/// Bytes of all answers that may wait here: as much as all streams together, so that clients that do not read hold up no
/// answer but their own.
const CONNECTION_WINDOW: u32 = STREAMS * STREAM_WINDOW;

/// After so long without a frame the peer is asked for a sign of life, and has as long to give it. Long enough for a path
/// that is busy with prompts.
const PING: Duration = Duration::from_secs(10);

/// Most bytes that are read of the answer to the first request.
const ANSWER: usize = 1 << 20;

/// How long to wait after an opening that failed; doubled with each failure.
const WAIT: Duration = Duration::from_secs(2);
/// The longest wait.
const LONGEST_WAIT: Duration = Duration::from_secs(600);

/// The shared connection to one peer, if there is one.
#[derive(Debug, Default)]
pub(crate) struct Multiplexed {
    open: RwLock<Option<Arc<Shared>>>,
    /// Until when no other opening is tried, and how long the last wait was.
    failed: Mutex<Option<(Instant, Duration)>>,
}

#[derive(Debug)]
struct Shared {
    sender: SendRequest<Full<Bytes>>,
    /// Open streams.
    streams: AtomicUsize,
    /// Most of them.
    most: usize,
}

/// A place for one stream on the connection.
#[derive(Debug)]
pub(super) struct Stream(Arc<Shared>);

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Why a request got no response.
pub(super) enum NoResponse {
    /// The peer has not processed it: it can be sent again.
    Unprocessed,
    /// The peer may have processed it.
    Broken(hyper::Error),
}

impl Multiplexed {
    /// Whether requests go over a shared connection now.
    pub(crate) fn is_open(&self) -> bool {
        self.open.read().as_ref().is_some_and(|shared| shared.sender.is_ready())
    }

    /// Takes the connection back: requests use HTTP/1. Open streams go on.
    pub(crate) fn close(&self) {
        *self.open.write() = None;
    }

    /// A stream, if there is a connection and it allows one more.
    pub(super) fn stream(&self) -> Option<Stream> {
        let shared = self.open.read().clone().filter(|shared| shared.sender.is_ready())?;
        let before = shared.streams.fetch_add(1, Ordering::Relaxed);
        let stream = Stream(shared);
        (before < stream.0.most).then_some(stream)
    }

    /// Opens the connection to a peer if there is none; `first` is the request that the peer must answer on it. One task
    /// calls this.
    pub(crate) async fn keep_open(
        &self,
        connector: &Connector,
        peer: &Endpoint,
        first: Request<Full<Bytes>>,
        limit: Duration,
    ) {
        let waits = |failed: &Option<(Instant, Duration)>| failed.is_some_and(|(until, _)| Instant::now() < until);
        if self.is_open() || waits(&self.failed.lock()) {
            return;
        }
        let opened = tokio::time::timeout(limit, open(connector, peer, first)).await;
        match opened.unwrap_or_else(|_| Err("its first request was not answered in time".into())) {
            Ok(shared) => {
                *self.failed.lock() = None;
                *self.open.write() = Some(Arc::new(shared));
            }
            Err(why) => {
                let mut failed = self.failed.lock();
                let wait = failed.map_or(WAIT, |(_, wait)| (wait * 2).min(LONGEST_WAIT));
                *failed = Some((Instant::now() + wait, wait));
                tracing::debug!(peer = %peer.authority, %why, "no HTTP/2 connection to a peer: requests go over HTTP/1");
            }
        }
    }
}

/// Opens a connection and lets the peer answer a request on it.
async fn open(
    connector: &Connector,
    peer: &Endpoint,
    first: Request<Full<Bytes>>,
) -> Result<Shared, Box<dyn Error + Send + Sync>> {
    let io = connector.connect_http2(peer.is_https(), peer.host(), peer.port()).await?;
    let (mut sender, mut driver) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .keep_alive_interval(PING)
        .keep_alive_timeout(PING)
        .keep_alive_while_idle(true)
        .handshake(TokioIo::new(io))
        .await?;
    let answer = sender.send_request(for_http2(first, peer));
    let response = tokio::select! {
        biased;
        response = answer => response?,
        ended = &mut driver => return Err(ended.err().map_or("it was closed".into(), Into::into)),
    };
    if !response.status().is_success() {
        return Err(format!("the first request was answered {}", response.status()).into());
    }
    // The peer's settings have come before its answer.
    let most = driver.current_max_send_streams().min(STREAMS as usize);
    tokio::spawn(async move {
        let _ = driver.await; // streams tell what broke
    });
    Limited::new(response.into_body(), ANSWER).collect().await?;
    Ok(Shared { sender, streams: AtomicUsize::new(0), most })
}

/// Sends a request on a stream.
pub(super) fn send(
    stream: &Stream,
    peer: &Endpoint,
    request: Request<Full<Bytes>>,
) -> impl Future<Output = Result<Response<Incoming>, NoResponse>> {
    let answer = stream.0.sender.clone().try_send_request(for_http2(request, peer));
    async move {
        answer.await.map_err(|mut error| {
            let was_queued = error.take_message().is_some();
            let error = error.into_error();
            if was_queued || is_unprocessed(&error) { NoResponse::Unprocessed } else { NoResponse::Broken(error) }
        })
    }
}

/// Whether the peer has said that it did not process the request: it refused the stream, or its GOAWAY leaves it out.
fn is_unprocessed(error: &hyper::Error) -> bool {
    let cause = error.source().and_then(|source| source.downcast_ref::<h2::Error>());
    cause.is_some_and(|error| {
        error.is_remote() && (error.is_go_away() || error.reason() == Some(h2::Reason::REFUSED_STREAM))
    })
}

/// The request as HTTP/2 writes it: the target names the host (`:authority`). Headers of a connection are left out of every
/// request before.
fn for_http2(mut request: Request<Full<Bytes>>, peer: &Endpoint) -> Request<Full<Bytes>> {
    let host = request.headers_mut().remove(HOST);
    let mut target: Parts = std::mem::take(request.uri_mut()).into_parts();
    target.scheme = Some(peer.scheme.clone());
    let host = host.and_then(|host| Authority::try_from(host.as_bytes()).ok());
    target.authority = Some(host.unwrap_or_else(|| peer.authority.clone()));
    *request.uri_mut() = Uri::from_parts(target).unwrap_or_default();
    *request.version_mut() = Version::HTTP_2;
    request
}

/// Why an error of a connection is one of time: its peer gave no sign of life.
pub(super) fn is_timeout(error: &hyper::Error) -> bool {
    error.is_timeout()
        || error.source().and_then(|source| source.downcast_ref::<h2::Error>()?.get_io()).map(std::io::Error::kind)
            == Some(std::io::ErrorKind::TimedOut)
}

#[cfg(test)]
mod tests;
