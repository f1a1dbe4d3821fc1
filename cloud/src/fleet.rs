//! Launching and ending machines so that none runs unknown and none is launched twice.
//!
//! Reading order: here (what ledger and listing say together) → `launch` → `end` → `watch`.

use crate::error::{Error, Result};
use crate::ledger::{Entry, Event, Ledger, State};
use crate::provider::{Node, Provider, Shown, Status};
use crate::time::Time;
use std::time::Duration;

mod end;
mod launch;
mod watch;
pub use launch::Reserved;
pub use watch::Watch;

/// A launch waits this long at most for its turn at the provider.
const SENT: Duration = Duration::from_secs(10 * 60);
/// A machine is listed within this time after its launch was sent; later it counts as never launched.
const APPEARS: Duration = Duration::from_secs(15 * 60);
/// Where a launch costs nothing, no service stands between it and the list.
const APPEARS_FREE: Duration = Duration::from_secs(5);

/// Pause after look number `looks`: 10 s, then twice as long each time up to `longest`.
fn pause(looks: u32, longest: Duration) -> Duration {
    (Duration::from_secs(10) * 2_u32.pow(looks.min(8))).min(longest)
}

fn silent(_: &str) {}

/// A provider together with the ledger.
#[derive(Clone)]
pub struct Fleet<'a> {
    /// The provider.
    pub provider: &'a dyn Provider,
    /// The ledger.
    pub ledger: &'a Ledger,
    /// Time.
    pub time: Time,
    show: &'a Shown<'a>,
}

impl std::fmt::Debug for Fleet<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fleet").field("provider", &self.provider.name()).finish_non_exhaustive()
    }
}

/// A row of `gorgo list`: a machine, its launch, or both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The launch; absent for a machine that bears our tag and is not in the ledger.
    pub entry: Option<Entry>,
    /// The machine; absent while the provider does not list it. A launch has several where it was acted on twice.
    pub node: Option<Node>,
}

impl From<Entry> for Row {
    /// What the ledger alone knows.
    fn from(entry: Entry) -> Self {
        Self { entry: Some(entry), node: None }
    }
}

impl Row {
    /// The provider's id, once known.
    pub fn id(&self) -> Option<&str> {
        let node = self.node.as_ref().map(|node| node.id.as_str());
        node.or_else(|| self.entry.as_ref()?.id.as_deref())
    }

    /// Price of what runs, US cents an hour, where it is known.
    pub fn price(&self) -> Option<u64> {
        let node = self.node.as_ref().and_then(|node| node.cents_per_hour);
        node.or_else(|| self.entry.as_ref()?.intent.cents_per_hour)
    }
}

impl<'a> Fleet<'a> {
    /// A provider together with the ledger.
    pub fn new(provider: &'a dyn Provider, ledger: &'a Ledger, time: Time) -> Self {
        Self { provider, ledger, time, show: &silent }
    }

    /// With lines about work that lasts.
    #[must_use]
    pub fn telling(mut self, show: &'a Shown<'a>) -> Self {
        self.show = show;
        self
    }
}

impl Fleet<'_> {
    fn is_ours(&self, entry: &Entry) -> bool {
        entry.intent.cloud == self.provider.name() && entry.intent.account == self.provider.account()
    }

    /// Launches of this account that may still cost money, by the ledger alone.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub fn open(&self) -> Result<Vec<Entry>> {
        Ok(self.ledger.open_entries()?.into_iter().filter(|entry| self.is_ours(entry)).collect())
    }

    /// Whether a machine of this launch would have been listed by `now_ms`.
    fn is_past_appearing(&self, entry: &Entry, now_ms: u64) -> bool {
        now_ms > self.appears_until_ms(entry)
    }

    fn appears_until_ms(&self, entry: &Entry) -> u64 {
        let longest = if self.provider.capabilities().paid { SENT + APPEARS } else { APPEARS_FREE };
        entry.intended_ms + longest.as_millis() as u64
    }

    /// Takes what the provider lists into the ledger: ids of unanswered launches, machines that have ended, launches
    /// that never were.
    ///
    /// # Errors
    /// When the ledger cannot be read or the provider does not answer.
    pub async fn adopt(&self) -> Result<()> {
        self.rows().await.map(drop)
    }

    /// All that bears our tag or stands open in the ledger.
    ///
    /// # Errors
    /// When the ledger cannot be read or the provider does not answer. A ledger that cannot be written is only shown:
    /// what runs must be seen and ended nevertheless.
    pub async fn rows(&self) -> Result<Vec<Row>> {
        let asked_ms = self.time.now_ms();
        let mut nodes = self.provider.list().await?;
        let (mut rows, mut failure) = (Vec::new(), None);
        for mut entry in self.ledger.entries()?.into_iter().filter(|entry| entry.intent.cloud == self.provider.name()) {
            // A host that was taken before has the same id again; its nonce is new.
            let is_its = |node: &Node| match &node.key {
                Some(key) => *key == entry.intent.key,
                None => entry.id.as_ref() == Some(&node.id),
            };
            let (its, others): (Vec<Node>, Vec<Node>) = nodes.into_iter().partition(is_its);
            nodes = others;
            // Other credentials of the same account made another digest; the listing shows whose machine it is.
            if its.is_empty() && !self.is_ours(&entry) {
                continue;
            }
            if let Err(error) = self.follow(&mut entry, &its, asked_ms).await {
                failure = Some(error);
            }
            let alive: Vec<Node> = its.into_iter().filter(|node| node.status != Status::Gone).collect();
            if alive.is_empty() && entry.is_open() {
                rows.push(entry.clone().into());
            }
            rows.extend(alive.into_iter().map(|node| Row { entry: Some(entry.clone()), node: Some(node) }));
        }
        let unlisted = nodes.into_iter().filter(|node| node.key.is_some() && node.status != Status::Gone);
        rows.extend(unlisted.map(|node| Row { entry: None, node: Some(node) }));
        if let Some(error) = failure {
            (self.show)(&format!("the ledger lags behind what the provider lists: {error}"));
        }
        Ok(rows)
    }

    /// Brings an entry and its lines in the ledger to what the provider lists of it.
    async fn follow(&self, entry: &mut Entry, its: &[Node], asked_ms: u64) -> Result<()> {
        let key = entry.intent.key.clone();
        let note = |entry: &mut Entry, event| self.ledger.note(self.time.now_ms(), entry, event);
        if let Some(node) = its.iter().find(|node| node.status != Status::Gone) {
            let mut done = Ok(());
            if entry.id.is_none() || matches!(entry.state, State::Unanswered | State::Refused(_) | State::Absent) {
                done = note(entry, Event::Launched { key: key.clone(), id: node.id.clone() });
            }
            if !entry.listed {
                done = done.and(note(entry, Event::Listed { key }));
            }
            return done;
        }
        if !entry.is_open() {
            return Ok(());
        }
        if !its.is_empty() {
            return note(entry, Event::Gone { key });
        }
        if entry.id.is_none() && self.is_past_appearing(entry, asked_ms) {
            return match self.provider.find(&entry.intent.name, &key).await? {
                Some(id) => note(entry, Event::Launched { key, id }),
                None => note(entry, Event::Absent { key }),
            };
        }
        Ok(())
    }

    /// Removes what launch commands left beside their machines (keys, firewall rules), once none of their machines may
    /// run: of this account's commands, and of `runs`. What could not be removed stays for the next call.
    pub async fn tidy(&self, runs: &[&str]) -> Vec<Error> {
        let left = self.provider.untidy().and_then(|left| Ok((left, self.ledger.entries()?)));
        let (left, entries) = match left {
            Ok(left) => left,
            Err(error) => return vec![error],
        };
        let mut failures = Vec::new();
        for run in left {
            let of_run = || entries.iter().filter(|entry| entry.intent.run == run);
            let ours = of_run().any(|entry| self.is_ours(entry)) || runs.contains(&run.as_str());
            if ours && !of_run().any(Entry::is_open) {
                failures.extend(self.provider.tidy(&run).await.err());
            }
        }
        failures
    }
}
