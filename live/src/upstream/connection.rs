//! One HTTP/1 connection to a replica, driven by the request that uses it; a peer router may get HTTP/2
//! (`multiplexed`).
//!
//! A pooled client spawns a task for each connection, so each piece of a response wakes two tasks, often on two
//! threads. Here the task that answers the client also reads from and writes to the replica; an idle connection is
//! not polled at all.
//!
//! Measured gain: a bare pass-through takes 34,000 instructions for a 200 B request with this and 49,300 with
//! hyper-util's pooled client (callgrind), and 25.5 µs of CPU instead of 29.9 at 64 connections, 57 instead of 78 at
//! one.

use crate::upstream::connect::{Connector, Io};
use crate::upstream::multiplexed::{self, NoResponse, Stream};
use crate::upstream::replica::Upstream;
use crate::upstream::self_wake::SelfWakePoller;
use bytes::Bytes;
use gorgo_core::router::Failure;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustix::io::Errno;
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use thiserror::Error;
use tokio::time::Instant;

/// A request that got no response.
#[derive(Debug, Error)]
pub(crate) enum ConnectionError {
    /// No connection could be opened.
    #[error("cannot connect: {0}")]
    Connect(io::Error),
    /// The connection broke, or the response was not HTTP.
    #[error("{error}{}", cause(.error))]
    Http {
        /// hyper's error.
        error: hyper::Error,
    },
}

impl ConnectionError {
    fn http(error: hyper::Error) -> Self {
        Self::Http { error }
    }

    /// What the core judges.
    pub(crate) fn failure(&self) -> Failure {
        match self {
            Self::Connect(error) if is_own_lack(error) => Failure::Local,
            Self::Connect(_) => Failure::Unreachable,
            Self::Http { error } if multiplexed::is_timeout(error) => Failure::Timeout,
            Self::Http { error } => {
                let cause = std::error::Error::source(error).and_then(|source| source.downcast_ref::<io::Error>());
                match cause.map(io::Error::kind) {
                    Some(io::ErrorKind::TimedOut) => Failure::Timeout,
                    _ => Failure::Connection,
                }
            }
        }
    }
}

/// Whether a connection could not be opened because this process or machine has no descriptor, port or memory left.
pub(crate) fn is_own_lack(error: &io::Error) -> bool {
    let lacks = [Errno::MFILE, Errno::NFILE, Errno::ADDRNOTAVAIL, Errno::NOBUFS, Errno::NOMEM];
    error.raw_os_error().is_some_and(|code| lacks.iter().any(|lack| lack.raw_os_error() == code))
}

fn cause(error: &hyper::Error) -> String {
    std::error::Error::source(error).map_or(String::new(), |source| format!(": {source}"))
}

/// An open HTTP/1 connection to a replica.
pub(super) struct Connection {
    sender: SendRequest<Full<Bytes>>,
    /// hyper's side of the connection, which reads and writes when polled. `None` once the connection is closed:
    /// hyper returns a request that it did not send only when this is dropped.
    driver: Option<Driver>,
    poller: SelfWakePoller,
    idle_since: Instant,
    /// Bytes of the longest request among those sent in quick succession: the congestion window follows them.
    carried: u64,
    sent: Instant,
}

/// Most header lines of an answer: gateways before an engine add many.
const MAX_HEADERS: usize = 256;

/// A congestion window shrinks when nothing is sent for a retransmission timeout, at least this long.
const WINDOW_KEPT: Duration = Duration::from_millis(200);

type Driver = http1::Connection<TokioIo<Io>, Full<Bytes>>;

impl Connection {
    async fn open(connector: &Connector, upstream: &Upstream) -> Result<Box<Self>, ConnectionError> {
        let at = &upstream.endpoint;
        let io = connector.connect(at.is_https(), at.host(), at.port()).await.map_err(ConnectionError::Connect)?;
        let (sender, driver) = http1::Builder::new()
            .max_headers(MAX_HEADERS)
            .handshake(TokioIo::new(io))
            .await
            .map_err(ConnectionError::http)?;
        let (poller, now) = (SelfWakePoller::new(), Instant::now());
        Ok(Box::new(Self { sender, driver: Some(driver), poller, idle_since: now, carried: 0, sent: now }))
    }

    /// Notes a request of `bytes`.
    fn sends(&mut self, bytes: u64) {
        (self.carried, self.sent) = (self.window().max(bytes), Instant::now());
    }

    /// Bytes that the congestion window is known to have carried, 0 once it has shrunk.
    pub(super) fn window(&self) -> u64 {
        if self.sent.elapsed() < WINDOW_KEPT { self.carried } else { 0 }
    }

    /// Whether an idle connection is still open at the other side, as far as this side was told.
    pub(super) fn is_open(&mut self) -> bool {
        self.drive(&mut Context::from_waker(Waker::noop()));
        self.is_ready()
    }

    /// Reads and writes as much as the socket allows. Errors surface through the request or the body in progress.
    fn drive(&mut self, cx: &mut Context<'_>) {
        let _ = self.poller.poll(cx, |cx| {
            poll_driver(&mut self.driver, cx);
            Poll::Ready(())
        });
    }

    /// Whether the connection is open and can take a request.
    fn is_ready(&self) -> bool {
        self.driver.is_some() && self.sender.is_ready()
    }

    /// Marks the connection as idle from now on, and stops its wakes until the next request.
    pub(super) fn set_idle(&mut self) {
        self.idle_since = Instant::now();
        self.poller.stop_waking();
    }

    /// How long the connection has been idle.
    pub(super) fn idle_time(&self) -> Duration {
        self.idle_since.elapsed()
    }
}

fn poll_driver(driver: &mut Option<Driver>, cx: &mut Context<'_>) {
    if driver.as_mut().is_some_and(|driver| Pin::new(driver).poll(cx).is_ready()) {
        *driver = None;
    }
}

/// Sends a request to a replica: over the connection that requests to a peer share, else over an idle connection, or over
/// a new one if there is none.
///
/// If a connection turns out to be closed before the request was sent, the next one is tried; `request` builds the request
/// for each.
pub(crate) async fn send(
    connector: &Connector,
    to: &Arc<Upstream>,
    keep_alive: Duration,
    request: impl Fn() -> Request<Full<Bytes>>,
) -> Result<Response<UpstreamBody>, ConnectionError> {
    if let Some(stream) = to.multiplexed.stream() {
        // Boxed, since most requests go to engines.
        match Box::pin(multiplexed::send(&stream, &to.endpoint, request())).await {
            Ok(response) => return Ok(response.map(|body| UpstreamBody::of_stream(body, stream, to))),
            Err(NoResponse::Broken(error)) => return Err(ConnectionError::http(error)),
            Err(NoResponse::Unprocessed) => {}
        }
    }
    loop {
        let (mut connection, reused) = match to.pool.take(keep_alive) {
            Some(connection) => (connection, true),
            None => (Box::pin(Connection::open(connector, to)).await?, false), // rare, and a large future
        };
        let request = request();
        connection.sends(request.body().size_hint().exact().unwrap_or(0));
        let answer = {
            let Connection { sender, driver, poller, .. } = &mut *connection;
            let mut sent = pin!(sender.try_send_request(request));
            poll_fn(|cx| {
                poller.poll(cx, |cx| {
                    poll_driver(driver, cx);
                    sent.as_mut().poll(cx)
                })
            })
            .await
        };
        match answer {
            Ok(response) => return Ok(response.map(|body| UpstreamBody::new(body, connection, to))),
            Err(error) if reused && error.message().is_some() => {}
            Err(error) => return Err(ConnectionError::http(error.into_error())),
        }
    }
}

/// The body of a replica's response, together with its connection: returned to the pool at the end of the body,
/// closed if the body is dropped before. Of a shared connection, only the body's stream ends with it.
pub(crate) struct UpstreamBody {
    body: Incoming,
    connection: Option<Box<Connection>>,
    /// The place of its stream on a shared connection.
    stream: Option<Stream>,
    upstream: Arc<Upstream>,
    /// Whether the body has been polled: hyper reads one only after that.
    polled: bool,
}

impl fmt::Debug for UpstreamBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpstreamBody").field("upstream", &self.upstream.name).finish_non_exhaustive()
    }
}

impl UpstreamBody {
    fn new(body: Incoming, connection: Box<Connection>, upstream: &Arc<Upstream>) -> Self {
        let (connection, upstream) = (Some(connection), Arc::clone(upstream));
        let mut this = Self { body, connection, stream: None, upstream, polled: false };
        if this.body.is_end_stream() {
            this.release(&mut Context::from_waker(Waker::noop()));
        }
        this
    }

    fn of_stream(body: Incoming, stream: Stream, upstream: &Arc<Upstream>) -> Self {
        Self { body, connection: None, stream: Some(stream), upstream: Arc::clone(upstream), polled: false }
    }

    /// Whether the body has an end of its own, so that the end of its connection is no end of the body.
    pub(crate) fn is_of_stream(&self) -> bool {
        self.stream.is_some()
    }

    /// Returns the connection to the pool after the body's last byte, once hyper has seen the end of the response.
    fn release(&mut self, cx: &mut Context<'_>) {
        if let Some(mut connection) = self.connection.take() {
            if !connection.is_ready() {
                connection.drive(cx);
            }
            if connection.is_ready() {
                self.upstream.pool.put(connection);
            }
        }
    }
}

impl Body for UpstreamBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = &mut *self;
        let Some(connection) = this.connection.as_deref_mut() else {
            return Pin::new(&mut this.body).poll_frame(cx);
        };
        let Connection { driver, poller, .. } = connection;
        let (body, polled) = (&mut this.body, &mut this.polled);
        let frame = poller.poll(cx, |cx| {
            if !std::mem::replace(polled, true)
                && let frame @ Poll::Ready(_) = Pin::new(&mut *body).poll_frame(cx)
            {
                return frame;
            }
            poll_driver(driver, cx);
            Pin::new(&mut *body).poll_frame(cx)
        });
        if matches!(frame, Poll::Ready(None)) || this.body.is_end_stream() {
            this.release(cx);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests;
