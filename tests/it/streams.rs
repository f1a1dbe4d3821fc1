//! Hundreds or thousands of streams open at the same time, each complete in the end.

use crate::client::{Answer, metric, send};
use crate::processes::{Process, ports};
use bytes::Bytes;
use gorgo_benchmark::text::Answer as Expected;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

const TOKENS: u32 = 30;
const LIMIT: Duration = Duration::from_secs(500);

fn prompt(n: usize) -> String {
    format!("stream number {n}")
}

fn body(n: usize) -> String {
    serde_json::json!({"prompt": prompt(n), "stream": true, "max_tokens": TOKENS, "ignore_eos": true}).to_string()
}

/// Whether the stream has every event, in order, and nothing else.
fn is_intact(n: usize, answer: &Answer) -> bool {
    answer.status == 200
        && answer.whole
        && answer.events().last() == Some("[DONE]")
        && answer.events().filter(|&data| data == "[DONE]").count() == 1
        && answer.text() == Expected::to(prompt(n).as_bytes()).text(0, TOKENS)
}

async fn over_http2(mut connection: SendRequest<Full<Bytes>>, to: SocketAddr, n: usize) -> Answer {
    let request =
        hyper::Request::post(format!("http://{to}/v1/completions")).header("content-type", "application/json");
    let request = request.body(Full::new(Bytes::from(body(n)))).unwrap();
    let Ok(response) = connection.send_request(request).await else { return Answer::default() };
    let status = response.status().as_u16();
    let Ok(read) = response.into_body().collect().await else { return Answer { status, ..Answer::default() } };
    let body = String::from_utf8_lossy(&read.to_bytes()).into_owned();
    Answer { status, body, whole: true, ..Answer::default() }
}

/// `count` streams, every tenth over one of few HTTP/2 connections, while engines make a token each `step_ms`. With
/// 10,000 a router needs 19,000 sockets: a limit of 20,000 files is enough.
async fn hold(count: usize, step_ms: u32, pace: Duration) {
    rustix::process::setrlimit(rustix::process::Resource::Nofile, {
        let most = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
        rustix::process::Rlimit { current: most, maximum: most }
    })
    .unwrap();
    let addrs = ports(4);
    let step = format!("decode.fixed_ms={step_ms}");
    let _engines: Vec<Process> = addrs.iter().map(|&addr| Process::engine(addr, &["--set", &step])).collect();
    // On a busy machine this process connects and is then not scheduled for seconds: to the router, a client that sends no
    // head, and closing such a connection is what another test shows.
    let patient = "timeouts.header_ms=600000";
    let (proxy, router) = Process::proxy(&addrs, &["--policy", "gorgo", "--set", patient]);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let idle = proxy.usage();

    let mut shared = Vec::new();
    for _ in 0..count.div_ceil(10_000) * 2 {
        let io = TokioIo::new(tokio::net::TcpStream::connect(router).await.unwrap());
        let (sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
        tokio::spawn(connection);
        shared.push(sender);
    }
    let began = Instant::now();
    let mut streams = JoinSet::new();
    for n in 0..count {
        tokio::time::sleep_until((began + pace * n as u32).into()).await;
        let connection = (n % 10 == 0).then(|| shared[n / 10 % shared.len()].clone());
        streams.spawn(async move {
            let answer = match connection {
                Some(connection) => {
                    tokio::time::timeout(LIMIT, over_http2(connection, router, n)).await.unwrap_or_default()
                }
                None => send(router, "POST", "/v1/completions", &body(n), LIMIT).await,
            };
            (n, answer)
        });
    }
    let opened = began.elapsed();
    let (mut most, mut peak) = (0.0, idle);
    let last = opened + Duration::from_millis(u64::from(step_ms * TOKENS)) * 2;
    while most < count as f64 && began.elapsed() < last {
        let running = metric(router, "gorgo_replica_running_requests").await;
        if running > most {
            (most, peak) = (running, proxy.usage());
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let all_open = began.elapsed();
    let answers = streams.join_all().await;
    let ended = began.elapsed();
    let wrong: Vec<_> = answers.iter().filter(|(n, answer)| !is_intact(*n, answer)).collect();
    eprintln!(
        "{count} streams: asked for within {:.1} s, {most} open at one moment after {:.1} s, {} intact after {:.1} s\n\
         router, MB and CPU s: idle {idle:.1?}, all open {peak:.1?}, after {:.1?}",
        opened.as_secs_f64(),
        all_open.as_secs_f64(),
        answers.len() - wrong.len(),
        ended.as_secs_f64(),
        proxy.usage()
    );
    assert!(wrong.is_empty(), "{} are not whole, for example {:?}", wrong.len(), wrong[0]);
    assert_eq!(most, count as f64, "all open at one moment");
    for gauge in ["gorgo_in_flight_requests", "gorgo_replica_waiting_requests", "gorgo_replica_running_requests"] {
        assert_eq!(metric(router, gauge).await, 0.0, "{gauge}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_hundred_streams_held_at_once_all_finish_intact() {
    hold(500, 400, Duration::from_millis(2)).await;
}

/// `cargo test --test it -- --ignored --nocapture ten_thousand`
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes and 20,000 open files"]
async fn ten_thousand_streams_held_at_once_all_finish_intact() {
    hold(10_000, 4_000, Duration::from_millis(2)).await;
}
