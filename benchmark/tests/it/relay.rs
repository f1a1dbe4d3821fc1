//! Bytes through relays.

use crate::http::{get, post};
use gorgo_benchmark::relay::control::control;
use gorgo_benchmark::relay::{LinkConfig, LinkState, Relay, RelayConfig};
use gorgo_sim::network::NetworkConfig;
use serde_json::json;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Sends back what it gets, to the end.
async fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
                let _ = write.shutdown().await;
            });
        }
    });
    addr
}

async fn relay(rtt_ms: f64, lifetime: Option<f64>) -> (Relay, SocketAddr) {
    let mut link = LinkConfig::parse(&format!("127.0.0.1:0={},rtt={rtt_ms}", echo().await), 0).unwrap();
    link.mean_lifetime_s = lifetime;
    let network = NetworkConfig { sigma: 0.0, jitter: 0.0, ..NetworkConfig::default() };
    let config =
        RelayConfig { network, seed: 1, links: vec![link], sites: Vec::new(), byte_scale: 1.0, max_connections: 10 };
    let relay = Relay::start(config).await.unwrap();
    let addr = relay.links().next().unwrap().1;
    (relay, addr)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_request_comes_no_sooner_than_its_last_flight() {
    let (_relay, addr) = relay(100.0, None).await;
    let mut began = Instant::now();
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let mut answers = Vec::new();
    for bytes in [1_000usize, 60_000] {
        let sent = vec![7u8; bytes];
        let (mut read, mut write) = stream.split();
        let mut got = vec![0u8; bytes];
        let (sending, reading) = tokio::join!(write.write_all(&sent), read.read_exact(&mut got));
        sending.unwrap();
        reading.unwrap();
        answers.push(began.elapsed().as_millis() as u64 / 100);
        began = Instant::now();
    }
    // The handshake and one round trip; then three for 60 kB with 14.6 kB in flight at first.
    assert!(answers[0] >= 2 && answers[1] >= 3, "{answers:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_pass_whole_and_no_sooner_than_the_round_trip() {
    let (_relay, addr) = relay(20.0, None).await;
    let start = Instant::now();
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let sent: Vec<u8> = (0..500_000u32).map(|i| (i % 251) as u8).collect();
    let (mut read, mut write) = stream.split();
    let write = async {
        write.write_all(&sent).await.unwrap();
        write.shutdown().await.unwrap();
    };
    let mut got = Vec::new();
    let read = async {
        let mut first = [0; 1];
        read.read_exact(&mut first).await.unwrap();
        let first_at = start.elapsed();
        got.push(first[0]);
        read.read_to_end(&mut got).await.unwrap();
        first_at
    };
    let ((), first_at) = tokio::join!(write, read);
    assert_eq!(got, sent);
    assert!(first_at >= Duration::from_millis(40), "a handshake and a round trip: {first_at:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_holds_bytes_until_it_heals_and_a_reset_cuts() {
    let (relay, addr) = relay(1.0, None).await;
    let link = relay.link("link0").unwrap();
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let mut byte = [0; 1];
    stream.write_all(b"a").await.unwrap();
    stream.read_exact(&mut byte).await.unwrap();
    link.partition();
    stream.write_all(b"b").await.unwrap();
    let silent = tokio::time::timeout(Duration::from_millis(30), stream.read_exact(&mut byte)).await;
    assert!(silent.is_err(), "nothing comes through");
    link.heal();
    stream.read_exact(&mut byte).await.unwrap();
    assert_eq!(&byte, b"b");
    link.reset();
    let cut = stream.read_exact(&mut byte).await.unwrap_err();
    assert!(matches!(cut.kind(), std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::UnexpectedEof), "{cut}");
    // The next connection is fine.
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream.write_all(b"c").await.unwrap();
    stream.read_exact(&mut byte).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_with_short_lives_are_reset() {
    let (_relay, addr) = relay(0.0, Some(0.002)).await;
    // The reset may come before the client looks at its new connection.
    let error = match TcpStream::connect(addr).await {
        Ok(mut stream) => stream.read_exact(&mut [0; 1]).await.unwrap_err(),
        Err(error) => error,
    };
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn links_are_steered_over_http() {
    let (relay, _) = relay(1.0, None).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let app = control(relay.handles());
    tokio::spawn(async move { axum::serve(listener, app).await });
    let answer = post(&format!("{url}/links/link0/partition"), &json!({})).await.json();
    assert_eq!(answer["state"], "partitioned");
    assert_eq!(relay.link("link0").unwrap().state(), LinkState::Partitioned);
    assert_eq!(get(&format!("{url}/links")).await.json()[0]["state"], "partitioned");
    let unknown = post(&format!("{url}/links/x/heal"), &json!({})).await;
    assert_eq!(
        (unknown.status.as_u16(), unknown.json()["error"]["message"].as_str()),
        (404, Some("no link `x`; known: link0"))
    );
}
