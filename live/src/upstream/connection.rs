//! Connections to one replica: kept open, each driven by the request that uses it.
//!
//! A pooled client gives every connection a task of its own, so each piece of an answer wakes two tasks, often on two
//! threads. Here the task that answers the client also reads from and writes to the replica; a connection that waits
//! for its next request is driven by nobody.

use crate::server::workers;
use crate::upstream::connect::{Connector, Io};
use crate::upstream::replica::Upstream;
use crate::upstream::self_wake::Steadily;
use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http1::{Connection, SendRequest, handshake};
use hyper_util::rt::TokioIo;
use parking_lot::{Mutex, MutexGuard};
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use thiserror::Error;
use tokio::time::Instant;

/// Most connections kept open without a request, a replica and thread.
const MOST_IDLE: usize = 256;

/// Why a request got no answer.
#[derive(Debug, Error)]
pub(crate) enum LinkError {
    /// There is no connection.
    #[error("cannot connect: {0}")]
    Connect(io::Error),
    /// It broke, or what came was no HTTP.
    #[error("{error}{}", cause(.error))]
    Http {
        /// What hyper says.
        error: hyper::Error,
    },
}

impl LinkError {
    fn http(error: hyper::Error) -> Self {
        Self::Http { error }
    }

    /// Whether time ran out.
    pub(crate) fn is_timeout(&self) -> bool {
        match self {
            Self::Connect(error) => error.kind() == io::ErrorKind::TimedOut,
            Self::Http { error } => std::error::Error::source(error)
                .and_then(|source| source.downcast_ref::<io::Error>())
                .is_some_and(|error| error.kind() == io::ErrorKind::TimedOut),
        }
    }
}

fn cause(error: &hyper::Error) -> String {
    std::error::Error::source(error).map_or(String::new(), |source| format!(": {source}"))
}

/// One connection.
struct Link {
    sender: SendRequest<Full<Bytes>>,
    /// `None` once it is closed: a request that was not taken yet is given back only when the connection is dropped.
    wire: Option<Wire>,
    steadily: Steadily,
    idle_since: Instant,
}

type Wire = Connection<TokioIo<Io>, Full<Bytes>>;

impl Link {
    async fn open(connector: &Connector, upstream: &Upstream) -> Result<Box<Self>, LinkError> {
        let at = &upstream.endpoint;
        let io = connector.connect(at.is_https(), at.host(), at.port()).await.map_err(LinkError::Connect)?;
        let (sender, wire) = handshake(TokioIo::new(io)).await.map_err(LinkError::http)?;
        Ok(Box::new(Self { sender, wire: Some(wire), steadily: Steadily::new(), idle_since: Instant::now() }))
    }

    /// Reads and writes what can be. How it ended is told by the request or the body it belongs to.
    fn drive(&mut self, cx: &mut Context<'_>) {
        let _ = self.steadily.poll(cx, |cx| {
            drive(&mut self.wire, cx);
            Poll::Ready(())
        });
    }

    fn is_free(&self) -> bool {
        self.wire.is_some() && self.sender.is_ready()
    }
}

fn drive(wire: &mut Option<Wire>, cx: &mut Context<'_>) {
    if wire.as_mut().is_some_and(|wire| Pin::new(wire).poll(cx).is_ready()) {
        *wire = None;
    }
}

/// The idle connections to one replica, by the thread that drives them, the latest used last. Boxed, since each goes
/// to a request and back.
#[derive(Default)]
pub(crate) struct Links([Shelf; workers::MOST + 1]);

/// On cache lines of its own, so that threads do not wait for each other's.
#[derive(Default)]
#[repr(align(128))]
struct Shelf(Mutex<Idle>);

type Idle = Vec<Box<Link>>;

impl fmt::Debug for Links {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Links")
    }
}

impl Links {
    fn here(&self) -> MutexGuard<'_, Idle> {
        self.0[workers::here()].0.lock()
    }

    fn give(&self, mut link: Box<Link>) {
        link.idle_since = Instant::now();
        link.steadily.rest();
        let mut idle = self.here();
        if idle.len() < MOST_IDLE {
            idle.push(link);
        }
    }

    /// Closes what was not used for `keep_alive`.
    pub(crate) fn sweep(&self, keep_alive: Duration) {
        for shelf in &self.0 {
            let mut idle = shelf.0.lock();
            let old = idle.iter().take_while(|link| link.idle_since.elapsed() >= keep_alive).count();
            let closed: Vec<_> = idle.drain(..old).collect();
            drop(idle); // closing takes system calls
            drop(closed);
        }
    }

    /// A connection that was free and is not too old. Whether its other end has closed it shows when it is used.
    fn take(&self, keep_alive: Duration) -> Option<Box<Link>> {
        loop {
            let link = self.here().pop()?;
            if link.idle_since.elapsed() < keep_alive {
                return Some(link);
            }
        }
    }
}

/// Sends a request to a replica over an idle connection or a new one. An idle connection that turns out to be closed
/// before anything was sent costs nothing but the next one's turn; `request` makes the request for each.
pub(crate) async fn send(
    connector: &Connector,
    to: &Arc<Upstream>,
    keep_alive: Duration,
    request: impl Fn() -> Request<Full<Bytes>>,
) -> Result<Response<Flow>, LinkError> {
    loop {
        let (mut link, used) = match to.links.take(keep_alive) {
            Some(link) => (link, true),
            None => (Box::pin(Link::open(connector, to)).await?, false), // rare, and large
        };
        let answer = {
            let Link { sender, wire, steadily, .. } = &mut *link;
            let mut sent = pin!(sender.try_send_request(request()));
            poll_fn(|cx| {
                steadily.poll(cx, |cx| {
                    drive(wire, cx);
                    sent.as_mut().poll(cx)
                })
            })
            .await
        };
        match answer {
            Ok(response) => return Ok(response.map(|body| Flow::new(body, link, to))),
            Err(error) if used && error.message().is_some() => {}
            Err(error) => return Err(LinkError::http(error.into_error())),
        }
    }
}

/// The body of an answer, with the connection it comes on. Read to its end, it gives the connection back; dropped
/// before, it closes it.
pub struct Flow {
    body: Incoming,
    link: Option<Box<Link>>,
    home: Arc<Upstream>,
    begun: bool,
}

impl fmt::Debug for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flow").field("from", &self.home.name).finish_non_exhaustive()
    }
}

impl Flow {
    fn new(body: Incoming, link: Box<Link>, home: &Arc<Upstream>) -> Self {
        let mut flow = Self { body, link: Some(link), home: Arc::clone(home), begun: false };
        if flow.body.is_end_stream() {
            flow.settle(&mut Context::from_waker(Waker::noop()));
        }
        flow
    }

    /// The body is complete: lets the connection see it, and puts it back.
    fn settle(&mut self, cx: &mut Context<'_>) {
        if let Some(mut link) = self.link.take() {
            if !link.is_free() {
                link.drive(cx);
            }
            if link.is_free() {
                self.home.links.give(link);
            }
        }
    }
}

impl Body for Flow {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = &mut *self;
        let Some(link) = this.link.as_deref_mut() else { return Pin::new(&mut this.body).poll_frame(cx) };
        let (steadily, wire, body, begun) = (&link.steadily, &mut link.wire, &mut this.body, &mut this.begun);
        let polled = steadily.poll(cx, |cx| {
            // hyper reads a body only once somebody has asked for it.
            if !std::mem::replace(begun, true)
                && let frame @ Poll::Ready(_) = Pin::new(&mut *body).poll_frame(cx)
            {
                return frame;
            }
            drive(wire, cx);
            Pin::new(&mut *body).poll_frame(cx)
        });
        if matches!(polled, Poll::Ready(None)) || this.body.is_end_stream() {
            this.settle(cx);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::listener::Listener;
    use crate::testkit::Net;
    use crate::upstream::connect::Endpoint;
    use gorgo_core::ReplicaId;
    use gorgo_core::fleet::Kind;
    use http_body_util::BodyExt;
    use hyper::service::service_fn;
    use std::convert::Infallible;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// The way to the engine `e`.
    fn to_e(net: &Net) -> (Connector, Arc<Upstream>) {
        let connector = Connector::new(net.dial(), None, Duration::from_secs(1));
        let endpoint = Endpoint::parse("http://e:80").unwrap();
        (connector, Arc::new(Upstream::new(ReplicaId(0), "e".to_owned(), Kind::Remote, None, endpoint)))
    }

    /// Counts the connections made to it; `/close` closes the connection after the answer.
    fn serve(net: &Net) -> Arc<AtomicUsize> {
        let accepted = Arc::new(AtomicUsize::new(0));
        let (count, mut listener) = (Arc::clone(&accepted), net.listen("e", 80));
        tokio::spawn(async move {
            while let Ok((io, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                let service = service_fn(|request: Request<Incoming>| async move {
                    let mut response = Response::new(Full::new(Bytes::from_static(b"answer")));
                    if request.uri().path() == "/close" {
                        response.headers_mut().insert("connection", http::HeaderValue::from_static("close"));
                    }
                    Ok::<_, Infallible>(response)
                });
                tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(io), service));
            }
        });
        accepted
    }

    #[tokio::test]
    async fn a_request_on_a_connection_that_has_just_closed_goes_over_the_next() {
        let net = Net::default();
        let mut listener = net.listen("e", 80);
        let (connector, upstream) = to_e(&net);
        upstream.links.give(Link::open(&connector, &upstream).await.unwrap());
        drop(listener.accept().await.unwrap()); // closed, and nobody has looked since
        tokio::spawn(async move {
            let (io, _) = listener.accept().await.unwrap();
            let service = service_fn(async |_: Request<Incoming>| {
                Ok::<_, Infallible>(Response::new(Full::new(Bytes::from("a"))))
            });
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(io), service).await
        });
        let request = || Request::get("/").header("host", "e").body(Full::default()).unwrap();
        let answer = send(&connector, &upstream, Duration::from_secs(60), request).await.unwrap();
        assert_eq!(answer.collect().await.unwrap().to_bytes(), "a");
    }

    #[tokio::test]
    async fn an_idle_connection_that_its_other_end_closed_costs_no_request() {
        let net = Net::default();
        let mut listener = net.listen("e", 80);
        let (connector, upstream) = to_e(&net);
        let (close, mut closing) = tokio::sync::mpsc::channel::<()>(1);
        let (closed, mut was_closed) = tokio::sync::mpsc::channel::<()>(1);
        // Each connection serves until it is closed without `connection: close`.
        let server = tokio::spawn(async move {
            for _ in 0..3 {
                let (io, _) = listener.accept().await.unwrap();
                let service = service_fn(async |_: Request<Incoming>| {
                    Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"answer"))))
                });
                let served = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(io), service);
                tokio::select! {
                    _ = served => panic!("the client closed a connection that it could use"),
                    _ = closing.recv() => {}
                }
                closed.send(()).await.unwrap();
            }
        });
        for close_after in [true, false, true, true] {
            let request = || Request::post("/").header("host", "e").body(Full::from("body")).unwrap();
            let answer = send(&connector, &upstream, Duration::from_secs(60), request).await.unwrap();
            assert_eq!(answer.collect().await.unwrap().to_bytes(), "answer");
            if close_after {
                close.send(()).await.unwrap();
                was_closed.recv().await.unwrap();
            }
        }
        server.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_used_again_unless_it_is_closed_old_or_left_in_mid_answer() {
        let (net, keep_alive) = (Net::default(), Duration::from_secs(4));
        let accepted = serve(&net);
        let (connector, upstream) = to_e(&net);
        let ask = async |path: &'static str| {
            let request = || Request::get(path).header("host", "e").body(Full::default()).unwrap();
            send(&connector, &upstream, keep_alive, request).await.unwrap()
        };
        let made = || accepted.load(Ordering::SeqCst);
        for (path, expected) in [("/", 1), ("/", 1), ("/close", 1), ("/", 2), ("/", 2)] {
            assert_eq!(ask(path).await.collect().await.unwrap().to_bytes(), "answer");
            assert_eq!(made(), expected, "{path}");
        }
        drop(ask("/").await); // in mid answer
        drop(ask("/").await.collect().await);
        assert_eq!(made(), 3);
        tokio::time::advance(Duration::from_secs(5)).await;
        drop(ask("/").await.collect().await);
        assert_eq!((made(), upstream.links.here().len()), (4, 1));
        tokio::time::advance(Duration::from_secs(5)).await;
        upstream.links.sweep(keep_alive);
        assert_eq!(upstream.links.here().len(), 0);
    }
}
