//! What an edge knows of another edge's engine: the peer's own counters, as it told them, plus what we forwarded
//! since. Without the second part every arrival between two reports would see the same idle peer (a herd).

use super::Load;
use crate::{RequestId, Time};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// What a peer says of its own engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PeerReport {
    /// The peer's own requests at its engine, ours among them.
    pub load: Load,
    /// Requests in the peer's queue.
    pub queued: u32,
    /// Whether its engine can be used.
    pub healthy: bool,
}

/// Belief about a peer.
#[derive(Debug, Clone, Default)]
pub struct Peer {
    report: PeerReport,
    /// Forwarded after the report was made and still waiting: (when, which, tokens, uncached).
    since: VecDeque<(Time, RequestId, u32, u32)>,
    extra: Load,
}

impl Peer {
    /// The peer's load as best known now.
    pub fn load(&self) -> Load {
        let (said, ours) = (&self.report.load, &self.extra);
        Load {
            waiting_requests: said.waiting_requests + ours.waiting_requests + self.report.queued,
            waiting_tokens: said.waiting_tokens + ours.waiting_tokens,
            waiting_uncached_tokens: said.waiting_uncached_tokens + ours.waiting_uncached_tokens,
            running_requests: said.running_requests,
            running_tokens: said.running_tokens,
        }
    }

    /// A new report. `seen` is the latest instant at which a request sent from here can have been counted in it
    /// (the time it was made, less the way there).
    pub fn reported(&mut self, report: PeerReport, seen: Time) {
        self.report = report;
        while self.since.front().is_some_and(|&(at, ..)| at <= seen) {
            let (_, _, tokens, uncached) = self.since.pop_front().expect("there is a front");
            self.extra.stop_waiting(tokens, uncached);
        }
    }

    pub(super) fn forwarded(&mut self, now: Time, id: RequestId, tokens: u32, uncached: u32) {
        self.since.push_back((now, id, tokens, uncached));
        self.extra.sent(tokens, uncached);
    }

    /// A forwarded request got its first token or ended.
    pub fn settled(&mut self, id: RequestId) {
        if let Some(at) = self.since.iter().position(|&(_, which, ..)| which == id) {
            let (_, _, tokens, uncached) = self.since.remove(at).expect("position is valid");
            self.extra.stop_waiting(tokens, uncached);
        }
    }
}
