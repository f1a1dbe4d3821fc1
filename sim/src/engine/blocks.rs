//! vLLM's block pool: reference counts, a free list in the order of release, and the blocks that are cached by content.
//!
//! A block whose last holder left stays cached on the free list until it is taken for other content: the one released
//! longest ago first. A request releases its blocks from the last to the first, so the end of a prompt goes before its
//! beginning.
//!
//! Invariant: a block is on the free list exactly while it has no holder, so `free + used` is the size of the pool.

use super::cache_log::CacheLog;
use gorgo_core::RequestId;
use rustc_hash::FxHashMap;
use std::collections::hash_map::Entry;

/// Tokens a block, vLLM's default.
pub(super) const BLOCK_TOKENS: u32 = 16;

const NONE: u32 = u32::MAX;

#[derive(Debug, Clone, Copy)]
struct Block {
    holders: u32,
    /// Content, as a hash over the whole prefix; `None` if it cannot be found.
    key: Option<u64>,
    /// Neighbours on the free list.
    before: u32,
    after: u32,
}

/// The pool.
#[derive(Debug, Clone, Default)]
pub(super) struct BlockPool {
    blocks: Vec<Block>,
    cached: FxHashMap<u64, u32>,
    first: u32,
    last: u32,
    free: u32,
    /// Blocks on the free list that can still be found.
    free_cached: u32,
    pub(super) log: CacheLog,
}

impl BlockPool {
    /// A pool of `size` blocks.
    pub(super) fn new(size: u32) -> Self {
        let mut pool = Self { first: NONE, last: NONE, ..Self::default() };
        for block in 0..size {
            pool.blocks.push(Block { holders: 0, key: None, before: NONE, after: NONE });
            pool.push_free(block);
        }
        pool
    }

    /// Blocks without a holder.
    pub(super) fn free(&self) -> u32 {
        self.free
    }

    /// Blocks that a request holds.
    pub(super) fn used(&self) -> u32 {
        self.blocks.len() as u32 - self.free
    }

    /// Blocks without a holder whose content can still be found.
    pub(super) fn free_cached(&self) -> u32 {
        self.free_cached
    }

    /// The block with this content, and whether it is on the free list.
    pub(super) fn find(&self, key: u64) -> Option<(u32, bool)> {
        self.cached.get(&key).map(|&block| (block, self.blocks[block as usize].holders == 0))
    }

    /// Holds a cached block.
    pub(super) fn hold(&mut self, block: u32) {
        if self.blocks[block as usize].holders == 0 {
            self.unlink(block);
        }
        self.blocks[block as usize].holders += 1;
    }

    /// Takes the free block that was released longest ago, and whether it was cached; `None` if there is no free one.
    pub(super) fn take(&mut self) -> Option<(u32, bool)> {
        let block = Some(self.first).filter(|&first| first != NONE)?;
        self.unlink(block);
        let taken = &mut self.blocks[block as usize];
        taken.holders = 1;
        let key = taken.key.take();
        if let Some(key) = key {
            self.cached.remove(&key);
            self.log.removed(key);
        }
        Some((block, key.is_some()))
    }

    /// Gives a held block its content, which follows `parent`, for a request. If another block has the same content
    /// already, that one stays the cached one.
    pub(super) fn set_key(&mut self, block: u32, key: u64, parent: Option<u64>, request: RequestId) {
        let old = self.blocks[block as usize].key;
        if old == Some(key) {
            return;
        }
        if let Some(old) = old {
            self.blocks[block as usize].key = None;
            self.cached.remove(&old);
            self.log.removed(old);
        }
        if let Entry::Vacant(slot) = self.cached.entry(key) {
            slot.insert(block);
            self.blocks[block as usize].key = Some(key);
            self.log.stored(request, key, parent);
        }
    }

    /// Releases one hold.
    pub(super) fn release(&mut self, block: u32) {
        let held = &mut self.blocks[block as usize];
        held.holders -= 1;
        if held.holders == 0 {
            self.push_free(block);
        }
    }

    /// Forgets the content of all blocks.
    pub(super) fn forget(&mut self) {
        self.cached.clear();
        self.blocks.iter_mut().for_each(|block| block.key = None);
        self.free_cached = 0;
        self.log.cleared();
    }

    fn push_free(&mut self, block: u32) {
        let last = std::mem::replace(&mut self.last, block);
        let freed = &mut self.blocks[block as usize];
        (freed.before, freed.after) = (last, NONE);
        self.free_cached += u32::from(freed.key.is_some());
        match self.blocks.get_mut(last as usize) {
            Some(last) => last.after = block,
            None => self.first = block,
        }
        self.free += 1;
    }

    fn unlink(&mut self, block: u32) {
        let Block { key, before, after, .. } = self.blocks[block as usize];
        match self.blocks.get_mut(before as usize) {
            Some(before) => before.after = after,
            None => self.first = after,
        }
        match self.blocks.get_mut(after as usize) {
            Some(after) => after.before = before,
            None => self.last = before,
        }
        self.free_cached -= u32::from(key.is_some());
        self.free -= 1;
    }

    /// Asserts the invariant of the module page; linear in the size of the pool, so for tests.
    #[cfg(test)]
    pub(super) fn check(&self) {
        let (mut at, mut free, mut cached, mut before) = (self.first, 0, 0, NONE);
        while let Some(block) = self.blocks.get(at as usize) {
            assert_eq!((block.holders, block.before), (0, before), "a block on the free list has no holder");
            (free, cached) = (free + 1, cached + u32::from(block.key.is_some()));
            (before, at) = (at, block.after);
        }
        let held = self.blocks.iter().filter(|block| block.holders > 0).count() as u32;
        assert_eq!((free, cached, self.last), (self.free, self.free_cached, before));
        assert_eq!(free + held, self.blocks.len() as u32, "every block is free or held");
        let keyed = self.blocks.iter().filter(|block| block.key.is_some()).count();
        assert_eq!(keyed, self.cached.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_block_released_longest_ago_is_taken_first_and_a_found_one_is_held_again() {
        let mut pool = BlockPool::new(3);
        let blocks: Vec<u32> = (0..3).map(|_| pool.take().unwrap().0).collect();
        assert_eq!(pool.take(), None);
        for (&block, key) in blocks.iter().zip([10, 11, 12]) {
            pool.set_key(block, key, None, RequestId(1));
        }
        blocks.iter().rev().for_each(|&block| pool.release(block));
        assert_eq!((pool.free(), pool.free_cached()), (3, 3));
        pool.check();
        let (found, free) = pool.find(12).unwrap();
        assert!(free);
        pool.hold(found);
        assert_eq!(pool.take(), Some((blocks[1], true)), "12 was released first, but is held again");
        assert_eq!(pool.find(11), None, "its content is gone");
        pool.check();
        pool.release(found);
        assert_eq!(pool.take().unwrap().0, blocks[0]);
        assert_eq!(pool.take().unwrap().0, found);
        pool.check();
    }

    #[test]
    fn equal_content_is_found_once_and_forgotten_content_not_at_all() {
        let mut pool = BlockPool::new(2);
        let (a, b) = (pool.take().unwrap().0, pool.take().unwrap().0);
        pool.set_key(a, 7, None, RequestId(1));
        pool.set_key(b, 7, None, RequestId(1));
        assert_eq!(pool.find(7), Some((a, false)));
        pool.set_key(a, 8, None, RequestId(1));
        assert_eq!((pool.find(7), pool.find(8)), (None, Some((a, false))), "a block has one content");
        pool.release(a);
        pool.forget();
        assert_eq!((pool.find(8), pool.free_cached()), (None, 0));
        pool.check();
    }
}
