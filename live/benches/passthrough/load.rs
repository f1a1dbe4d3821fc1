//! Clients of the bench.

use crate::Process;
use crate::roles::EVENT;
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[derive(Clone, Copy)]
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) bytes: usize,
    pub(crate) connections: usize,
    /// Events of the answer and how many a piece, `AxB`.
    pub(crate) stream: Option<&'static str>,
}

static UNIQUE: AtomicU64 = AtomicU64::new(0);

/// A chat of about so many bytes: the first half common to all, the second unique.
fn body(bytes: usize) -> Bytes {
    let n = UNIQUE.fetch_add(1, Ordering::Relaxed);
    let half = bytes.saturating_sub(100) / 2;
    let (common, own) = ("common words ".repeat(half / 13), format!("{n:012} ").repeat(half / 13));
    format!("{{\"model\":\"m\",\"messages\":[{{\"role\":\"user\",\"content\":\"{common}{own}{n}\"}}]}}").into()
}

/// Drives one target; requests made, and the sorted times to the first byte in us.
pub(crate) async fn load(port: u16, case: Case, requests: Option<u64>, seconds: f64) -> (u64, Vec<f64>) {
    let until = Instant::now() + Duration::from_secs_f64(seconds);
    let tasks = (0..case.connections).map(|_| {
        tokio::spawn(async move {
            let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            stream.set_nodelay(true).unwrap();
            let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
            tokio::spawn(connection);
            let mut times = Vec::new();
            let most = requests.map_or(usize::MAX, |n| (n / case.connections as u64) as usize);
            while times.len() < most && Instant::now() < until {
                let mut request = Request::post("/v1/chat/completions")
                    .header("host", "a")
                    .header("content-type", "application/json");
                if let Some(shape) = case.stream {
                    request = request.header("x-stream", shape);
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

/// Events that came through `connections` long streams, and the seconds they took. The client only counts bytes.
pub(crate) async fn relay(port: u16, shape: &'static str, connections: usize, seconds: f64) -> (f64, f64) {
    let count: f64 = shape.split_once('x').unwrap().0.parse().unwrap();
    let began = Instant::now();
    let tasks = (0..connections).map(|_| {
        tokio::spawn(async move {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            stream.set_nodelay(true).unwrap();
            let (mut buffer, mut answers) = (vec![0; 256 << 10], 0);
            let body = "{\"prompt\":\"x\",\"stream\":true}";
            let head = format!(
                "POST /v1/completions HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\nx-stream: {shape}\r\n\
                 content-length: {}\r\n\r\n{body}",
                body.len()
            );
            while began.elapsed().as_secs_f64() < seconds {
                stream.write_all(head.as_bytes()).await.unwrap();
                let (mut tail, mut bytes) = ([0u8; 5], 0);
                while &tail != b"0\r\n\r\n" {
                    let n = stream.read(&mut buffer).await.unwrap();
                    assert!(n > 0, "the answer broke off");
                    bytes += n;
                    let joined: Vec<u8> = tail.iter().chain(&buffer[n.saturating_sub(5)..n]).copied().collect();
                    tail.copy_from_slice(&joined[joined.len() - 5..]);
                }
                assert!(bytes as f64 > count * EVENT.len() as f64);
                answers += 1;
            }
            answers
        })
    });
    let answers: u32 = futures_util::future::join_all(tasks).await.into_iter().map(Result::unwrap).sum();
    (f64::from(answers) * count, began.elapsed().as_secs_f64())
}

/// Events a second that the tap sees, an event a piece, text collected.
pub(crate) fn tap_rate() -> f64 {
    use gorgo_live::testkit::{AnswerTap, Framing};
    let began = Instant::now();
    for _ in 0..200 {
        let mut tap = AnswerTap::new(Framing::Events, true);
        (0..1_000).for_each(|_| tap.feed(EVENT));
        assert_eq!(tap.tokens(), 1_000);
    }
    200_000.0 / began.elapsed().as_secs_f64()
}

/// 640 MB of 80 kB prompts, each half its own, over 64 connections; resident memory every 100 ms.
pub(crate) async fn memory(router: &Process) {
    let idle = router.resident_mb();
    let case = Case { name: "memory", bytes: 80_000, connections: 64, stream: None };
    let mut sending = tokio::spawn(load(router.port, case, Some(8_000), 3_600.0));
    let mut most = idle;
    loop {
        tokio::select! {
            done = &mut sending => {
                assert_eq!(done.unwrap().0, 8_000);
                break;
            }
            () = tokio::time::sleep(Duration::from_millis(100)) => most = most.max(router.resident_mb()),
        }
    }
    let after = router.resident_mb();
    println!(
        "memory: {idle:.1} MB idle, at most {:.1} MB more during 640 MB of prompts, {:.1} MB more after",
        most - idle,
        after - idle
    );
    let mut stream = TcpStream::connect(("127.0.0.1", router.port)).await.unwrap();
    stream.write_all(b"GET /proxy/prefix/stats HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut stats = String::new();
    stream.read_to_string(&mut stats).await.unwrap();
    println!("index: {}", stats.rsplit("\r\n\r\n").next().unwrap());
}
