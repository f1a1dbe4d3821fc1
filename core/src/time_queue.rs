//! A priority queue ordered by time: the earliest entry first, entries with equal times in insertion order.
//!
//! The router's timers, the simulator's events and the load generator's wake-ups all use this queue. The insertion
//! order is kept by a sequence number, so the order of a run does not depend on the layout of the heap.
//!
//! | operation | cost |
//! |---|---|
//! | [`TimeQueue::push`] | O(log n) worst case, O(1) on average for random times |
//! | [`TimeQueue::pop`], [`TimeQueue::pop_due`] | O(log n) |
//! | [`TimeQueue::next_time`], [`TimeQueue::len`] | O(1) |
//! | [`TimeQueue::retain`] | O(n) |

use crate::Time;
use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// An entry of a [`TimeQueue`].
#[derive(Debug, Clone)]
pub struct Scheduled<T, K = Time> {
    /// When the item is due.
    pub at: K,
    /// Position among all insertions into the queue, counted from 1.
    pub sequence: u64,
    /// The item.
    pub item: T,
}

impl<T, K: Ord> PartialEq for Scheduled<T, K> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
impl<T, K: Ord> Eq for Scheduled<T, K> {}
impl<T, K: Ord> PartialOrd for Scheduled<T, K> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl<T, K: Ord> Ord for Scheduled<T, K> {
    /// Reversed, because [`BinaryHeap`] keeps the greatest entry on top and the queue needs the earliest.
    fn cmp(&self, other: &Self) -> Ordering {
        (&other.at, other.sequence).cmp(&(&self.at, self.sequence))
    }
}

/// A queue of items ordered by time, FIFO for equal times. `K` is the type of the times.
#[derive(Debug, Clone)]
pub struct TimeQueue<T, K = Time> {
    heap: BinaryHeap<Scheduled<T, K>>,
    pushed: u64,
}

impl<T, K: Ord> Default for TimeQueue<T, K> {
    fn default() -> Self {
        Self { heap: BinaryHeap::new(), pushed: 0 }
    }
}

impl<T, K: Ord + Copy> TimeQueue<T, K> {
    /// Inserts `item`, due at `at`.
    pub fn push(&mut self, at: K, item: T) {
        self.pushed += 1;
        self.heap.push(Scheduled { at, sequence: self.pushed, item });
    }

    /// When the earliest entry is due; `None` if the queue is empty.
    pub fn next_time(&self) -> Option<K> {
        self.heap.peek().map(|entry| entry.at)
    }

    /// Removes and returns the earliest entry.
    pub fn pop(&mut self) -> Option<Scheduled<T, K>> {
        self.heap.pop()
    }

    /// Removes and returns the earliest entry if it is due at or before `now`.
    pub fn pop_due(&mut self, now: K) -> Option<Scheduled<T, K>> {
        if self.next_time()? > now {
            return None;
        }
        self.heap.pop()
    }

    /// Drops the entries whose item does not satisfy `keep`; the order of the others does not change.
    pub fn retain(&mut self, mut keep: impl FnMut(&T) -> bool) {
        self.heap.retain(|entry| keep(&entry.item));
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.heap.len()
    }

    /// Whether the queue has no entries.
    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, Clone)]
    enum Op {
        Push(u64),
        Pop,
        PopDue(u64),
        KeepEven,
    }

    fn ops() -> impl Strategy<Value = Vec<Op>> {
        let op = prop_oneof![
            8 => (0u64..12).prop_map(Op::Push),
            3 => Just(Op::Pop),
            2 => (0u64..12).prop_map(Op::PopDue),
            1 => Just(Op::KeepEven),
        ];
        prop::collection::vec(op, 0..200)
    }

    /// Index of the entry of a plain list that has the least (time, sequence).
    fn earliest(list: &[(u64, u64)]) -> Option<usize> {
        (0..list.len()).min_by_key(|&at| list[at])
    }

    proptest! {
        #[test]
        fn equals_a_list_searched_for_the_earliest_and_oldest_entry(ops in ops()) {
            let mut queue = TimeQueue::default();
            let (mut list, mut pushed) = (Vec::new(), 0);
            for op in ops {
                match op {
                    Op::Push(at) => {
                        pushed += 1;
                        queue.push(Time(at), pushed);
                        list.push((at, pushed));
                    }
                    Op::Pop => {
                        let wanted = earliest(&list).map(|at| list.remove(at));
                        prop_assert_eq!(queue.pop().map(|e| (e.at.0, e.item)), wanted);
                    }
                    Op::PopDue(now) => {
                        let due = earliest(&list).filter(|&at| list[at].0 <= now);
                        let wanted = due.map(|at| list.remove(at));
                        prop_assert_eq!(queue.pop_due(Time(now)).map(|e| (e.at.0, e.sequence)), wanted);
                    }
                    Op::KeepEven => {
                        queue.retain(|item| item.is_multiple_of(2));
                        list.retain(|(_, item)| item.is_multiple_of(2));
                    }
                }
                prop_assert_eq!(queue.next_time().map(|t| t.0), earliest(&list).map(|at| list[at].0));
                prop_assert_eq!((queue.len(), queue.is_empty()), (list.len(), list.is_empty()));
            }
        }
    }

    #[test]
    fn equal_times_leave_in_insertion_order() {
        let mut queue = TimeQueue::default();
        for (at, item) in [(5, 'a'), (3, 'b'), (5, 'c'), (3, 'd')] {
            queue.push(Time(at), item);
        }
        let order: String = std::iter::from_fn(|| queue.pop()).map(|entry| entry.item).collect();
        assert_eq!(order, "bdac");
    }
}
