//! The prefix index: which replica has which prompt prefix in its KV cache, as predicted by the router.
//!
//! All replicas share one radix tree; each node lists the replicas that hold it. A replica that holds a node holds the
//! whole path above it, so a single walk yields the matched length for all replicas: the match of a replica ends at the
//! first node that it does not hold. Each replica is bounded in tokens by the KV capacity of its engine, and the whole
//! index in bytes. Eviction removes the least recently used *leaves* of a replica first, as the engine does.

use crate::radix::{NodeId, ROOT, Radix, Symbol};
use crate::{ReplicaId, ReplicaSet, ids::MAX_REPLICAS};

mod held;
mod leaves;
mod owners;
mod saved;
mod stats;
use leaves::{Entry, Leaves};
use owners::{Holding, Owner, Owners};
pub use saved::{SavedIndex, SavedNode, SavedOwner};
pub use stats::IndexStats;

/// Logical time of the index: a later touch has a greater stamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Stamp(u64);

/// The prefix index over symbols `S`; see the module documentation.
#[derive(Debug, Clone)]
pub struct PrefixIndex<S> {
    tree: Radix<S, Owners>,
    holdings: Vec<Holding>,
    clock: Stamp,
    default_budget: u64,
    max_bytes: usize,
}

impl<S: Symbol> PrefixIndex<S> {
    /// Bytes of a node: 120, its edge's rounding by the allocator, and an entry of 5 in a table half full.
    const NODE_COST: usize = 176;
    /// Bytes of an owner: 16 in a list with spare room, and two entries of 16 among the leaves (one may be stale) likewise.
    const OWNER_COST: usize = 96;

    /// An empty index. `per_symbol` as in [`Radix::new`]; `budget` is the tokens a replica may hold unless
    /// [`Self::set_budget`] says otherwise; `max_bytes` bounds the memory of the whole index.
    pub fn new(per_symbol: Option<u32>, budget: u64, max_bytes: usize) -> Self {
        Self {
            tree: Radix::new(per_symbol, Owners::default()),
            holdings: Vec::new(),
            clock: Stamp(0),
            default_budget: budget,
            max_bytes,
        }
    }

    /// The current stamp; every later touch has a greater one.
    pub fn stamp(&self) -> Stamp {
        self.clock
    }

    /// Tokens held for `replica`.
    pub fn tokens(&self, replica: ReplicaId) -> u64 {
        self.holdings.get(replica.index()).map_or(0, |h| h.tokens)
    }

    /// The budget of a replica whose capacity is not known.
    pub fn default_budget(&self) -> u64 {
        self.default_budget
    }

    /// Sets the token budget of `replica` and evicts at once if it holds more.
    pub fn set_budget(&mut self, replica: ReplicaId, tokens: u64) {
        self.holding(replica).budget = tokens;
        self.shrink(replica);
    }

    /// Resets a slot for a new replica: it holds nothing, and its budget is `tokens`, or the default when `None`.
    pub fn reset(&mut self, replica: ReplicaId, tokens: Option<u64>) {
        self.forget(replica);
        self.holding(replica).budget = tokens.unwrap_or(self.default_budget);
    }

    /// Number of nodes without the root.
    pub fn nodes(&self) -> usize {
        self.tree.len() - 1
    }

    /// Upper bound of the memory in use, bytes: the symbols, and the worst case for nodes and owners.
    pub fn bytes(&self) -> usize {
        let owners: usize = self.holdings.iter().map(|holding| holding.nodes).sum();
        self.tree.symbols() * size_of::<S>() + self.tree.len() * Self::NODE_COST + owners * Self::OWNER_COST
    }

    /// Matched tokens of `key` for every replica in one walk: `matched[r]` is set for all `r < matched.len()`.
    pub fn lookup(&self, key: &[S], matched: &mut [u32]) {
        matched.fill(0);
        let (mut at, mut rest, mut depth) = (ROOT, key, 0u32);
        // Owners of the last node reached whose depth is not recorded yet. All replicas own the root.
        let mut active: Option<ReplicaSet> = None;
        while let Some(step) = self.tree.step(at, rest) {
            let here = &self.tree.value(step.node).set;
            if let Some(before) = active {
                record(matched, &before.minus(here), depth);
            }
            active = Some(*here);
            depth += step.tokens;
            rest = &rest[step.symbols..];
            if !step.whole {
                break;
            }
            at = step.node;
        }
        if let Some(last) = active {
            record(matched, &last, depth);
        }
    }

    /// Records that `replica` holds all of `key`, which weighs `tokens`; touches the whole path.
    pub fn insert(&mut self, key: &[S], tokens: u32, replica: ReplicaId) {
        debug_assert!(replica.index() < MAX_REPLICAS);
        self.clock.0 += 1;
        self.holding(replica);
        let (mut at, mut rest, mut left) = (ROOT, key, tokens);
        while let Some(step) = self.tree.step(at, rest) {
            let node = if step.whole { step.node } else { self.split(step.node, step.symbols) };
            self.claim(node, at, replica);
            left = left.saturating_sub(self.tree.tokens(node));
            rest = &rest[step.symbols..];
            at = node;
        }
        if !rest.is_empty() {
            let leaf = self.tree.add(at, rest, left, Owners::default());
            self.claim(leaf, at, replica);
            at = leaf;
        }
        if self.tree.value(at).get(replica).is_some_and(|o| o.children == 0) {
            self.push_leaf(replica, at);
        }
        self.shrink(replica);
        self.shrink_bytes();
    }

    /// Corrects the index after the engine reported that only `tokens` of `key` were cached at `replica`: removes the
    /// deeper nodes of that path and their subtrees for this replica, except nodes touched after `since`.
    pub fn truncate(&mut self, key: &[S], tokens: u32, replica: ReplicaId, since: Stamp) {
        let (mut at, mut rest, mut depth) = (ROOT, key, 0u32);
        while let Some(step) = self.tree.step(at, rest) {
            if self.tree.value(step.node).get(replica).is_none() {
                return;
            }
            if depth + step.tokens > tokens || !step.whole {
                let keep = self.symbols_within(step.node, step.symbols, tokens.saturating_sub(depth));
                if keep == step.symbols {
                    return; // the key ends or turns off before the cut
                }
                if keep > 0 {
                    self.split(step.node, keep); // the lower part keeps its id
                }
                self.disown_stale(step.node, replica, since);
                self.shrink_bytes(); // the split may have cost a node
                return;
            }
            depth += step.tokens;
            rest = &rest[step.symbols..];
            at = step.node;
        }
    }

    /// Removes `replica` from all of `key` beyond its first `keep` symbols and what lies below: the engine evicted it.
    pub fn cut(&mut self, key: &[S], keep: usize, replica: ReplicaId) {
        let (mut at, mut depth) = (ROOT, 0usize);
        while let Some(step) = self.tree.step(at, &key[depth..]) {
            if self.tree.value(step.node).get(replica).is_none() {
                return;
            }
            if depth + step.symbols > keep {
                if keep > depth {
                    self.split(step.node, keep - depth); // the lower part keeps its id
                }
                self.disown_stale(step.node, replica, Stamp(u64::MAX));
                self.shrink_bytes(); // the split may have cost a node
                return;
            }
            if !step.whole {
                return; // the key turns off here
            }
            depth += step.symbols;
            at = step.node;
        }
    }

    /// Removes all entries of `replica`, because it restarted, was flushed or went down.
    pub fn forget(&mut self, replica: ReplicaId) {
        if self.holdings.get(replica.index()).is_none_or(|h| h.nodes == 0) {
            return;
        }
        let tops: Vec<NodeId> = self.tree.children(ROOT).collect();
        let all = Stamp(u64::MAX);
        for top in tops {
            self.disown_stale(top, replica, all);
        }
        self.holdings[replica.index()].leaves.clear();
    }

    /// Removes all entries of all replicas.
    pub fn clear(&mut self) {
        for slot in 0..self.holdings.len() {
            self.forget(ReplicaId(slot as u16));
        }
    }

    fn holding(&mut self, replica: ReplicaId) -> &mut Holding {
        let budget = self.default_budget;
        while self.holdings.len() <= replica.index() {
            self.holdings.push(Holding { tokens: 0, nodes: 0, budget, leaves: Leaves::default() });
        }
        &mut self.holdings[replica.index()]
    }

    /// Splits an edge and updates the owners of the upper node: each owns exactly one child of it, the lower part.
    fn split(&mut self, node: NodeId, symbols: usize) -> NodeId {
        let upper = self.tree.split(node, symbols);
        for owner in &mut self.tree.value_mut(upper).list {
            owner.children = 1;
            self.holdings[owner.replica.index()].nodes += 1;
        }
        upper
    }

    fn claim(&mut self, node: NodeId, parent: NodeId, replica: ReplicaId) {
        self.claim_at(node, parent, replica, self.clock);
    }

    /// Makes `replica` an owner of `node` that used it at `used`, or later if it did.
    fn claim_at(&mut self, node: NodeId, parent: NodeId, replica: ReplicaId, used: Stamp) {
        let tokens = u64::from(self.tree.tokens(node));
        let owners = self.tree.value_mut(node);
        if let Some(owner) = owners.get_mut(replica) {
            owner.used = owner.used.max(used);
            return;
        }
        owners.set.insert(replica);
        owners.list.push(Owner { replica, children: 0, used });
        if let Some(above) = self.tree.value_mut(parent).get_mut(replica) {
            above.children += 1;
        }
        let holding = &mut self.holdings[replica.index()];
        holding.tokens += tokens;
        holding.nodes += 1;
    }

    /// Removes `replica` from the owners of `node`, one of its leaves. The parent may become a leaf of the replica.
    fn disown(&mut self, node: NodeId, replica: ReplicaId) {
        let tokens = u64::from(self.tree.tokens(node));
        let parent = self.tree.parent(node).expect("the root has no owners");
        let owners = self.tree.value_mut(node);
        owners.set.remove(replica);
        owners.list.retain(|o| o.replica != replica);
        let holding = &mut self.holdings[replica.index()];
        holding.tokens -= tokens;
        holding.nodes -= 1;
        if owners.set.is_empty() {
            // Owners of a child own the parent too, so the node has no children.
            self.tree.remove(node);
        }
        if let Some(above) = self.tree.value_mut(parent).get_mut(replica) {
            above.children -= 1;
            if above.children == 0 {
                self.push_leaf(replica, parent);
            }
        }
    }

    /// Removes `replica` from `top` and its subtree, except nodes touched after `since` and the paths to them.
    fn disown_stale(&mut self, top: NodeId, replica: ReplicaId, since: Stamp) {
        let mut path = vec![top];
        let mut at = 0;
        while at < path.len() {
            let owned = |&child: &NodeId| self.tree.value(child).set.contains(replica);
            let below: Vec<NodeId> = self.tree.children(path[at]).filter(owned).collect();
            path.extend(below);
            at += 1;
        }
        for node in path.into_iter().rev() {
            if self.tree.value(node).get(replica).is_some_and(|o| o.children == 0 && o.used <= since) {
                self.disown(node, replica);
            }
        }
    }

    fn push_leaf(&mut self, replica: ReplicaId, node: NodeId) {
        let Some(used) = self.tree.value(node).get(replica).map(|o| o.used) else { return };
        let holding = &mut self.holdings[replica.index()];
        holding.leaves.push((used, node));
        if holding.leaves.len() > 2 * holding.nodes + 64 {
            let tree = &self.tree;
            holding.leaves.retain(|entry| is_leaf(tree, replica, entry));
        }
    }

    fn shrink(&mut self, replica: ReplicaId) {
        while self.holdings[replica.index()].tokens > self.holdings[replica.index()].budget {
            if !self.evict(replica) {
                return;
            }
        }
    }

    fn shrink_bytes(&mut self) {
        while self.bytes() > self.max_bytes && self.evict_oldest() {}
    }

    /// Drops the least recently used leaf of `replica`; false if it holds nothing.
    fn evict(&mut self, replica: ReplicaId) -> bool {
        while let Some(entry) = self.holdings[replica.index()].leaves.pop() {
            if is_leaf(&self.tree, replica, entry) {
                self.disown(entry.1, replica);
                return true;
            }
        }
        false
    }

    /// Drops the least recently used leaf of all replicas.
    fn evict_oldest(&mut self) -> bool {
        let tree = &self.tree;
        for (slot, holding) in self.holdings.iter_mut().enumerate() {
            while holding.leaves.first().is_some_and(|entry| !is_leaf(tree, ReplicaId(slot as u16), entry)) {
                holding.leaves.pop();
            }
        }
        let oldest = (0..self.holdings.len())
            .filter_map(|slot| self.holdings[slot].leaves.first().map(|(used, _)| (used, slot)))
            .min();
        oldest.is_some_and(|(_, slot)| self.evict(ReplicaId(slot as u16)))
    }

    /// How many of the first `limit` symbols of `node`'s edge weigh at most `tokens` together.
    fn symbols_within(&self, node: NodeId, limit: usize, tokens: u32) -> usize {
        let (mut low, mut high) = (0, limit);
        while low < high {
            let middle = (low + high).div_ceil(2);
            if self.tree.weight(node, middle) <= tokens { low = middle } else { high = middle - 1 }
        }
        low
    }
}

fn record(matched: &mut [u32], set: &ReplicaSet, depth: u32) {
    for replica in set.iter() {
        if let Some(slot) = matched.get_mut(replica.index()) {
            *slot = depth;
        }
    }
}

fn is_leaf<S: Symbol>(tree: &Radix<S, Owners>, replica: ReplicaId, (used, node): Entry) -> bool {
    tree.get(node).and_then(|v| v.get(replica)).is_some_and(|o| o.used == used && o.children == 0)
}

#[cfg(test)]
mod tests;
