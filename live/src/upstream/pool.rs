//! Idle connections to one replica, one list per worker thread.
//!
//! A request takes a connection that its own thread used, so that threads do not wait for each other's lock. Only when
//! its thread has none it takes another thread's: moving a connection costs microseconds, opening one to a far replica
//! costs round trips. Of the latest few the one with the largest congestion window is taken: it sends a long prompt in
//! fewer round trips.

use crate::upstream::connection::Connection;
use crate::upstream::idle_limit::IdleLimit;
use crate::worker_index;
use parking_lot::Mutex;
use std::fmt;
use std::time::Duration;

/// Most idle connections per replica and thread.
const MAX_IDLE: usize = 256;

/// Connections that a choice by window looks at, the latest first.
const LOOKED_AT: usize = 8;

/// The idle connections of one thread, least recently used first. Boxed, so that taking one moves a pointer.
type Idle = Vec<Box<Connection>>;

/// The idle connections of one thread. Not aligned to cache lines: no gain was measurable (37.2 µs of CPU a request
/// without, 38.4 with).
type Shard = Mutex<Idle>;

/// The idle connections to one replica.
#[derive(Default)]
pub(crate) struct IdlePool {
    shards: [Shard; worker_index::MAX_WORKERS + 1],
    limit: IdleLimit,
}

impl fmt::Debug for IdlePool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IdlePool")
    }
}

impl IdlePool {
    /// Returns a connection to the pool; closes it if the thread's list is full.
    pub(super) fn put(&self, mut connection: Box<Connection>) {
        connection.set_idle();
        let mut idle = self.shards[worker_index::current()].lock();
        if idle.len() < MAX_IDLE {
            idle.push(connection);
        }
    }

    /// The age below which an idle connection is used; `configured` until the replica shows that it keeps them longer.
    pub(crate) fn usable(&self, configured: Duration) -> Duration {
        self.limit.usable(configured)
    }

    /// Takes the connection with the largest window among the latest, of this thread or else of another, unless it has
    /// been idle for too long. The replica may have closed it since; the next use reveals that.
    pub(super) fn take(&self, configured: Duration) -> Option<Box<Connection>> {
        let usable = self.limit.usable(configured);
        let own = worker_index::current();
        if let Some(connection) = warmest(&mut self.shards[own].lock(), usable) {
            return Some(connection);
        }
        let others = self.shards.iter().enumerate().filter(|(i, _)| *i != own);
        others.filter_map(|(_, shard)| shard.try_lock()).find_map(|mut idle| warmest(&mut idle, usable))
    }

    /// Closes idle connections that are too old to use, and learns from those that the replica closed. The oldest of
    /// each thread stays open, up to `most`, to show how long the replica keeps it. `period` is the time between calls.
    pub(crate) fn close_expired(&self, configured: Duration, most: Duration, period: Duration) {
        for shard in &self.shards {
            let mut closed = Vec::new(); // closing takes system calls: not under the lock
            let mut idle = shard.lock();
            for (oldest, mut connection) in std::mem::take(&mut *idle).into_iter().enumerate() {
                let age = connection.idle_time();
                if !connection.is_open() {
                    self.limit.closed(age, period, configured);
                    closed.push(connection);
                } else if age < self.limit.usable(configured) || (oldest == 0 && age < most) {
                    self.limit.open(age.min(most));
                    idle.push(connection);
                } else {
                    closed.push(connection);
                }
            }
            drop(idle);
        }
    }

    /// Idle connections of the current thread.
    #[cfg(test)]
    pub(super) fn len_here(&self) -> usize {
        self.shards[worker_index::current()].lock().len()
    }
}

/// Takes the connection with the largest window among the latest that are younger than `usable`.
fn warmest(idle: &mut Idle, usable: Duration) -> Option<Box<Connection>> {
    let latest = idle.iter().enumerate().rev().take(LOOKED_AT).take_while(|(_, c)| c.idle_time() < usable);
    let best = latest.max_by_key(|(i, c)| (c.window(), *i)).map(|(i, _)| i)?;
    Some(idle.remove(best))
}
