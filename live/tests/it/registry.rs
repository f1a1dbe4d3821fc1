//! Discovery from a registry over HTTP that is broken in every way.

use crate::fixture::{World, ms};
use gorgo_live::config::{Config, Discovery};
use gorgo_live::testkit::{Engine, Net, Script};
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// What the registry does with the next requests.
#[derive(Clone)]
enum Does {
    /// Writes these bytes and closes.
    Writes(Vec<u8>),
    /// Answers 304 if the tag was sent, else 500.
    Unchanged,
    /// Accepts and stays silent.
    Nothing,
}

/// A registry on a real socket; the requests that it got.
struct Registry {
    url: String,
    does: Arc<Mutex<Does>>,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Registry {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/engines", listener.local_addr().unwrap());
        let (does, seen) = (Arc::new(Mutex::new(Does::Nothing)), Arc::new(Mutex::new(Vec::new())));
        let (script, log) = (Arc::clone(&does), Arc::clone(&seen));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (script, log) = (Arc::clone(&script), Arc::clone(&log));
                tokio::spawn(async move {
                    let mut head = [0; 4_096];
                    let n = stream.read(&mut head).await.unwrap_or(0);
                    let head = String::from_utf8_lossy(&head[..n]).to_lowercase();
                    let does = script.lock().unwrap().clone();
                    log.lock().unwrap().push(head.clone());
                    let bytes = match does {
                        Does::Writes(bytes) => bytes,
                        Does::Unchanged if head.contains("if-none-match: \"v1\"") => {
                            b"HTTP/1.1 304 Not Modified\r\nconnection: close\r\n\r\n".to_vec()
                        }
                        Does::Unchanged => b"HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n".to_vec(),
                        Does::Nothing => return std::future::pending().await,
                    };
                    let _ = stream.write_all(&bytes).await;
                });
            }
        });
        Self { url, does, seen }
    }

    fn writes(&self, bytes: impl Into<Vec<u8>>) {
        *self.does.lock().unwrap() = Does::Writes(bytes.into());
    }
}

/// A whole answer with a tag.
fn answer(body: &str) -> Vec<u8> {
    let head =
        format!("HTTP/1.1 200 OK\r\nconnection: close\r\netag: \"v1\"\r\ncontent-length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body.as_bytes()].concat()
}

fn listed(names: &[&str]) -> String {
    let entries: Vec<_> =
        names.iter().map(|name| format!("{{\"name\":\"{name}\",\"url\":\"http://{name}:8080\"}}")).collect();
    format!("{{\"endpoints\":[{}]}}", entries.join(","))
}

/// Waits until the fleet and whether the source is stale are as expected, after at least one more question.
async fn expect(world: &World, registry: &Registry, names: &[&str], stale: bool) {
    let before = registry.seen.lock().unwrap().len();
    let mut seen = (Vec::new(), None);
    for _ in 0..400 {
        let status = world.get("/proxy/status").await.1;
        let mut fleet: Vec<_> =
            status["servers"].as_array().unwrap().iter().map(|s| s["id"].as_str().unwrap().to_owned()).collect();
        fleet.sort();
        seen = (fleet, status["discovery"][0]["stale"].as_bool());
        if seen.0 == names && seen.1 == Some(stale) && registry.seen.lock().unwrap().len() > before + 1 {
            return;
        }
        ms(25).await;
    }
    panic!("expected {names:?}, stale {stale}; the fleet is {seen:?}");
}

#[tokio::test]
async fn a_registry_adds_and_removes_engines_and_a_broken_one_changes_nothing() {
    let registry = Registry::start().await;
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("key");
    std::fs::write(&key, "registry-key\n").unwrap();
    let discovery =
        Discovery { rest: vec![registry.url.clone()], rest_key_file: Some(key), poll_ms: 100, ..Discovery::default() };
    let net = Net::default();
    let engines = ["a", "b"].map(|name| Engine::start(&net, name, Script::default())).into();
    registry.writes(answer(&listed(&["a", "b"])));
    let world = World::with(net, engines, Config { discovery, ..Config::default() }, "router").await;
    expect(&world, &registry, &["a", "b"], false).await;
    assert!(registry.seen.lock().unwrap()[0].contains("authorization: bearer registry-key"));
    *registry.does.lock().unwrap() = Does::Unchanged;
    expect(&world, &registry, &["a", "b"], false).await;
    let good = answer(&listed(&["a", "b"]));
    let cuts = (0..good.len()).step_by(7).map(|cut| good[..cut].to_vec());
    let endless = [b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n".to_vec(), vec![b' '; (1 << 20) + 1]].concat();
    let wrong = [
        answer("{\"endpoints\":[]}"),
        answer("[]"),
        answer("\u{0}"),
        answer(&listed(&["a"]).replace("url", "uri")),
        b"HTTP/1.1 401 No\r\ncontent-length: 0\r\n\r\n".to_vec(),
        b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n".to_vec(),
        b"\xff\xfe nonsense".to_vec(),
        endless,
    ];
    for broken in cuts.chain(wrong) {
        registry.writes(broken.clone());
        expect(&world, &registry, &["a", "b"], true).await;
    }
    registry.writes(answer(&listed(&["b"])));
    expect(&world, &registry, &["b"], false).await;
}
