//! KV events of engines: what they publish of their caches over ZeroMQ, so that the index forgets what they evicted.
//!
//! One task a replica and data-parallel rank ([`follow`]) reads the [`decode`]d batches, in order and without gaps as far
//! as the engine can replay them; [`KvStreams`] keeps a [`gorgo_core::kv_events::Ledger`] of each rank and what operators
//! see of the streams. Dispatches to vLLM carry a tag as their session, so that stored blocks name them.

use crate::config::KvSource;
use crate::state::AppState;
use crate::supervise;
use crate::upstream::replica::Upstream;
use decode::{Batch, TAG};
use gorgo_core::fleet::Kind;
use gorgo_core::kv_events::{CacheChange, Ledger, LedgerSummary, Sequence};
use gorgo_core::router::{Answer, Dispatch, ReplicaEvent};
use gorgo_core::{RequestId, Time};
use http::HeaderValue;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_64_with_seed;

pub(crate) mod decode;
mod follow;

/// How far a stream is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum StreamState {
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
struct Rank {
    ledger: Ledger,
    sequence: Sequence,
    /// Hash of the batch taken last, to tell the process after a reconnect.
    last: u64,
    state: StreamState,
    why: Option<String>,
    last_at: Option<Time>,
    batches: u64,
    bytes: u64,
    /// Batches that were asked for again.
    replayed: u64,
    /// Times that batches were missing and could not be had again.
    gaps: u64,
    /// Times that another process was found to publish.
    new_processes: u64,
    /// Batches that could not be read.
    unreadable: u64,
    /// Events of kinds that are not known.
    skipped: u64,
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
    source: KvSource,
    ranks: Vec<Mutex<Rank>>,
    /// Whether dispatches are tagged.
    tags: bool,
}

impl KvStreams {
    fn new(source: KvSource, tags: bool) -> Self {
        let ranks = (0..source.ranks).map(|_| Mutex::default()).collect();
        Self { source, ranks, tags }
    }

    /// Notes that a request is dispatched, and returns the tag to send with it.
    pub(crate) fn dispatched(&self, seed: u64, dispatch: &Dispatch, symbols: &Arc<[u64]>, tokens: u32) -> HeaderValue {
        let tag = tag(seed, dispatch.id, dispatch.attempt);
        for rank in &self.ranks {
            rank.lock().ledger.dispatched(tag, Arc::clone(symbols), tokens);
        }
        HeaderValue::try_from(format!("{TAG}{tag:016x}")).unwrap_or(HeaderValue::from_static(TAG))
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
    fn of_all_ranks(&self, changes: &mut Vec<CacheChange>) {
        let before = changes.len();
        changes.retain(|change| !matches!(change, CacheChange::Measured(_)));
        if changes.len() != before {
            changes.push(CacheChange::Measured(self.measured()));
        }
    }

    /// Applies a batch; returns what it changes.
    fn apply(&self, rank: usize, now: Time, number: u64, payload: &[u8], read: Batch) -> Vec<CacheChange> {
        let mut changes = Vec::new();
        {
            let mut at = self.ranks[rank].lock();
            if at.sequence.next().is_none() {
                at.ledger.begin(number == 0);
            }
            at.sequence.take(number);
            (at.last, at.last_at) = (xxhash_rust::xxh3::xxh3_64(payload), Some(now));
            at.batches += 1;
            at.bytes += payload.len() as u64;
            at.skipped += u64::from(read.skipped);
            at.ledger.apply(now, &read.events, &mut changes);
        }
        self.of_all_ranks(&mut changes);
        changes
    }

    /// Forgets what is known of a rank's cache.
    fn lose(&self, rank: usize, count: impl FnOnce(&mut Rank)) -> Vec<CacheChange> {
        {
            let mut at = self.ranks[rank].lock();
            at.ledger.begin(false);
            at.sequence.reset();
            count(&mut at);
        }
        vec![CacheChange::Cleared, CacheChange::Measured(self.measured())]
    }

    /// Sets a rank's state; true if it changed.
    fn set_state(&self, rank: usize, state: StreamState, why: Option<String>) -> bool {
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
                "address": self.address(number), "state": rank.state.word(), "error": rank.why,
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

    fn address(&self, rank: usize) -> String {
        address(&self.source.host, self.source.port, rank)
    }

    fn replay_address(&self, rank: usize) -> Option<String> {
        self.source.replay_port.map(|port| address(&self.source.host, port, rank))
    }
}

fn address(host: &str, port: u16, rank: usize) -> String {
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
fn tag(seed: u64, RequestId(id): RequestId, attempt: u8) -> u64 {
    let mut bytes = [attempt; 9];
    bytes[..8].copy_from_slice(&id.to_le_bytes());
    xxh3_64_with_seed(&bytes, seed) | 1
}

/// Starts to read a replica's events, if they are to be read; ends when the replica is removed.
pub(crate) fn watch(state: &Arc<AppState>, upstream: &Arc<Upstream>) {
    let config = state.config();
    let source = config.kv_events.source(&upstream.name, upstream.endpoint.host());
    let Some(source) = source.filter(|_| upstream.kind != Kind::Peer) else { return };
    let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
    let streams = Arc::new(KvStreams::new(source, config.kv_events.tag_dispatches));
    if upstream.kv.set(Arc::clone(&streams)).is_err() {
        return;
    }
    let mut tasks = upstream.tasks.lock();
    for rank in 0..streams.ranks.len() {
        let task = follow::follow(Arc::clone(state), Arc::clone(upstream), Arc::clone(&streams), rank);
        tasks.push(runtime.spawn(supervise::logged("KV events", task)).abort_handle());
    }
}

/// Tells the core what changed.
fn tell(state: &AppState, upstream: &Upstream, changes: Vec<CacheChange>) {
    if !changes.is_empty() {
        state.driver.handle_for(upstream, ReplicaEvent::Cache { replica: upstream.id, changes });
    }
}

#[cfg(test)]
mod tests;
