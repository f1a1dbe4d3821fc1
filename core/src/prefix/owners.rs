//! Owners of a node of the prefix index, and the share of each replica.

use super::{Leaves, Stamp};
use crate::{ReplicaId, ReplicaSet};
use smallvec::SmallVec;

/// A replica that holds a node.
#[derive(Debug, Clone, Copy)]
pub(super) struct Owner {
    pub(super) replica: ReplicaId,
    /// Children of the node that this replica owns too; 0 makes it the replica's leaf.
    pub(super) children: u32,
    pub(super) used: Stamp,
}

/// The replicas that hold a node: a set to test membership, and a list with their state.
#[derive(Debug, Clone, Default)]
pub(super) struct Owners {
    pub(super) set: ReplicaSet,
    pub(super) list: SmallVec<[Owner; 1]>,
}

impl Owners {
    pub(super) fn get(&self, replica: ReplicaId) -> Option<&Owner> {
        if !self.set.contains(replica) {
            return None;
        }
        self.list.iter().find(|o| o.replica == replica)
    }

    pub(super) fn get_mut(&mut self, replica: ReplicaId) -> Option<&mut Owner> {
        if !self.set.contains(replica) {
            return None;
        }
        self.list.iter_mut().find(|o| o.replica == replica)
    }
}

/// The share of one replica in the index.
#[derive(Debug, Clone)]
pub(super) struct Holding {
    pub(super) tokens: u64,
    pub(super) nodes: usize,
    pub(super) budget: u64,
    pub(super) leaves: Leaves,
}
