//! The router on turmoil's simulated network: distance, partitions, crashes.

use crate::fixture::replica;
use bytes::Bytes;
use gorgo_core::policy::PolicyConfig;
use gorgo_live::Dial;
use gorgo_live::config::Config;
use gorgo_live::testkit::Listener;
use gorgo_live::testkit::{Connector, Io, pooled_client};
use gorgo_live::testkit::{Engine, Script};
use http_body_util::{BodyExt, Full};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use turmoil::net::{TcpListener, TcpStream};

pub(crate) struct Simulated(TcpListener);

impl Listener for Simulated {
    async fn accept(&mut self) -> io::Result<(Io, SocketAddr)> {
        let (stream, from) = self.0.accept().await?;
        Ok((Box::new(stream), from))
    }
}

pub(crate) fn dial() -> Dial {
    Arc::new(|host, port| Box::pin(async move { Ok(Box::new(TcpStream::connect((host.as_str(), port)).await?) as Io) }))
}

pub(crate) async fn listen(port: u16) -> io::Result<Simulated> {
    Ok(Simulated(TcpListener::bind((IpAddr::V4(Ipv4Addr::UNSPECIFIED), port)).await?))
}

fn world(seed: u64) -> turmoil::Sim<'static> {
    let mut sim = turmoil::Builder::new()
        .rng_seed(seed)
        .simulation_duration(Duration::from_secs(120))
        .min_message_latency(Duration::from_millis(5))
        .max_message_latency(Duration::from_millis(40))
        .tick_duration(Duration::from_millis(2))
        .build();
    for name in ["e0", "e1"] {
        sim.host(name, move || async move {
            let script = Script { tokens: 100, ..Script::default() };
            let _engine = Engine::serve(listen(8080).await?, name, script);
            std::future::pending().await
        });
    }
    sim.host("router", || async {
        // In turn, so that both engines have streams whatever their distance.
        let policy = PolicyConfig::parse("round-robin", Default::default())?;
        let config = Config { policy, replicas: vec![replica("e0"), replica("e1")], ..Config::default() };
        let state = gorgo_live::start(config, None, dial())?;
        gorgo_live::serve(state, listen(8000).await?, std::future::pending()).await?;
        Ok(())
    });
    sim
}

/// One streamed request; the answering replica and whether it came whole.
async fn ask(n: usize) -> (Option<String>, bool) {
    let client = pooled_client(Connector::new(dial(), None, Duration::from_secs(5)), Duration::from_secs(1));
    let body = format!("{{\"stream\":true,\"prompt\":\"{n} of many\"}}");
    let request = http::Request::post("http://router:8000/v1/completions").body(Full::new(Bytes::from(body))).unwrap();
    let Ok(response) = client.request(request).await else { return (None, false) };
    let who = response.headers().get("x-gorgo-replica").map(|v| v.to_str().unwrap().to_owned());
    let whole = response.into_body().collect().await.is_ok_and(|b| b.to_bytes().ends_with(b"[DONE]\n\n"));
    (who, whole)
}

#[test]
fn a_partition_loses_no_request_and_equal_seeds_tell_equal_stories() {
    let story = |seed| {
        let mut sim = world(seed);
        let told = Arc::new(Mutex::new(Vec::new()));
        let tell = Arc::clone(&told);
        sim.client("user", async move {
            tokio::time::sleep(Duration::from_secs(1)).await;
            for n in 0..30 {
                if n == 10 {
                    turmoil::partition("router", "e0");
                }
                if n == 20 {
                    turmoil::repair("router", "e0");
                }
                let at = tokio::time::Instant::now();
                let (who, whole) = ask(n).await;
                assert!(whole, "request {n}");
                tell.lock().unwrap().push((who, at.elapsed()));
            }
            Ok(())
        });
        sim.run().unwrap();
        Arc::try_unwrap(told).unwrap().into_inner().unwrap()
    };
    let first = story(1);
    // The decision says nothing of when probes were lost, but who answered while e0 was cut off is known.
    let during: Vec<_> = first[12..20].iter().map(|(who, _)| who.as_deref()).collect();
    assert!(during.iter().all(|who| *who == Some("e1")), "{during:?}");
    assert!(first[20..].iter().any(|(who, _)| who.as_deref() == Some("e0")), "it is used again");
    assert_eq!(first, story(1));
}

#[test]
fn an_engine_that_crashes_while_streaming_cuts_its_streams_and_no_others() {
    let mut sim = world(3);
    let results = Arc::new(Mutex::new(Vec::new()));
    let tell = Arc::clone(&results);
    sim.client("user", async move {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let mut asked = tokio::task::JoinSet::new();
        (0..8).for_each(|n| drop(asked.spawn(ask(n))));
        while let Some(result) = asked.join_next().await {
            tell.lock().unwrap().push(result.unwrap());
        }
        for n in 0..5 {
            let (who, whole) = ask(100 + n).await;
            assert!(whole && who.as_deref() == Some("e1"), "after the crash");
        }
        Ok(())
    });
    while sim.elapsed() < Duration::from_millis(1_700) {
        sim.step().unwrap();
    }
    sim.crash("e0");
    sim.run().unwrap();
    let results = results.lock().unwrap();
    assert_eq!(results.len(), 8);
    assert!(results.iter().filter(|(who, _)| who.as_deref() == Some("e1")).all(|(_, whole)| *whole), "{results:?}");
    assert!(results.iter().any(|(_, whole)| !whole), "streams of the dead engine are cut: {results:?}");
}
