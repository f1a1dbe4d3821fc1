//! HTTP/2 between routers: one connection for all requests to a peer that speaks it, HTTP/1 for all others.

use crate::fixture::{World, chat, ms, post, replica, whole};
use crate::packed::{FakePeer, edge, long, send_two};
use gorgo_live::config::Config;
use gorgo_live::testkit::{Engine, Io, Listener, Net, Script};
use http::Version;
use http_body_util::BodyExt;
use serde_json::json;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;

fn on(config: &mut Config) {
    config.upstream.http2_to_peers = true;
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0";

/// Passes connections on to another host, and keeps what was sent on each.
#[derive(Clone, Default)]
struct Front {
    sent: Arc<Mutex<Vec<Vec<u8>>>>,
    passing: Arc<Mutex<JoinSet<()>>>,
}

impl Front {
    fn start(net: &Net, host: &str, port: u16, behind: &'static str) -> Self {
        let (this, mut listener, net) = (Self::default(), net.listen(host, port), net.clone());
        let front = this.clone();
        tokio::spawn(async move {
            while let Ok((from, _)) = listener.accept().await {
                let Ok(to) = net.connect(behind, port) else { continue };
                let mut sent = front.sent.lock().unwrap();
                let (number, kept) = (sent.len(), Arc::clone(&front.sent));
                sent.push(Vec::new());
                front.passing.lock().unwrap().spawn(pass(from, to, move |bytes| {
                    kept.lock().unwrap()[number].extend_from_slice(bytes);
                }));
            }
        });
        this
    }

    /// Connections over HTTP/2.
    fn http2(&self) -> usize {
        self.sent.lock().unwrap().iter().filter(|sent| sent.starts_with(PREFACE)).count()
    }

    /// Prompts over HTTP/1.
    fn http1_prompts(&self) -> usize {
        let sent = self.sent.lock().unwrap();
        let http1 = sent.iter().filter(|sent| !sent.starts_with(PREFACE));
        http1.map(|sent| sent.windows(8).filter(|word| word == b"POST /v1").count()).sum()
    }

    /// Breaks all connections.
    fn kill(&self) {
        self.passing.lock().unwrap().abort_all();
    }
}

async fn pass(from: Io, to: Io, mut keep: impl FnMut(&[u8])) {
    let ((mut from_read, mut from_write), (mut to_read, mut to_write)) = (tokio::io::split(from), tokio::io::split(to));
    let up = async {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(read @ 1..) = from_read.read(&mut buffer).await {
            keep(&buffer[..read]);
            if to_write.write_all(&buffer[..read]).await.is_err() {
                return;
            }
        }
    };
    let down = tokio::io::copy(&mut to_read, &mut from_write);
    tokio::select! {
        () = up => {}
        _ = down => {}
    }
}

/// Two edges with a front before the second one and before the engine of the first.
struct Pair {
    a: World,
    b: World,
    peer: Front,
    engine: Front,
}

impl Pair {
    async fn new(script: Script, change: impl Fn(&mut Config)) -> Self {
        let net = Net::default();
        let (peer, engine) = (Front::start(&net, "front", 8000, "edge1"), Front::start(&net, "e0-front", 8080, "e0"));
        let near = |config: &mut Config| {
            config.peers[0].url = "http://front:8000".to_owned();
            config.replicas[0].url = "http://e0-front:8080".to_owned();
            config.router.gates.slow_start_ms = 0.0; // the peer starts later
            config.upstream.http2_to_peers = true;
            change(config);
        };
        let a = edge(&net, "router", "edge1", "e0", script.clone(), near).await;
        let b = edge(&net, "edge1", "router", "e1", script, |_| {}).await;
        ms(1_500).await; // reports of both
        Self { a, b, peer, engine }
    }

    async fn protocol(&self) -> String {
        self.a.get("/lb/metrics").await.1["peers"]["edge1"]["protocol"].as_str().unwrap().to_owned()
    }

    /// Starts so many requests at once.
    fn start(&self, count: usize, stream: bool) -> Vec<tokio::task::JoinHandle<(u16, Vec<u8>)>> {
        let ask = |n| {
            let client = self.a.client.clone();
            tokio::spawn(async move {
                let response = client.request(chat(&format!("request {n} of many"), stream)).await.unwrap();
                let status = response.status().as_u16();
                (status, response.into_body().collect().await.map_or(Vec::new(), |all| all.to_bytes().to_vec()))
            })
        };
        (0..count).map(ask).collect()
    }

    fn assert_empty(&self) {
        assert_eq!((self.a.left(), self.b.left()), ((0, 0), (0, 0)));
        assert_eq!(self.engine.http2(), 0, "engines get HTTP/1");
    }
}

fn is_whole((status, body): &(u16, Vec<u8>)) -> bool {
    *status == 200 && body.ends_with(b"data: [DONE]\n\n")
}

#[tokio::test(start_paused = true)]
async fn all_requests_to_a_peer_share_one_connection_and_engines_get_http1() {
    let pair = Pair::new(Script { prefill: Duration::from_millis(300), ..Script::default() }, |_| {}).await;
    assert_eq!(pair.protocol().await, "HTTP/2");
    let (_, state) = pair.a.get("/lb/metrics").await;
    assert!(state["local"]["protocol"].is_null());
    assert_eq!(state["peers"]["edge1"]["transport"]["opening_rounds"], 0.0, "no request opens a connection");
    for asked in pair.start(128, true) {
        assert!(is_whole(&asked.await.unwrap()));
    }
    assert_eq!(send_two(&pair.a).await, [200, 200]);
    for world in [&pair.a, &pair.b] {
        assert_eq!(world.engines[0].counts(), (0, 0, 65));
    }
    assert_eq!((pair.peer.http2(), pair.peer.http1_prompts()), (1, 0));
    assert_eq!(pair.engine.http1_prompts(), 65);
    pair.assert_empty();
}

#[tokio::test(start_paused = true)]
async fn a_long_prompt_arrives_whole() {
    let (net, body) = (Net::default(), "x".repeat(1 << 20));
    let peer = FakePeer::speaking(true, &net, "edge1", json!({"speaks_http2": true}), [200, 200]);
    let world = edge(&net, "router", "edge1", "e0", Script::default(), on).await;
    ms(1_500).await;
    let prompt = json!({"model": "mock", "prompt": body}).to_string();
    for _ in 0..2 {
        assert_eq!(world.send(post("/v1/chat/completions", &prompt)).await.status(), 200);
    }
    assert_eq!(peer.asked()[0].1.len(), prompt.len());
}

#[tokio::test(start_paused = true)]
async fn a_request_over_http2_names_the_peer_and_carries_no_header_of_a_connection() {
    let net = Net::default();
    let peer = FakePeer::speaking(true, &net, "edge1", json!({"speaks_http2": true}), [200, 200]);
    let world = edge(&net, "router", "edge1", "e0", Script::default(), on).await;
    ms(1_500).await;
    for _ in 0..2 {
        let mut request = chat("hello", false);
        for (name, value) in [("connection", "x-mine"), ("x-mine", "1"), ("te", "trailers"), ("keep-alive", "5")] {
            request.headers_mut().insert(name, value.parse().unwrap());
        }
        let response = world.send(request).await;
        assert_eq!((response.status().as_u16(), response.version()), (200, Version::HTTP_11));
        whole(response).await;
    }
    let (version, target) = peer.targets.lock().unwrap()[0].clone();
    assert_eq!((version, target.to_string().as_str()), (Version::HTTP_2, "http://edge1:8000/v1/chat/completions"));
    let headers = &peer.asked()[0].0;
    for name in ["host", "connection", "x-mine", "te", "keep-alive"] {
        assert!(!headers.contains_key(name), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_ends_its_own_stream_alone() {
    let script = Script { prefill: Duration::from_secs(2), tokens: 50, ..Script::default() };
    let pair = Pair::new(script, |_| {}).await;
    let asked = pair.start(128, true);
    ms(1_000).await;
    // Neighbours go to the engine and to the peer.
    asked[10].abort();
    asked[11].abort();
    ms(1_200).await; // in mid answer
    asked[20].abort();
    asked[21].abort();
    let mut all = 0;
    for one in asked {
        all += usize::from(one.await.is_ok_and(|answer| is_whole(&answer)));
    }
    assert_eq!(all, 124);
    for world in [&pair.a, &pair.b] {
        assert_eq!(world.engines[0].counts(), (0, 2, 62));
    }
    assert_eq!((pair.peer.http2(), pair.peer.http1_prompts(), pair.protocol().await.as_str()), (1, 0, "HTTP/2"));
    pair.assert_empty();
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_stops_loses_no_request() {
    let script = Script { prefill: Duration::from_millis(200), tokens: 100, ..Script::default() };
    let mut pair = Pair::new(script, |_| {}).await;
    let mut asked = pair.start(32, true);
    ms(300).await;
    pair.b.stop();
    for _ in 0..40 {
        ms(50).await;
        asked.extend(pair.start(4, true));
    }
    for one in asked {
        assert!(is_whole(&one.await.unwrap()));
    }
    assert_eq!((&mut pair.b.server).await.unwrap(), 0, "no connection was cut");
    assert_eq!(pair.protocol().await, "HTTP/1.1");
    pair.assert_empty();
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_dies_fails_over_as_over_http1() {
    for http2 in [true, false] {
        let script = Script { prefill: Duration::from_secs(1), ..Script::default() };
        let pair = Pair::new(script, |config| config.upstream.http2_to_peers = http2).await;
        assert_eq!(pair.peer.http2(), usize::from(http2));
        let asked = pair.start(20, true);
        ms(500).await;
        assert_eq!(pair.b.engines[0].counts().0, 10);
        pair.peer.kill();
        for one in asked {
            assert!(is_whole(&one.await.unwrap()), "HTTP/2: {http2}");
        }
        let rows = pair.a.state.request_log.entries();
        assert_eq!(rows.iter().filter(|row| row.attempts == 2).count(), 10, "HTTP/2: {http2}");
        ms(10_000).await;
        assert_eq!(pair.peer.http2(), 2 * usize::from(http2), "opened again");
        pair.assert_empty();
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_does_not_say_so_or_cannot_gets_http1() {
    for (tells, setting, can, version) in [
        (json!({"speaks_http2": true}), true, true, Version::HTTP_2),
        (json!({"speaks_http2": true}), false, true, Version::HTTP_11),
        (json!({"speaks_http2": true}), true, false, Version::HTTP_11),
        (json!({}), true, true, Version::HTTP_11),
    ] {
        let net = Net::default();
        let peer = FakePeer::speaking(can, &net, "edge1", tells.clone(), [200, 200]);
        let set = |config: &mut Config| config.upstream.http2_to_peers = setting;
        let world = edge(&net, "router", "edge1", "e0", Script::default(), set).await;
        ms(1_500).await;
        assert_eq!(send_two(&world).await, [200, 200]);
        assert_eq!(peer.targets.lock().unwrap()[0].0, version, "{tells} {setting} {can}");
        let shown = &world.get("/lb/metrics").await.1["peers"]["edge1"]["protocol"];
        assert_eq!(*shown, format!("{version:?}").trim_end_matches(".0"), "{tells} {setting} {can}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_error_of_a_peer_is_told_as_over_http1() {
    for http2 in [true, false] {
        let script = Script { cut_after: Some(2), ..Script::default() };
        let pair = Pair::new(script, |config| config.upstream.http2_to_peers = http2).await;
        for one in pair.start(4, true) {
            let (status, body) = one.await.unwrap();
            let text = String::from_utf8(body).unwrap();
            assert!(status == 200 && text.contains("upstream_broke"), "HTTP/2: {http2}: {text}");
        }
        pair.b.engines[0].script(|script| (script.status, script.cut_after) = (503, None));
        pair.a.engines[0].script(|script| script.cut_after = None);
        for one in pair.start(4, true) {
            assert!(is_whole(&one.await.unwrap()), "HTTP/2: {http2}");
        }
        pair.assert_empty();
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_over_tls_is_asked_by_alpn() {
    let made = rcgen::generate_simple_self_signed(vec!["edge1".to_owned(), "front".to_owned()]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (cert, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    std::fs::write(&cert, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let net = Net::default();
    let engines = vec![Engine::start(&net, "e1", Script::default())];
    let mut config =
        Config { replicas: vec![replica("e1")], role: gorgo_live::config::Role::Edge, ..Config::default() };
    (config.tls.cert, config.tls.key) = (Some(cert.clone()), Some(key));
    let b = World::with(net.clone(), engines, config, "edge1").await;
    let near = |config: &mut Config| {
        config.peers[0].url = "https://edge1:8000".to_owned();
        config.tls.upstream_ca = Some(cert.clone());
        config.upstream.http2_to_peers = true;
    };
    let a = edge(&net, "router", "edge1", "e0", Script::default(), near).await;
    ms(1_500).await;
    let (_, state) = a.get("/lb/metrics").await;
    assert_eq!(state["peers"]["edge1"]["protocol"], "HTTP/2");
    assert_eq!(send_two(&a).await, [200, 200]);
    assert_eq!(b.engines[0].seen().len(), 1);
    assert_eq!(b.engines[0].seen()[0].body, long().1);
}
