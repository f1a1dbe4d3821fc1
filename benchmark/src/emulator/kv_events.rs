//! Publishes the changes of the emulated cache over ZeroMQ as KV events, in the format of vLLM since 0.24.
//!
//! The engine's thread collects the changes of its cache in numbered batches (`Feed`); one task (`publish`) sends them
//! to subscribers and keeps the last ones for replays. The list of token ids is empty, since the engine model has
//! blocks and no tokens. A crash closes the sockets, and the restarted process numbers from 0.

use gorgo_core::RequestId;
use gorgo_sim::engine::CacheEntry;
use serde::Serialize;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::mpsc;
use zeromq::{PubSocket, RouterSocket, Socket, SocketRecv, SocketSend, ZmqMessage};

/// Batches kept for replays, vLLM's default.
const KEPT: usize = 10_000;
/// Batches between the engine's thread and the task; further ones are lost, as vLLM's are.
const WAITING: usize = 10_000;
/// Tokens a block.
const BLOCK_TOKENS: u32 = 16;
/// The number that ends a replay: -1.
const END: u64 = u64::MAX;
/// Pause before binding again to an address that is still in use.
const BIND_PAUSE: Duration = Duration::from_millis(50);

/// Where an emulated engine publishes its KV events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvEventsConfig {
    /// Address of the publisher; port 0 chooses a free one.
    pub listen: SocketAddr,
    /// Address where batches are asked for again; none without.
    pub replay: Option<SocketAddr>,
}

/// An event in vLLM's map form.
#[derive(Serialize)]
#[serde(tag = "type")]
enum Event<'a> {
    BlockStored {
        block_hashes: &'a [u64],
        parent_block_hash: Option<u64>,
        token_ids: [u32; 0],
        block_size: u32,
        lora_id: Option<u32>,
        medium: &'static str,
        session_id: Option<&'a str>,
    },
    BlockRemoved {
        block_hashes: &'a [u64],
        medium: &'static str,
    },
    AllBlocksCleared {},
}

/// Messages from the engine's thread to the publisher.
#[derive(Debug)]
pub(super) enum Message {
    Batch(u64, Vec<u8>),
    Crashed,
    Restarted,
}

/// The engine's end of the publisher.
#[derive(Debug)]
pub(super) struct Feed {
    sender: mpsc::Sender<Message>,
    next: u64,
}

impl Feed {
    /// A feed and what its publisher reads.
    pub(super) fn new() -> (Self, mpsc::Receiver<Message>) {
        let (sender, receiver) = mpsc::channel(WAITING);
        (Self { sender, next: 0 }, receiver)
    }

    /// Publishes what the cache did; `None` if some of it is lost, which leaves a gap in the numbers.
    pub(super) fn publish<'s>(
        &mut self,
        entries: Option<Vec<CacheEntry>>,
        session: impl Fn(RequestId) -> Option<&'s str>,
    ) {
        let Some(entries) = entries else {
            self.next += 1;
            return;
        };
        if entries.is_empty() {
            return;
        }
        let events: Vec<Event<'_>> = entries.iter().map(|entry| event(entry, &session)).collect();
        let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64());
        if let Ok(bytes) = rmp_serde::to_vec_named(&(time, events, 0u8)) {
            let _ = self.sender.try_send(Message::Batch(self.next, bytes)); // a full queue loses it
        }
        self.next += 1;
    }

    pub(super) fn crashed(&mut self) {
        self.next = 0;
        let _ = self.sender.blocking_send(Message::Crashed); // an error is the end of the publisher
    }

    pub(super) fn restarted(&mut self) {
        let _ = self.sender.blocking_send(Message::Restarted);
    }
}

fn event<'e, 's: 'e>(entry: &'e CacheEntry, session: &impl Fn(RequestId) -> Option<&'s str>) -> Event<'e> {
    const MEDIUM: &str = "GPU";
    match entry {
        CacheEntry::Stored { request, hashes, parent } => Event::BlockStored {
            block_hashes: hashes,
            parent_block_hash: *parent,
            token_ids: [],
            block_size: BLOCK_TOKENS,
            lora_id: None,
            medium: MEDIUM,
            session_id: session(*request),
        },
        CacheEntry::Removed(hashes) => Event::BlockRemoved { block_hashes: hashes, medium: MEDIUM },
        CacheEntry::Cleared => Event::AllBlocksCleared {},
    }
}

/// The sockets of one publishing process.
pub(super) struct Sockets {
    live: PubSocket,
    replay: Option<RouterSocket>,
    /// Where they listen, with the ports that were free.
    pub(super) at: KvEventsConfig,
}

impl Sockets {
    /// Binds the sockets.
    ///
    /// # Errors
    /// The address that cannot be listened on, and why.
    pub(super) async fn bind(config: KvEventsConfig) -> Result<Self, (SocketAddr, std::io::Error)> {
        let mut live = PubSocket::new();
        let listen = listen(&mut live, config.listen).await?;
        let replay = match config.replay {
            Some(addr) => {
                let mut socket = RouterSocket::new();
                let addr = self::listen(&mut socket, addr).await?;
                Some((socket, addr))
            }
            None => None,
        };
        let (replay, addr) = replay.unzip();
        Ok(Self { live, replay, at: KvEventsConfig { listen, replay: addr } })
    }

    async fn close(mut self) {
        self.live.unbind_all().await;
        if let Some(mut replay) = self.replay {
            replay.unbind_all().await;
        }
    }
}

async fn listen(socket: &mut impl Socket, addr: SocketAddr) -> Result<SocketAddr, (SocketAddr, std::io::Error)> {
    let failed = |error: zeromq::ZmqError| match error {
        zeromq::ZmqError::Network(source) => (addr, source),
        other => (addr, std::io::Error::other(other.to_string())),
    };
    let end = socket.bind(&format!("tcp://{addr}")).await.map_err(failed)?.to_string();
    let port = end.rsplit(':').next().and_then(|port| port.parse().ok());
    Ok(SocketAddr::new(addr.ip(), port.unwrap_or(addr.port())))
}

fn numbered(number: u64, payload: &[u8]) -> ZmqMessage {
    let mut message = ZmqMessage::from(Vec::new()); // the topic, empty by default
    message.push_back(number.to_be_bytes().to_vec().into());
    message.push_back(payload.to_vec().into());
    message
}

/// Publishes what the engine feeds, until its thread ends.
pub(super) async fn publish(mut feed: mpsc::Receiver<Message>, sockets: Sockets) {
    let at = sockets.at;
    let mut sockets = Some(sockets);
    let mut kept: VecDeque<(u64, Vec<u8>)> = VecDeque::new();
    loop {
        let asked = async {
            match sockets.as_mut().and_then(|sockets| sockets.replay.as_mut()) {
                Some(replay) => replay.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            message = feed.recv() => match message {
                None => break,
                Some(Message::Batch(number, bytes)) => {
                    if let Some(sockets) = &mut sockets {
                        let _ = sockets.live.send(numbered(number, &bytes)).await; // without a subscriber the batch is dropped
                    }
                    kept.push_back((number, bytes));
                    if kept.len() > KEPT {
                        kept.pop_front();
                    }
                }
                Some(Message::Crashed) => {
                    kept.clear();
                    if let Some(sockets) = sockets.take() {
                        sockets.close().await;
                    }
                }
                Some(Message::Restarted) => {
                    while sockets.is_none() {
                        match Sockets::bind(at).await {
                            Ok(bound) => sockets = Some(bound),
                            // The system or another process still has the port.
                            Err(_) => tokio::time::sleep(BIND_PAUSE).await,
                        }
                    }
                }
            },
            ask = asked => {
                let Ok(ask) = ask else { continue };
                if let Some(replay) = sockets.as_mut().and_then(|sockets| sockets.replay.as_mut()) {
                    answer(replay, ask, &kept).await;
                }
            }
        }
    }
    if let Some(sockets) = sockets {
        sockets.close().await;
    }
}

/// Sends the kept batches from the number on that `ask` holds: identity, an empty frame, the number.
async fn answer(replay: &mut RouterSocket, ask: ZmqMessage, kept: &VecDeque<(u64, Vec<u8>)>) {
    let frames = ask.into_vec();
    let [identity, _, start] = frames.as_slice() else { return };
    let Ok(start) = start.as_ref().try_into().map(u64::from_be_bytes) else { return };
    let end = (END, Vec::new());
    for (number, bytes) in kept.iter().filter(|(number, _)| *number >= start).chain([&end]) {
        let mut message = numbered(*number, bytes);
        message.push_front(Vec::new().into());
        message.push_front(identity.clone());
        if replay.send(message).await.is_err() {
            return;
        }
    }
}
