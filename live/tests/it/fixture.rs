//! A router with engines, and a client.

use bytes::Bytes;
use gorgo_core::policy::PolicyConfig;
use gorgo_live::config::{Config, ReplicaConfig};
use gorgo_live::testkit::PooledClient;
use gorgo_live::testkit::{Engine, Net, Script};
use gorgo_live::{AppState, ConfigSource};
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use std::io;
use std::sync::{Arc, Mutex, Once};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

pub(crate) struct World {
    pub(crate) net: Net,
    pub(crate) state: Arc<AppState>,
    pub(crate) engines: Vec<Engine>,
    pub(crate) client: PooledClient,
    stop: Option<oneshot::Sender<()>>,
    pub(crate) server: JoinHandle<usize>,
}

pub(crate) fn replica(name: &str) -> ReplicaConfig {
    ReplicaConfig {
        url: format!("http://{name}:8080"),
        name: Some(name.to_owned()),
        region: None,
        labels: Vec::new(),
        ms_per_token: None,
        kv_tokens: None,
        models: Vec::new(),
        api_key: None,
        api_key_file: None,
    }
}

pub(crate) async fn ms(ms: u64) {
    tokio::time::sleep(Duration::from_millis(ms)).await;
}

impl World {
    /// Engines `e0`, `e1` ... with this script, behind a router at `router:8000`.
    pub(crate) async fn new(engines: usize, script: Script, change: impl FnOnce(&mut Config)) -> Self {
        let net = Net::default();
        let engines: Vec<Engine> =
            (0..engines).map(|i| Engine::start(&net, &format!("e{i}"), script.clone())).collect();
        let replicas = (0..engines.len()).map(|i| replica(&format!("e{i}"))).collect();
        // Its weights are fixed: scripted engines answer at once, which teaches a learning policy nothing.
        let mut config = Config { replicas, policy: PolicyConfig::default(), ..Config::default() };
        change(&mut config);
        Self::with(net, engines, config, "router").await
    }

    pub(crate) async fn with(net: Net, engines: Vec<Engine>, config: Config, host: &str) -> Self {
        Self::reloading(net, engines, config, host, None).await
    }

    /// The same with what a reload reads.
    pub(crate) async fn reloading(
        net: Net,
        engines: Vec<Engine>,
        config: Config,
        host: &str,
        source: Option<ConfigSource>,
    ) -> Self {
        subscribe();
        let state = gorgo_live::start(config, source, net.dial()).unwrap();
        let (stop, stopped) = oneshot::channel();
        let listener = net.listen(host, 8000);
        let serving = Arc::clone(&state);
        let server = tokio::spawn(async move {
            let stop = async {
                let _ = stopped.await;
            };
            gorgo_live::serve(serving, listener, stop).await.unwrap()
        });
        let client = net.client();
        let world = Self { net, state, engines, client, stop: Some(stop), server };
        ms(50).await; // first probes
        world
    }

    pub(crate) fn stop(&mut self) {
        let _ = self.stop.take().unwrap().send(());
    }

    pub(crate) async fn send(&self, request: Request<Full<Bytes>>) -> Response<Incoming> {
        self.client.request(request).await.unwrap()
    }

    /// An HTTP/2 connection to the router.
    pub(crate) async fn http2(&self) -> SendRequest<Full<Bytes>> {
        let io = TokioIo::new(self.net.connect("router", 8000).unwrap());
        let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
        tokio::spawn(connection);
        sender
    }

    pub(crate) async fn call(&self, method: Method, path: &str, body: &Value) -> (u16, Value) {
        let text = if body.is_null() { String::new() } else { body.to_string() };
        let uri = format!("http://router:8000{path}");
        let request = Request::builder().method(method).uri(uri).header("content-type", "application/json");
        let response = self.send(request.body(Full::new(Bytes::from(text))).unwrap()).await;
        let status = response.status().as_u16();
        let bytes = whole(response).await;
        let value = serde_json::from_slice(&bytes).unwrap_or_else(|_| json!(String::from_utf8_lossy(&bytes)));
        (status, value)
    }

    pub(crate) async fn get(&self, path: &str) -> (u16, Value) {
        self.call(Method::GET, path, &Value::Null).await
    }

    /// Load left at replicas and requests left in the router, which must be nothing once all is over.
    pub(crate) fn left(&self) -> (u32, usize) {
        self.state.driver.read(|router, _, _| {
            let load = router.replicas().iter().map(|r| r.load.requests()).sum();
            (load, router.in_flight())
        })
    }
}

pub(crate) async fn whole(response: Response<Incoming>) -> Bytes {
    response.into_body().collect().await.unwrap().to_bytes()
}

pub(crate) fn chat(prompt: &str, stream: bool) -> Request<Full<Bytes>> {
    let body = json!({"model": "mock", "stream": stream, "messages": [{"role": "user", "content": prompt}]});
    post("/v1/chat/completions", &body.to_string())
}

pub(crate) fn post(path: &str, body: &str) -> Request<Full<Bytes>> {
    Request::post(format!("http://router:8000{path}"))
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(body.to_owned())))
        .unwrap()
}

/// What is logged on this thread from [`Log::start`] on, until it is dropped.
pub(crate) struct Log {
    written: Lines,
    _here: tracing::subscriber::DefaultGuard,
}

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Gives every thread a subscriber. While there is only one, that of a test's own thread, `tracing` asks it in the thread
/// that meets a message first; another test's thread has none, and the message stays switched off for all.
fn subscribe() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let nowhere = tracing_subscriber::fmt().with_writer(io::sink).finish();
        tracing::subscriber::set_global_default(nowhere).unwrap();
    });
}

impl Log {
    pub(crate) fn start() -> Self {
        subscribe();
        let written = Lines::default();
        let writer = written.clone();
        let log = tracing_subscriber::fmt().with_writer(move || writer.clone()).with_ansi(false).finish();
        Self { written, _here: tracing::subscriber::set_default(log) }
    }

    /// The lines that hold this text.
    pub(crate) fn with(&self, text: &str) -> Vec<String> {
        let written = self.written.0.lock().unwrap();
        let lines = std::str::from_utf8(&written).unwrap().lines();
        lines.filter(|line| line.contains(text)).map(str::to_owned).collect()
    }
}
