//! A launch: what is written of it, and the fold of that into what is known.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What is written before a launch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    /// Nonce of this launch, repeated by the machine's name and tag.
    pub key: String,
    /// Provider.
    pub cloud: String,
    /// Digest of the credentials. An entry of other credentials is left alone unless the provider lists its machine.
    pub account: String,
    /// Launch command this machine belongs to.
    pub run: String,
    /// The user's name of the machine.
    pub name: String,
    /// Region.
    pub region: String,
    /// Instance type.
    pub machine: String,
    /// Price, US cents an hour; 0 where it is unknown.
    pub cents_per_hour: u64,
    /// Whether the provider did not tell the price.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub price_unknown: bool,
    /// End of the lease, milliseconds since 1970, UTC.
    pub expires_ms: u64,
}

impl Intent {
    /// Price, US cents an hour, where it is known.
    pub fn price(&self) -> Option<u64> {
        (!self.price_unknown).then_some(self.cents_per_hour)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub(super) enum Event {
    Intended(Intent),
    Launched { key: String, id: String },
    Listed { key: String },
    Refused { key: String, why: String },
    Ending { key: String },
    Gone { key: String },
    Absent { key: String },
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Line {
    pub(super) at_ms: u64,
    #[serde(flatten)]
    pub(super) event: Event,
}

/// What is known of a launch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// No answer yet: the machine may run.
    Unanswered,
    /// The machine runs.
    Running,
    /// Its end was asked for and has not been seen.
    Ending,
    /// The provider refused the launch, or it was not sent.
    Refused(String),
    /// The provider listed the machine as gone.
    Gone,
    /// The launch was not answered, and its machine was not listed for so long that it never was.
    Absent,
}

/// One launch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What was written before the launch.
    pub intent: Intent,
    /// When that was, milliseconds since 1970.
    pub intended_ms: u64,
    /// The provider's id, once known.
    pub id: Option<String>,
    /// Whether the provider has listed the machine: one that was listed and is unknown has ended.
    pub listed: bool,
    /// What is known.
    pub state: State,
    /// When the state was written, milliseconds since 1970.
    pub since_ms: u64,
}

impl Entry {
    /// A launch about which nothing is known yet.
    pub fn new(intent: Intent, intended_ms: u64) -> Self {
        Self { intent, intended_ms, id: None, listed: false, state: State::Unanswered, since_ms: intended_ms }
    }

    /// Whether the machine may still cost money.
    pub fn is_open(&self) -> bool {
        matches!(self.state, State::Unanswered | State::Running | State::Ending)
    }

    /// Cost from the launch until `now_ms` or its end, US cents, rounded up.
    pub fn cents(&self, now_ms: u64) -> u64 {
        let until = match self.state {
            State::Refused(_) | State::Absent => self.intended_ms,
            State::Gone => self.since_ms,
            _ => now_ms,
        };
        (until.saturating_sub(self.intended_ms) * self.intent.cents_per_hour).div_ceil(3_600_000)
    }
}

/// Launches in the order of their intents, folded from lines.
#[derive(Debug, Default)]
pub(super) struct Fold {
    order: Vec<String>,
    entries: BTreeMap<String, Entry>,
}

impl Fold {
    pub(super) fn take(&mut self, line: Line) {
        let at_ms = line.at_ms;
        let (key, to) = match line.event {
            Event::Intended(intent) => {
                self.order.push(intent.key.clone());
                self.entries.insert(intent.key.clone(), Entry::new(intent, at_ms));
                return;
            }
            Event::Listed { key } => {
                if let Some(entry) = self.entries.get_mut(&key) {
                    entry.listed = true;
                }
                return;
            }
            Event::Launched { key, id } => {
                if let Some(entry) = self.entries.get_mut(&key) {
                    entry.id = Some(id);
                }
                (key, State::Running)
            }
            Event::Refused { key, why } => (key, State::Refused(why)),
            Event::Ending { key } => (key, State::Ending),
            Event::Gone { key } => (key, State::Gone),
            Event::Absent { key } => (key, State::Absent),
        };
        let Some(entry) = self.entries.get_mut(&key) else { return };
        let follows = match to {
            // A late answer to a launch neither undoes the end that another command asked for nor reopens the entry.
            State::Running => matches!(entry.state, State::Unanswered | State::Refused(_) | State::Absent),
            State::Refused(_) | State::Absent => entry.is_open() && entry.id.is_none(),
            _ => true,
        };
        if follows {
            entry.state = to;
            entry.since_ms = at_ms;
        }
    }

    pub(super) fn entries(mut self) -> Vec<Entry> {
        self.order.into_iter().filter_map(|key| self.entries.remove(&key)).collect()
    }
}
