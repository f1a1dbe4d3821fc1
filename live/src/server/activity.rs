//! Activity of a client's connection: its open requests, and since when it has been idle.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// The activity of one connection, shared by its socket and its requests.
#[derive(Debug)]
pub(crate) struct Activity {
    accepted: Instant,
    /// Requests whose answers are not complete.
    open: AtomicU32,
    /// Requests begun so far.
    begun: AtomicU64,
    /// When the last answer was complete, ms after `accepted`.
    quiet_since: AtomicU64,
    is_http2: AtomicBool,
    /// Whether the last request was answered before its body was read.
    unread: AtomicBool,
    /// Whether the connection speaks another protocol by now.
    upgraded: AtomicBool,
    /// Notified when the connection has been idle for too long.
    pub(crate) idle: Notify,
}

impl Activity {
    /// The activity of a connection that was just accepted.
    pub(crate) fn new() -> Self {
        Self {
            accepted: Instant::now(),
            open: AtomicU32::new(0),
            begun: AtomicU64::new(0),
            quiet_since: AtomicU64::new(0),
            is_http2: AtomicBool::new(false),
            unread: AtomicBool::new(false),
            upgraded: AtomicBool::new(false),
            idle: Notify::new(),
        }
    }

    /// A request's head has come.
    pub(crate) fn begin(&self, is_http2: bool) {
        self.open.fetch_add(1, Ordering::Relaxed);
        self.begun.fetch_add(1, Ordering::Relaxed);
        self.is_http2.store(is_http2, Ordering::Relaxed);
    }

    /// A request's answer is complete, or given up.
    pub(crate) fn end(&self) {
        let now = u64::try_from(self.accepted.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.quiet_since.store(now, Ordering::Relaxed);
        self.open.fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether the request was answered before its body was read.
    pub(super) fn set_unread(&self, unread: bool) {
        self.unread.store(unread, Ordering::Relaxed);
    }

    /// Whether the last request was answered before its body was read.
    pub(super) fn is_unread(&self) -> bool {
        self.unread.load(Ordering::Relaxed)
    }

    /// The connection is handed over to another protocol, which has limits of its own.
    pub(crate) fn upgrade(&self) {
        self.upgraded.store(true, Ordering::Relaxed);
    }

    /// Whether a request is open, or the connection is no longer HTTP.
    pub(super) fn is_busy(&self) -> bool {
        self.open.load(Ordering::Relaxed) > 0 || self.upgraded.load(Ordering::Relaxed)
    }

    /// Whether a request over HTTP/1 is open.
    pub(super) fn awaits_answer(&self) -> bool {
        let is_open = self.open.load(Ordering::Relaxed) > 0;
        is_open && !self.is_http2() && !self.upgraded.load(Ordering::Relaxed)
    }

    /// Requests begun so far.
    pub(super) fn begun(&self) -> u64 {
        self.begun.load(Ordering::Relaxed)
    }

    /// Whether the last request came over HTTP/2.
    pub(super) fn is_http2(&self) -> bool {
        self.is_http2.load(Ordering::Relaxed)
    }

    /// When the connection was accepted.
    pub(super) fn accepted(&self) -> Instant {
        self.accepted
    }

    /// When the last answer was complete.
    pub(super) fn quiet_since(&self) -> Instant {
        self.accepted + Duration::from_millis(self.quiet_since.load(Ordering::Relaxed))
    }
}
