//! Health of a replica from probes, scrapes and peer reports, and its pause ("rest") after failed requests.

use super::{Kind, Replica};
use crate::Time;
use crate::judgement::Failure;
use serde::{Deserialize, Serialize};

/// Result of the last probes and scrapes of a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Health {
    /// No probe or scrape has ended yet; it may be used, if no other replica can.
    #[default]
    Unknown,
    /// The last probe or scrape succeeded.
    Up,
    /// Some failed, fewer than the limit; it may be used.
    Suspect,
    /// As many failed in a row as the limit says; it is not used.
    Down,
}

/// When a rest ends that follows failures `in_row` of a kind of which `few` show nothing; `None` without one.
fn rest_beyond(now: Time, few: u32, in_row: u32, longest_ms: f64) -> Option<Time> {
    let more = in_row.checked_sub(few).filter(|&more| more > 0)?;
    Some(now + Failure::Server(500).rest(more, longest_ms)?)
}

impl Replica {
    /// A probe or scrape succeeded; true if the replica was down before. Probes alone do not bring back a peer whose
    /// reports cannot be read, `limit` of them in a row.
    #[inline]
    pub fn succeeded(&mut self, now: Time, limit: u32) -> bool {
        self.failures = 0;
        if self.spec.kind == Kind::Peer && self.peer.is_unread(limit) {
            return false;
        }
        let was_down = self.health == Health::Down;
        (self.health, self.has_answered) = (Health::Up, true);
        if was_down {
            self.recovered = Some(now);
        }
        was_down
    }

    /// Whether nothing shows yet that something answers there, and what it serves.
    #[inline]
    pub fn is_unprobed(&self) -> bool {
        self.spec.is_probed && !self.has_answered
    }

    /// A probe failed; true if this made it down.
    pub fn failed(&mut self, limit: u32) -> bool {
        self.failures = self.failures.saturating_add(1);
        let is_down = self.failures >= limit || self.health == Health::Down;
        self.set_failed(is_down)
    }

    /// Whether this router's key is unproven here, since the replica has answered no request yet. One that has may refuse a
    /// single prompt with 401, 402 or 403.
    pub fn is_key_unproven(&self) -> bool {
        self.last_answer.is_none()
    }

    /// A scrape read no report. After `limit` of them in a row the last report is forgotten: it would close a gate, or keep
    /// requests away, for as long as the engine's metrics cannot be read.
    pub fn unreported(&mut self, now: Time, limit: u32) {
        self.unread = self.unread.saturating_add(1);
        if self.unread >= limit && self.engine.take().is_some() {
            self.others.unreported(now);
        }
    }

    /// A scrape failed, or a peer's report could not be read; true if this made it down.
    pub fn scrape_failed(&mut self, now: Time, limit: u32) -> bool {
        if self.spec.kind != Kind::Peer {
            self.unreported(now, limit);
            return self.failed(limit);
        }
        self.peer.not_read();
        let is_down = self.peer.is_unread(limit) || self.health == Health::Down;
        self.set_failed(is_down)
    }

    fn set_failed(&mut self, is_down: bool) -> bool {
        let was = self.health;
        self.health = if is_down { Health::Down } else { Health::Suspect };
        is_down && was != Health::Down
    }

    /// A dispatch failed: the replica rests, whether or not it was at fault. Returns when the rest ends; `None` without one.
    pub fn rest(&mut self, now: Time, failure: Failure, longest_ms: f64) -> Option<Time> {
        let in_row = self.failed_in_row.saturating_add(1);
        let until = now + failure.rest(in_row, longest_ms)?;
        self.failed_in_row = in_row;
        self.rests_until = self.rests_until.max(Some(until));
        self.rests_until
    }

    /// A request was refused as wrong. A replica that refuses one after the other rests, if `others_answer`: it looks
    /// idle, and would be chosen again and again. Returns when the rest ends; `None` without one.
    pub fn refused(&mut self, now: Time, others_answer: bool, longest_ms: f64) -> Option<Time> {
        /// Refusals in a row that clients may well cause: with one request in six refused, as in a recorded fleet, more in
        /// a row at one replica do not occur.
        const FEW: u32 = 7;
        self.refused_in_row = self.refused_in_row.saturating_add(1);
        let until = rest_beyond(now, FEW, self.refused_in_row, longest_ms).filter(|_| others_answer)?;
        self.rests_until = self.rests_until.max(Some(until));
        self.rests_until
    }

    /// A stream that was sent at `sent_at` and had begun broke. No other replica can take it over, so one that breaks stream
    /// after stream rests, if `others_finish` theirs: its first tokens show nothing. Streams that end without an answer of the
    /// engine's, as a crash cuts all that are open, count only if they were sent after the last break. Returns when the rest
    /// ends; `None` without one.
    pub fn broke(
        &mut self,
        now: Time,
        sent_at: Time,
        failure: Failure,
        others_finish: bool,
        longest_ms: f64,
    ) -> Option<Time> {
        /// Broken streams in a row that one client's requests may cause.
        const FEW: u32 = 2;
        let before = self.last_break.replace(now);
        if !failure.is_answer() && before.is_some_and(|before| sent_at <= before) {
            return None;
        }
        self.broken_in_row = self.broken_in_row.saturating_add(1);
        let until = rest_beyond(now, FEW, self.broken_in_row, longest_ms).filter(|_| others_finish)?;
        self.breaks_until = self.breaks_until.max(Some(until));
        self.breaks_until
    }

    /// A request got its first token.
    pub fn answered(&mut self, now: Time) {
        (self.rests_until, self.failed_in_row, self.has_answered) = (None, 0, true);
        (self.last_answer, self.refused_in_row) = (Some(now), 0);
        if self.health == Health::Down && self.spec.kind != Kind::Peer {
            // Probes may be slow, or go elsewhere; what serves requests is not down.
            (self.health, self.recovered) = (Health::Suspect, Some(now));
        }
        if self.breaker.succeeded() {
            self.recovered = Some(now);
        }
    }
}
