//! The shared connection against peers that refuse, fall silent and close.

use super::*;
use crate::server::listener::Listener;
use crate::testkit::{Io, Net};
use crate::upstream::connection;
use crate::upstream::replica::Upstream;
use gorgo_core::ReplicaId;
use gorgo_core::fleet::Kind;
use gorgo_core::router::Failure;
use h2::Reason;
use h2::server::{Connection, SendResponse};
use hyper::service::service_fn;
use std::convert::Infallible;

type Peer = Connection<Io, Bytes>;

/// A peer at `p`, whose first connection speaks HTTP/2 and has answered a request.
async fn shared(streams: u32) -> (Net, Connector, Arc<Upstream>, Peer) {
    let net = Net::default();
    let connector = Connector::new(net.dial(), None, Duration::from_secs(1));
    let endpoint = Endpoint::parse("http://p:80/base").unwrap();
    let peer = Arc::new(Upstream::new(ReplicaId(0), "p".to_owned(), Kind::Peer, endpoint));
    let mut listener = net.listen("p", 80);
    let serving = async {
        let (io, _) = listener.accept().await.unwrap();
        let mut server = h2::server::Builder::new().max_concurrent_streams(streams).handshake(io).await.unwrap();
        let (_, answer) = server.accept().await.unwrap().unwrap();
        say(answer, "first");
        let settled = tokio::time::timeout(Duration::from_millis(1), server.accept()).await;
        assert!(settled.is_err(), "no other request");
        server
    };
    let opening = peer.multiplexed.keep_open(&connector, &peer.endpoint, request(&peer), Duration::from_secs(1));
    let (server, ()) = tokio::join!(serving, opening);
    assert!(peer.multiplexed.is_open());
    // What follows goes over HTTP/1.
    tokio::spawn(async move {
        while let Ok((io, _)) = listener.accept().await {
            let service = service_fn(async |_: Request<Incoming>| {
                Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"over HTTP/1"))))
            });
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(io), service));
        }
    });
    (net, connector, peer, server)
}

fn request(peer: &Upstream) -> Request<Full<Bytes>> {
    let path = http::uri::PathAndQuery::from_static("/v1/x?y=z");
    peer.request(http::Method::POST, &path, http::HeaderMap::new(), Full::new(Bytes::from_static(b"body")))
}

fn say(mut answer: SendResponse<Bytes>, text: &'static str) {
    let mut stream = answer.send_response(Response::new(()), false).unwrap();
    stream.send_data(Bytes::from_static(text.as_bytes()), true).unwrap();
}

async fn ask(connector: &Connector, peer: &Arc<Upstream>) -> Result<String, Failure> {
    let answer = connection::send(connector, peer, Duration::from_secs(4), || request(peer)).await;
    let body = answer.map_err(|error| error.failure())?.collect().await.map_err(|_| Failure::Connection)?;
    Ok(String::from_utf8(body.to_bytes().to_vec()).unwrap())
}

/// Serves what comes by `answer`, for as long as `asks` takes.
async fn while_serving<T>(
    mut server: Peer,
    mut answer: impl FnMut(&mut Peer, Request<h2::RecvStream>, SendResponse<Bytes>),
    asks: impl Future<Output = T>,
) -> T {
    let serve = async {
        while let Some(Ok((request, respond))) = server.accept().await {
            answer(&mut server, request, respond);
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        asked = asks => asked,
        () = serve => unreachable!(),
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_names_its_host_in_the_target() {
    let (_net, connector, peer, server) = shared(10).await;
    let answer = |_: &mut Peer, request: Request<h2::RecvStream>, respond| {
        assert_eq!(request.uri(), "http://p/base/v1/x?y=z");
        assert!(!request.headers().contains_key(HOST) && request.headers()["content-length"] == "4");
        say(respond, "over HTTP/2");
    };
    assert_eq!(while_serving(server, answer, ask(&connector, &peer)).await.unwrap(), "over HTTP/2");
}

#[tokio::test(start_paused = true)]
async fn a_refused_stream_is_sent_anew() {
    let (_net, connector, peer, server) = shared(10).await;
    let answer =
        |_: &mut Peer, _: Request<h2::RecvStream>, mut to: SendResponse<Bytes>| to.send_reset(Reason::REFUSED_STREAM);
    assert_eq!(while_serving(server, answer, ask(&connector, &peer)).await.unwrap(), "over HTTP/1");
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_the_peer_resets_is_not_sent_anew() {
    let (_net, connector, peer, server) = shared(10).await;
    let answer =
        |_: &mut Peer, _: Request<h2::RecvStream>, mut to: SendResponse<Bytes>| to.send_reset(Reason::INTERNAL_ERROR);
    assert_eq!(while_serving(server, answer, ask(&connector, &peer)).await, Err(Failure::Connection));
}

#[tokio::test(start_paused = true)]
async fn requests_beyond_the_peers_streams_do_not_wait_for_one() {
    let (_net, connector, peer, server) = shared(2).await;
    let mut held = Vec::new();
    let answer = |_: &mut Peer, _: Request<h2::RecvStream>, respond| held.push(respond);
    let asks = async {
        let held = [ask(&connector, &peer), ask(&connector, &peer)];
        let held = futures_util::future::join_all(held);
        tokio::pin!(held);
        assert!(tokio::time::timeout(Duration::from_millis(5), held.as_mut()).await.is_err());
        assert_eq!(ask(&connector, &peer).await.unwrap(), "over HTTP/1");
    };
    while_serving(server, answer, asks).await;
    let streams = || peer.multiplexed.open.read().as_ref().map(|shared| shared.streams.load(Ordering::Relaxed));
    assert_eq!(streams(), Some(0), "a request that is dropped gives its place back");
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_the_peer_closes_is_used_no_more() {
    let (_net, connector, peer, server) = shared(10).await;
    drop(server);
    for _ in 0..3 {
        assert_eq!(ask(&connector, &peer).await.unwrap(), "over HTTP/1");
    }
    assert!(!peer.multiplexed.is_open());
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_falls_silent_fails_its_requests_by_time() {
    let (_net, connector, peer, server) = shared(10).await;
    let began = Instant::now();
    assert_eq!(ask(&connector, &peer).await, Err(Failure::Timeout));
    assert!(began.elapsed() <= 2 * PING + Duration::from_secs(1), "{:?}", began.elapsed());
    assert_eq!(ask(&connector, &peer).await.unwrap(), "over HTTP/1");
    drop(server);
}

#[tokio::test(start_paused = true)]
async fn a_connection_taken_back_ends_with_its_last_stream() {
    let (_net, connector, peer, server) = shared(10).await;
    let mut asked = None;
    let answer = |_: &mut Peer, _: Request<h2::RecvStream>, respond| asked = Some(respond);
    let (connector2, peer2) = (connector.clone(), Arc::clone(&peer));
    let held = tokio::spawn(async move { ask(&connector2, &peer2).await });
    let asks = async {
        tokio::time::sleep(Duration::from_millis(5)).await;
        peer.stop();
        assert_eq!(ask(&connector, &peer).await.unwrap(), "over HTTP/1");
    };
    let mut server = server;
    let serve = async {
        let mut answer = answer;
        let (request, respond) = server.accept().await.unwrap().unwrap();
        answer(&mut server, request, respond);
        tokio::select! {
            () = asks => {}
            _ = server.accept() => panic!("the connection ended under a stream"),
        }
    };
    serve.await;
    say(asked.unwrap(), "over HTTP/2");
    assert!(server.accept().await.is_none(), "closed after its last stream");
    assert_eq!(held.await.unwrap().unwrap(), "over HTTP/2");
}

#[tokio::test(start_paused = true)]
async fn a_peer_without_http2_is_asked_again_ever_less_often() {
    let net = Net::default();
    let connector = Connector::new(net.dial(), None, Duration::from_secs(1));
    let peer = Upstream::new(ReplicaId(0), "p".to_owned(), Kind::Peer, Endpoint::parse("http://p:80").unwrap());
    let mut listener = net.listen("p", 80);
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    tokio::spawn(async move {
        while let Ok((io, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::Relaxed);
            let service =
                service_fn(async |_: Request<Incoming>| Ok::<_, Infallible>(Response::new(Full::new(Bytes::new()))));
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(io), service).await;
        }
    });
    for _ in 0..1_000 {
        peer.multiplexed.keep_open(&connector, &peer.endpoint, request(&peer), Duration::from_secs(1)).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(!peer.multiplexed.is_open());
    assert_eq!(count.load(Ordering::Relaxed), 6, "after 0, 2, 6, 14, 30, 62 s");
}
