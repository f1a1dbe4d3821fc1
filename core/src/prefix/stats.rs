//! Shape statistics of the prefix index, as shown by `prefix-stats`.

use super::PrefixIndex;
use crate::ReplicaSet;
use crate::radix::{NodeId, ROOT, Symbol};
use serde::{Deserialize, Serialize};

/// Shape of the index. Depths and lengths are in symbols: one symbol is a block of the prompt.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct IndexStats {
    /// Nodes, the root included.
    pub nodes: usize,
    /// Nodes without children (an empty index has one: the root).
    pub leaves: usize,
    /// Longest path.
    pub max_depth: usize,
    /// Mean path over leaves.
    pub avg_depth: f64,
    /// Mean number of children over nodes that have any.
    pub avg_branching: f64,
    /// Mean edge length over all nodes, the root counting 0.
    pub avg_prefix_len: f64,
    /// Owners summed over nodes.
    pub total_server_refs: usize,
    /// Distinct owners.
    pub unique_server_count: usize,
}

impl<S: Symbol> PrefixIndex<S> {
    /// Measures the index by visiting every node once.
    pub fn stats(&self) -> IndexStats {
        let mut stats = IndexStats::default();
        let (mut depths, mut inner, mut children, mut unique) = (0usize, 0usize, 0usize, ReplicaSet::EMPTY);
        let mut stack: Vec<(NodeId, usize)> = vec![(ROOT, 0)];
        while let Some((node, depth)) = stack.pop() {
            stats.nodes += 1;
            let owners = self.tree.value(node);
            stats.total_server_refs += owners.list.len();
            for replica in owners.set.iter() {
                unique.insert(replica);
            }
            let count = self.tree.child_count(node);
            if count == 0 {
                stats.leaves += 1;
                depths += depth;
                stats.max_depth = stats.max_depth.max(depth);
            } else {
                inner += 1;
                children += count;
            }
            stack.extend(self.tree.children(node).map(|child| (child, depth + self.tree.edge(child).len())));
        }
        stats.avg_depth = depths as f64 / stats.leaves as f64;
        stats.avg_branching = if inner == 0 { 0.0 } else { children as f64 / inner as f64 };
        stats.avg_prefix_len = self.tree.symbols() as f64 / stats.nodes as f64;
        stats.unique_server_count = unique.len();
        stats
    }
}
