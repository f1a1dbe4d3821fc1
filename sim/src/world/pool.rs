//! A router's idle connections to one replica or peer.

use gorgo_core::{Span, Time};
use std::collections::VecDeque;

/// When each idle connection was last used, the latest at the back. The latest is used first, as HTTP pools do, so
/// that what a burst opened can run out of time. Never more than were in use at once.
#[derive(Debug, Clone, Default)]
pub(super) struct Pool {
    idle: VecDeque<Time>,
}

impl Pool {
    /// Takes an open connection at `now`; false if a new one has to be opened.
    pub(super) fn take(&mut self, now: Time, keep_alive: Span) -> bool {
        while self.idle.front().is_some_and(|&used| used + keep_alive < now) {
            self.idle.pop_front();
        }
        self.idle.pop_back().is_some()
    }

    /// Gives a connection back at `now`, never earlier than any before.
    pub(super) fn put(&mut self, now: Time) {
        self.idle.push_back(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_connections_are_reused_until_their_time_is_up() {
        let (mut pool, keep) = (Pool::default(), Span(10));
        assert!(!pool.take(Time(0), keep));
        pool.put(Time(5));
        pool.put(Time(7));
        assert!(pool.take(Time(16), keep), "the one of 7");
        assert!(!pool.take(Time(16), keep), "the one of 5 was closed at 15");
    }
}
