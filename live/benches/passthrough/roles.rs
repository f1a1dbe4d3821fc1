//! What runs in the other processes: an engine, the pass-through, the router.

use bytes::Bytes;
use futures_util::stream::{self, StreamExt};
use gorgo_live::config::{Config, ReplicaConfig};
use gorgo_live::tcp;
use gorgo_live::testkit::{Connector, pooled_client};
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::time::Duration;
use tokio::net::TcpListener;

type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

pub(crate) const EVENT: &[u8] = b"data: {\"id\":\"0123456789abcdef\",\"object\":\"chat.completion.chunk\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\" word\"},\"finish_reason\":null}]}\n\n";

pub(crate) async fn engine(port: u16) {
    let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        tokio::spawn(async move {
            let service = service_fn(|request: Request<Incoming>| async {
                let shape = request.headers().get("x-stream").map(|v| v.to_str().unwrap().to_owned());
                // Nobody here wants the body in one piece.
                let mut body = request.into_body();
                while body.frame().await.is_some() {}
                Ok::<_, Infallible>(match shape {
                    Some(shape) => events(&shape),
                    None => whole(),
                })
            });
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

fn whole() -> Answer {
    const BODY: &[u8] = br#"{"id":"0123456789abcdef0123456789abcdef","choices":[{"index":0,"message":{"role":"assistant","content":"hello there"}}],"usage":{"prompt_tokens":50,"completion_tokens":3,"total_tokens":53}}"#;
    let mut response = Response::new(Full::new(Bytes::from_static(BODY)).boxed_unsync());
    response.headers_mut().insert("content-type", "application/json".parse().unwrap());
    response
}

/// `AxB`: A events, B of them a piece; each piece but the last of a short answer is written by itself.
fn events(shape: &str) -> Answer {
    let (count, each) = shape.split_once('x').unwrap();
    let (count, each): (usize, usize) = (count.parse().unwrap(), each.parse().unwrap());
    let piece = Bytes::from(EVENT.repeat(each));
    let body = StreamBody::new(stream::iter(0..count / each).then(move |n| {
        let piece = piece.clone();
        async move {
            if n > 0 {
                tokio::task::yield_now().await; // hyper writes what it has when a body is not ready
            }
            Ok(Frame::data(piece))
        }
    }));
    let mut response = Response::new(body.boxed_unsync());
    response.headers_mut().insert("content-type", "text/event-stream".parse().unwrap());
    response
}

/// What a router does at the least: read the body, hash it, send the same bytes on through a pool.
pub(crate) async fn floor(port: u16, engine: u16) {
    let pool = pooled_client(Connector::new(tcp(), None, Duration::from_secs(1)), Duration::from_secs(4));
    let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        let pool = pool.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let pool = pool.clone();
                async move {
                    let (mut parts, body) = request.into_parts();
                    let body = body.collect().await?.to_bytes();
                    std::hint::black_box(xxhash_rust::xxh3::xxh3_64(&body));
                    parts.uri = format!("http://127.0.0.1:{engine}{}", parts.uri.path()).parse().unwrap();
                    parts.headers.remove("host");
                    let sent = pool.request(Request::from_parts(parts, Full::new(body))).await;
                    Ok::<_, hyper::Error>(sent.unwrap())
                }
            });
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

/// The whole router, index at work: room for all prompts, so that only its bytes bound it.
pub(crate) async fn router(port: u16, engine: u16) {
    let replica = ReplicaConfig {
        url: format!("http://127.0.0.1:{engine}"),
        name: None,
        region: None,
        labels: Vec::new(),
        ms_per_token: None,
        kv_tokens: Some(1 << 40),
        models: Vec::new(),
        api_key: None,
        api_key_file: None,
    };
    let config = Config { listen: ([127, 0, 0, 1], port).into(), replicas: vec![replica], ..Config::default() };
    gorgo_live::run(
        config,
        None,
        None,
        gorgo_live::Signals::install().unwrap(),
        std::sync::Arc::new(gorgo_live::Hidden),
    )
    .await
    .unwrap();
}
