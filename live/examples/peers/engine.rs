//! An engine that costs nearly nothing: it answers at once or after a stated time, counts what arrives and what is
//! given up, and can keep a prefix cache of characters to tell the hit rate.

use crate::Args;
use crate::lru::Lru;
use bytes::Bytes;
use futures_util::stream;
use http::{Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::net::TcpListener;

type Answer = Response<BoxBody<Bytes, Infallible>>;

const WHOLE: &str = r#"{"id":"chatcmpl-0123456789abcdef","object":"chat.completion","created":1700000000,"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"hello there"},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":50,"completion_tokens":3,"total_tokens":53}}"#;
const EVENT: &str = "data: {\"id\":\"chatcmpl-0123456789abcdef\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\" word\"},\"finish_reason\":null}]}\n\n";
const LAST: &str = "data: {\"id\":\"chatcmpl-0123456789abcdef\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";

struct Engine {
    prefill: Duration,
    gap: Duration,
    cache_chars: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    requests: u64,
    running: u64,
    most_running: u64,
    chars: u64,
    hit_chars: u64,
    /// When the first request came, s since 1970.
    first: Option<f64>,
    /// When unfinished requests were given up, s since 1970; the last 1,000.
    given_up: Vec<f64>,
    cache: Lru,
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64()
}

pub(crate) async fn serve(args: &Args) {
    let ms = |name| Duration::from_secs_f64(args.number(name, 0.0) / 1e3);
    let cache_chars = args.number("cache-chars", 0.0) as usize;
    let state = Mutex::new(State { cache: Lru::new(cache_chars), ..State::default() });
    let engine = Arc::new(Engine { prefill: ms("prefill-ms"), gap: ms("gap-ms"), cache_chars, state });
    let listener = TcpListener::bind(("127.0.0.1", args.number("port", 0.0) as u16)).await.unwrap();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        let engine = engine.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| answer(engine.clone(), request));
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(engine: Arc<Engine>, request: Request<Incoming>) -> Result<Answer, Infallible> {
    let path = request.uri().path().to_owned();
    let post = request.method() == http::Method::POST;
    let Ok(body) = request.into_body().collect().await else { return Ok(text("text/plain", "cut".to_owned())) };
    let body = body.to_bytes();
    Ok(match path.as_str() {
        "/v1/chat/completions" | "/v1/completions" => engine.complete(&body).await,
        "/v1/chat/completions/render" => rendered(&body),
        "/stats" => text("application/json", engine.stats().to_string()),
        "/reset" if post => {
            *engine.state.lock().unwrap() = State { cache: Lru::new(engine.cache_chars), ..State::default() };
            text("text/plain", "ok".to_owned())
        }
        "/metrics" => {
            let state = engine.state.lock().unwrap();
            let kv = if engine.cache_chars > 0 { engine.cache_chars } else { 1 << 24 } / 4;
            let page = format!(
                "sglang:num_running_reqs {}\nsglang:num_queue_reqs 0\nsglang:num_used_tokens 0\nsglang:max_total_num_tokens {kv}\n",
                state.running
            );
            text("text/plain; version=0.0.4", page)
        }
        "/v1/models" => text(
            "application/json",
            json!({"object":"list","data":[{"id":"m","object":"model","created":1,"owned_by":"sglang","root":"m","max_model_len":131_072}]})
                .to_string(),
        ),
        "/get_model_info" | "/model_info" => {
            text("application/json", json!({"model_path":"m","tokenizer_path":"m","is_generation":true}).to_string())
        }
        "/get_server_info" | "/server_info" => text(
            "application/json",
            json!({"model_path":"m","served_model_name":"m","model_id":"m","tp_size":1,"dp_size":1,"version":"0.5.4"}).to_string(),
        ),
        _ => text("text/plain", "ok".to_owned()),
    })
}

fn text(kind: &'static str, body: String) -> Answer {
    let mut response = Response::new(Full::new(Bytes::from(body)).boxed());
    response.headers_mut().insert("content-type", http::HeaderValue::from_static(kind));
    response
}

/// Token ids as vLLM's render endpoint gives them: here a token is 4 bytes, its id their value.
fn rendered(body: &[u8]) -> Answer {
    let ids: Vec<u32> = said(body)
        .chunks(4)
        .map(|four| four.iter().fold(0_u32, |id, &byte| (id << 7 | u32::from(byte & 127)) % 32_000))
        .collect();
    text("application/json", json!({"request_id":"r","token_ids":ids,"model":"m","sampling_params":{}}).to_string())
}

/// The text of all messages.
fn said(body: &[u8]) -> Vec<u8> {
    let value: Value = serde_json::from_slice(body).unwrap_or_default();
    let messages = value["messages"].as_array().cloned().unwrap_or_default();
    messages.iter().filter_map(|m| m["content"].as_str()).collect::<String>().into_bytes()
}

/// The number behind `"max_tokens":` or its newer name, found without reading the body as JSON, which may be long.
fn wanted(body: &[u8]) -> usize {
    for key in [&b"\"max_tokens\":"[..], b"\"max_completion_tokens\":"] {
        if let Some(at) = memchr::memmem::rfind(body, key) {
            let digits = body[at + key.len()..].iter().skip_while(|b| **b == b' ').take_while(|b| b.is_ascii_digit());
            return digits.fold(0, |n, b| n * 10 + usize::from(b - b'0'));
        }
    }
    16
}

impl Engine {
    async fn complete(self: Arc<Self>, body: &[u8]) -> Answer {
        let mut running = Running::begin(self.clone(), body);
        let streams = [&b"\"stream\":true"[..], b"\"stream\": true"];
        let streams = streams.iter().any(|key| memchr::memmem::rfind(body, key).is_some());
        let events = wanted(body);
        let (prefill, gap) = (self.prefill, self.gap);
        if !streams {
            let whole = prefill + gap * events as u32;
            if !whole.is_zero() {
                tokio::time::sleep(whole).await;
            }
            running.finished = true;
            return text("application/json", WHOLE.to_owned());
        }
        // The head goes out at once and the first event after the prefill, as SGLang and vLLM do.
        let frames = stream::unfold((0, running), move |(n, mut running)| async move {
            if n > events {
                return None;
            }
            // A pause of any length makes each event a write of its own.
            match if n == 0 { prefill } else { gap } {
                Duration::ZERO => tokio::task::yield_now().await,
                pause => tokio::time::sleep(pause).await,
            }
            running.finished = n == events;
            let data = if n == events { LAST } else { EVENT };
            Some((Ok(Frame::data(Bytes::from_static(data.as_bytes()))), (n + 1, running)))
        });
        let mut response = Response::new(BodyExt::boxed(StreamBody::new(Box::pin(frames))));
        response.headers_mut().insert("content-type", http::HeaderValue::from_static("text/event-stream"));
        response
    }

    fn stats(&self) -> Value {
        let state = self.state.lock().unwrap();
        json!({
            "requests": state.requests, "running": state.running, "most_running": state.most_running,
            "chars": state.chars, "hit_chars": state.hit_chars, "first": state.first, "given_up": state.given_up,
        })
    }
}

/// Counts a request from its arrival to its end, however it ends.
struct Running {
    engine: Arc<Engine>,
    finished: bool,
}

impl Running {
    fn begin(engine: Arc<Engine>, body: &[u8]) -> Self {
        let prompt = if engine.cache_chars > 0 { said(body) } else { Vec::new() };
        let mut guard = engine.state.lock().unwrap();
        let state = &mut *guard;
        state.requests += 1;
        state.running += 1;
        state.most_running = state.most_running.max(state.running);
        state.first.get_or_insert_with(now);
        if engine.cache_chars > 0 {
            state.chars += prompt.len() as u64;
            state.hit_chars += state.cache.take(&prompt) as u64;
        }
        drop(guard);
        Self { engine, finished: false }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut state = self.engine.state.lock().unwrap();
        state.running -= 1;
        if !self.finished {
            let excess = (state.given_up.len() + 1).saturating_sub(1_000);
            state.given_up.drain(..excess);
            state.given_up.push(now());
        }
    }
}
