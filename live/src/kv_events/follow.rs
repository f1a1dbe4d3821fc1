//! Follows one rank's stream: replayed batches first, then live ones, each once and in order.
//!
//! An engine publishes changes only, not the blocks that are in the cache already. So after connecting, this task
//! requests the earlier batches that the engine still keeps, holds live ones back meanwhile, and merges both by
//! sequence number. Missing batches are requested again; if the engine no longer keeps them, the replica's part of the
//! index is emptied. After a reconnect another process may publish there: the batch read last is requested again, and
//! must be the same.

use super::decode;
use super::relay::Relay;
use super::streams::{KvStreams, Rank, StreamState};
use crate::observe::changes::Change;
use crate::state::AppState;
use crate::upstream::replica::Upstream;
use bytes::Bytes;
use futures_util::StreamExt;
use gorgo_core::kv_events::{Arrival, CacheChange};
use gorgo_core::router::ReplicaEvent;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;
use xxhash_rust::xxh3::xxh3_64;
use zeromq::{DealerSocket, Socket, SocketEvent, SocketOptions, SocketRecv, SocketSend, SubSocket, ZmqMessage};

/// Pauses between attempts to connect.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How often a stream without batches is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// Connecting takes no longer.
const CONNECT: Duration = Duration::from_secs(2);
/// An engine that replays sends the next batch within this time.
const REPLAY_GAP: Duration = Duration::from_secs(5);
/// Live batches that are held back during a replay; more of them are a gap.
const HELD: usize = 4_096;
/// Bytes of those.
const HELD_BYTES: usize = 64 << 20;
/// The number that ends a replay: -1.
const END: u64 = u64::MAX;

/// A batch with its number.
type Numbered = (u64, Bytes);

/// Follows a rank's stream until the task is aborted.
pub(super) async fn follow(state: Arc<AppState>, upstream: Arc<Upstream>, streams: Arc<KvStreams>, rank: usize) {
    let (mut pause, mut batches) = (FIRST_PAUSE, 0);
    let reader = Reader { state: &state, upstream: &upstream, streams: &streams, rank };
    loop {
        let why = match reader.connect().await {
            Ok(connection) => {
                streams.wait_anew();
                reader.set_state(StreamState::Up, None);
                reader.read(connection).await
            }
            Err(why) => why,
        };
        reader.set_state(StreamState::Down, Some(why));
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
        if streams.has_read(rank, &mut batches) {
            pause = FIRST_PAUSE;
        }
    }
}

struct Connection {
    socket: SubSocket,
    events: futures_util::stream::BoxStream<'static, SocketEvent>,
    /// Live batches that came during a replay.
    held: VecDeque<Numbered>,
    held_bytes: usize,
    _relay: Relay,
}

/// Why a replay ended early.
enum Failed {
    /// The live stream broke off.
    Live(String),
    /// The replay itself.
    Replay(String),
}

struct Reader<'a> {
    state: &'a Arc<AppState>,
    upstream: &'a Arc<Upstream>,
    streams: &'a KvStreams,
    rank: usize,
}

fn options() -> SocketOptions {
    let mut options = SocketOptions::default();
    options.connect_timeout(CONNECT);
    options
}

/// The number and the batch of a message, which may begin with a topic or an empty frame.
fn numbered(message: ZmqMessage) -> Option<Numbered> {
    let mut frames = message.into_vec();
    let payload = frames.pop()?;
    let number = frames.pop()?;
    Some((u64::from_be_bytes(number.as_ref().try_into().ok()?), payload))
}

impl Reader<'_> {
    async fn connect(&self) -> Result<Connection, String> {
        let address = self.streams.address(self.rank);
        let relay = Relay::to(&address, CONNECT).await;
        let relay = relay.map_err(|error| format!("cannot connect to {address}: {error}"))?;
        let mut socket = SubSocket::with_options(options());
        let events = socket.monitor().boxed();
        let connecting = timeout(2 * CONNECT, socket.connect(&relay.address)).await;
        let connected = connecting.unwrap_or(Err(zeromq::ZmqError::ConnectTimeout(CONNECT)));
        connected.map_err(|error| format!("cannot connect to {address}: {error}"))?;
        let topic = &self.streams.source.topic;
        socket.subscribe(topic).await.map_err(|error| format!("cannot subscribe at {address}: {error}"))?;
        Ok(Connection { socket, events, held: VecDeque::new(), held_bytes: 0, _relay: relay })
    }

    /// Reads until the connection fails; returns why it did.
    async fn read(&self, mut connection: Connection) -> String {
        if let Err(why) = self.catch_up(&mut connection).await {
            return why;
        }
        loop {
            // What was held back during a replay may have been replayed, too.
            let (next, merged) = match connection.held.pop_front() {
                Some(next) => {
                    connection.held_bytes -= next.1.len();
                    (Ok(next), true)
                }
                None => tokio::select! {
                    next = live(&mut connection.socket, &mut connection.events) => (next, false),
                    () = self.silence() => return "it answers requests and publishes nothing".to_owned(),
                },
            };
            let taken = match next {
                Ok(next) => self.take(&mut connection, next, merged).await,
                Err(why) => return why,
            };
            if let Err(why) = taken {
                return why;
            }
        }
    }

    /// Waits until the engine has answered requests for which it must have published batches.
    async fn silence(&self) {
        while !self.streams.is_silent() {
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Asks for earlier batches, and finds out after a reconnect whether the same process publishes.
    async fn catch_up(&self, connection: &mut Connection) -> Result<(), String> {
        if self.streams.source.replay_port.is_none() {
            return Ok(());
        }
        let (last, hash) = {
            let rank = self.streams.ranks[self.rank].lock();
            (rank.sequence.last(), rank.last)
        };
        let mut same = last.is_none();
        if let Some(last) = last {
            self.replay(connection, last, |number, payload| {
                if number == last {
                    same = xxh3_64(payload) == hash;
                } else if same {
                    self.apply(number, payload);
                }
            })
            .await?;
        }
        if !same {
            self.lose(|rank| rank.new_processes += 1);
        }
        if last.is_none() || !same {
            self.replay(connection, 0, |number, payload| self.apply(number, payload)).await?;
        }
        Ok(())
    }

    /// Takes a batch in its turn.
    async fn take(&self, connection: &mut Connection, (number, payload): Numbered, merged: bool) -> Result<(), String> {
        let judged = self.judge(number, merged);
        match judged {
            Arrival::Next => {}
            Arrival::Again => return Ok(()),
            Arrival::Gap(_) | Arrival::NewProcess => {
                let from = if let Arrival::Gap(from) = judged { from } else { 0 };
                if judged == Arrival::NewProcess {
                    self.lose(|rank| rank.new_processes += 1);
                }
                if self.streams.source.replay_port.is_some() && number > from {
                    self.replay(connection, from, |number, payload| {
                        if self.judge(number, true) == Arrival::Next {
                            self.apply(number, payload);
                        }
                    })
                    .await?;
                }
                match self.judge(number, true) {
                    Arrival::Next => {}
                    Arrival::Again => return Ok(()),
                    Arrival::Gap(_) | Arrival::NewProcess => {
                        let replica = self.upstream.name.clone();
                        let has_replay = self.streams.source.replay_port.is_some();
                        self.state.driver.observers().tell(Change::KvEventsLost { replica, has_replay });
                        self.lose(|rank| rank.gaps += 1);
                    }
                }
            }
        }
        self.apply(number, &payload);
        Ok(())
    }

    fn judge(&self, number: u64, merged: bool) -> Arrival {
        self.streams.ranks[self.rank].lock().sequence.judge(number, merged)
    }

    /// Decodes a batch and passes its changes to the core. One that cannot be decoded may have contained removals.
    fn apply(&self, number: u64, payload: &[u8]) {
        let now = self.state.clock().now();
        match decode::batch(payload) {
            Ok(batch) => {
                let changes = self.streams.apply(self.rank, now, number, payload, &batch);
                tell(self.state, self.upstream, changes);
            }
            Err(error) => {
                self.upstream.note_error(now, format!("a batch of its KV events cannot be read: {error}"));
                self.lose(|rank| {
                    rank.unreadable += 1;
                    rank.sequence.take(number);
                    rank.last = xxh3_64(payload);
                });
            }
        }
    }

    fn lose(&self, count: impl FnOnce(&mut Rank)) {
        let changes = self.streams.lose(self.rank, count);
        tell(self.state, self.upstream, changes);
    }

    /// Asks for the batches from `start` on and passes those that are there to `each`, in order. Live batches are held
    /// back meanwhile. An error is one of the live stream; without a replay the live stream is read all the same.
    async fn replay(
        &self,
        connection: &mut Connection,
        start: u64,
        each: impl FnMut(u64, &[u8]),
    ) -> Result<(), String> {
        let Some(address) = self.streams.replay_address(self.rank) else { return Ok(()) };
        match self.replay_from(&address, connection, start, each).await {
            Ok(()) => Ok(()),
            Err(Failed::Live(why)) => Err(why),
            Err(Failed::Replay(what)) => {
                let why = format!("no replay from {address}: {what}");
                self.upstream.note_error(self.state.clock().now(), why.clone());
                self.streams.ranks[self.rank].lock().why = Some(why);
                Ok(())
            }
        }
    }

    async fn replay_from(
        &self,
        address: &str,
        connection: &mut Connection,
        start: u64,
        mut each: impl FnMut(u64, &[u8]),
    ) -> Result<(), Failed> {
        let failed = |what: &str| Failed::Replay(what.to_owned());
        let relay = Relay::to(address, CONNECT).await.map_err(|error| failed(&error.to_string()))?;
        let mut socket = DealerSocket::with_options(options());
        let connecting = timeout(2 * CONNECT, socket.connect(&relay.address)).await;
        connecting.map_err(|_| failed("no connection"))?.map_err(|error| failed(&error.to_string()))?;
        let mut ask = ZmqMessage::from(Bytes::new());
        ask.push_back(Bytes::copy_from_slice(&start.to_be_bytes()));
        socket.send(ask).await.map_err(|error| failed(&error.to_string()))?;
        let mut deadline = tokio::time::Instant::now() + REPLAY_GAP;
        loop {
            tokio::select! {
                biased;
                answer = socket.recv() => {
                    let message = answer.map_err(|error| failed(&error.to_string()))?;
                    match numbered(message) {
                        Some((END, _)) => return Ok(()),
                        Some((number, payload)) => {
                            self.streams.ranks[self.rank].lock().replayed += 1;
                            each(number, &payload);
                        }
                        None => {}
                    }
                    deadline = tokio::time::Instant::now() + REPLAY_GAP;
                }
                batch = live(&mut connection.socket, &mut connection.events) => {
                    let (number, payload) = batch.map_err(Failed::Live)?;
                    connection.held_bytes += payload.len();
                    connection.held.push_back((number, payload));
                    if connection.held.len() > HELD || connection.held_bytes > HELD_BYTES {
                        return Err(failed("more live batches came meanwhile than are held back"));
                    }
                }
                () = tokio::time::sleep_until(deadline) => return Err(failed("it stopped before its end")),
            }
        }
    }

    fn set_state(&self, to: StreamState, why: Option<String>) {
        let now = self.state.clock().now();
        let changed = self.streams.set_state(self.rank, to, why.clone());
        if !changed {
            return;
        }
        let replica = self.upstream.name.clone();
        let change = match why {
            None => Change::KvEventsUp { replica },
            Some(why) => {
                self.upstream.note_error(now, format!("its KV events are not read: {why}"));
                Change::KvEventsDown { replica, why }
            }
        };
        self.state.driver.observers().tell(change);
        // What was measured holds while the stream is read.
        let mut changes = vec![CacheChange::Measured(None)];
        self.streams.of_all_ranks(&mut changes);
        tell(self.state, self.upstream, changes);
    }
}

/// The next message of the live stream.
async fn live(
    socket: &mut SubSocket,
    events: &mut futures_util::stream::BoxStream<'static, SocketEvent>,
) -> Result<Numbered, String> {
    loop {
        tokio::select! {
            biased;
            message = socket.recv() => {
                let message = message.map_err(|error| format!("the stream broke off: {error}"))?;
                if let Some(numbered) = numbered(message) {
                    return Ok(numbered);
                }
            }
            event = events.next() => {
                if matches!(event, None | Some(SocketEvent::Disconnected(_) | SocketEvent::Closed)) {
                    return Err("the publisher closed the connection".to_owned());
                }
            }
        }
    }
}

/// Passes the changes to the core.
pub(super) fn tell(state: &AppState, upstream: &Upstream, changes: Vec<CacheChange>) {
    if !changes.is_empty() {
        state.driver.handle_for(upstream, ReplicaEvent::Cache { replica: upstream.id, changes });
    }
}
