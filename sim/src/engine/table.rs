//! The requests in flight, each in a numbered slot.
//!
//! The other parts of the engine refer to a request by its slot. Slots are reused, so a reference that may outlive
//! its request also keeps the request's `seq`, which is not.

use super::request::Req;
use gorgo_core::RequestId;
use rustc_hash::FxHashMap;
use std::ops::{Index, IndexMut};

/// The requests in flight.
#[derive(Debug, Clone, Default)]
pub(super) struct RequestTable {
    slots: Vec<Option<Req>>,
    vacant: Vec<u32>,
    by_id: FxHashMap<RequestId, u32>,
    inserted: u64,
}

impl RequestTable {
    /// The `seq` that the next request gets: the number of requests inserted so far.
    pub(super) fn next_seq(&self) -> u64 {
        self.inserted
    }

    /// Inserts a request, whose `seq` is [`Self::next_seq`], and returns its slot.
    pub(super) fn insert(&mut self, request: Req) -> u32 {
        self.inserted += 1;
        let slot = self.vacant.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() as u32 - 1
        });
        self.by_id.insert(request.id, slot);
        self.slots[slot as usize] = Some(request);
        slot
    }

    /// Removes the request in `slot`.
    pub(super) fn remove(&mut self, slot: u32) -> Req {
        let request = self.slots[slot as usize].take().expect("a live slot");
        self.by_id.remove(&request.id);
        self.vacant.push(slot);
        request
    }

    /// The request in `slot` if it still is the one numbered `seq`.
    pub(super) fn get(&self, slot: u32, seq: u64) -> Option<&Req> {
        self.slots[slot as usize].as_ref().filter(|r| r.seq == seq)
    }

    /// As [`Self::get`], to change it.
    pub(super) fn get_mut(&mut self, slot: u32, seq: u64) -> Option<&mut Req> {
        self.slots[slot as usize].as_mut().filter(|r| r.seq == seq)
    }

    /// The slot of the request with this id.
    pub(super) fn slot_of(&self, id: RequestId) -> Option<u32> {
        self.by_id.get(&id).copied()
    }

    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    /// All slots in use, in the order in which their requests were inserted.
    pub(super) fn slots_by_seq(&self) -> Vec<u32> {
        let mut slots: Vec<u32> = self.by_id.values().copied().collect();
        slots.sort_unstable_by_key(|&slot| self[slot].seq);
        slots
    }
}

impl Index<u32> for RequestTable {
    type Output = Req;

    fn index(&self, slot: u32) -> &Req {
        self.slots[slot as usize].as_ref().expect("a live slot")
    }
}

impl IndexMut<u32> for RequestTable {
    fn index_mut(&mut self, slot: u32) -> &mut Req {
        self.slots[slot as usize].as_mut().expect("a live slot")
    }
}
