//! Visits the paths of the prefix index that any of a set of replicas holds.

use super::PrefixIndex;
use crate::ReplicaSet;
use crate::radix::{ROOT, Symbol};

impl<S: Symbol> PrefixIndex<S> {
    /// Visits the edges that any of `replicas` holds, upper ones first: `enter` gets the number of symbols above an edge and
    /// the edge, and returns whether to go on below it.
    pub fn held(&self, replicas: &ReplicaSet, mut enter: impl FnMut(usize, &[S]) -> bool) {
        let mut open = vec![(ROOT, 0)];
        while let Some((at, above)) = open.pop() {
            for node in self.tree.children(at).filter(|&node| !self.tree.value(node).set.and(replicas).is_empty()) {
                let edge = self.tree.edge(node);
                if enter(above, edge) {
                    open.push((node, above + edge.len()));
                }
            }
        }
    }
}
