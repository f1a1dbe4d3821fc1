//! What a router has learned, to be kept for a restart or given to another router of the same replicas.
//!
//! Replicas go by name, since slots differ between routers. Times are relative, since each process counts its own.

use super::{Router, Timer};
use crate::fleet::{Health, Rtt, SavedBreaker, SavedRates};
use crate::prefix::SavedIndex;
use crate::{ReplicaId, Time};
use serde::{Deserialize, Serialize};

/// Everything that a router has learned.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Snapshot {
    /// Its replicas; owners in `index` name them by their position here.
    pub replicas: Vec<SavedReplica>,
    /// Learned rates.
    pub rates: SavedRates,
    /// The prefix index.
    pub index: SavedIndex<u64>,
}

/// What is known of one replica.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SavedReplica {
    /// Its name.
    pub name: String,
    /// Round trips from the router that made the snapshot; `None` for one that is elsewhere.
    pub rtt: Option<Rtt>,
    /// The circuit breaker.
    pub breaker: SavedBreaker,
    /// Whether it was down by probes or scrapes.
    pub down: bool,
    /// KV capacity as the engine reported it, tokens.
    pub kv_tokens: Option<u64>,
}

impl Router {
    /// What the router has learned by `now`, with an index of at most `limit` bytes.
    pub fn snapshot(&self, now: Time, limit: usize) -> Snapshot {
        let replica = |(r, slot): (&crate::fleet::Replica, usize)| SavedReplica {
            name: if r.removed { String::new() } else { r.spec.name.clone() },
            rtt: r.rtt.updated().map(|_| r.rtt.clone()),
            breaker: r.breaker.saved(now),
            down: r.health == Health::Down,
            kv_tokens: r.spec.kv_tokens.filter(|_| self.index.tokens(ReplicaId(slot as u16)) > 0),
        };
        Snapshot {
            replicas: self.replicas.iter().zip(0..).map(replica).collect(),
            rates: self.saved_rates(),
            index: self.index.save(limit),
        }
    }

    /// Takes over what another router, or this one before its restart, had learned. What this one has seen itself stays.
    pub(super) fn take_over(&mut self, now: Time, snapshot: &Snapshot) {
        let slot = |saved: &SavedReplica| {
            let here = |r: &crate::fleet::Replica| !r.removed && !saved.name.is_empty() && r.spec.name == saved.name;
            self.replicas.iter().position(here)
        };
        let slots: Vec<Option<ReplicaId>> =
            snapshot.replicas.iter().map(|saved| slot(saved).map(|slot| ReplicaId(slot as u16))).collect();
        for (saved, replica) in snapshot.replicas.iter().zip(&slots) {
            let Some(replica) = *replica else { continue };
            let unhealthy_after = self.config.unhealthy_after;
            let at = &mut self.replicas[replica.index()];
            if let Some(rtt) = saved.rtt.as_ref().filter(|_| at.rtt.updated().is_none()) {
                at.rtt = rtt.taken_over(now);
            }
            if !at.breaker.is_tripped() {
                at.breaker = saved.breaker.restored(now, &self.config.breaker);
            }
            if saved.down && at.health == Health::Unknown {
                (at.health, at.failures) = (Health::Down, unhealthy_after);
            }
            if let Some(reopens) = at.reopens(now) {
                self.timers.set(reopens, Timer::Reopen(replica));
            }
            if at.spec.kv_tokens.is_none()
                && let Some(tokens) = saved.kv_tokens.filter(|&tokens| tokens > 0)
            {
                at.spec.kv_tokens = Some(tokens);
                self.index.set_budget(replica, tokens);
            }
        }
        let names = self.replicas.iter().map(|r| (!r.removed).then_some(r.spec.name.as_str()));
        self.rates.restore(&snapshot.rates, names);
        // A prefix of a replica that is down is of no use, and is forgotten when it comes back.
        let slots: Vec<_> = slots
            .into_iter()
            .map(|slot| slot.filter(|replica| self.replicas[replica.index()].health != Health::Down))
            .collect();
        self.index.restore(&snapshot.index, &slots);
    }
}

#[cfg(test)]
mod tests;
