//! Digest of the prefixes in the KV caches of a router's own engines, sent to its peer edges.
//!
//! ```text
//! keys      = the symbol at every n-th depth of each path that an own engine holds: one a kilobyte of prompt
//! tokens(t) = prompt tokens * depth of the deepest key of the prompt / its symbols * 0.5^(age / half-life)
//! ```
//!
//! A symbol names its block and all before it, so one key names a whole prefix: the keys are exact, no prefix is
//! claimed that is not held, and a key is dropped when its prefix is evicted. A replica with 400,000 tokens has about
//! 1,700 keys, 13 kB; after the first request only the changes are sent. A Bloom filter would take a third of the
//! bytes, but it has false positives, and single keys can be neither removed from it nor sent as an update.
//!
//! An edge requests the digest of each peer every few seconds and sends the [`Edition`] that it holds. The peer
//! collects the keys again and answers with the changes since that edition, or with all keys when it no longer keeps
//! the changes. An edition also carries an id of its author, so a restarted peer sends all keys. A digest ages: cached
//! tokens found in it are halved every `router.digest_half_life_ms`.
//!
//! A digest contains only keys of paths from requests without a residency fence, see [`Digest::learned`]. Paths from a
//! snapshot, or from requests that must stay in their residency, are never sent.
//!
//! Routers in front of the *same* replicas exchange paths instead: [`crate::sharing`].

use crate::prefix::PrefixIndex;
use crate::{ReplicaSet, Span, Time};
use rustc_hash::{FxHashMap, FxHashSet};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

mod received;
pub use received::{DigestView, ReceivedDigest};

/// Bytes of prompt that a key stands for, and about as many tokens as that is.
pub const KEY_BYTES: usize = 1_024;
/// Prompt tokens that a key stands for: about [`KEY_BYTES`] bytes.
pub const KEY_TOKENS: u32 = 256;
/// Most keys of a digest, 64 MB of prompts: the deepest are left out. A set of so many takes about 1 MB.
pub const MAX_KEYS: usize = 1 << 16;
/// Limit on the keys that may be sent, whether their prefixes are still held or were evicted since the last request.
const MAX_MAY_TELL: usize = 2 * MAX_KEYS;
/// Earlier editions from which changes are known, and the most keys of those changes together.
const MAX_CHANGES: usize = 32;
const MAX_CHANGED_KEYS: usize = 1 << 15;
/// Questions within this time get the same edition, so that many peers cost one walk over the index.
const FRESH: Span = Span(500_000_000);

/// Identifies the state of a digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Edition {
    /// Of one process; another after a restart.
    pub author: u64,
    /// Counts the changes.
    pub number: u64,
}

/// The answer to a request for a digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Update {
    /// What the receiver has afterwards.
    pub edition: Edition,
    /// Number of the edition that is changed; `None`: `added` is the whole digest.
    pub since: Option<u64>,
    /// Symbols between two keys of a path.
    pub every: u32,
    /// How long ago the keys were collected.
    pub age: Span,
    /// Keys that are new.
    pub added: Vec<u64>,
    /// Keys that are gone.
    pub removed: Vec<u64>,
}

impl Update {
    /// Bytes it takes in a message: JSON with the keys in base64.
    pub fn bytes(&self) -> u64 {
        let text = |keys: &[u64]| (8 * keys.len() as u64).div_ceil(3) * 4;
        180 + text(&self.added) + text(&self.removed)
    }
}

/// Keys that one edition has and the one before has not, and the other way round.
#[derive(Debug, Clone, Default)]
struct Change {
    added: Vec<u64>,
    removed: Vec<u64>,
}

impl Change {
    fn len(&self) -> usize {
        self.added.len() + self.removed.len()
    }
}

/// The digest that one router sends to its peers: keys of the prefixes that its own engines hold.
#[derive(Debug, Clone)]
pub struct Digest {
    every: usize,
    may_tell: FxHashSet<u64>,
    keys: FxHashSet<u64>,
    edition: Edition,
    collected: Option<Time>,
    /// The last ones, in order of editions; the last made the present one.
    changes: VecDeque<Change>,
    changed_keys: usize,
    left_out: usize,
}

impl Digest {
    /// A digest with a key at every `every`-th depth, by this author.
    pub fn new(author: u64, every: usize) -> Self {
        Self {
            every: every.max(1),
            may_tell: FxHashSet::default(),
            keys: FxHashSet::default(),
            edition: Edition { author, number: 0 },
            collected: None,
            changes: VecDeque::new(),
            changed_keys: 0,
            left_out: 0,
        }
    }

    /// Number of keys at the last question.
    pub fn keys(&self) -> usize {
        self.keys.len()
    }

    /// Keys that were too many at the last question.
    pub fn left_out(&self) -> usize {
        self.left_out
    }

    /// Marks the keys of a path as allowed in the digest: a request without a fence produced the path at an own engine.
    pub fn learned(&mut self, symbols: &[u64]) {
        let keys = || symbols.chunks_exact(self.every).map(|blocks| blocks[blocks.len() - 1]);
        // A known key implies that all keys above it are known, so only the new end of a path costs time.
        let new = keys().rev().take_while(|key| !self.may_tell.contains(key)).count();
        let room = MAX_MAY_TELL.saturating_sub(self.may_tell.len());
        self.may_tell.extend(keys().skip(symbols.len() / self.every - new).take(room));
    }

    /// Collects what `own` replicas hold by `index`, unless that was done a moment ago.
    pub fn collect(&mut self, now: Time, index: &PrefixIndex<u64>, own: &ReplicaSet) {
        if self.collected.is_some_and(|at| now - at < FRESH) {
            return;
        }
        self.collected = Some(now);
        let mut held: Vec<(usize, u64)> = Vec::with_capacity(self.keys.len());
        index.held(own, |above, edge| {
            for at in ((above / self.every + 1) * self.every..=above + edge.len()).step_by(self.every) {
                let key = edge[at - above - 1];
                if !self.may_tell.contains(&key) {
                    return false;
                }
                held.push((at, key));
            }
            true
        });
        self.may_tell = held.iter().map(|&(_, key)| key).collect();
        self.left_out = held.len().saturating_sub(MAX_KEYS);
        if self.left_out > 0 {
            held.sort_unstable();
            held.truncate(MAX_KEYS);
        }
        self.replace(held.into_iter().map(|(_, key)| key).collect());
    }

    /// Takes these keys for the present ones; another edition if they differ.
    fn replace(&mut self, keys: FxHashSet<u64>) {
        let sorted = |keys: &mut dyn Iterator<Item = &u64>| {
            let mut keys: Vec<u64> = keys.copied().collect();
            keys.sort_unstable();
            keys
        };
        let change = Change {
            added: sorted(&mut keys.difference(&self.keys)),
            removed: sorted(&mut self.keys.difference(&keys)),
        };
        if change.len() == 0 {
            return;
        }
        self.keys = keys;
        self.edition.number += 1;
        self.changed_keys += change.len();
        self.changes.push_back(change);
        while self.changes.len() > MAX_CHANGES || self.changed_keys > MAX_CHANGED_KEYS {
            let Some(oldest) = self.changes.pop_front() else { break };
            self.changed_keys -= oldest.len();
        }
    }

    /// What a peer lacks that has the edition `known`: what changed, or all of it when that is less or the changes are not
    /// known any more.
    pub fn since(&self, now: Time, known: Option<Edition>) -> Update {
        let age = self.collected.map_or(Span::ZERO, |at| now - at);
        let update = Update {
            edition: self.edition,
            since: None,
            every: self.every as u32,
            age,
            added: Vec::new(),
            removed: Vec::new(),
        };
        let behind = known
            .filter(|known| known.author == self.edition.author)
            .and_then(|known| self.edition.number.checked_sub(known.number))
            .filter(|&behind| behind <= self.changes.len() as u64);
        if let (Some(known), Some(behind)) = (known, behind) {
            let Change { added, removed } = net(self.changes.range(self.changes.len() - behind as usize..));
            if added.len() + removed.len() <= self.keys.len() {
                return Update { since: Some(known.number), added, removed, ..update };
            }
        }
        let mut added: Vec<u64> = self.keys.iter().copied().collect();
        added.sort_unstable();
        Update { added, ..update }
    }
}

/// Several changes as one: a key that came and went is in neither list.
fn net<'a>(changes: impl Iterator<Item = &'a Change>) -> Change {
    let mut is_added: FxHashMap<u64, bool> = FxHashMap::default();
    for change in changes {
        let all = change.removed.iter().map(|key| (key, false)).chain(change.added.iter().map(|key| (key, true)));
        for (&key, added) in all {
            // What was there before the first change alternates, so the opposite of it cancels it.
            if is_added.insert(key, added).is_some_and(|before| before != added) {
                is_added.remove(&key);
            }
        }
    }
    let with = |wanted: bool| {
        let mut keys: Vec<u64> = is_added.iter().filter(|(_, added)| **added == wanted).map(|(key, _)| *key).collect();
        keys.sort_unstable();
        keys
    };
    Change { added: with(true), removed: with(false) }
}

#[cfg(test)]
mod tests;
