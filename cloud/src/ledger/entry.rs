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
    /// Price, US cents an hour, where the provider tells it.
    #[serde(flatten, with = "price")]
    pub cents_per_hour: Option<u64>,
    /// End of the lease, milliseconds since 1970, UTC.
    pub expires_ms: u64,
}

/// A price in a line of the ledger: 0 and a mark where it is unknown.
mod price {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    struct Written {
        cents_per_hour: u64,
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        price_unknown: bool,
    }

    pub(super) fn serialize<S: Serializer>(price: &Option<u64>, serializer: S) -> Result<S::Ok, S::Error> {
        Written { cents_per_hour: price.unwrap_or(0), price_unknown: price.is_none() }.serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
        let written = Written::deserialize(deserializer)?;
        Ok((!written.price_unknown).then_some(written.cents_per_hour))
    }
}

/// A change of a launch, as the ledger's lines tell it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub(crate) enum Event {
    Intended(Intent),
    Launched { key: String, id: String },
    Listed { key: String },
    Refused { key: String, why: String },
    Ending { key: String },
    Gone { key: String },
    Absent { key: String },
}

impl Event {
    /// Nonce of the launch that it tells of.
    fn key(&self) -> &str {
        match self {
            Self::Intended(Intent { key, .. })
            | Self::Launched { key, .. }
            | Self::Listed { key }
            | Self::Refused { key, .. }
            | Self::Ending { key }
            | Self::Gone { key }
            | Self::Absent { key } => key,
        }
    }
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

    /// Cost from the launch until `now_ms` or its end, US cents, rounded up, where the price is known.
    pub fn cents(&self, now_ms: u64) -> Option<u64> {
        let until = match self.state {
            State::Refused(_) | State::Absent => self.intended_ms,
            State::Gone => self.since_ms,
            _ => now_ms,
        };
        match until.saturating_sub(self.intended_ms) {
            0 => Some(0),
            ms => Some((ms * self.intent.cents_per_hour?).div_ceil(3_600_000)),
        }
    }

    /// Takes what a line at `at_ms` tells of this launch.
    pub(super) fn take(&mut self, at_ms: u64, event: Event) {
        let to = match event {
            Event::Intended(_) => return,
            Event::Listed { .. } => {
                self.listed = true;
                return;
            }
            Event::Launched { id, .. } => {
                self.id = Some(id);
                State::Running
            }
            Event::Refused { why, .. } => State::Refused(why),
            Event::Ending { .. } => State::Ending,
            Event::Gone { .. } => State::Gone,
            Event::Absent { .. } => State::Absent,
        };
        let follows = match to {
            // A late answer to a launch neither undoes the end that another command asked for nor reopens the entry.
            State::Running => matches!(self.state, State::Unanswered | State::Refused(_) | State::Absent),
            State::Refused(_) | State::Absent => self.is_open() && self.id.is_none(),
            _ => true,
        };
        if follows {
            self.state = to;
            self.since_ms = at_ms;
        }
    }
}

/// Launches in the order of their intents, folded from lines.
#[derive(Debug, Default)]
pub(super) struct Fold {
    order: Vec<String>,
    entries: BTreeMap<String, Entry>,
}

impl Fold {
    pub(super) fn take(&mut self, Line { at_ms, event }: Line) {
        match event {
            Event::Intended(intent) => {
                self.order.push(intent.key.clone());
                self.entries.insert(intent.key.clone(), Entry::new(intent, at_ms));
            }
            event => {
                if let Some(entry) = self.entries.get_mut(event.key()) {
                    entry.take(at_ms, event);
                }
            }
        }
    }

    pub(super) fn entries(mut self) -> Vec<Entry> {
        self.order.into_iter().filter_map(|key| self.entries.remove(&key)).collect()
    }
}
