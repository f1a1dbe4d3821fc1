//! The follower against a publisher that speaks as engines do.

use super::decode::TAG;
use super::streams::{StreamState, address, tag};
use super::*;
use crate::config::Config;
use gorgo_core::kv_events::CacheChange;
use gorgo_core::router::ReplicaEvent;
use gorgo_core::{RequestId, Time};
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::time::Duration;
use zeromq::{PubSocket, RouterSocket, Socket, SocketRecv, SocketSend, ZmqMessage};

/// A batch in vLLM's array form: blocks stored without a parent, then blocks removed.
fn batch_of(stored: &[u8], removed: &[u8]) -> Vec<u8> {
    fn text(out: &mut Vec<u8>, text: &str) {
        out.push(0xa0 | text.len() as u8);
        out.extend(text.as_bytes());
    }
    fn hashes(out: &mut Vec<u8>, hashes: &[u8]) {
        out.push(0x90 | hashes.len() as u8);
        out.extend(hashes);
    }
    let mut out = vec![0x92, 0xc0, 0x92, 0x95];
    text(&mut out, "BlockStored");
    hashes(&mut out, stored);
    out.extend([0xc0, 0x90, 0x10, 0x92]);
    text(&mut out, "BlockRemoved");
    hashes(&mut out, removed);
    out
}

fn message(number: u64, payload: &[u8]) -> ZmqMessage {
    let mut message = ZmqMessage::from(bytes::Bytes::new());
    message.push_back(bytes::Bytes::copy_from_slice(&number.to_be_bytes()));
    message.push_back(bytes::Bytes::copy_from_slice(payload));
    message
}

/// Batches with their numbers.
type Ring = Arc<Mutex<Vec<(u64, Vec<u8>)>>>;

/// An engine's publisher, which keeps what it published for replays.
struct Publisher {
    live: PubSocket,
    replays: tokio::task::JoinHandle<()>,
    ring: Ring,
}

impl Publisher {
    /// On these ports, 0 for free ones, which are returned.
    async fn start(ports: (u16, u16)) -> (Self, (u16, u16)) {
        let mut live = PubSocket::new();
        let mut replay = RouterSocket::new();
        let mut bound = [0; 2];
        for (at, port) in [ports.0, ports.1].into_iter().enumerate() {
            let address = format!("tcp://127.0.0.1:{port}");
            let end = match at {
                0 => bind(&mut live, &address).await,
                _ => bind(&mut replay, &address).await,
            };
            bound[at] = end.rsplit(':').next().unwrap().parse().unwrap();
        }
        let ring = Ring::default();
        let kept = Arc::clone(&ring);
        let replays = tokio::spawn(async move {
            while let Ok(ask) = replay.recv().await {
                let frames = ask.into_vec();
                let start = u64::from_be_bytes(frames[2].as_ref().try_into().unwrap());
                let all = kept.lock().clone();
                let answers = all.into_iter().filter(|(number, _)| *number >= start).chain([(u64::MAX, Vec::new())]);
                for (number, payload) in answers {
                    let mut answer = message(number, &payload);
                    answer.push_front(frames[0].clone());
                    replay.send(answer).await.unwrap();
                }
            }
        });
        (Self { live, replays, ring }, (bound[0], bound[1]))
    }

    fn keep(&self, number: u64, payload: &[u8]) {
        self.ring.lock().push((number, payload.to_vec()));
    }

    async fn send(&mut self, number: u64, payload: &[u8]) {
        self.live.send(message(number, payload)).await.unwrap();
    }

    async fn stop(mut self) {
        self.replays.abort();
        let _ = (&mut self.replays).await;
        self.live.unbind_all().await;
    }
}

async fn bind(socket: &mut impl Socket, address: &str) -> String {
    // The port of a publisher that has just ended may be in use for a moment.
    for _ in 0..100 {
        if let Ok(end) = socket.bind(address).await {
            return end.to_string();
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{address} stays in use");
}

fn state(ports: (u16, u16), replays: bool) -> Arc<AppState> {
    let replay = if replays { format!("replay_port = {}", ports.1) } else { String::new() };
    let config = format!(
        "probes = {{period_ms = 0, scrape_ms = 0}}\nreplicas = [{{url = \"http://127.0.0.1:9\", name = \"a\"}}]\n\
         [kv_events]\nenabled = true\nport = {}\n{replay}",
        ports.0
    );
    crate::start(Config::parse(&config).unwrap(), None, crate::tcp()).unwrap()
}

/// Waits until the stream's state, as shown, is as wanted.
async fn until(state: &AppState, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let shown = || state.find("a").unwrap().kv().unwrap().json(state.clock().now())[0].clone();
    for _ in 0..600 {
        let now = shown();
        if wanted(&now) {
            return now;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("not reached: {what}: {}", shown());
}

/// What an engine answers at `/server_info`, or at the old path alone.
#[derive(Clone)]
enum Info {
    Says(Value),
    AtTheOldPath(Value),
    Absent,
}

/// An engine that says where it publishes.
async fn engine(info: Arc<Mutex<Info>>) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let answer = |old: bool| {
        let info = Arc::clone(&info);
        axum::routing::get(async move || match &*info.lock() {
            Info::Says(value) => Ok(value.to_string()),
            Info::AtTheOldPath(value) if old => Ok(value.to_string()),
            _ => Err(http::StatusCode::NOT_FOUND),
        })
    };
    let routes = axum::Router::new().route("/server_info", answer(false)).route("/get_server_info", answer(true));
    tokio::spawn(async move { axum::serve(listener, routes).await });
    format!("http://{at}")
}

/// SGLang's words.
fn published((port, replay): (u16, u16), ranks: u16) -> Value {
    json!({"page_size": 16, "kv_events": {"publisher": "zmq", "endpoint_host": "*", "endpoint_port_base": port,
        "topic": "", "block_size": 16, "dp_size": ranks, "replay_endpoint_port_base": replay}})
}

#[tokio::test]
async fn an_engine_is_read_where_it_says_that_it_publishes() {
    let (publisher, ports) = Publisher::start((0, 0)).await;
    publisher.keep(0, &batch_of(&[1, 2], &[]));
    let info = Arc::new(Mutex::new(Info::AtTheOldPath(published(ports, 1))));
    // The ports of the configuration lead nowhere.
    let config = format!(
        "probes = {{period_ms = 0, scrape_ms = 0}}\nreplicas = [{{url = \"{}\", name = \"a\"}}]\n\
         [kv_events]\nenabled = true\nport = 1\nreplay_port = 2",
        engine(Arc::clone(&info)).await
    );
    let state = crate::start(Config::parse(&config).unwrap(), None, crate::tcp()).unwrap();
    let seen = until(&state, "the first batch", |s| s["last_sequence"] == 0).await;
    assert_eq!(seen["address"], format!("tcp://127.0.0.1:{}", ports.0));
    assert_eq!((&seen["server_info"], &seen["block_tokens"]), (&json!("published"), &json!(16)));
    learn(&state);
    // It says nothing for a while: what it said holds.
    *info.lock() = Info::Absent;
    publisher.stop().await;
    until(&state, "down", |s| s["state"] == "down").await;
    let (publisher, _) = Publisher::start(ports).await;
    publisher.keep(0, &batch_of(&[1, 2], &[]));
    publisher.keep(1, &batch_of(&[3], &[]));
    until(&state, "the same process", |s| s["last_sequence"] == 1).await;
    assert_eq!(index_tokens(&state), 10);
    // It comes back elsewhere, as another process.
    publisher.stop().await;
    let (publisher, ports) = Publisher::start((0, 0)).await;
    publisher.keep(0, &batch_of(&[7], &[]));
    *info.lock() = Info::Says(published(ports, 1));
    let address = format!("tcp://127.0.0.1:{}", ports.0);
    let seen = until(&state, "the new address", |s| s["address"] == address && s["last_sequence"] == 0).await;
    assert_eq!((&seen["resident_blocks"], index_tokens(&state)), (&json!(1), 0));
    // And with its events off: the configuration holds again.
    publisher.stop().await;
    *info.lock() = Info::Says(json!({"kv_events": null}));
    let seen = until(&state, "nothing published", |s| s["address"] == "tcp://127.0.0.1:1").await;
    assert!(seen["server_info"].as_str().unwrap().starts_with("publishes nothing; start SGLang"), "{seen}");
}

fn learn(state: &AppState) {
    let told =
        ReplicaEvent::PathLearned { replica: state.find("a").unwrap().id, symbols: Arc::from([1, 2, 3]), tokens: 10 };
    state.driver.handle(told);
}

fn index_tokens(state: &AppState) -> u64 {
    let id = state.find("a").unwrap().id;
    state.driver.read(|router, _, _| router.index().tokens(id))
}

#[tokio::test]
async fn earlier_batches_are_replayed_and_gaps_are_filled() {
    let (mut publisher, ports) = Publisher::start((0, 0)).await;
    publisher.keep(0, &batch_of(&[1, 2], &[]));
    publisher.keep(1, &batch_of(&[3], &[]));
    let state = state(ports, true);
    let seen = until(&state, "both batches", |s| s["last_sequence"] == 1).await;
    assert_eq!((&seen["resident_blocks"], &seen["complete"], &seen["replayed"]), (&json!(3), &json!(true), &json!(2)));
    learn(&state);
    // 2 is lost on its way and comes again with the replay that 3 causes.
    publisher.keep(2, &batch_of(&[4], &[1]));
    publisher.keep(3, &batch_of(&[5], &[]));
    publisher.send(3, &batch_of(&[5], &[])).await;
    let seen = until(&state, "the gap is filled", |s| s["last_sequence"] == 3).await;
    assert_eq!((&seen["resident_blocks"], &seen["gaps"], &seen["new_processes"]), (&json!(4), &json!(0), &json!(0)));
    assert_eq!(index_tokens(&state), 10, "nothing was lost");
    let measured = state.driver.read(|router, _, _| router.replicas()[0].measured_tokens);
    assert_eq!(measured, Some(64), "blocks 2, 3, 4 and 5 fit");
    publisher.stop().await;
}

#[tokio::test]
async fn a_gap_that_cannot_be_filled_empties_the_replicas_part_of_the_index() {
    let (mut publisher, ports) = Publisher::start((0, 0)).await;
    let state = state(ports, false);
    until(&state, "connected", |s| s["state"] == "up").await;
    // A subscription takes a moment to arrive, and what is published before is not sent.
    let mut last = 0;
    for number in 0..1_000 {
        publisher.send(number, &batch_of(&[1], &[])).await;
        last = number;
        tokio::time::sleep(Duration::from_millis(20)).await;
        if state.find("a").unwrap().kv().unwrap().json(state.clock().now())[0]["batches"].as_u64() > Some(0) {
            break;
        }
    }
    until(&state, "all that was sent", |s| s["last_sequence"] == last).await;
    learn(&state);
    let next = last + 1;
    publisher.send(next, &batch_of(&[2], &[])).await;
    until(&state, "the next one", |s| s["last_sequence"] == next).await;
    assert_eq!(index_tokens(&state), 10);
    publisher.send(next + 5, &batch_of(&[3], &[])).await;
    let seen = until(&state, "the gap", |s| s["last_sequence"] == next + 5).await;
    assert_eq!((&seen["gaps"], &seen["resident_blocks"], &seen["complete"]), (&json!(1), &json!(1), &json!(false)));
    assert_eq!(index_tokens(&state), 0);
    // Numbers that begin anew are another process.
    learn(&state);
    publisher.send(0, &batch_of(&[9], &[])).await;
    let seen = until(&state, "the new process", |s| s["last_sequence"] == 0).await;
    assert_eq!((&seen["new_processes"], &seen["complete"]), (&json!(1), &json!(true)));
    assert_eq!(index_tokens(&state), 0);
    // A batch that cannot be read may have held removals.
    learn(&state);
    publisher.send(1, &[0xc1]).await;
    let seen = until(&state, "the damaged batch", |s| s["unreadable"] == 1).await;
    assert_eq!((&seen["last_sequence"], index_tokens(&state)), (&json!(1), 0));
    publisher.stop().await;
}

#[tokio::test]
async fn a_publisher_that_went_is_told_and_its_successor_is_known_by_its_batches() {
    let (publisher, ports) = Publisher::start((0, 0)).await;
    publisher.keep(0, &batch_of(&[1, 2], &[2]));
    let state = state(ports, true);
    until(&state, "the first batch", |s| s["last_sequence"] == 0).await;
    let measured = || state.driver.read(|router, _, _| router.replicas()[0].measured_tokens);
    assert!(measured().is_some());
    learn(&state);
    publisher.stop().await;
    let seen = until(&state, "down", |s| s["state"] == "down").await;
    assert!(seen["error"].is_string(), "{seen}");
    assert_eq!((measured(), index_tokens(&state)), (None, 10), "without the stream the cache is predicted");
    // The same process again, after a fault of the network.
    let (publisher, _) = Publisher::start(ports).await;
    publisher.keep(0, &batch_of(&[1, 2], &[2]));
    publisher.keep(1, &batch_of(&[3], &[]));
    let seen = until(&state, "the same process", |s| s["last_sequence"] == 1).await;
    assert_eq!((&seen["new_processes"], &seen["state"], index_tokens(&state)), (&json!(0), &json!("up"), 10));
    publisher.stop().await;
    until(&state, "down again", |s| s["state"] == "down").await;
    // Another process, which has published as many batches.
    let (publisher, _) = Publisher::start(ports).await;
    publisher.keep(0, &batch_of(&[7], &[]));
    publisher.keep(1, &batch_of(&[8], &[]));
    let seen = until(&state, "another process", |s| s["new_processes"] == 1 && s["last_sequence"] == 1).await;
    assert_eq!((&seen["resident_blocks"], &seen["complete"], index_tokens(&state)), (&json!(2), &json!(true), 0));
    publisher.stop().await;
}

#[tokio::test]
async fn an_engine_that_answers_and_publishes_nothing_is_noticed() {
    let (publisher, ports) = Publisher::start((0, 0)).await;
    let state = state(ports, false);
    until(&state, "connected", |s| s["state"] == "up").await;
    let streams = state.find("a").unwrap().kv().unwrap();
    // Cached prompts and short ones store no blocks.
    (0..100).for_each(|_| streams.answered(100));
    assert!(!streams.is_silent());
    (0..16).for_each(|_| streams.answered(1_000));
    let seen = until(&state, "the silence", |s| s["state"] == "down").await;
    assert_eq!(seen["error"], "it answers requests and publishes nothing");
    until(&state, "another try", |s| s["state"] == "up").await;
    publisher.stop().await;
}

#[test]
fn what_fits_is_known_once_every_rank_is_read_and_full() {
    let mut source = Config::default().kv_events;
    (source.enabled, source.ranks) = (true, 2);
    let source = source.source("a", "h", &ServerInfo::Unknown).unwrap();
    let streams = KvStreams::new(source, true);
    let take = |rank: usize, number: u64, payload: &[u8]| {
        streams.apply(rank, Time::ZERO, number, payload, &decode::batch(payload).unwrap())
    };
    streams.set_state(0, StreamState::Up, None);
    assert_eq!(take(0, 0, &batch_of(&[1, 2, 3], &[3])), [CacheChange::Measured(None)], "rank 1 is not read");
    streams.set_state(1, StreamState::Up, None);
    // Hashes are names within a rank.
    assert_eq!(take(1, 0, &batch_of(&[1, 2], &[1])), [CacheChange::Measured(Some(48 + 32))]);
    assert_eq!(streams.figures(Time::ZERO).resident_tokens, 32 + 16);
    assert_eq!(streams.lose(0, |_| ()), [CacheChange::Cleared, CacheChange::Measured(None)]);
}

#[test]
fn tags_differ_by_request_attempt_and_router() {
    let tags =
        [(1, 1, 1), (1, 2, 1), (1, 1, 2), (2, 1, 1)].map(|(seed, id, attempt)| tag(seed, RequestId(id), attempt));
    let distinct: std::collections::BTreeSet<u64> = tags.into_iter().collect();
    assert_eq!(distinct.len(), 4);
    assert_eq!(decode::tag_of(&format!("{TAG}{:016x}", tags[0])), Some(tags[0]));
}

#[test]
fn addresses_hold_names_and_numbers_of_both_kinds() {
    assert_eq!(address("engine", 5_557, 2), "tcp://engine:5559");
    assert_eq!(
        (address("::1", 1, 0), address("[::1]", 1, 0)),
        ("tcp://[::1]:1".to_owned(), "tcp://[::1]:1".to_owned())
    );
}
