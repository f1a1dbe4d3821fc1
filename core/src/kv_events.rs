//! KV events: the changes that engines publish about their KV caches, turned into updates of the prefix index. No
//! tokenizer is needed.
//!
//! An engine publishes batches of [`CacheEvent`]s, each batch with a sequence number. A block's hash is an opaque name
//! within one process and one data-parallel rank: it is never computed here. [`Sequence`] finds gaps and new processes,
//! [`Ledger`] keeps the blocks that are resident and turns batches into [`CacheChange`]s, which reach the router as
//! [`crate::router::ReplicaEvent::Cache`]:
//!
//! - a cleared cache, a new process or a lost part of the stream drops all that the index holds for the replica;
//! - resident blocks (stored minus removed) measure the budget of the replica in the index;
//! - a block that was stored on behalf of a *tagged* dispatch is known to belong to that request's path, so its removal
//!   cuts the replica's share of the index at its place.

use std::sync::Arc;

mod ledger;
mod paths;
mod sequence;
pub use ledger::{Ledger, LedgerSummary};
pub use sequence::{Arrival, Sequence};

/// One event of an engine's cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CacheEvent {
    /// Blocks entered the cache, each the child of the one before.
    Stored(StoredBlocks),
    /// Blocks left the cache.
    Removed {
        /// Their hashes.
        hashes: Vec<u64>,
        /// The group of layers they belong to, in hybrid models.
        group: Option<u32>,
    },
    /// The cache is empty now.
    Cleared,
}

/// Blocks that entered a cache.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StoredBlocks {
    /// Their hashes in the order of the prompt.
    pub hashes: Vec<u64>,
    /// The block before the first one; `None` at the beginning of a prompt.
    pub parent: Option<u64>,
    /// Tokens a block.
    pub block_tokens: u32,
    /// The dispatch on whose behalf they were computed, if this router tagged it.
    pub tag: Option<u64>,
    /// The group of layers they belong to, in hybrid models.
    pub group: Option<u32>,
    /// Whether the group attends to part of the context only (sliding window, state space): its blocks come and go while
    /// the prefix stays usable, so they do not count.
    pub is_partial: bool,
}

/// What a batch of events changes for a router.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CacheChange {
    /// Nothing that was known of the cache holds any more.
    Cleared,
    /// So many tokens of prefixes fit into the engine's cache, as measured; `None`: not known any more.
    Measured(Option<u64>),
    /// The engine no longer holds a path beyond its first `keep` symbols.
    Evicted {
        /// The path from the root.
        symbols: Arc<[u64]>,
        /// Symbols that stay.
        keep: usize,
    },
}
