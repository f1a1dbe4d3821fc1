//! The routers that share with this one, and the replicas that they name but this fleet lacks.

use super::message::Message;
use crate::config::replica_name;
use gorgo_core::ReplicaId;
use gorgo_core::sharing::MAX_PEERS;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// An unknown replica is logged only after this time: two routers do not discover a new replica at the same moment.
const LACKING: Duration = Duration::from_secs(30);
/// The entry of a router that was silent for this long may be reused for another router.
const SILENT: Duration = Duration::from_secs(10);
/// A replica that the other router has not named for this long has left that router's fleet, too.
const FORGOTTEN: Duration = Duration::from_secs(300);
/// Longest name of a router that is kept.
const NAME: usize = 128;

/// A replica that another router names but this fleet lacks.
#[derive(Debug)]
struct Lacking {
    since: Instant,
    latest: Instant,
    is_logged: bool,
}

/// A router that sent messages here.
#[derive(Debug)]
struct Sender {
    router: String,
    name: String,
    at: Instant,
    refused: bool,
    /// Replicas that the sender names but this fleet lacks, by name.
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

    /// Records the replicas that a message's rows name but this fleet lacks; `left_out` rows are about them. Returns
    /// the names that are to be logged now.
    pub(super) fn note_lacking(
        &self,
        sender: u8,
        message: &Message,
        slots: &[Option<ReplicaId>],
        left_out: usize,
    ) -> Vec<String> {
        self.unknown.fetch_add(left_out as u64, Ordering::Relaxed);
        let rows = message.paths.iter().map(|row| row.0).chain(message.loads.iter().map(|row| row.0));
        let rows: BTreeSet<u16> = rows.collect();
        let now = Instant::now();
        let mut all = self.all.lock();
        let lacking = &mut all[usize::from(sender)].lacking;
        lacking.retain(|_, one| now - one.latest < FORGOTTEN);
        let mut told = Vec::new();
        for at in rows.into_iter().map(usize::from) {
            let (Some(name), Some(slot)) = (message.replicas.get(at), slots.get(at)) else { continue };
            if slot.is_some() {
                lacking.remove(name);
            } else if let Some(one) = lacking.get_mut(name) {
                one.latest = now;
                if now - one.since >= LACKING && !std::mem::replace(&mut one.is_logged, true) {
                    told.push(name.clone());
                }
            } else if lacking.len() < gorgo_core::MAX_REPLICAS && name.len() <= replica_name::MOST_BYTES {
                lacking.insert(name.clone(), Lacking { since: now, latest: now, is_logged: false });
            }
        }
        told
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
    use gorgo_core::fleet::Load;

    /// What a message that tells a load of a replica of this name, which the fleet lacks, makes the log say.
    fn note(senders: &Senders, sender: u8, name: &str) -> Vec<String> {
        let (replicas, loads) = (vec![name.to_owned()], vec![(0, Load::default())]);
        senders.note_lacking(sender, &Message { replicas, loads, ..Message::default() }, &[None], 1)
    }

    #[tokio::test(start_paused = true)]
    async fn a_replica_that_stays_unknown_is_logged_once_and_forgotten_when_it_is_no_longer_told_of() {
        let senders = Senders::default();
        let (sender, _) = senders.enter("r", "peer").unwrap();
        let long = "x".repeat(200);
        for name in ["pod-1", &long] {
            assert!(note(&senders, sender, name).is_empty());
            tokio::time::advance(LACKING).await;
            assert_eq!(note(&senders, sender, name), [name.to_owned()]);
            assert!(note(&senders, sender, name).is_empty(), "once");
        }
        // Names of pods change with each roll-out.
        for n in 0..gorgo_core::MAX_REPLICAS {
            note(&senders, sender, &format!("old-{n}"));
        }
        tokio::time::advance(FORGOTTEN).await;
        note(&senders, sender, "new");
        tokio::time::advance(LACKING).await;
        assert_eq!(note(&senders, sender, "new"), ["new"]);
        assert!(note(&senders, sender, &"x".repeat(replica_name::MOST_BYTES + 1)).is_empty());
        assert_eq!(senders.json(Instant::now())[0]["unknown_replicas"], json!(["new"]));
    }
}
