//! The routers that share with this one, and the replicas that they name but this fleet lacks.

use super::message::Message;
use crate::config::replica_name;
use gorgo_core::ReplicaId;
use gorgo_core::sharing::MAX_PEERS;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// An unknown replica is logged only after this time: two routers do not discover a new replica at the same moment.
const LACKING: Duration = Duration::from_secs(30);
/// The entry of a router that was silent for this long may be reused for another router.
const SILENT: Duration = Duration::from_secs(10);
/// Longest name of a router that is kept.
const NAME: usize = 128;

/// A replica that another router names but this fleet lacks.
#[derive(Debug)]
struct Lacking {
    since: Instant,
    is_logged: bool,
}

/// How many replicas of another router have a name that this fleet knows, too.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Shared {
    pub(super) named: usize,
    pub(super) known: usize,
}

/// A router that sent messages here.
#[derive(Debug)]
struct Sender {
    router: String,
    name: String,
    at: Instant,
    refused: bool,
    shared: Shared,
    /// Replicas that the sender's last message names but this fleet lacks, by name.
    lacking: BTreeMap<String, Lacking>,
}

/// The routers that sent messages here.
#[derive(Debug, Default)]
pub(super) struct Senders {
    all: Mutex<Vec<Sender>>,
    /// Paths of replicas that this fleet lacks.
    unknown: AtomicU64,
}

impl Senders {
    /// The number of a sender, and whether it was refused before. `None` if there are as many senders as may share.
    pub(super) fn enter(&self, router: &str, name: &str) -> Option<(u8, bool)> {
        let mut all = self.all.lock();
        let now = Instant::now();
        let at = all.iter().position(|sender| sender.router == router).or_else(|| {
            let fresh = Sender {
                router: router.to_owned(),
                name: name.chars().take(NAME).collect(),
                at: now,
                refused: false,
                shared: Shared::default(),
                lacking: BTreeMap::new(),
            };
            if all.len() < MAX_PEERS {
                all.push(fresh);
                return Some(all.len() - 1);
            }
            let silent = all.iter().position(|sender| now - sender.at > SILENT)?;
            all[silent] = fresh;
            Some(silent)
        })?;
        all[at].at = now;
        Some((at as u8, all[at].refused))
    }

    /// A sender's messages are refused.
    pub(super) fn refuse(&self, sender: u8) {
        self.all.lock()[usize::from(sender)].refused = true;
    }

    /// Records the replicas that a message names but this fleet lacks; `left_out` rows are about them. Returns how many are
    /// known, and the names that are to be logged now.
    pub(super) fn note_lacking(
        &self,
        sender: u8,
        message: &Message,
        slots: &[Option<ReplicaId>],
        left_out: usize,
    ) -> (Shared, Vec<String>) {
        self.unknown.fetch_add(left_out as u64, Ordering::Relaxed);
        let now = Instant::now();
        let mut all = self.all.lock();
        let sender = &mut all[usize::from(sender)];
        let mut before = std::mem::take(&mut sender.lacking);
        let mut told = Vec::new();
        sender.shared = Shared::default();
        for (name, slot) in message.names().zip(slots).filter(|(name, _)| !name.is_empty()) {
            sender.shared.named += 1;
            if slot.is_some() {
                sender.shared.known += 1;
            } else if name.len() <= replica_name::MOST_BYTES {
                let mut one = before.remove(name).unwrap_or(Lacking { since: now, is_logged: false });
                if now - one.since >= LACKING && !std::mem::replace(&mut one.is_logged, true) {
                    told.push(name.to_owned());
                }
                sender.lacking.insert(name.to_owned(), one);
            }
        }
        (sender.shared, told)
    }

    /// What the router of this id names and this fleet knows, as `status` shows it.
    pub(super) fn shared_with(&self, router: &str) -> Option<Value> {
        let all = self.all.lock();
        let Sender { shared, lacking, .. } = all.iter().find(|sender| sender.router == router)?;
        let unknown: Vec<&String> = lacking.keys().collect();
        Some(json!({"named": shared.named, "known": shared.known, "unknown": unknown}))
    }

    /// Replicas that routers name now and this fleet lacks.
    pub(super) fn lacking(&self) -> u64 {
        let now = Instant::now();
        let all = self.all.lock();
        all.iter().filter(|one| now - one.at <= SILENT).map(|one| (one.shared.named - one.shared.known) as u64).sum()
    }

    /// Paths of replicas that this fleet lacks, since the start.
    pub(super) fn unknown(&self) -> u64 {
        self.unknown.load(Ordering::Relaxed)
    }

    /// The senders, as `status` shows them.
    pub(super) fn json(&self, now: Instant) -> Vec<Value> {
        let shown = |sender: &Sender| {
            json!({"name": sender.name, "age_ms": (now - sender.at).as_millis() as u64, "refused": sender.refused,
                "unknown_replicas": sender.lacking.keys().collect::<Vec<_>>()})
        };
        self.all.lock().iter().map(shown).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a message that names these replicas, of which the fleet has `b`, makes the log say.
    fn note(senders: &Senders, sender: u8, names: &[&str]) -> (Shared, Vec<String>) {
        let replicas: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let slots: Vec<_> = names.iter().map(|&name| (name == "b").then_some(ReplicaId(0))).collect();
        senders.note_lacking(sender, &Message { replicas, ..Message::default() }, &slots, 1)
    }

    #[tokio::test(start_paused = true)]
    async fn a_replica_that_stays_unknown_is_logged_once_and_forgotten_when_it_is_no_longer_told_of() {
        let senders = Senders::default();
        let (sender, _) = senders.enter("r", "peer").unwrap();
        let long = "x".repeat(200);
        for name in ["pod-1", &long] {
            assert!(note(&senders, sender, &[name]).1.is_empty());
            tokio::time::advance(LACKING).await;
            assert_eq!(note(&senders, sender, &[name]).1, [name.to_owned()]);
            assert!(note(&senders, sender, &[name]).1.is_empty(), "once");
        }
        // Names of pods change with each roll-out.
        for n in 0..2 * gorgo_core::MAX_REPLICAS {
            note(&senders, sender, &[&format!("old-{n}")]);
        }
        note(&senders, sender, &["new"]);
        tokio::time::advance(LACKING).await;
        assert_eq!(note(&senders, sender, &["new"]).1, ["new"]);
        assert_eq!(senders.json(Instant::now())[0]["unknown_replicas"], json!(["new"]));
        assert!(note(&senders, sender, &[&"x".repeat(replica_name::MOST_BYTES + 1)]).1.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn replicas_without_news_are_compared_by_name_too() {
        let senders = Senders::default();
        let (sender, _) = senders.enter("r", "peer").unwrap();
        // A slot without a replica has no name.
        assert_eq!(note(&senders, sender, &["a", "", "b", "c"]).0, Shared { named: 3, known: 1 });
        assert_eq!(senders.shared_with("r"), Some(json!({"named": 3, "known": 1, "unknown": ["a", "c"]})));
        assert_eq!((senders.shared_with("other"), senders.lacking()), (None, 2));
        tokio::time::advance(SILENT * 2).await;
        assert_eq!(senders.lacking(), 0, "a router that is gone names none");
    }
}
