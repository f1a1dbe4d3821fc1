//! The radix cache of KV slots: locked paths, last use, and eviction of the least recently used leaves.
//!
//! It is SGLang's `RadixCache` over token blocks: a request locks its path so that nothing on it is evicted;
//! evicting takes whole leaves, the one matched or inserted longest ago first, until enough tokens are free, and a
//! parent left without children is the next candidate. Nothing is evicted before room is needed.

use gorgo_core::radix::{NodeId, ROOT, Radix};
use std::cmp::Reverse;
use std::collections::BinaryHeap;

#[derive(Debug, Clone, Copy, Default)]
struct Use {
    /// Requests whose path goes through here.
    locks: u32,
    /// Clock of the last match or insert that visited.
    last: u64,
    /// Clock value under which the node stands in the eviction heap; 0 when it does not.
    queued: u64,
}

/// A radix tree over block ids that tracks locks and last use.
#[derive(Debug, Clone)]
pub(super) struct Cache {
    tree: Radix<u64, Use>,
    /// Candidates, least recently used first. An entry is current when its clock is its node's `queued`; a node
    /// used since then is put back under its new clock when it surfaces, so uses cost nothing here.
    leaves: BinaryHeap<Reverse<(u64, NodeId)>>,
    clock: u64,
    evictable: u64,
    protected: u64,
}

impl Cache {
    /// Creates an empty cache over blocks of `block_tokens`.
    pub(super) fn new(block_tokens: u32) -> Self {
        let tree = Radix::new(Some(block_tokens), Use::default());
        Self { tree, leaves: BinaryHeap::new(), clock: 0, evictable: 0, protected: 0 }
    }

    /// Tokens that can be evicted: those not on a locked path.
    pub(super) fn evictable(&self) -> u64 {
        self.evictable
    }

    /// Tokens on locked paths.
    pub(super) fn protected(&self) -> u64 {
        self.protected
    }

    /// Longest cached prefix of `blocks`: its node, its length in blocks and in tokens. Marks the path as used and
    /// splits the last edge where the match ends, as the engine does even for requests it then does not admit.
    pub(super) fn find(&mut self, blocks: &[u64]) -> (NodeId, usize, u32) {
        self.clock += 1;
        self.walk(ROOT, blocks)
    }

    fn walk(&mut self, from: NodeId, blocks: &[u64]) -> (NodeId, usize, u32) {
        let (mut at, mut symbols, mut tokens) = (from, 0, 0);
        while let Some(step) = self.tree.step(at, &blocks[symbols..]) {
            self.tree.value_mut(step.node).last = self.clock;
            (symbols, tokens) = (symbols + step.symbols, tokens + step.tokens);
            if !step.whole {
                at = self.split(step.node, step.symbols);
                break;
            }
            at = step.node;
        }
        (at, symbols, tokens)
    }

    fn split(&mut self, node: NodeId, symbols: usize) -> NodeId {
        let upper = self.tree.split(node, symbols);
        self.tree.value_mut(upper).queued = 0; // the heap entry stays with the lower part, which kept the id
        upper
    }

    /// Makes `blocks`, weighing `tokens`, a path below `from` and returns its end and the tokens that were new to
    /// the tree. The new part is not locked yet.
    pub(super) fn extend(&mut self, from: NodeId, blocks: &[u64], tokens: u32) -> (NodeId, u32) {
        self.clock += 1;
        let (at, symbols, found) = self.walk(from, blocks);
        if symbols == blocks.len() {
            return (at, 0);
        }
        (self.leaf(at, &blocks[symbols..], tokens - found), tokens - found)
    }

    /// Adds a leaf of `tokens` below `parent` that no prompt ever matches; `unique` must not repeat.
    pub(super) fn add_unmatchable(&mut self, parent: NodeId, unique: u64, tokens: u32) {
        self.clock += 1;
        if self.tree.step(parent, &[unique]).is_none() {
            self.leaf(parent, &[unique], tokens);
        }
    }

    fn leaf(&mut self, parent: NodeId, blocks: &[u64], tokens: u32) -> NodeId {
        let node = self.tree.add(parent, blocks, tokens, Use { locks: 0, last: self.clock, queued: 0 });
        self.evictable += u64::from(tokens);
        self.enqueue(node);
        node
    }

    /// Locks the path from `from` (already locked, or the root) down to `to`.
    pub(super) fn lock(&mut self, from: NodeId, to: NodeId) {
        let mut at = to;
        while at != from {
            let use_ = self.tree.value_mut(at);
            use_.locks += 1;
            if use_.locks == 1 {
                let tokens = u64::from(self.tree.tokens(at));
                (self.evictable, self.protected) = (self.evictable - tokens, self.protected + tokens);
            }
            at = self.tree.parent(at).expect("`from` is above `to`");
        }
    }

    /// Unlocks the path from the root to `node`. With `used` the whole path counts as just used, which it is when
    /// something was inserted at its end.
    pub(super) fn unlock(&mut self, node: NodeId, used: bool) {
        if used {
            self.clock += 1;
        }
        let mut at = node;
        while let Some(parent) = self.tree.parent(at) {
            if used {
                self.tree.value_mut(at).last = self.clock;
            }
            self.unlock_one(at);
            at = parent;
        }
    }

    fn unlock_one(&mut self, node: NodeId) {
        let use_ = self.tree.value_mut(node);
        use_.locks -= 1;
        if use_.locks == 0 {
            let tokens = u64::from(self.tree.tokens(node));
            (self.evictable, self.protected) = (self.evictable + tokens, self.protected - tokens);
            self.enqueue(node);
        }
    }

    /// Unlocks the partial block at the end of a locked path, whose tokens the caller is about to insert again as part
    /// of a whole block. Returns the node above it and whether the block was removed from the tree; it stays if
    /// another request holds it.
    pub(super) fn drop_last_block(&mut self, node: NodeId) -> (NodeId, bool) {
        let edge = self.tree.edge(node).len();
        let above = if edge > 1 { self.split(node, edge - 1) } else { self.tree.parent(node).expect("not the root") };
        if self.tree.value(node).locks > 1 || self.tree.child_count(node) > 0 {
            self.unlock_one(node);
            return (above, false);
        }
        self.protected -= u64::from(self.tree.tokens(node));
        self.tree.remove(node);
        (above, true)
    }

    /// Evicts leaves until at least `want` tokens are freed or no leaf is left, and returns the number of tokens freed.
    /// Leaves are evicted whole, so this can be more than `want`.
    pub(super) fn evict(&mut self, want: u64) -> u64 {
        let mut freed = 0;
        while freed < want {
            let Some(Reverse((clock, node))) = self.leaves.pop() else { break };
            if self.tree.value(node).queued != clock {
                continue; // the node that was queued is gone and its id names another
            }
            self.tree.value_mut(node).queued = 0;
            if self.tree.value(node).last != clock {
                self.enqueue(node);
            } else if self.is_candidate(node) {
                let parent = self.tree.parent(node).expect("the root is never queued");
                freed += u64::from(self.tree.tokens(node));
                self.tree.remove(node);
                self.enqueue(parent);
            }
        }
        self.evictable -= freed;
        freed
    }

    fn is_candidate(&self, node: NodeId) -> bool {
        node != ROOT && self.tree.value(node).locks == 0 && self.tree.child_count(node) == 0
    }

    fn enqueue(&mut self, node: NodeId) {
        if self.is_candidate(node) && self.tree.value(node).queued == 0 {
            let last = self.tree.value(node).last;
            self.tree.value_mut(node).queued = last;
            self.leaves.push(Reverse((last, node)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sums(cache: &Cache) -> (u64, u64) {
        let (mut evictable, mut protected) = (0, 0);
        for node in cache.tree.subtree(ROOT).into_iter().skip(1) {
            let tokens = u64::from(cache.tree.tokens(node));
            if cache.tree.value(node).locks == 0 { evictable += tokens } else { protected += tokens }
        }
        (evictable, protected)
    }

    /// What the heap is meant to find: the candidate leaves used longest ago, by their first block.
    fn oldest(cache: &Cache) -> Vec<u64> {
        let leaves = cache.tree.subtree(ROOT).into_iter().filter(|&n| cache.is_candidate(n));
        let leaves: Vec<(u64, u64)> = leaves.map(|n| (cache.tree.value(n).last, cache.tree.edge(n)[0])).collect();
        let least = leaves.iter().min().map_or(0, |leaf| leaf.0);
        leaves.into_iter().filter(|leaf| leaf.0 == least).map(|leaf| leaf.1).collect()
    }

    proptest! {
        #[test]
        fn sums_hold_and_eviction_takes_the_least_recently_used_leaf(
            ops in prop::collection::vec((0u8..5, prop::collection::vec(0u64..3, 1..6)), 1..120)
        ) {
            let mut cache = Cache::new(10);
            let mut held = Vec::new();
            for (kind, path) in ops {
                // Chained ids: equal ids mean equal whole prefixes.
                let chain: Vec<u64> = path.iter().scan(1u64, |h, &b| { *h = mix(*h ^ (b + 7)); Some(*h) }).collect();
                match kind {
                    0 => {
                        let (from, symbols, _) = cache.find(&chain);
                        cache.lock(ROOT, from);
                        let (to, _) = cache.extend(from, &chain[symbols..], 10 * (chain.len() - symbols) as u32);
                        cache.lock(from, to);
                        held.push(to);
                    }
                    1 => { cache.find(&chain); }
                    2 if !held.is_empty() => cache.unlock(held.swap_remove(0), chain.len() > 3),
                    3 => {
                        let (oldest, nodes) = (oldest(&cache), cache.tree.len());
                        let freed = cache.evict(1);
                        prop_assert_eq!(freed > 0, !oldest.is_empty());
                        prop_assert_eq!(cache.tree.len(), nodes - usize::from(freed > 0));
                        let left = oldest.iter().filter(|&&block| has(&cache, block)).count();
                        prop_assert_eq!(left, oldest.len() - usize::from(freed > 0));
                    }
                    _ => cache.add_unmatchable(ROOT, cache.clock | 1 << 63, 7),
                }
                prop_assert_eq!(sums(&cache), (cache.evictable(), cache.protected()));
            }
            held.into_iter().for_each(|node| cache.unlock(node, false));
            cache.evict(u64::MAX);
            prop_assert!(cache.tree.is_empty(), "everything unlocked can go");
        }
    }

    use crate::engine::steps::mix;

    #[test]
    fn a_parent_used_before_its_children_goes_after_them() {
        let mut cache = Cache::new(10);
        cache.extend(ROOT, &[1, 2], 20);
        cache.extend(ROOT, &[1, 3], 20);
        cache.extend(ROOT, &[9], 10);
        cache.find(&[1, 2]);
        // By last use: 3, then 9, then 2, and only then their parent 1.
        let mut gone = Vec::new();
        for _ in 0..4 {
            cache.evict(1);
            gone.push([3, 9, 2, 1].map(|b| cache.tree.symbols() > 0 && has(&cache, b)));
        }
        assert_eq!(gone[0], [false, true, true, true]);
        assert_eq!(gone[1], [false, false, true, true]);
        assert_eq!(gone[2], [false, false, false, true]);
        assert_eq!(gone[3], [false; 4]);
    }

    fn has(cache: &Cache, block: u64) -> bool {
        cache.tree.subtree(ROOT).into_iter().any(|n| cache.tree.edge(n).contains(&block))
    }

    #[test]
    fn a_shared_partial_block_stays_when_one_holder_drops_it() {
        let mut cache = Cache::new(10);
        let (leaf, _) = cache.extend(ROOT, &[1, 2], 14);
        cache.lock(ROOT, leaf);
        cache.lock(ROOT, leaf);
        let (above, left) = cache.drop_last_block(leaf);
        assert!(!left && above != ROOT);
        cache.unlock(above, false);
        let (above, left) = cache.drop_last_block(leaf);
        assert!(left);
        assert_eq!(sums(&cache), (0, 10));
        cache.unlock(above, false);
        assert_eq!(sums(&cache), (cache.evictable(), cache.protected()));
    }
}
