//! What an engine with a prefix cache would find: blocks of 256 characters, the least recently used leave.

use rustc_hash::FxHashMap;
use std::collections::BTreeMap;
use xxhash_rust::xxh3::xxh3_64_with_seed;

const BLOCK: usize = 256;

/// A prefix cache of so many characters.
#[derive(Debug, Default)]
pub(crate) struct Lru {
    blocks: usize,
    tick: u64,
    last: FxHashMap<u64, u64>,
    order: BTreeMap<u64, u64>,
}

impl Lru {
    pub(crate) fn new(chars: usize) -> Self {
        Self { blocks: chars / BLOCK, ..Self::default() }
    }

    /// Characters at the front of `text` that were there; all of it is there afterwards.
    pub(crate) fn take(&mut self, text: &[u8]) -> usize {
        let mut chain = Vec::with_capacity(text.len() / BLOCK);
        let mut seed = 0;
        for block in text.chunks_exact(BLOCK) {
            seed = xxh3_64_with_seed(block, seed);
            chain.push(seed);
        }
        let held = chain.iter().take_while(|block| self.last.contains_key(block)).count();
        // From the end, so that a prefix is always younger than what follows it, and leaves last.
        for &block in chain.iter().rev() {
            self.tick += 1;
            if let Some(before) = self.last.insert(block, self.tick) {
                self.order.remove(&before);
            }
            self.order.insert(self.tick, block);
        }
        while self.last.len() > self.blocks {
            let Some((_, block)) = self.order.pop_first() else { break };
            self.last.remove(&block);
        }
        held * BLOCK
    }
}
