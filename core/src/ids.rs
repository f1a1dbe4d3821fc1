//! Identifiers of replicas and requests: small integers that index arrays.

use serde::{Deserialize, Serialize};

/// A replica's slot in its router's fleet. A removed replica's slot is reused once nothing refers to that replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ReplicaId(pub u16);

impl ReplicaId {
    /// The slot as an array index.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// A request, unique within one run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RequestId(pub u64);

const WORDS: usize = 4;

/// The most replicas one router can hold: the width of a [`ReplicaSet`].
pub const MAX_REPLICAS: usize = WORDS * 64;

/// A set of replicas as a bitmap, so that the prefix index compares owners in a few instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ReplicaSet([u64; WORDS]);

impl ReplicaSet {
    /// The empty set.
    pub const EMPTY: Self = Self([0; WORDS]);

    /// Adds `id`; true if it was not a member.
    pub fn insert(&mut self, id: ReplicaId) -> bool {
        let (word, bit) = (id.index() / 64, 1u64 << (id.index() % 64));
        let fresh = self.0[word] & bit == 0;
        self.0[word] |= bit;
        fresh
    }

    /// Removes `id`; true if it was a member.
    pub fn remove(&mut self, id: ReplicaId) -> bool {
        let (word, bit) = (id.index() / 64, 1u64 << (id.index() % 64));
        let had = self.0[word] & bit != 0;
        self.0[word] &= !bit;
        had
    }

    /// Whether `id` is a member.
    #[inline]
    pub fn contains(&self, id: ReplicaId) -> bool {
        self.0[id.index() / 64] & (1u64 << (id.index() % 64)) != 0
    }

    /// Whether there is no member.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|&word| word == 0)
    }

    /// Number of members.
    pub fn len(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Members of `self` that are not in `other`.
    #[must_use]
    #[inline]
    pub fn minus(&self, other: &Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i] & !other.0[i]))
    }

    /// Members of either.
    #[must_use]
    pub fn or(&self, other: &Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i] | other.0[i]))
    }

    /// Members of both.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i] & other.0[i]))
    }

    /// Members in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = ReplicaId> + '_ {
        self.0.iter().enumerate().flat_map(|(w, &word)| {
            let mut rest = word;
            std::iter::from_fn(move || {
                if rest == 0 {
                    return None;
                }
                let bit = rest.trailing_zeros() as usize;
                rest &= rest - 1;
                Some(ReplicaId((w * 64 + bit) as u16))
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn set_iterates_in_ascending_order_over_all_words() {
        let mut set = ReplicaSet::EMPTY;
        for id in [200, 3, 64, 63] {
            assert!(set.insert(ReplicaId(id)));
        }
        assert!(!set.insert(ReplicaId(3)));
        assert_eq!(set.iter().map(|r| r.0).collect::<Vec<_>>(), [3, 63, 64, 200]);
        assert!(set.remove(ReplicaId(64)) && !set.contains(ReplicaId(64)));
        assert_eq!(set.len(), 3);
    }
}
