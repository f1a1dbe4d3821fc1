//! The LRU queue of one replica's leaves in the prefix index.

use super::Stamp;
use crate::radix::NodeId;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

/// The time of a leaf's last use, and the leaf.
pub(super) type Entry = (Stamp, NodeId);

/// Leaves ordered by last use. Most nodes become leaves in the order of their use, so they go into a FIFO queue with
/// O(1) pops; a parent that lost its last child is out of order and goes into a heap. An entry is stale once its leaf
/// was touched, got a child or was removed. The caller of `pop` skips stale entries and calls `retain` when they
/// outnumber the live ones.
#[derive(Debug, Clone, Default)]
pub(super) struct Leaves {
    /// In ascending order of use.
    queue: VecDeque<Entry>,
    late: BinaryHeap<Reverse<Entry>>,
}

impl Leaves {
    pub(super) fn len(&self) -> usize {
        self.queue.len() + self.late.len()
    }

    pub(super) fn push(&mut self, entry: Entry) {
        if self.queue.back().is_none_or(|last| *last < entry) {
            self.queue.push_back(entry);
        } else {
            self.late.push(Reverse(entry));
        }
    }

    /// The least recently used entry.
    pub(super) fn first(&self) -> Option<Entry> {
        let late = self.late.peek().map(|&Reverse(entry)| entry);
        self.queue.front().copied().into_iter().chain(late).min()
    }

    /// Removes and returns the least recently used entry.
    pub(super) fn pop(&mut self) -> Option<Entry> {
        let first = self.first()?;
        if self.queue.front() == Some(&first) { self.queue.pop_front() } else { self.late.pop().map(|late| late.0) }
    }

    /// Removes the entries that are not `live` and frees their memory.
    pub(super) fn retain(&mut self, live: impl Fn(Entry) -> bool) {
        self.queue.retain(|&entry| live(entry));
        self.late.retain(|&Reverse(entry)| live(entry));
        self.queue.shrink_to(2 * self.queue.len());
        self.late.shrink_to(2 * self.late.len());
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::radix::{ROOT, Radix};
    use proptest::prelude::*;

    proptest! {
        /// The same order as one heap's, whatever is pushed and popped when.
        #[test]
        fn pops_like_a_heap(steps in prop::collection::vec(prop::option::of((0u64..40, 0u8..4)), 1..200)) {
            let mut tree = Radix::new(Some(1), ());
            let nodes: Vec<NodeId> = (0..4u8).map(|symbol| tree.add(ROOT, &[symbol], 1, ())).collect();
            let (mut leaves, mut heap) = (Leaves::default(), BinaryHeap::new());
            for step in steps {
                if let Some((stamp, node)) = step {
                    let entry = (Stamp(stamp), nodes[usize::from(node)]);
                    leaves.push(entry);
                    heap.push(Reverse(entry));
                } else {
                    prop_assert_eq!(leaves.first(), heap.peek().map(|&Reverse(entry)| entry));
                    prop_assert_eq!(leaves.pop(), heap.pop().map(|Reverse(entry)| entry));
                }
                prop_assert_eq!(leaves.len(), heap.len());
            }
        }
    }

    #[test]
    fn sweeping_keeps_what_is_live() {
        let mut leaves = Leaves::default();
        for stamp in [5, 6, 7, 1, 2] {
            leaves.push((Stamp(stamp), ROOT));
        }
        leaves.retain(|(stamp, _)| stamp.0 % 2 == 1);
        let order: Vec<u64> = std::iter::from_fn(|| leaves.pop()).map(|(stamp, _)| stamp.0).collect();
        assert_eq!(order, [1, 5, 7]);
    }
}
