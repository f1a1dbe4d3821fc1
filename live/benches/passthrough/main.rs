//! The router against a bare hyper pass-through: CPU a request, added latency, first byte, memory.
//!
//! `cargo bench -p gorgo-live --bench passthrough` runs an engine, the pass-through ("floor") and the router as
//! processes of their own on loopback, drives each in turns, and reads their CPU time from /proc, which is the
//! steadiest figure on a shared machine. `--seconds N` sets the length of a run (2), `--rounds N` their number (3).
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use bytes::Bytes;
use gorgo_live::config::{Config, ReplicaConfig};
use gorgo_live::upstream::{Connector, pool, tcp};
use http::{Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};

// As in the `gorgo` program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let at = |name: &str| args.iter().position(|a| a == name).and_then(|i| args.get(i + 1));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    match at("--role").map(String::as_str) {
        Some("engine") => runtime.block_on(engine(port(at("--port")))),
        Some("floor") => runtime.block_on(floor(port(at("--port")), port(at("--engine")))),
        Some("router") => runtime.block_on(router(port(at("--port")), port(at("--engine")))),
        // `cargo test --benches` only wants to know that it starts.
        _ if args.iter().any(|a| a == "--test") => {}
        _ => {
            let number = |name, or| at(name).and_then(|n| n.parse().ok()).unwrap_or(or);
            runtime.block_on(drive(number("--seconds", 2.0), number("--rounds", 3.0) as usize));
        }
    }
}

fn port(text: Option<&String>) -> u16 {
    text.unwrap().parse().unwrap()
}

type Answer = Response<BoxBody<Bytes, Infallible>>;

async fn engine(port: u16) {
    let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        tokio::spawn(async move {
            let service = service_fn(|request: Request<Incoming>| async {
                let stream = request.headers().contains_key("x-stream");
                let _ = request.into_body().collect().await;
                Ok::<_, Infallible>(if stream { events() } else { whole() })
            });
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

fn whole() -> Answer {
    const BODY: &[u8] = br#"{"id":"0123456789abcdef0123456789abcdef","choices":[{"index":0,"message":{"role":"assistant","content":"hello there"}}],"usage":{"prompt_tokens":50,"completion_tokens":3,"total_tokens":53}}"#;
    let mut response = Response::new(Full::new(Bytes::from_static(BODY)).boxed());
    response.headers_mut().insert("content-type", "application/json".parse().unwrap());
    response
}

const EVENT: &[u8] = b"data: {\"id\":\"0123456789abcdef\",\"object\":\"chat.completion.chunk\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\" word\"},\"finish_reason\":null}]}\n\n";

fn events() -> Answer {
    let frames = (0..16).map(|_| Ok(Frame::data(Bytes::from_static(EVENT))));
    let body = StreamBody::new(futures_util::stream::iter(frames));
    let mut response = Response::new(body.boxed());
    response.headers_mut().insert("content-type", "text/event-stream".parse().unwrap());
    response
}

/// What a router does at the least: read the body, hash it, send the same bytes on through a pool.
async fn floor(port: u16, engine: u16) {
    let pool = pool(Connector::new(tcp(), None, Duration::from_secs(1)), Duration::from_secs(4));
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

async fn router(port: u16, engine: u16) {
    let replica = ReplicaConfig {
        url: format!("http://127.0.0.1:{engine}"),
        name: None,
        region: None,
        ms_per_token: None,
        kv_tokens: None,
        api_key: None,
    };
    let config = Config { listen: ([127, 0, 0, 1], port).into(), replicas: vec![replica], ..Config::default() };
    gorgo_live::run::run(config, None, |_| {}).await.unwrap();
}

struct Process {
    child: Child,
    port: u16,
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Process {
    fn start(role: &str, port: u16, engine: u16) -> Self {
        let (port_text, engine) = (port.to_string(), engine.to_string());
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--role", role, "--port", &port_text, "--engine", &engine])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        Self { child, port }
    }

    /// CPU time so far, s: user and system of all threads (clock ticks of 10 ms).
    fn cpu(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
    }

    fn resident_mb(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
    }
}

#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    bytes: usize,
    connections: usize,
    stream: bool,
}

static UNIQUE: AtomicU64 = AtomicU64::new(0);

/// A chat of about so many bytes: the first half common to all, the second nobody else's.
fn body(bytes: usize) -> Bytes {
    let n = UNIQUE.fetch_add(1, Ordering::Relaxed);
    let half = bytes.saturating_sub(100) / 2;
    let (common, own) = ("common words ".repeat(half / 13), format!("{n:012} ").repeat(half / 13));
    format!("{{\"model\":\"m\",\"messages\":[{{\"role\":\"user\",\"content\":\"{common}{own}{n}\"}}]}}").into()
}

/// Drives one target; requests made, and the sorted times to the first byte in us.
async fn load(port: u16, case: Case, seconds: f64) -> (u64, Vec<f64>) {
    let until = Instant::now() + Duration::from_secs_f64(seconds);
    let tasks = (0..case.connections).map(|_| {
        tokio::spawn(async move {
            let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            stream.set_nodelay(true).unwrap();
            let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
            tokio::spawn(connection);
            let mut times = Vec::new();
            while Instant::now() < until {
                let mut request = Request::post("/v1/chat/completions")
                    .header("host", "a")
                    .header("content-type", "application/json");
                if case.stream {
                    request = request.header("x-stream", "1");
                }
                let request = request.body(Full::new(body(case.bytes))).unwrap();
                sender.ready().await.unwrap();
                let began = Instant::now();
                let mut response = sender.send_request(request).await.unwrap();
                assert_eq!(response.status(), 200);
                let _ = response.body_mut().frame().await;
                times.push(began.elapsed().as_secs_f64() * 1e6);
                let _ = response.into_body().collect().await;
            }
            times
        })
    });
    let mut all = Vec::new();
    for times in futures_util::future::join_all(tasks).await {
        all.extend(times.unwrap());
    }
    all.sort_by(f64::total_cmp);
    (all.len() as u64, all)
}

/// Events a second that the tap sees, an event a piece, text collected.
fn tap_rate() -> f64 {
    use gorgo_live::sse::{Framing, Tap};
    let began = Instant::now();
    for _ in 0..200 {
        let mut tap = Tap::new(Framing::Events, true);
        (0..1_000).for_each(|_| tap.feed(EVENT));
        assert_eq!(tap.events(), 1_000);
    }
    200_000.0 / began.elapsed().as_secs_f64()
}

async fn drive(seconds: f64, rounds: usize) {
    let engine = Process::start("engine", 18_080, 0);
    let floor = Process::start("floor", 18_001, engine.port);
    let router = Process::start("router", 18_002, engine.port);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let idle = router.resident_mb();
    println!("{:<16} {:>10} {:>12} {:>12} {:>10} {:>10}", "case", "target", "req/s", "cpu us/req", "p50 us", "p99 us");
    for case in [
        Case { name: "200 B, c=64", bytes: 200, connections: 64, stream: false },
        Case { name: "80 kB, c=64", bytes: 80_000, connections: 64, stream: false },
        Case { name: "200 B, c=1", bytes: 200, connections: 1, stream: false },
        Case { name: "80 kB, c=1", bytes: 80_000, connections: 1, stream: false },
        Case { name: "events x16, c=64", bytes: 200, connections: 64, stream: true },
        Case { name: "events x16, c=1", bytes: 200, connections: 1, stream: true },
    ] {
        let targets = [("direct", &engine), ("floor", &floor), ("router", &router)];
        let mut rows: Vec<Vec<[f64; 4]>> = vec![Vec::new(); 3];
        for _ in 0..rounds {
            for (i, (_, target)) in targets.iter().enumerate() {
                let before = target.cpu();
                let (count, times) = load(target.port, case, seconds).await;
                let at = |q: f64| times[((times.len() - 1) as f64 * q) as usize];
                let cpu = (target.cpu() - before) * 1e6 / count as f64;
                rows[i].push([count as f64 / seconds, cpu, at(0.5), at(0.99)]);
            }
        }
        for ((name, _), mut runs) in targets.iter().zip(rows) {
            let mut median = |k: usize| {
                runs.sort_by(|a, b| a[k].total_cmp(&b[k]));
                runs[runs.len() / 2][k]
            };
            println!(
                "{:<16} {name:>10} {:>12.0} {:>12.1} {:>10.0} {:>10.0}",
                case.name,
                median(0),
                median(1),
                median(2),
                median(3)
            );
        }
    }
    println!("tap: {:.0} events/s on one core", tap_rate());
    println!("router memory: {idle:.0} MB idle, {:.0} MB after the runs", router.resident_mb());
    let client = pool(Connector::new(tcp(), None, Duration::from_secs(1)), Duration::from_secs(4));
    let client = Arc::new(client);
    let stats =
        Request::get(format!("http://127.0.0.1:{}/proxy/prefix/stats", router.port)).body(Full::default()).unwrap();
    let stats = client.request(stats).await.unwrap().into_body().collect().await.unwrap().to_bytes();
    println!("index: {}", String::from_utf8_lossy(&stats));
}
