//! Prefix sharing between routers of the same replicas: each router sends the paths that it learns to its peers.
//!
//! Each router keeps its own index. A path that it learns (a prompt at a replica, a prompt with its answer) goes into a
//! bounded queue, and every peer gets a batch from the queue each period. A symbol names its block and all before it,
//! so a path is sent as the symbols below the deepest one that the peer is known to have, with that symbol as its
//! parent. A receiver that lacks the parent requests the whole path. Nothing is acknowledged: after a lost batch, or a
//! restart of the peer, the receiver requests the next path below a lost one. Evictions are not sent, since every
//! router evicts by the same budgets, and `cached_tokens` of answers corrects the rest. Each batch also carries the
//! sender's own requests at each replica, as gauges: [`crate::router::ReplicaEvent::PeerLoads`].
//!
//! Both drivers carry the same batches: the simulator over its links, production as messages over HTTP.

use crate::fleet::Load;
use crate::{ReplicaId, Span, Time};
use paths::Paths;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::sync::Arc;

mod paths;

/// Peers of one router at most: each has a bit in the table of known symbols.
pub const MAX_PEERS: usize = 32;
/// Symbols of one path at most. A longer path is cut here: what is below is found by this router alone.
pub const MAX_PATH: usize = 1 << 16;
/// Paths of one batch at most, and paths asked for in one answer.
pub const MAX_BATCH: usize = 4_096;
/// Symbols of one batch at most; a longer path travels alone.
pub const MAX_BATCH_SYMBOLS: usize = 1 << 16;

/// Bounds of what one router keeps for its peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Paths that wait for the next batch.
    pub queue: usize,
    /// Symbols of those paths together.
    pub queue_symbols: usize,
    /// Symbols in the table of known paths, about 40 bytes each.
    pub symbols: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { queue: 4_096, queue_symbols: 1 << 20, symbols: 1 << 19 }
    }
}

/// A path that a replica holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path {
    /// Who holds it.
    pub replica: ReplicaId,
    /// From the root.
    pub symbols: Arc<[u64]>,
    /// Tokens of the whole path.
    pub tokens: u32,
}

/// A path on its way to a peer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct News {
    /// Who holds the path. In a message between processes, an index into the names of its replicas.
    pub replica: ReplicaId,
    /// The last symbol of the path that is not sent, because the peer is known to know it; `None`: `tail` is the path.
    pub parent: Option<u64>,
    /// The symbols below `parent`.
    pub tail: Vec<u64>,
    /// Tokens of the whole path.
    pub tokens: u32,
}

impl News {
    /// Bytes it takes in a message: a JSON row with the symbols in base64.
    pub fn bytes(&self) -> u64 {
        40 + (8 * self.tail.len() as u64).div_ceil(3) * 4
    }
}

/// A path that could not be put together, as its receiver names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    /// As in the [`News`].
    pub replica: ReplicaId,
    /// The last symbol of the path.
    pub end: u64,
    /// Tokens of the whole path.
    pub tokens: u32,
}

impl Missing {
    /// Bytes it takes in a message.
    pub const BYTES: u64 = 32;
}

/// Bytes of the load at one replica in a message, a JSON row.
pub const LOAD_BYTES: u64 = 40;
/// Bytes of a message without its rows: HTTP heads and the names.
pub const MESSAGE_BYTES: u64 = 400;

/// Unchanged loads are sent again after this time, since a receiver drops loads that it has not received for 3 s.
const RENEWED: Span = Span(1_000_000_000);

/// A router's requests at each replica as it last sent them, and the time of sending.
pub type SentLoads = (Time, Vec<(ReplicaId, Load)>);

/// Whether these loads must be sent: they changed, or were sent too long ago.
pub fn must_send(now: Time, told: &SentLoads, loads: &[(ReplicaId, Load)]) -> bool {
    told.1 != loads || (!loads.is_empty() && now - told.0 >= RENEWED)
}

/// Counts since the start, over all peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SharingStats {
    /// Paths sent.
    pub sent: u64,
    /// Bytes of those paths, by [`News::bytes`].
    pub sent_bytes: u64,
    /// Paths that were dropped because the queue was full, once for each peer that had not got them.
    pub dropped: u64,
    /// Paths received and put together.
    pub received: u64,
    /// Paths received whose parent was not known, and that were asked for.
    pub missing: u64,
    /// Paths that a peer asked for.
    pub asked: u64,
    /// Of these, the ones no longer known here.
    pub unknown: u64,
}

/// A peer, as the sender sees it.
#[derive(Debug, Clone, Default)]
struct Peer {
    /// Number of the next path of the queue that it gets.
    next: u64,
    /// Paths that it asked for.
    asked: VecDeque<Path>,
}

/// One router's side of the exchange: paths to send to each peer, and the table that resolves received paths.
#[derive(Debug, Clone)]
pub struct Sharing {
    limits: Limits,
    queue: VecDeque<Path>,
    queue_symbols: usize,
    /// Number of the first path of the queue.
    first: u64,
    peers: Vec<Peer>,
    paths: Paths,
    stats: SharingStats,
}

impl Sharing {
    /// Sharing with peers `0..peers`, at most [`MAX_PEERS`].
    pub fn new(peers: usize, limits: Limits) -> Self {
        Self {
            limits,
            queue: VecDeque::new(),
            queue_symbols: 0,
            first: 0,
            peers: vec![Peer::default(); peers.min(MAX_PEERS)],
            paths: Paths::new(limits.symbols),
            stats: SharingStats::default(),
        }
    }

    /// Number of peers.
    pub fn peers(&self) -> usize {
        self.peers.len()
    }

    /// Counts since the start.
    pub fn stats(&self) -> SharingStats {
        self.stats
    }

    /// Paths that wait for a batch.
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// Queues what this router learned. The oldest path is dropped when the queue is full.
    pub fn learned(&mut self, path: Path) {
        if path.symbols.is_empty() || self.peers.is_empty() {
            return;
        }
        self.queue_symbols += path.symbols.len();
        self.queue.push_back(path);
        while self.queue.len() > self.limits.queue || self.queue_symbols > self.limits.queue_symbols {
            self.stats.dropped += self.peers.iter().filter(|peer| peer.next <= self.first).count() as u64;
            self.pop();
        }
    }

    /// Drops the queued paths of a replica whose slot now belongs to another one.
    pub fn forget(&mut self, replica: ReplicaId) {
        for path in self.queue.iter_mut().filter(|path| path.replica == replica) {
            self.queue_symbols -= path.symbols.len();
            path.symbols = Arc::from([]); // its place in the queue stays, since peers count places
        }
        self.peers.iter_mut().for_each(|peer| peer.asked.retain(|path| path.replica != replica));
    }

    fn pop(&mut self) {
        if let Some(gone) = self.queue.pop_front() {
            self.queue_symbols -= gone.symbols.len();
            self.first += 1;
        }
    }

    /// The next batch for `peer`; empty when there is nothing to send. The peer counts as having it from now on.
    pub fn batch(&mut self, peer: usize) -> Vec<News> {
        let Some(Peer { next, asked }) = self.peers.get_mut(peer) else { return Vec::new() };
        let (mut batch, mut symbols) = (Vec::new(), 0usize);
        while let Some(path) = asked.front() {
            if !fits(&batch, symbols, path.symbols.len()) {
                break;
            }
            self.paths.tell(&path.symbols, peer);
            symbols += path.symbols.len();
            let (replica, tokens) = (path.replica, path.tokens);
            batch.push(News { replica, parent: None, tail: path.symbols.to_vec(), tokens });
            asked.pop_front();
        }
        *next = (*next).max(self.first);
        while let Some(path) = self.queue.get((*next - self.first) as usize) {
            if path.symbols.is_empty() {
                *next += 1;
                continue;
            }
            let path_symbols = &path.symbols[..path.symbols.len().min(MAX_PATH)];
            let known = self.paths.known(path_symbols, peer);
            if !fits(&batch, symbols, path_symbols.len() - known) {
                break;
            }
            self.paths.tell(path_symbols, peer);
            symbols += path_symbols.len() - known;
            batch.push(News {
                replica: path.replica,
                parent: known.checked_sub(1).map(|last| path_symbols[last]),
                tail: path_symbols[known..].to_vec(),
                tokens: weight(path, path_symbols.len()),
            });
            *next += 1;
        }
        self.stats.sent += batch.len() as u64;
        self.stats.sent_bytes += batch.iter().map(News::bytes).sum::<u64>();
        while !self.queue.is_empty() && self.peers.iter().all(|peer| peer.next > self.first) {
            self.pop();
        }
        batch
    }

    /// Puts the paths of a batch of `peer` together (`None`: of a router that is no peer of this one), and names those
    /// whose parent is not known.
    pub fn receive(&mut self, peer: Option<usize>, batch: Vec<News>, missing: &mut Vec<Missing>) -> Vec<Path> {
        let peer = peer.filter(|&peer| peer < self.peers.len());
        let mut paths = Vec::with_capacity(batch.len().min(MAX_BATCH));
        for News { replica, parent, tail, tokens } in batch.into_iter().take(MAX_BATCH) {
            let Some(end) = tail.last().copied().or(parent) else { continue };
            let mut symbols = match parent {
                None => Vec::new(),
                Some(parent) => match self.paths.path(parent) {
                    Some(symbols) => symbols,
                    None => {
                        missing.push(Missing { replica, end, tokens });
                        continue;
                    }
                },
            };
            symbols.extend(tail);
            symbols.truncate(MAX_PATH);
            match peer {
                Some(peer) => self.paths.tell(&symbols, peer),
                None => self.paths.keep(&symbols),
            }
            paths.push(Path { replica, symbols: symbols.into(), tokens });
        }
        self.stats.received += paths.len() as u64;
        self.stats.missing += missing.len() as u64;
        paths
    }

    /// Queues the paths that `peer` could not put together, whole, for its next batch.
    pub fn asked(&mut self, peer: usize, missing: &[Missing]) {
        let Some(Peer { asked, .. }) = self.peers.get_mut(peer) else { return };
        for &Missing { replica, end, tokens } in missing.iter().take(MAX_BATCH) {
            self.stats.asked += 1;
            match self.paths.path(end) {
                Some(symbols) if asked.len() < MAX_BATCH => {
                    asked.push_back(Path { replica, symbols: symbols.into(), tokens });
                }
                _ => self.stats.unknown += 1,
            }
        }
    }
}

fn fits(batch: &[News], symbols: usize, more: usize) -> bool {
    batch.is_empty() || (batch.len() < MAX_BATCH && symbols + more <= MAX_BATCH_SYMBOLS)
}

/// Tokens of the first `symbols` symbols of a path.
fn weight(path: &Path, symbols: usize) -> u32 {
    (u64::from(path.tokens) * symbols as u64 / path.symbols.len() as u64) as u32
}

#[cfg(test)]
mod tests;
