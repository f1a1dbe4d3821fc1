//! The KV pool: how many token slots are free, private to a request, or held by the radix cache.
//!
//! Invariant: `free + private + cached == capacity`, where `cached` is what the tree holds, evictable or locked.
//! [`KvPool::debug_check`] asserts it after every event in tests and debug builds.

use super::cache::Cache;
use gorgo_core::radix::NodeId;

/// The token slots of one engine and the radix cache that holds a part of them.
#[derive(Debug, Clone)]
pub(super) struct KvPool {
    capacity: u64,
    free: u64,
    /// Slots that belong to one request and are not in the tree.
    private: u64,
    block_tokens: u32,
    pub(super) cache: Cache,
}

impl KvPool {
    /// An empty pool of `capacity` slots, cached in blocks of `block_tokens`.
    pub(super) fn new(capacity: u32, block_tokens: u32) -> Self {
        let capacity = u64::from(capacity);
        Self { capacity, free: capacity, private: 0, block_tokens, cache: Cache::new(block_tokens) }
    }

    /// Frees all slots and empties the cache. `block_tokens` is the block size from now on.
    pub(super) fn reset(&mut self, block_tokens: u32) {
        (self.free, self.private, self.block_tokens) = (self.capacity, 0, block_tokens);
        self.cache = Cache::new(block_tokens);
    }

    pub(super) fn block_tokens(&self) -> u32 {
        self.block_tokens
    }

    pub(super) fn free(&self) -> u64 {
        self.free
    }

    /// Slots that are free or can be freed by eviction.
    pub(super) fn available(&self) -> u64 {
        self.free + self.cache.evictable()
    }

    /// Slots that are neither free nor merely cached: what the gauges call used.
    pub(super) fn used(&self) -> u64 {
        self.private + self.cache.protected()
    }

    /// Slots held by the cache, evictable or locked.
    pub(super) fn cached(&self) -> u64 {
        self.cache.evictable() + self.cache.protected()
    }

    /// Evicts cached tokens if fewer than `tokens` slots are free, and returns the number of tokens evicted.
    pub(super) fn make_room(&mut self, tokens: u64) -> u64 {
        if self.free >= tokens {
            return 0;
        }
        let evicted = self.cache.evict(tokens);
        self.free += evicted;
        evicted
    }

    /// Gives free slots to a request.
    pub(super) fn allocate(&mut self, tokens: u64) {
        debug_assert!(self.free >= tokens, "the caller made room");
        self.free -= tokens;
        self.private += tokens;
    }

    /// Frees slots of a request.
    pub(super) fn release(&mut self, tokens: u64) {
        self.private -= tokens;
        self.free += tokens;
    }

    /// Hands `tokens` private slots over to the tree, which needed only `added` of them: it already held the others,
    /// and their slots become free.
    pub(super) fn move_to_cache(&mut self, tokens: u32, added: u32) {
        self.private -= u64::from(tokens);
        self.free += u64::from(tokens - added);
    }

    /// Takes the partial block at the end of a locked path out of the tree, so that its `tokens` can be inserted
    /// again as part of a whole block. If another request holds the block, it stays in the tree and its tokens are
    /// allocated a second time. Returns the node above the block, and whether there was room.
    pub(super) fn reopen_last_block(&mut self, node: NodeId, tokens: u32) -> (NodeId, bool) {
        let tokens = u64::from(tokens);
        let (above, removed) = self.cache.drop_last_block(node);
        if removed {
            self.private += tokens;
        } else if self.free >= tokens {
            self.allocate(tokens);
        } else {
            return (above, false);
        }
        (above, true)
    }

    /// Asserts the invariant of the module page, in debug builds.
    pub(super) fn debug_check(&self) {
        debug_assert_eq!(
            self.free + self.private + self.cached(),
            self.capacity,
            "every slot of the pool is free, private to a request, or in the tree"
        );
    }
}
