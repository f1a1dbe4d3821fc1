//! `gorgo proxy upgrade` under connections that are not plain HTTP/1.1: TLS, and HTTP/2 over either.

use crate::processes::{Process, ports};
use crate::upgrade::Last;
use crate::{gorgo, text};
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::{TlsConnector, client::TlsStream};

const LIMIT: Duration = Duration::from_secs(120);

fn request(router: SocketAddr, path: &str, body: &str) -> Request<Full<Bytes>> {
    let uri = format!("https://{router}{path}");
    let request = Request::post(uri).header("host", router.to_string()).header("content-type", "application/json");
    request.body(Full::new(Bytes::from(body.to_owned()))).unwrap()
}

fn streamed(tokens: u32) -> String {
    let ask = serde_json::json!({"prompt": "go on", "stream": true, "max_tokens": tokens, "ignore_eos": true});
    ask.to_string()
}

/// A connection of one protocol, on which a request can be sent.
enum Client {
    One(http1::SendRequest<Full<Bytes>>),
    Two(http2::SendRequest<Full<Bytes>>),
}

impl Client {
    async fn open(router: SocketAddr, tls: Option<&ClientConfig>, is_two: bool) -> Self {
        let tcp = TcpStream::connect(router).await.unwrap();
        match tls {
            None => Self::over(TokioIo::new(tcp), is_two).await,
            Some(trust) => {
                let mut trust = trust.clone();
                trust.alpn_protocols = vec![if is_two { b"h2".to_vec() } else { b"http/1.1".to_vec() }];
                let name = ServerName::try_from("localhost").unwrap();
                let io: TlsStream<TcpStream> = TlsConnector::from(Arc::new(trust)).connect(name, tcp).await.unwrap();
                assert_eq!(io.get_ref().1.alpn_protocol() == Some(b"h2"), is_two);
                Self::over(TokioIo::new(io), is_two).await
            }
        }
    }

    async fn over<I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static>(io: I, is_two: bool) -> Self {
        if is_two {
            let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
            tokio::spawn(connection);
            return Self::Two(sender);
        }
        let (sender, connection) = http1::handshake(io).await.unwrap();
        tokio::spawn(connection);
        Self::One(sender)
    }

    /// The whole answer: its status and body.
    async fn ask(mut self, request: Request<Full<Bytes>>) -> (u16, String) {
        let exchange = async {
            let answer = match &mut self {
                Self::One(sender) => sender.send_request(request).await.unwrap(),
                Self::Two(sender) => sender.send_request(request).await.unwrap(),
            };
            let status = answer.status().as_u16();
            (status, String::from_utf8(answer.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap())
        };
        tokio::time::timeout(LIMIT, exchange).await.unwrap()
    }
}

/// Streams that are open over both versions of HTTP end whole after an upgrade, and new connections are served.
fn upgrade_keeps_streams(tls: Option<&ClientConfig>, more: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    let pid_file = dir.path().join("proxy.pid");
    let _last = Last(pid_file.clone());
    let pid_file = pid_file.to_str().unwrap();
    let engines = ports(1);
    let _engine = Process::engine(engines[0], &["--set", "decode.fixed_ms=100"]);
    let (mut first, router) = Process::proxy(&engines, &[&["--pid-file", pid_file], more].concat());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let ask = |is_two: bool, tokens: u32| {
        let tls = tls.cloned();
        async move {
            let client = Client::open(router, tls.as_ref(), is_two).await;
            client.ask(request(router, "/v1/completions", &streamed(tokens))).await
        }
    };
    let mut streams: Vec<_> = [false, true, true].into_iter().map(|two| runtime.spawn(ask(two, 60))).collect();
    // The streams have begun when the router counts them.
    while !runtime.block_on(running(router, tls)).contains("\"running_requests\":3") {
        std::thread::sleep(Duration::from_millis(20));
    }
    let out = gorgo(&["proxy", "upgrade", "--pid-file", pid_file], "");
    assert!(out.status.success(), "{}", text(&out.stderr));
    streams.extend([false, true].map(|two| runtime.spawn(ask(two, 5))));
    for stream in streams {
        let (status, body) = runtime.block_on(stream).unwrap();
        assert!(status == 200 && body.ends_with("data: [DONE]\n\n") && !body.contains("\"error\""), "{status} {body}");
    }
    assert!(first.ended().success(), "the first process ends when its streams have");
    let out = gorgo(&["proxy", "stop", "--pid-file", pid_file], "");
    assert!(out.status.success(), "{}", text(&out.stderr));
}

/// The router's status as compact JSON.
async fn running(router: SocketAddr, tls: Option<&ClientConfig>) -> String {
    let mut ask = request(router, "/proxy/status", "");
    *ask.method_mut() = hyper::Method::GET;
    let body = Client::open(router, tls, false).await.ask(ask).await.1;
    serde_json::from_str::<serde_json::Value>(&body).unwrap().to_string()
}

#[test]
fn http_2_streams_survive_an_upgrade() {
    upgrade_keeps_streams(None, &[]);
}

#[test]
fn streams_over_tls_survive_an_upgrade() {
    let dir = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    std::fs::write(&cert, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let trust = gorgo_live::config::Tls { upstream_ca: Some(cert.clone()), ..Default::default() };
    let trust = gorgo_live::tls_client_config(&trust).unwrap().unwrap();
    let set = |name: &str, path: &std::path::Path| format!("tls.{name}={}", path.display());
    upgrade_keeps_streams(Some(&trust), &["--set", &set("cert", &cert), "--set", &set("key", &key)]);
}
