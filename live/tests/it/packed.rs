//! Request bodies between routers: packed for a peer that reads zstd, plain for all others.

use crate::fixture::{World, chat, ms, post, replica, whole};
use bytes::Bytes;
use gorgo_core::policy::PolicyConfig;
use gorgo_live::config::{Config, PeerConfig, Role};
use gorgo_live::testkit::{Engine, Listener, Net, Script};
use http::{Request, Response, Uri, Version};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use serde_json::{Map, Value, json};
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

fn peer(host: &str) -> PeerConfig {
    PeerConfig { url: format!("http://{host}:8000"), name: Some(host.to_owned()), region: None, labels: Vec::new() }
}

/// The edge `host` beside an engine; requests go to the engine and to `other` in turn.
pub(crate) async fn edge(
    net: &Net,
    host: &str,
    other: &str,
    engine: &str,
    script: Script,
    change: impl FnOnce(&mut Config),
) -> World {
    let engines = vec![Engine::start(net, engine, script)];
    let policy = PolicyConfig::parse("round-robin", Map::new()).unwrap();
    let mut config = Config { role: Role::Edge, replicas: vec![replica(engine)], policy, ..Config::default() };
    config.peers = vec![peer(other)];
    change(&mut config);
    World::with(net.clone(), engines, config, host).await
}

/// Two edges, each the other's peer.
async fn pair(script: Script) -> [World; 2] {
    let net = Net::default();
    let a = edge(&net, "router", "edge1", "e0", script.clone(), |_| {}).await;
    let b = edge(&net, "edge1", "router", "e1", script, |_| {}).await;
    ms(1_500).await; // reports of both
    [a, b]
}

/// A request with a long prompt, and its body.
pub(crate) fn long() -> (Request<Full<Bytes>>, String) {
    let words: String = (0..16_000).map(|i| format!("word{} ", i * i % 997)).collect();
    let body = json!({"model": "mock", "messages": [{"role": "user", "content": words}]}).to_string();
    (post("/v1/chat/completions", &body), body)
}

/// What a request's head and body were.
type Asked = (http::HeaderMap, Bytes);

/// Something that answers as a peer router.
#[derive(Default)]
pub(crate) struct FakePeer {
    /// Members of its report.
    tells: Map<String, Value>,
    /// The status of its answers to prompts, by whether the body is packed.
    status: [u16; 2],
    asked: Mutex<Vec<Asked>>,
    /// The targets of prompts, and the versions of HTTP.
    pub(crate) targets: Mutex<Vec<(Version, Uri)>>,
}

impl FakePeer {
    fn start(net: &Net, host: &str, tells: Value, status: [u16; 2]) -> Arc<Self> {
        Self::speaking(false, net, host, tells, status)
    }

    /// One that speaks HTTP/2, too, or HTTP/1 alone.
    pub(crate) fn speaking(http2: bool, net: &Net, host: &str, tells: Value, status: [u16; 2]) -> Arc<Self> {
        let Value::Object(tells) = tells else { panic!("an object") };
        let this = Arc::new(Self { tells, status, ..Self::default() });
        let (mut listener, peer) = (net.listen(host, 8000), Arc::clone(&this));
        tokio::spawn(async move {
            while let Ok((io, _)) = listener.accept().await {
                let peer = Arc::clone(&peer);
                let service = service_fn(move |request| {
                    let peer = Arc::clone(&peer);
                    async move { Ok::<_, Infallible>(peer.answer(request).await) }
                });
                tokio::spawn(async move {
                    let builder = auto::Builder::new(TokioExecutor::new());
                    let builder = if http2 { builder } else { builder.http1_only() };
                    let _ = builder.serve_connection(TokioIo::new(io), service).await;
                });
            }
        });
        this
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let mut status = 200;
        let answer = match head.uri.path() {
            "/v1/models" => json!({"object": "list", "data": [{"id": "mock", "object": "model"}]}),
            "/lb/report" => {
                let load = json!({"waiting_requests": 0, "waiting_tokens": 0, "waiting_uncached_tokens": 0,
                    "running_requests": 0, "running_tokens": 0});
                let report = json!({"load": load, "queued": 0, "healthy": true});
                let mut message = json!({"report": report, "unix_ns": 1});
                message.as_object_mut().unwrap().extend(self.tells.clone());
                message
            }
            "/v1/chat/completions" => {
                status = self.status[usize::from(head.headers.contains_key("content-encoding"))];
                self.targets.lock().unwrap().push((head.version, head.uri));
                self.asked.lock().unwrap().push((head.headers, body));
                json!({"choices": [{"message": {"content": "hello"}}]})
            }
            _ => json!({}),
        };
        let response = Response::builder().status(status).header("content-type", "application/json");
        response.body(Full::new(Bytes::from(answer.to_string()))).unwrap()
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

/// Whether the body was packed; it must be `plain` and its length as announced.
fn is_packed((headers, body): &Asked, plain: &str) -> bool {
    assert_eq!(headers["content-length"], body.len().to_string());
    let Some(encoding) = headers.get("content-encoding") else {
        assert!(body == plain);
        return false;
    };
    assert_eq!(encoding, "zstd");
    assert!(body.len() * 2 < plain.len() && zstd::decode_all(&body[..]).unwrap() == plain.as_bytes());
    true
}

/// Sends the long prompt twice, so that engine and peer get it once each; returns the statuses.
pub(crate) async fn send_two(world: &World) -> [u16; 2] {
    let mut statuses = [0; 2];
    for status in &mut statuses {
        let response = world.send(long().0).await;
        *status = response.status().as_u16();
        whole(response).await;
    }
    statuses
}

#[tokio::test(start_paused = true)]
async fn a_peer_router_gets_long_bodies_packed_and_its_engine_gets_them_plain() {
    let [a, b] = pair(Script::default()).await;
    let body = long().1;
    assert_eq!(send_two(&a).await, [200, 200]);
    for world in [&a, &b] {
        let seen = world.engines[0].seen();
        assert_eq!(seen.len(), 1);
        assert!(!is_packed(&(seen[0].headers.clone(), seen[0].body.clone()), &body));
    }
    let page = String::from_utf8(whole(a.send(get("/metrics")).await).await.to_vec()).unwrap();
    let bytes = |form: &str| {
        let name = format!("gorgo_packed_bodies_bytes_total{{replica=\"edge1\",form=\"{form}\"}} ");
        page.lines().find_map(|line| line.strip_prefix(&name)?.parse::<usize>().ok()).unwrap()
    };
    assert_eq!(bytes("plain"), body.len());
    assert!(bytes("packed") * 2 < body.len());
    let (_, state) = a.get("/lb/metrics").await;
    assert_eq!((&state["peers"]["edge1"]["zstd"], &state["local"]["zstd"]), (&json!(true), &Value::Null));
    assert_eq!((a.left(), b.left()), ((0, 0), (0, 0)));
}

#[tokio::test(start_paused = true)]
async fn decisions_count_the_bytes_that_a_peer_is_sent() {
    let [a, _b] = pair(Script::default()).await;
    let compression = |state: Value| state["peers"]["edge1"]["transport"]["compression"].as_f64().unwrap();
    assert_eq!(compression(a.get("/lb/metrics").await.1), 1.0);
    send_two(&a).await;
    ms(1_500).await;
    let learned = compression(a.get("/lb/metrics").await.1);
    assert!(learned < 0.5, "{learned}");
    send_two(&a).await;
    let (_, explained) = a.get("/explain?order=latest").await;
    let bytes = |id: &str| {
        let candidates = explained["decisions"][0]["candidates"].as_array().unwrap();
        candidates.iter().find(|one| one["id"] == id).unwrap()["bytes"].as_f64().unwrap()
    };
    assert!(bytes("e0") > long().1.len() as f64);
    assert_eq!(bytes("edge1"), (bytes("e0") * learned).ceil());
}

fn get(path: &str) -> Request<Full<Bytes>> {
    Request::get(format!("http://router:8000{path}")).body(Full::new(Bytes::new())).unwrap()
}

#[tokio::test(start_paused = true)]
async fn only_a_peer_that_says_so_gets_a_packed_body_and_only_a_long_one() {
    for (tells, setting, packs) in [
        (json!({"reads_zstd": true}), true, true),
        (json!({"reads_zstd": true}), false, false),
        (json!({"reads_zstd": false}), true, false),
        (json!({}), true, false),
    ] {
        let (net, body) = (Net::default(), long().1);
        let peer = FakePeer::start(&net, "edge1", tells.clone(), [200, 200]);
        let set = |config: &mut Config| config.upstream.compress_to_peers = setting;
        let world = edge(&net, "router", "edge1", "e0", Script::default(), set).await;
        ms(1_500).await;
        let (_, state) = world.get("/lb/metrics").await;
        assert_eq!(state["peers"]["edge1"]["zstd"], packs, "{tells} {setting}");
        assert_eq!(send_two(&world).await, [200, 200]);
        let asked = peer.asked();
        assert_eq!(asked.len(), 1);
        assert_eq!(is_packed(&asked[0], &body), packs, "{tells} {setting}");
        for _ in 0..2 {
            whole(world.send(chat("short", false)).await).await;
        }
        assert!(!peer.asked()[1].0.contains_key("content-encoding"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_replaced_by_an_earlier_version_gets_the_body_again_unpacked() {
    let (net, body) = (Net::default(), long().1);
    let peer = FakePeer::start(&net, "edge1", json!({"reads_zstd": true}), [200, 415]);
    let world = edge(&net, "router", "edge1", "e0", Script::default(), |_| {}).await;
    ms(1_500).await;
    assert_eq!(send_two(&world).await, [200, 200]);
    let packed: Vec<bool> = peer.asked().iter().map(|asked| is_packed(asked, &body)).collect();
    assert_eq!((packed, world.engines[0].seen().len()), (vec![true, false], 1));
}

#[tokio::test(start_paused = true)]
async fn a_request_that_goes_to_the_engine_after_a_peer_goes_plain() {
    let (net, body) = (Net::default(), long().1);
    let peer = FakePeer::start(&net, "edge1", json!({"reads_zstd": true}), [503, 503]);
    let world = edge(&net, "router", "edge1", "e0", Script::default(), |_| {}).await;
    ms(1_500).await;
    assert_eq!(send_two(&world).await, [200, 200]);
    assert!(peer.asked().iter().all(|asked| is_packed(asked, &body)) && !peer.asked().is_empty());
    let seen = world.engines[0].seen();
    assert_eq!(seen.len(), 2);
    assert!(seen.iter().all(|seen| !is_packed(&(seen.headers.clone(), seen.body.clone()), &body)));
    assert_eq!(world.left(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_a_packed_request_aborts_the_peers_engine() {
    let [a, b] = pair(Script { prefill: Duration::from_secs(10), ..Script::default() }).await;
    for _ in 0..2 {
        let answer = async { a.client.request(long().0).await.unwrap().into_body().collect().await };
        assert!(tokio::time::timeout(Duration::from_millis(300), answer).await.is_err());
    }
    ms(100).await;
    for world in [&a, &b] {
        assert_eq!((world.engines[0].counts(), world.left()), ((0, 1, 0), (0, 0)));
    }
}
