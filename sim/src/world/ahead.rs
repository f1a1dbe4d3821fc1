//! The rest of the trace, with lookahead at the next requests.

use gorgo_core::request::TraceRequest;
use std::collections::VecDeque;

#[derive(Debug)]
pub(super) struct Ahead<I> {
    rest: I,
    /// Read ahead and not yet taken.
    next: VecDeque<TraceRequest>,
}

impl<I: Iterator<Item = TraceRequest>> Ahead<I> {
    pub(super) fn new(rest: I) -> Self {
        Self { rest, next: VecDeque::new() }
    }

    pub(super) fn peek(&mut self) -> Option<&TraceRequest> {
        self.look(1).next()
    }

    pub(super) fn next(&mut self) -> Option<TraceRequest> {
        self.next.pop_front().or_else(|| self.rest.next())
    }

    /// The next `most` requests.
    pub(super) fn look(&mut self, most: usize) -> impl Iterator<Item = &TraceRequest> {
        let missing = most.saturating_sub(self.next.len());
        self.next.extend(self.rest.by_ref().take(missing));
        self.next.iter().take(most)
    }

    /// The least number of requests still to come.
    pub(super) fn least(&self) -> usize {
        self.next.len().saturating_add(self.rest.size_hint().0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gorgo_core::Time;

    #[test]
    fn looking_takes_nothing() {
        let row = |i: u64| TraceRequest::lone(i, Time(i), 1, 1, 16, [1].into());
        let mut ahead = Ahead::new((0..5).map(row));
        assert_eq!(ahead.look(3).map(|r| r.at).collect::<Vec<_>>(), [Time(0), Time(1), Time(2)]);
        assert_eq!((ahead.next().unwrap().at, ahead.peek().unwrap().at, ahead.least()), (Time(0), Time(1), 4));
        assert_eq!(ahead.look(9).count(), 4);
        assert_eq!(std::iter::from_fn(|| ahead.next()).map(|r| r.at.0).collect::<Vec<_>>(), [1, 2, 3, 4]);
        assert_eq!((ahead.least(), ahead.peek().is_none()), (0, true));
    }
}
