//! Load with little cost of its own: closed loops on kept connections, or an open loop of families of prompts.

use crate::Args;
use crate::text::{chat, words};
use bytes::Bytes;
use gorgo_core::rng::stream;
use gorgo_live::tcp;
use gorgo_live::testkit::{Connector, PooledClient, pooled_client};
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rand::RngExt;
use serde_json::json;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;

/// What came back, times in us from the sending.
#[derive(Debug, Default)]
struct Seen {
    first: Vec<f64>,
    whole: Vec<f64>,
    events: u64,
    failed: u64,
    why: String,
}

impl Seen {
    fn fail(&mut self, why: String) {
        self.failed += 1;
        self.why = why;
    }

    fn print(mut self, seconds: f64) {
        self.first.sort_by(f64::total_cmp);
        self.whole.sort_by(f64::total_cmp);
        let at = |times: &[f64], q: f64| times.get((times.len().saturating_sub(1) as f64 * q) as usize).copied();
        let done = json!({
            "requests": self.whole.len(), "failed": self.failed, "why": self.why, "seconds": seconds,
            "events": self.events,
            "first_p50_us": at(&self.first, 0.5), "first_p99_us": at(&self.first, 0.99),
            "whole_p50_us": at(&self.whole, 0.5), "whole_p99_us": at(&self.whole, 0.99),
            "whole_max_us": at(&self.whole, 1.0),
        });
        println!("{done}");
    }
}

async fn connect(to: &str) -> Option<SendRequest<Full<Bytes>>> {
    let stream = TcpStream::connect(to).await.ok()?;
    stream.set_nodelay(true).ok()?;
    let (sender, connection) = handshake(TokioIo::new(stream)).await.ok()?;
    tokio::spawn(connection);
    Some(sender)
}

fn post(host: &str, body: String) -> Request<Full<Bytes>> {
    Request::post(format!("http://{host}/v1/chat/completions"))
        .header("host", host)
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(body)))
        .unwrap()
}

/// Each connection sends its next request when the last was answered. No prompt is like another, but for the first
/// `--common` share of each: a quarter unless told otherwise, since from 0.3 on some routers would send all to one
/// engine.
pub(crate) async fn closed(args: &Args) {
    let (bytes, events) = (args.number("bytes", 200.0) as usize, args.number("events", 0.0) as usize);
    let connections = args.number("connections", 1.0) as usize;
    let left = Rc::new(Cell::new(args.number("requests", 1e12) as u64));
    let (seconds, seed) = (args.number("seconds", 1e6), args.number("seed", 1.0) as u64);
    let common = words(&mut stream(0, "common", 0), (bytes as f64 * args.number("common", 0.25)) as usize);
    let own = bytes.saturating_sub(common.len() + 96);
    let seen = Rc::new(RefCell::new(Seen::default()));
    let urls = args.urls();
    let began = Instant::now();
    let until = began + Duration::from_secs_f64(seconds);
    let local = tokio::task::LocalSet::new();
    for n in 0..connections {
        let (to, common) = (urls[n % urls.len()].clone(), common.clone());
        let (left, seen) = (left.clone(), seen.clone());
        let mut rng = stream(seed, "prompts", n as u64);
        local.spawn_local(async move {
            let mut sender = None;
            while Instant::now() < until && left.get() > 0 {
                left.set(left.get() - 1);
                let request = post(&to, chat(&format!("{common}{}", words(&mut rng, own)), events));
                if sender.as_ref().is_none_or(SendRequest::is_closed) {
                    sender = connect(&to).await;
                }
                let Some(open) = sender.as_mut() else {
                    seen.borrow_mut().fail("cannot connect".to_owned());
                    continue;
                };
                if one(open, request, &seen).await.is_none() {
                    sender = None;
                }
            }
        });
    }
    local.await;
    seen.take().print(began.elapsed().as_secs_f64());
}

/// Sends one; `None` if the connection is no good any more.
async fn one(sender: &mut SendRequest<Full<Bytes>>, request: Request<Full<Bytes>>, seen: &RefCell<Seen>) -> Option<()> {
    let failed = |why: String| seen.borrow_mut().fail(why);
    if let Err(error) = sender.ready().await {
        failed(error.to_string());
        return None;
    }
    let began = Instant::now();
    let mut response = match sender.send_request(request).await {
        Ok(response) => response,
        Err(error) => {
            failed(error.to_string());
            return None;
        }
    };
    let (mut first, mut events) = (None, 0);
    while let Some(frame) = response.body_mut().frame().await {
        let Ok(frame) = frame else {
            failed("the answer was cut".to_owned());
            return None;
        };
        first.get_or_insert_with(|| began.elapsed());
        events += frame.data_ref().map_or(0, |data| memchr::memmem::find_iter(data, b"\n\n").count());
    }
    if response.status() != 200 {
        failed(format!("status {}", response.status()));
        return Some(());
    }
    let mut seen = seen.borrow_mut();
    seen.first.push(first.unwrap_or_default().as_secs_f64() * 1e6);
    seen.whole.push(began.elapsed().as_secs_f64() * 1e6);
    seen.events += events as u64;
    Some(())
}

/// Requests at random times whatever the answers: each of a family drawn by Zipf, the first `--shared` of its prompt
/// common to the family and the rest unique.
pub(crate) async fn open(args: &Args) {
    let rate = args.number("rate", 60.0);
    let (bytes, events) = (args.number("bytes", 16_000.0) as usize, args.number("events", 8.0) as usize);
    let families = args.number("families", 96.0) as usize;
    let (zipf, seed) = (args.number("zipf", 1.0), args.number("seed", 1.0) as u64);
    let shared = (bytes as f64 * args.number("shared", 0.7)) as usize;
    let prefixes: Vec<Arc<str>> =
        (0..families).map(|n| words(&mut stream(seed, "families", n as u64), shared).into()).collect();
    let weights: Vec<f64> = (1..=families)
        .scan(0.0, |sum, n| {
            *sum += (n as f64).powf(-zipf);
            Some(*sum)
        })
        .collect();
    let to = args.urls().remove(0);
    let pool = Arc::new(pooled_client(Connector::new(tcp(), None, Duration::from_secs(2)), Duration::from_secs(4)));
    let seen = Rc::new(RefCell::new(Seen::default()));
    let mut rng = stream(seed, "arrivals", 0);
    let local = tokio::task::LocalSet::new();
    let began = Instant::now();
    local
        .run_until(async {
            let mut at = 0.0;
            let mut tasks = Vec::new();
            while at < args.number("seconds", 10.0) {
                at += -(1.0 - rng.random::<f64>()).ln() / rate;
                tokio::time::sleep_until((began + Duration::from_secs_f64(at)).into()).await;
                let draw = rng.random::<f64>() * weights[families - 1];
                let prefix = prefixes[weights.partition_point(|w| *w <= draw).min(families - 1)].clone();
                let prompt = format!("{prefix}{}", words(&mut rng, bytes - shared));
                let (pool, seen, to) = (pool.clone(), seen.clone(), to.clone());
                tasks.push(tokio::task::spawn_local(async move { through(&pool, &to, prompt, events, &seen).await }));
            }
            futures_util::future::join_all(tasks).await;
        })
        .await;
    seen.take().print(began.elapsed().as_secs_f64());
}

async fn through(pool: &PooledClient, to: &str, prompt: String, events: usize, seen: &RefCell<Seen>) {
    let began = Instant::now();
    let sent = pool.request(post(to, chat(&prompt, events))).await;
    let mut response = match sent {
        Ok(response) if response.status() == 200 => response,
        Ok(response) => return seen.borrow_mut().fail(format!("status {}", response.status())),
        Err(error) => return seen.borrow_mut().fail(error.to_string()),
    };
    let mut first = None;
    while let Some(frame) = response.body_mut().frame().await {
        if frame.is_err() {
            return seen.borrow_mut().fail("the answer was cut".to_owned());
        }
        first.get_or_insert_with(|| began.elapsed());
    }
    let mut seen = seen.borrow_mut();
    seen.first.push(first.unwrap_or_default().as_secs_f64() * 1e6);
    seen.whole.push(began.elapsed().as_secs_f64() * 1e6);
}
