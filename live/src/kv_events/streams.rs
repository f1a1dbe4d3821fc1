//! The streams of a replica's KV events: the ledger of each rank, and what operators see.

use super::decode::{Batch, TAG};
use crate::config::KvSource;
use gorgo_core::kv_events::{CacheChange, Ledger, LedgerSummary, Sequence};
use gorgo_core::router::{Answer, Dispatch};
use gorgo_core::{RequestId, Time};
use http::HeaderValue;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use tokio::sync::Notify;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// Prompt tokens of which an engine stores at least one block, whatever its block size (128 in vLLM on a CPU).
const STORES: u32 = 512;
/// So many answers without a batch: the stream is dead though its connection is open.
const SILENT: u32 = 16;

/// How far a stream is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum StreamState {
    /// No connection has been made.
    #[default]
    Connecting,
    /// Batches are read.
    Up,
    /// The connection failed; it is tried again.
    Down,
}

/// One rank's stream.
#[derive(Debug, Default)]
pub(super) struct Rank {
    pub(super) ledger: Ledger,
    pub(super) sequence: Sequence,
    /// Hash of the batch taken last, to tell the process after a reconnect.
    pub(super) last: u64,
    pub(super) state: StreamState,
    pub(super) why: Option<String>,
    pub(super) last_at: Option<Time>,
    pub(super) batches: u64,
    pub(super) bytes: u64,
    /// Batches that were asked for again.
    pub(super) replayed: u64,
    /// Times that batches were missing and could not be had again.
    pub(super) gaps: u64,
    /// Times that another process was found to publish.
    pub(super) new_processes: u64,
    /// Batches that could not be read.
    pub(super) unreadable: u64,
    /// Events of kinds that are not known.
    pub(super) skipped: u64,
}

/// Figures of a replica's streams for `/metrics`, summed over its ranks.
#[derive(Debug, Clone, Default)]
pub(crate) struct KvFigures {
    pub(crate) is_up: bool,
    pub(crate) age_s: Option<f64>,
    pub(crate) resident_tokens: u64,
    pub(crate) measured_tokens: Option<u64>,
    pub(crate) residence_s: Option<f64>,
    pub(crate) batches: u64,
    pub(crate) gaps: u64,
    pub(crate) cuts: u64,
}

/// The streams of one replica, one a rank.
#[derive(Debug)]
pub(crate) struct KvStreams {
    pub(super) source: KvSource,
    pub(super) ranks: Vec<Mutex<Rank>>,
    /// Whether dispatches are tagged.
    tags: bool,
    /// Notified when a stream breaks.
    pub(super) broken: Notify,
    /// Requests answered since the last batch for which the engine must have stored blocks.
    answered: AtomicU32,
}

impl KvStreams {
    pub(super) fn new(source: KvSource, tags: bool) -> Self {
        let ranks = (0..source.ranks).map(|_| Mutex::default()).collect();
        Self { source, ranks, tags, broken: Notify::new(), answered: AtomicU32::new(0) }
    }

    /// Notes that a request is dispatched, and returns the tag to send with it.
    pub(crate) fn dispatched(&self, seed: u64, dispatch: &Dispatch, symbols: &Arc<[u64]>, tokens: u32) -> HeaderValue {
        let tag = tag(seed, dispatch.id, dispatch.attempt);
        for rank in &self.ranks {
            rank.lock().ledger.dispatched(tag, Arc::clone(symbols), tokens);
        }
        HeaderValue::try_from(format!("{TAG}{tag:016x}")).unwrap_or(HeaderValue::from_static(TAG))
    }

    /// Counts a request that was answered after `uncached` prompt tokens were computed.
    pub(crate) fn answered(&self, uncached: u32) {
        if uncached >= STORES {
            self.answered.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Whether the engine answers and publishes nothing.
    pub(super) fn is_silent(&self) -> bool {
        self.answered.load(Ordering::Relaxed) >= SILENT
    }

    /// Whether a rank's batches are more than `before`, which is brought up to date.
    pub(super) fn has_read(&self, rank: usize, before: &mut u64) -> bool {
        let now = self.ranks[rank].lock().batches;
        std::mem::replace(before, now) < now
    }

    /// Waits for batches again.
    pub(super) fn wait_anew(&self) {
        self.answered.store(0, Ordering::Relaxed);
    }

    /// Whether dispatches are to be tagged.
    pub(crate) fn tags(&self) -> bool {
        self.tags
    }

    /// Notes that a dispatch is complete: its prompt had `tokens` tokens, and `answer` follows it. Returns the prompt
    /// tokens that the engine held before, by its events.
    pub(crate) fn finished(
        &self,
        seed: u64,
        (id, attempt): (RequestId, u8),
        symbols: &Arc<[u64]>,
        tokens: u32,
        answer: Option<&Answer>,
    ) -> Option<u32> {
        if !self.tags {
            return None;
        }
        let tag = tag(seed, id, attempt);
        let (path, all): (Arc<[u64]>, u32) = match answer {
            Some(answer) => {
                let kept = symbols.iter().take(answer.keep);
                (kept.chain(answer.tail.iter()).copied().collect(), answer.tokens)
            }
            None => (Arc::clone(symbols), tokens),
        };
        let mut held = None;
        for rank in &self.ranks {
            let mut rank = rank.lock();
            rank.ledger.finished(tag, Arc::clone(&path), all);
            held = held.or(rank.ledger.held(tag));
        }
        held.map(|held| held.min(tokens))
    }

    /// Tokens that fit into the caches of all ranks; `None` unless every rank is read and measured.
    fn measured(&self) -> Option<u64> {
        self.ranks.iter().try_fold(0, |sum, rank| {
            let rank = rank.lock();
            let capacity = rank.ledger.summary().capacity.filter(|_| rank.state == StreamState::Up);
            Some(sum + capacity?)
        })
    }

    /// A rank's measurement counts for the sum of all ranks only.
    pub(super) fn of_all_ranks(&self, changes: &mut Vec<CacheChange>) {
        let before = changes.len();
        changes.retain(|change| !matches!(change, CacheChange::Measured(_)));
        if changes.len() != before {
            changes.push(CacheChange::Measured(self.measured()));
        }
    }

    /// Applies a batch; returns what it changes.
    pub(super) fn apply(&self, rank: usize, now: Time, number: u64, payload: &[u8], read: &Batch) -> Vec<CacheChange> {
        self.wait_anew();
        let mut changes = Vec::new();
        {
            let mut at = self.ranks[rank].lock();
            if at.sequence.next().is_none() {
                at.ledger.begin(number == 0);
            }
            at.sequence.take(number);
            (at.last, at.last_at) = (xxh3_64(payload), Some(now));
            at.batches += 1;
            at.bytes += payload.len() as u64;
            at.skipped += u64::from(read.skipped);
            at.ledger.apply(now, &read.events, &mut changes);
        }
        self.of_all_ranks(&mut changes);
        changes
    }

    /// Forgets what is known of a rank's cache.
    pub(super) fn lose(&self, rank: usize, count: impl FnOnce(&mut Rank)) -> Vec<CacheChange> {
        {
            let mut at = self.ranks[rank].lock();
            at.ledger.begin(false);
            at.sequence.reset();
            count(&mut at);
        }
        vec![CacheChange::Cleared, CacheChange::Measured(self.measured())]
    }

    /// Sets a rank's state; true if it changed.
    pub(super) fn set_state(&self, rank: usize, state: StreamState, why: Option<String>) -> bool {
        if state == StreamState::Down {
            self.broken.notify_one();
        }
        let mut at = self.ranks[rank].lock();
        at.why = why;
        std::mem::replace(&mut at.state, state) != state
    }

    /// The streams as `status` shows them.
    pub(crate) fn json(&self, now: Time) -> Value {
        let rows = self.ranks.iter().enumerate().map(|(number, rank)| {
            let rank = rank.lock();
            let summary = rank.ledger.summary();
            let LedgerSummary { blocks, tokens, complete, capacity, residence_ms, .. } = summary;
            let LedgerSummary { stored, removed, removed_unknown, tagged, cuts, paths, paths_dropped, .. } = summary;
            json!({
                "address": self.address(number), "server_info": self.source.told.word(),
                "block_tokens": self.source.told.published().map(|published| published.block_tokens), "state": rank.state.word(), "error": rank.why,
                "age_ms": rank.last_at.map(|at| (now - at).ms()), "last_sequence": rank.sequence.last(),
                "batches": rank.batches, "bytes": rank.bytes, "replayed": rank.replayed, "gaps": rank.gaps,
                "new_processes": rank.new_processes, "unreadable": rank.unreadable, "skipped_events": rank.skipped,
                "resident_blocks": blocks, "resident_tokens": tokens, "complete": complete,
                "measured_tokens": capacity, "residence_ms": residence_ms, "stored_blocks": stored,
                "removed_blocks": removed, "removed_unknown_blocks": removed_unknown, "tagged_blocks": tagged,
                "cuts": cuts, "paths": paths, "paths_dropped": paths_dropped,
            })
        });
        rows.collect()
    }

    /// The same as figures.
    pub(crate) fn figures(&self, now: Time) -> KvFigures {
        let mut sum = KvFigures { is_up: true, measured_tokens: self.measured(), ..KvFigures::default() };
        for rank in &self.ranks {
            let rank = rank.lock();
            let summary = rank.ledger.summary();
            sum.is_up &= rank.state == StreamState::Up;
            sum.age_s = rank.last_at.map(|at| (now - at).ms() / 1e3).into_iter().chain(sum.age_s).reduce(f64::min);
            sum.resident_tokens += summary.tokens;
            sum.residence_s = sum.residence_s.or(summary.residence_ms.map(|ms| ms / 1e3));
            (sum.batches, sum.gaps) = (sum.batches + rank.batches, sum.gaps + rank.gaps);
            sum.cuts += summary.cuts;
        }
        sum
    }

    pub(super) fn address(&self, rank: usize) -> String {
        address(&self.source.host, self.source.port, rank)
    }

    pub(super) fn replay_address(&self, rank: usize) -> Option<String> {
        self.source.replay_port.map(|port| address(&self.source.host, port, rank))
    }
}

pub(super) fn address(host: &str, port: u16, rank: usize) -> String {
    let port = usize::from(port) + rank;
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    if bare.contains(':') { format!("tcp://[{bare}]:{port}") } else { format!("tcp://{bare}:{port}") }
}

impl StreamState {
    fn word(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Up => "up",
            Self::Down => "down",
        }
    }
}

/// The tag of a dispatch, never 0.
pub(super) fn tag(seed: u64, RequestId(id): RequestId, attempt: u8) -> u64 {
    let mut bytes = [attempt; 9];
    bytes[..8].copy_from_slice(&id.to_le_bytes());
    xxh3_64_with_seed(&bytes, seed) | 1
}
