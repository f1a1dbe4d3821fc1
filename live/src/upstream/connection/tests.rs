//! Connections against an engine on a network in memory.

use super::*;
use crate::server::listener::Listener;
use crate::testkit::Net;
use crate::upstream::connect::Endpoint;
use gorgo_core::ReplicaId;
use gorgo_core::fleet::Kind;
use http_body_util::BodyExt;
use hyper::service::service_fn;
use std::convert::Infallible;
use std::io::{Read, Write};
use std::sync::atomic::{AtomicUsize, Ordering};

/// The way to the engine `e`.
fn to_e(net: &Net) -> (Connector, Arc<Upstream>) {
    let connector = Connector::new(net.dial(), None, Duration::from_secs(1));
    let endpoint = Endpoint::parse("http://e:80").unwrap();
    (connector, Arc::new(Upstream::new(ReplicaId(0), "e".to_owned(), Kind::Remote, endpoint)))
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

#[tokio::test(start_paused = true)]
async fn a_request_on_a_connection_that_has_just_closed_goes_over_the_next() {
    let net = Net::default();
    let mut listener = net.listen("e", 80);
    let (connector, upstream) = to_e(&net);
    upstream.pool.put(Connection::open(&connector, &upstream).await.unwrap());
    drop(listener.accept().await.unwrap()); // closed, and not polled since
    tokio::spawn(async move {
        let (io, _) = listener.accept().await.unwrap();
        let service =
            service_fn(async |_: Request<Incoming>| Ok::<_, Infallible>(Response::new(Full::new(Bytes::from("a")))));
        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(io), service).await
    });
    let request = || Request::get("/").header("host", "e").body(Full::default()).unwrap();
    let answer = send(&connector, &upstream, Duration::from_secs(60), request).await.unwrap();
    assert_eq!(answer.collect().await.unwrap().to_bytes(), "a");
}

/// A server that refuses long bodies answers and closes, and its kernel resets the connection.
#[tokio::test]
async fn an_answer_that_comes_before_the_whole_request_is_sent_is_passed_on() {
    const TIMES: usize = 50;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = Endpoint::parse(&listener.local_addr().unwrap().to_string()).unwrap();
    // A thread of its own: the reset also comes between two writes of one poll.
    let server = std::thread::spawn(move || {
        for stream in listener.incoming().take(TIMES) {
            let mut stream = stream.unwrap();
            stream.read_exact(&mut [0; 1 << 10]).unwrap();
            let answer = b"HTTP/1.1 413 Payload Too Large\r\ncontent-length: 8\r\nconnection: close\r\n\r\ntoo long";
            stream.write_all(answer).unwrap();
        }
    });
    let connector = Connector::new(crate::upstream::connect::tcp(), None, Duration::from_secs(5));
    let upstream = Arc::new(Upstream::new(ReplicaId(0), "e".to_owned(), Kind::Remote, endpoint));
    let body = Bytes::from(vec![0; 16 << 20]);
    for _ in 0..TIMES {
        let request = || Request::post("/").header("host", "e").body(Full::from(body.clone())).unwrap();
        let answer = send(&connector, &upstream, Duration::from_secs(60), request).await.unwrap();
        assert_eq!(answer.status(), 413);
        assert_eq!(answer.collect().await.unwrap().to_bytes(), "too long");
    }
    server.join().unwrap();
}

#[tokio::test(start_paused = true)]
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
    assert_eq!((made(), upstream.pool.len_here()), (4, 2), "the old one is not used");
    tokio::time::advance(Duration::from_secs(5)).await;
    let (most, period) = (Duration::from_secs(60), Duration::from_secs(1));
    upstream.pool.close_expired(keep_alive, most, period);
    assert_eq!(upstream.pool.len_here(), 2, "the oldest stays to show how long the replica keeps it");
    assert_eq!(upstream.pool.usable(keep_alive), Duration::from_secs(8), "four fifths of 10 s");
    tokio::time::advance(Duration::from_secs(10)).await;
    upstream.pool.close_expired(keep_alive, most, period);
    assert_eq!(upstream.pool.usable(keep_alive), Duration::from_secs(16), "four fifths of 20 s");
    drop(ask("/").await.collect().await);
    assert_eq!(made(), 4, "a connection idle for 15 s is used now");
    tokio::time::advance(most).await;
    upstream.pool.close_expired(keep_alive, most, period);
    assert_eq!(upstream.pool.len_here(), 0);
}
