//! A digest received from a peer, and how its keys match a prompt.

use super::{Edition, MAX_KEYS, Update};
use crate::{Span, Time};
use rustc_hash::FxHashSet;
use serde::{Deserialize, Serialize};

/// The match of one prompt in a peer's digest.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DigestView {
    /// Prompt tokens that the peer's engines are expected to have, after the discount for age.
    pub tokens: u32,
    /// Age of the digest, ms.
    pub age_ms: f64,
}

/// The last digest of a peer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ReceivedDigest {
    edition: Option<Edition>,
    every: usize,
    keys: FxHashSet<u64>,
    made: Time,
}

impl ReceivedDigest {
    /// Its edition, which the next question names; `None` before the first one, and after one that did not fit.
    pub fn edition(&self) -> Option<Edition> {
        self.edition
    }

    /// Number of its keys.
    pub fn keys(&self) -> usize {
        self.keys.len()
    }

    /// How long ago it was made.
    pub fn age(&self, now: Time) -> Span {
        now - self.made
    }

    /// Takes an answer over whose keys were collected at `made`. One that changes another edition than the one known here, or
    /// that exceeds a bound, empties the digest, and the next question asks for all of it: false.
    pub fn take(&mut self, update: &Update, made: Time) -> bool {
        let every = update.every as usize;
        let fits = match update.since {
            None => every > 0,
            Some(number) => self.edition == Some(Edition { number, ..update.edition }) && self.every == every,
        };
        if update.since.is_none() {
            self.keys.clear();
        }
        for key in &update.removed {
            self.keys.remove(key);
        }
        self.keys.extend(&update.added);
        if !fits || self.keys.len() > MAX_KEYS {
            *self = Self::default();
            return false;
        }
        (self.edition, self.every, self.made) = (Some(update.edition), every, made);
        true
    }

    /// The cached prefix, at `now`, of a prompt of `tokens` tokens; `None` without a match.
    #[inline]
    pub fn view(&self, now: Time, symbols: &[u64], tokens: u32, half_life_ms: f64) -> Option<DigestView> {
        if self.keys.is_empty() {
            return None;
        }
        // A digest that contains a key contains all keys above it.
        let (mut low, mut high) = (0, symbols.len() / self.every);
        while low < high {
            let middle = (low + high).div_ceil(2);
            if self.keys.contains(&symbols[middle * self.every - 1]) { low = middle } else { high = middle - 1 }
        }
        if low == 0 {
            return None;
        }
        let age_ms = self.age(now).ms();
        let held = u64::from(tokens) * (low * self.every) as u64 / symbols.len() as u64;
        let left = if half_life_ms > 0.0 { (-age_ms / half_life_ms).exp2() } else { 0.0 };
        Some(DigestView { tokens: (held as f64 * left) as u32, age_ms })
    }
}
