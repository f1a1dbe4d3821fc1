//! What a router does at the least: read the body, hash it, send the same bytes on through a pool.

use crate::Args;
use gorgo_live::tcp;
use gorgo_live::testkit::{Connector, pooled_client};
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::net::TcpListener;

pub(crate) async fn serve(args: &Args) {
    let pool = pooled_client(Connector::new(tcp(), None, Duration::from_secs(1)), Duration::from_secs(4));
    let to = Arc::new(args.urls());
    let turn = Arc::new(AtomicUsize::new(0));
    let listener = TcpListener::bind(("127.0.0.1", args.number("port", 0.0) as u16)).await.unwrap();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (pool, to, turn) = (pool.clone(), to.clone(), turn.clone());
        tokio::spawn(async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let pool = pool.clone();
                let engine = to[turn.fetch_add(1, Ordering::Relaxed) % to.len()].clone();
                async move {
                    let (mut parts, body) = request.into_parts();
                    let body = body.collect().await?.to_bytes();
                    std::hint::black_box(xxhash_rust::xxh3::xxh3_64(&body));
                    parts.uri = format!("http://{engine}{}", parts.uri.path()).parse().unwrap();
                    parts.headers.remove("host");
                    let sent = pool.request(Request::from_parts(parts, Full::new(body))).await;
                    Ok::<_, hyper::Error>(sent.unwrap())
                }
            });
            let _: Result<(), _> =
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}
