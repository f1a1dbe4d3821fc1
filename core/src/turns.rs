//! Turns of a closed session: each is sent a delay after the previous turn has ended. Simulator and load generator use
//! the same rule.
//!
//! A turn with a `delay` waits from its own time on until the request before it in its session has ended at its user,
//! in whatever way, and then for its delay. Only its order counts: its time is that of the session's start. A turn that
//! would be sent later than `until` is not sent, and neither are those behind it.

use crate::request::TraceRequest;
use crate::{Span, Time};
use rustc_hash::FxHashMap;
use std::collections::VecDeque;

/// Marks in `requests`, which stand in the order of their sending, those that a later turn waits for.
pub fn link(requests: &mut [TraceRequest]) {
    if requests.iter().all(|r| r.delay.is_none()) {
        return;
    }
    let mut last: FxHashMap<u64, usize> = FxHashMap::default(); // looked up only, never iterated
    for i in 0..requests.len() {
        let before = last.insert(requests[i].session, i);
        match before {
            Some(before) => requests[before].awaited |= requests[i].delay.is_some(),
            // Nothing is left that the first could wait for.
            None => requests[i].delay = None,
        }
    }
}

/// What the order of a session's turns depends on.
#[derive(Debug, Clone, Copy)]
pub struct Turn {
    session: u64,
    delay: Option<Span>,
    awaited: bool,
}

impl From<&TraceRequest> for Turn {
    fn from(request: &TraceRequest) -> Self {
        Self { session: request.session, delay: request.delay, awaited: request.awaited }
    }
}

/// Turns that wait for the turn before them; `T` stands for a request. Holds what is due and not sent: at most the
/// requests of the trace.
#[derive(Debug, Clone)]
pub struct Turns<T> {
    waiting: FxHashMap<u64, VecDeque<(Span, bool, T)>>, // looked up only, never iterated
    until: Time,
    held: usize,
}

impl<T> Turns<T> {
    /// Turns that would be sent later than `until` are not sent.
    pub fn new(until: Option<Time>) -> Self {
        Self { waiting: FxHashMap::default(), until: until.unwrap_or(Time::NEVER), held: 0 }
    }

    /// Whether no turn waits.
    pub fn is_empty(&self) -> bool {
        self.held == 0
    }

    /// A request has come to its time: `item`, if it may be sent at once. Otherwise [`Self::ended`] gives it back.
    pub fn due(&mut self, turn: Turn, item: T) -> Option<T> {
        if let Some(delay) = turn.delay
            && let Some(queue) = self.waiting.get_mut(&turn.session)
        {
            queue.push_back((delay, turn.awaited, item));
            self.held += 1;
            return None;
        }
        if turn.awaited {
            self.waiting.insert(turn.session, VecDeque::new());
        }
        Some(item)
    }

    /// A turn has ended at its user at `at`: the one that waited for it and when that is sent.
    pub fn ended(&mut self, turn: Turn, at: Time) -> Option<(Time, T)> {
        if !turn.awaited {
            return None;
        }
        let queue = self.waiting.get_mut(&turn.session)?;
        let next = queue.pop_front().map(|(delay, awaited, item)| (at + delay, awaited, item));
        match next {
            Some((at, awaited, item)) if at <= self.until => {
                self.held -= 1;
                if !awaited {
                    self.waiting.remove(&turn.session);
                }
                Some((at, item))
            }
            late => {
                self.held -= usize::from(late.is_some()) + queue.len();
                self.waiting.remove(&turn.session);
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turn(session: u64, delay_ms: Option<f64>) -> TraceRequest {
        let delay = delay_ms.map(Span::from_ms);
        TraceRequest { session, delay, ..TraceRequest::lone(0, Time::ZERO, 1, 1, 16, [1].into()) }
    }

    fn linked(rows: &[(u64, Option<f64>)]) -> Vec<TraceRequest> {
        let mut all: Vec<_> = rows.iter().map(|&(session, delay)| turn(session, delay)).collect();
        link(&mut all);
        all
    }

    #[test]
    fn a_turn_is_sent_its_delay_after_the_end_of_the_one_before_it() {
        let all = linked(&[(1, None), (1, Some(500.0)), (2, None), (1, Some(20.0)), (2, Some(7.0))]);
        assert_eq!(all.iter().map(|r| r.awaited).collect::<Vec<_>>(), [true, true, true, false, false]);
        let mut turns = Turns::new(None);
        let sent: Vec<_> = all.iter().enumerate().filter_map(|(i, r)| turns.due(r.into(), i)).collect();
        assert_eq!(sent, [0, 2]);
        assert_eq!(turns.ended((&all[2]).into(), Time::from_ms(3.0)), Some((Time::from_ms(10.0), 4)));
        assert_eq!(turns.ended((&all[0]).into(), Time::from_ms(100.0)), Some((Time::from_ms(600.0), 1)));
        assert_eq!(turns.ended((&all[1]).into(), Time::from_ms(700.0)), Some((Time::from_ms(720.0), 3)));
        assert_eq!(turns.ended((&all[3]).into(), Time::from_ms(800.0)), None);
        assert!(turns.is_empty() && turns.waiting.is_empty());
    }

    #[test]
    fn a_turn_that_comes_too_late_ends_its_session() {
        let all = linked(&[(1, None), (1, Some(500.0)), (1, Some(0.0))]);
        let mut turns = Turns::new(Some(Time::from_ms(550.0)));
        let sent: Vec<_> = all.iter().enumerate().filter_map(|(i, r)| turns.due(r.into(), i)).collect();
        assert_eq!(sent, [0]);
        assert_eq!(turns.ended((&all[0]).into(), Time::from_ms(51.0)), None);
        assert!(turns.is_empty() && turns.waiting.is_empty());
    }

    #[test]
    fn a_first_turn_waits_for_nothing_and_a_cut_session_ends_with_its_last_turn() {
        let all = linked(&[(1, Some(5.0)), (1, Some(5.0))]);
        assert_eq!(all[0].delay, None);
        let mut turns = Turns::new(None);
        assert_eq!(turns.due((&all[0]).into(), 0), Some(0));
        assert_eq!(turns.ended((&all[0]).into(), Time::ZERO), None, "the next turn was cut off");
        assert!(turns.waiting.is_empty());
        assert_eq!(turns.due((&all[1]).into(), 1), Some(1), "nothing is left to wait for");
    }
}
