//! Load of a peer router: its last report plus the requests forwarded to it since. Without the second part all arrivals
//! between two reports would choose the same idle peer.

use super::{Ageing, Arrivals, Load, PeerRates};
use crate::{RequestId, Time};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// A peer's report of its own engines.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct PeerReport {
    /// The peer's requests at its engines, including those forwarded by this router.
    pub load: Load,
    /// Requests in the peer's queue.
    pub queued: u32,
    /// Whether one of its engines takes new requests.
    pub healthy: bool,
    /// What it learned of its engines; absent in reports of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rates: Option<PeerRates>,
    /// How fast it sends requests to its engines; absent in reports of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arrivals: Option<Arrivals>,
}

/// A request forwarded after the latest report was made.
#[derive(Debug, Clone, Copy)]
struct Forwarded {
    at: Time,
    id: RequestId,
    tokens: u32,
    uncached: u32,
    running: bool,
}

/// The load of a peer as known to this router.
#[derive(Debug, Clone, Default)]
pub struct Peer {
    report: PeerReport,
    /// In order of forwarding.
    since: VecDeque<Forwarded>,
    extra: Load,
    /// How the report ages; `None` where it does not.
    ageing: Option<Ageing>,
    /// Reports that could not be read since the last one that could.
    unread: u32,
    has_reported: bool,
}

impl Peer {
    /// The estimated load of the peer at `now`: its report, the forwarded requests that the report does not count, and what
    /// others are expected to have sent since.
    pub fn load(&self, now: Time) -> Load {
        let mut load = self.report.load.plus(&self.extra);
        if let Some(ageing) = &self.ageing {
            load = load.plus(&ageing.load(now));
        }
        load.waiting_requests = load.waiting_requests.saturating_add(self.report.queued);
        load
    }

    /// Stores a new report that counts all requests forwarded up to `seen`.
    pub fn reported(&mut self, report: PeerReport, seen: Time) {
        self.report = report;
        (self.unread, self.has_reported) = (0, true);
        while self.since.front().is_some_and(|f| f.at <= seen) {
            let counted = self.since.pop_front().expect("there is a front");
            self.drop(counted);
        }
    }

    /// Lets the latest report age from now on, or not.
    pub(crate) fn age(&mut self, ageing: Option<Ageing>) {
        self.ageing = ageing;
    }

    /// A report could not be read.
    pub(super) fn not_read(&mut self) {
        self.unread = self.unread.saturating_add(1);
    }

    /// Whether nothing is known of its load: its last `limit` reports, or its very first, could not be read. Without a
    /// report it looks idle.
    pub(super) fn is_unread(&self, limit: u32) -> bool {
        self.unread >= limit.max(1) || (self.unread > 0 && !self.has_reported)
    }

    pub(super) fn forwarded(&mut self, at: Time, id: RequestId, tokens: u32, uncached: u32) {
        self.since.push_back(Forwarded { at, id, tokens, uncached, running: false });
        self.extra.sent(tokens, uncached);
    }

    /// Counts a forwarded request as running after its first token. It stays until a report counts it; otherwise the
    /// peer would look idle in between.
    pub fn started(&mut self, id: RequestId) {
        if let Some(f) = self.since.iter_mut().find(|f| f.id == id && !f.running) {
            f.running = true;
            self.extra.stop_waiting(f.tokens, f.uncached);
            self.extra.start_running(f.tokens);
        }
    }

    /// Removes a forwarded request that ended.
    pub fn ended(&mut self, id: RequestId) {
        if let Some(at) = self.since.iter().position(|f| f.id == id) {
            let ended = self.since.remove(at).expect("position is valid");
            self.drop(ended);
        }
    }

    fn drop(&mut self, f: Forwarded) {
        if f.running {
            self.extra.stop_running(f.tokens);
        } else {
            self.extra.stop_waiting(f.tokens, f.uncached);
        }
    }
}
