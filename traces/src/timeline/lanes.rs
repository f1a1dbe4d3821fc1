//! Rows for overlapping requests: Perfetto draws only perfectly nested spans on one row, so each request gets the
//! lowest row that is free when it starts.

use gorgo_core::Time;
use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};

/// Hands out rows of one process; intervals must come in ascending order of start.
#[derive(Default)]
pub(super) struct Lanes {
    busy: BinaryHeap<Reverse<(Time, usize)>>,
    free: BTreeSet<usize>,
    count: usize,
}

impl Lanes {
    /// The row for `[start, end]`. A row is reused only strictly after its last span ended, so that a span of no
    /// length at the seam cannot be taken for a child.
    pub(super) fn take(&mut self, start: Time, end: Time) -> usize {
        while let Some(&Reverse((until, lane))) = self.busy.peek() {
            if until >= start {
                break;
            }
            self.busy.pop();
            self.free.insert(lane);
        }
        let lane = self.free.pop_first().unwrap_or(self.count);
        self.count = self.count.max(lane + 1);
        self.busy.push(Reverse((end, lane)));
        lane
    }

    /// Rows used so far.
    pub(super) fn count(&self) -> usize {
        self.count
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gorgo_core::Span;

    #[test]
    fn overlapping_spans_get_rows_of_their_own_and_free_rows_are_reused() {
        let mut lanes = Lanes::default();
        assert_eq!(lanes.take(Time(0), Time(10)), 0);
        assert_eq!(lanes.take(Time(5), Time(20)), 1);
        assert_eq!(lanes.take(Time(10), Time(11)), 2, "touching is not free yet");
        assert_eq!(lanes.take(Time(12), Time(13)), 0);
        assert_eq!(lanes.take(Time(12) + Span(2), Time(15)), 0);
        assert_eq!(lanes.count(), 3);
    }
}
