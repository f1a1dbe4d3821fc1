//! The prefix index as flat rows: exported for a restart or for another router, and imported again.
//!
//! A row holds one edge, so a prefix that many prompts share is stored once, and export and import take time linear in
//! the rows. Where rows do not fit, the most recently used prefixes stay. Using a prefix also touches all prefixes
//! above it, so only whole paths stay.

use super::{PrefixIndex, Stamp};
use crate::ReplicaId;
use crate::radix::{NodeId, ROOT, Symbol};

/// Rows of an index. `symbols` and `owners` hold the parts of all nodes one after the other.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SavedIndex<S> {
    /// Parents stand before their children.
    pub nodes: Vec<SavedNode>,
    /// The symbols of the nodes' edges.
    pub symbols: Vec<S>,
    /// The owners of the nodes.
    pub owners: Vec<SavedOwner>,
}

/// One node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SavedNode {
    /// 0 for a child of the root, else 1 + the row of the parent.
    pub parent: u32,
    /// Symbols of the edge.
    pub symbols: u32,
    /// Tokens of the edge.
    pub tokens: u32,
    /// Owners.
    pub owners: u32,
}

/// One owner of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SavedOwner {
    /// Number of the replica among those of the rows' maker.
    pub replica: u16,
    /// When it was used last, as a stamp: only the order counts.
    pub used: u64,
}

impl<S> SavedIndex<S> {
    /// Bytes of a node's row beside its symbols and owners.
    pub const NODE_BYTES: usize = 16;
    /// Bytes of an owner.
    pub const OWNER_BYTES: usize = 10;

    /// Bytes of all rows.
    pub fn bytes(&self) -> usize {
        self.nodes.len() * Self::NODE_BYTES
            + self.symbols.len() * size_of::<S>()
            + self.owners.len() * Self::OWNER_BYTES
    }

    /// Whether the rows name parents before them, and the parts of all nodes are there.
    pub fn is_sound(&self) -> bool {
        let sum = |part: fn(&SavedNode) -> u32| self.nodes.iter().map(|row| u64::from(part(row))).sum::<u64>();
        let parents = self.nodes.iter().enumerate().all(|(at, row)| row.parent as usize <= at && row.symbols > 0);
        parents
            && sum(|row| row.symbols) == self.symbols.len() as u64
            && sum(|row| row.owners) == self.owners.len() as u64
    }
}

/// The earliest stamp such that all entries from it on cost at most `limit` together.
fn newest(mut entries: Vec<(Stamp, usize)>, limit: usize) -> Stamp {
    if entries.iter().map(|(_, cost)| cost).sum::<usize>() <= limit {
        return Stamp(0);
    }
    entries.sort_unstable_by(|a, b| b.cmp(a));
    let mut cost = 0;
    for (used, more) in entries {
        cost += more;
        if cost > limit {
            return Stamp(used.0.saturating_add(1));
        }
    }
    Stamp(0)
}

impl<S: Symbol> PrefixIndex<S> {
    /// The index as rows of at most `limit` bytes.
    pub fn save(&self, limit: usize) -> SavedIndex<S> {
        let nodes = self.tree.subtree(ROOT);
        let node_cost = |node: NodeId| SavedIndex::<S>::NODE_BYTES + size_of_val(self.tree.edge(node));
        let owners = |node: NodeId| self.tree.value(node).list.iter();
        // The first owner that needs a node pays for it.
        let costs = nodes[1..].iter().flat_map(|&node| {
            let newest = owners(node).map(|o| o.used).max();
            let pays = owners(node).position(|o| Some(o.used) == newest);
            let cost =
                move |at: usize| SavedIndex::<S>::OWNER_BYTES + if Some(at) == pays { node_cost(node) } else { 0 };
            owners(node).enumerate().map(move |(at, o)| (o.used, cost(at)))
        });
        let since = newest(costs.collect(), limit);
        let mut saved = SavedIndex { nodes: Vec::new(), symbols: Vec::new(), owners: Vec::new() };
        let mut rows = vec![(ROOT, 0u32)];
        let mut at = 0;
        while let Some(&(parent, row)) = rows.get(at) {
            at += 1;
            for node in self.tree.children(parent) {
                let before = saved.owners.len();
                let kept = owners(node).filter(|o| o.used >= since);
                saved.owners.extend(kept.map(|o| SavedOwner { replica: o.replica.0, used: o.used.0 }));
                let owners = (saved.owners.len() - before) as u32;
                if owners == 0 {
                    continue;
                }
                let edge = self.tree.edge(node);
                saved.symbols.extend_from_slice(edge);
                let (symbols, tokens) = (edge.len() as u32, self.tree.tokens(node));
                saved.nodes.push(SavedNode { parent: row, symbols, tokens, owners });
                rows.push((node, saved.nodes.len() as u32));
            }
        }
        saved
    }

    /// Takes over rows beside what the index holds; `slots` has the replica for each number in them, `None` for one that
    /// is not in this fleet. Budgets and the bound in bytes hold at the end as ever. What is taken over counts as used
    /// after all that was there. Returns false, having changed nothing, when the rows contradict themselves.
    pub fn restore(&mut self, saved: &SavedIndex<S>, slots: &[Option<ReplicaId>]) -> bool {
        if !saved.is_sound() {
            return false;
        }
        let costs = saved.owners.iter().map(|o| (Stamp(o.used), Self::OWNER_COST));
        let room = self.max_bytes.saturating_sub(self.bytes());
        let fixed = saved.symbols.len() * size_of::<S>() + saved.nodes.len() * Self::NODE_COST;
        // Rows cost less than the index they make; what would only be evicted again is not built.
        let since = if fixed <= room { newest(costs.collect(), room - fixed) } else { self.newest_rows(saved, room) };
        let base = self.clock.0;
        let mut ranks: Vec<u64> = saved.owners.iter().map(|o| o.used).collect();
        ranks.sort_unstable();
        ranks.dedup();
        let stamp = |used: u64| Stamp(base + 1 + ranks.binary_search(&used).unwrap_or_else(|at| at) as u64);
        slots.iter().flatten().for_each(|&replica| {
            self.holding(replica);
        });
        let mut places: Vec<Option<NodeId>> = Vec::with_capacity(saved.nodes.len() + 1);
        places.push(Some(ROOT));
        let (mut symbols, mut owners) = (&saved.symbols[..], &saved.owners[..]);
        let mut leaves: Vec<(Stamp, NodeId, ReplicaId)> = Vec::new();
        for row in &saved.nodes {
            let (edge, more) = symbols.split_at(row.symbols as usize);
            let (here, rest) = owners.split_at(row.owners as usize);
            (symbols, owners) = (more, rest);
            let kept: Vec<(ReplicaId, Stamp)> = here
                .iter()
                .filter(|o| Stamp(o.used) >= since)
                .filter_map(|o| Some(((*slots.get(usize::from(o.replica))?)?, stamp(o.used))))
                .collect();
            let place = places[row.parent as usize].filter(|_| !kept.is_empty());
            let place = place.and_then(|parent| self.graft(parent, edge, row.tokens, &kept, &mut leaves));
            places.push(place);
        }
        self.clock.0 = base + 1 + ranks.len() as u64;
        leaves.sort_unstable();
        for (_, node, replica) in leaves {
            if self.tree.get(node).and_then(|v| v.get(replica)).is_some_and(|o| o.children == 0) {
                self.push_leaf(replica, node);
            }
        }
        (0..self.holdings.len()).for_each(|slot| self.shrink(ReplicaId(slot as u16)));
        self.shrink_bytes();
        true
    }

    /// The earliest stamp such that the rows from it on make an index of at most `room` bytes.
    fn newest_rows(&self, saved: &SavedIndex<S>, room: usize) -> Stamp {
        let mut owners = &saved.owners[..];
        let mut costs = Vec::with_capacity(saved.owners.len());
        for row in &saved.nodes {
            let (here, rest) = owners.split_at(row.owners as usize);
            owners = rest;
            let pays = (0..here.len()).max_by_key(|&at| here[at].used);
            let node = Self::NODE_COST + row.symbols as usize * size_of::<S>();
            let cost = |at: usize| Self::OWNER_COST + if Some(at) == pays { node } else { 0 };
            costs.extend(here.iter().enumerate().map(|(at, o)| (Stamp(o.used), cost(at))));
        }
        newest(costs, room)
    }

    /// Puts one edge below `parent`, along what is there already, and claims it for those of `kept` that own `parent`.
    /// Returns the node at its end; `None` if there is none of them.
    fn graft(
        &mut self,
        parent: NodeId,
        edge: &[S],
        tokens: u32,
        kept: &[(ReplicaId, Stamp)],
        leaves: &mut Vec<(Stamp, NodeId, ReplicaId)>,
    ) -> Option<NodeId> {
        let owns =
            |(replica, _): &&(ReplicaId, Stamp)| parent == ROOT || self.tree.value(parent).get(*replica).is_some();
        let kept: Vec<(ReplicaId, Stamp)> = kept.iter().filter(owns).copied().collect();
        if kept.is_empty() {
            return None;
        }
        let (mut at, mut rest, mut left) = (parent, edge, tokens);
        while let Some(step) = self.tree.step(at, rest) {
            let node = if step.whole { step.node } else { self.split(step.node, step.symbols) };
            kept.iter().for_each(|&(replica, used)| self.claim_at(node, at, replica, used));
            left = left.saturating_sub(self.tree.tokens(node));
            rest = &rest[step.symbols..];
            at = node;
        }
        if !rest.is_empty() {
            let leaf = self.tree.add(at, rest, left, super::Owners::default());
            kept.iter().for_each(|&(replica, used)| self.claim_at(leaf, at, replica, used));
            at = leaf;
        }
        leaves.extend(kept.iter().map(|&(replica, used)| (used, at, replica)));
        Some(at)
    }
}

#[cfg(test)]
mod tests;
