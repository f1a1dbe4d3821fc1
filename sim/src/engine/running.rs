//! The running batch: the requests that decode together, and when each of them finishes.
//!
//! Invariants, which [`RunningBatch::debug_check`] asserts in tests and debug builds: a request is a member exactly
//! if its place is [`Place::Running`] with the member's position, and `context` is the sum over the members of their
//! context at join less the decode steps launched before.

use super::request::{Place, Req};
use super::steps::{DecodeTimes, Noise, Run};
use super::table::RequestTable;
use gorgo_core::Time;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// A request of the running batch. Few bytes, because admission sums over all of them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Member {
    pub(super) slot: u32,
    /// Number of processed decode steps after which the request has generated `max_new_tokens`.
    limit_at: u64,
}

/// When a request finishes. Ordered by time; an entry is stale once its request was retracted, cancelled or finished
/// otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Finish {
    /// Number of processed decode steps at the finish.
    at: u64,
    seq: u64,
    slot: u32,
}

/// The running batch.
#[derive(Debug, Clone, Default)]
pub(super) struct RunningBatch {
    members: Vec<Member>,
    /// Finished requests that the scheduler has not dropped from the batch yet.
    unfiltered: u32,
    /// Requests of the prefill batch chosen last; they join at the next choice.
    joining: Vec<u32>,
    /// SGLang's `batch_is_full`: admission failed, and is not tried again until a request leaves the batch.
    pub(super) full: bool,
    finishes: BinaryHeap<Reverse<Finish>>,
    /// Context of all members at decode step 0: at decode step `i` it is larger by `i` for each member.
    context: i64,
    /// The latest run of decode steps.
    run: Option<Run>,
    /// The batch is not the one that run was made for, or another step came in between.
    changed: bool,
}

impl RunningBatch {
    pub(super) fn members(&self) -> &[Member] {
        &self.members
    }

    pub(super) fn len(&self) -> usize {
        self.members.len()
    }

    /// Places taken of `max_running_requests`: members, and finished requests not dropped yet.
    pub(super) fn places_taken(&self) -> u32 {
        self.members.len() as u32 + self.unfiltered
    }

    /// Whether the next decode step runs over the same batch as the last one.
    pub(super) fn is_settled(&self) -> bool {
        !self.changed && self.unfiltered == 0 && self.joining.is_empty()
    }

    /// Output tokens that the members may still generate after `done` decode steps, at most `clip` for each.
    pub(super) fn remaining_output(&self, done: u64, clip: u64) -> u64 {
        self.members.iter().map(|m| m.limit_at.saturating_sub(done).min(clip)).sum()
    }

    /// The request in `slot` completes its prompt in the prefill batch just chosen.
    pub(super) fn join_later(&mut self, slot: u32) {
        self.joining.push(slot);
    }

    /// Whether requests wait for [`Self::join`].
    pub(super) fn has_joining(&self) -> bool {
        !self.joining.is_empty()
    }

    /// A step of other work comes between two decode steps, so the next one begins a new run.
    pub(super) fn end_run(&mut self) {
        self.changed = true;
    }

    /// Adds the requests of the prefill batch chosen last, whether its results are known or not. `launched` decode
    /// steps were chosen before.
    pub(super) fn join(&mut self, requests: &mut RequestTable, launched: u64) {
        if self.places_taken() == 0 {
            self.full = false; // the batch takes the place of an empty one, and its flag
        }
        for slot in std::mem::take(&mut self.joining) {
            let req = &mut requests[slot];
            let first = req.generated + u32::from(!req.prefilled);
            req.place = Place::Running(self.members.len() as u32);
            req.join = launched;
            req.finish_at = launched + u64::from(req.stop_at.saturating_sub(first));
            // A request that ends with its first token is finished by the result of its prefill.
            if req.stop_at > first {
                self.finishes.push(Reverse(Finish { at: req.finish_at, seq: req.seq, slot }));
            }
            self.context += context_at_step_0(req);
            let limit_at = launched + u64::from(req.max_new.saturating_sub(first));
            self.members.push(Member { slot, limit_at });
        }
        self.changed = true;
    }

    /// Takes a request out of the batch; its place is the caller's to set.
    pub(super) fn remove(&mut self, requests: &mut RequestTable, slot: u32) {
        let req = &requests[slot];
        let Place::Running(at) = req.place else { return };
        self.context -= context_at_step_0(req);
        self.members.swap_remove(at as usize);
        if let Some(moved) = self.members.get(at as usize) {
            requests[moved.slot].place = Place::Running(at);
        }
        self.changed = true;
    }

    /// Takes a finished request out of the batch, or out of those that would join it.
    pub(super) fn remove_finished(&mut self, requests: &mut RequestTable, slot: u32) {
        if matches!(requests[slot].place, Place::Running(_)) {
            self.remove(requests, slot);
            self.unfiltered += 1; // the scheduler drops it at the next decode step it chooses
        } else {
            self.joining.retain(|&other| other != slot);
            self.full = false;
        }
    }

    /// Drops the finished requests for good, as SGLang does before each decode step. If there were any, or the batch
    /// is empty, admission is tried again.
    pub(super) fn drop_finished(&mut self) {
        if std::mem::take(&mut self.unfiltered) > 0 || self.members.is_empty() {
            self.full = false;
        }
    }

    /// The run that decode step `index` belongs to: the latest one, or a new one that begins at `start`.
    #[inline]
    pub(super) fn decode_run(&mut self, times: &DecodeTimes, noise: Noise, index: u64, start: Time) -> Run {
        let run = match self.run {
            Some(run) if !self.changed => run,
            _ => {
                let rows = self.members.len() as u32;
                let context = (self.context + i64::from(rows) * index as i64) as u64;
                Run::new(times, noise, index, start, rows, context)
            }
        };
        (self.run, self.changed) = (Some(run), false);
        run
    }

    /// The request in `slot` finishes after `at` decode steps, earlier than planned.
    pub(super) fn finish_early(&mut self, requests: &mut RequestTable, slot: u32, at: u64) {
        let req = &mut requests[slot];
        req.finish_at = at;
        self.finishes.push(Reverse(Finish { at, seq: req.seq, slot }));
    }

    /// Removes from the schedule and returns the next request that has finished after `done` decode steps.
    pub(super) fn pop_finished(&mut self, requests: &RequestTable, done: u64) -> Option<u32> {
        while let Some(&Reverse(finish)) = self.finishes.peek().filter(|Reverse(f)| f.at <= done) {
            self.finishes.pop();
            if is_current(&finish, requests) {
                return Some(finish.slot);
            }
        }
        None
    }

    /// Number of processed decode steps at the earliest finish; `None` if no member will finish. True only after
    /// [`Self::drop_stale_finishes`].
    pub(super) fn next_finish(&self) -> Option<u64> {
        self.finishes.peek().map(|Reverse(finish)| finish.at)
    }

    /// Makes [`Self::next_finish`] the finish of a member.
    pub(super) fn drop_stale_finishes(&mut self, requests: &RequestTable) {
        while self.finishes.peek().is_some_and(|Reverse(finish)| !is_current(finish, requests)) {
            self.finishes.pop();
        }
    }

    /// Drops everything: the process died.
    pub(super) fn clear(&mut self) {
        *self = Self { changed: true, ..Self::default() };
    }

    /// Asserts the invariants of the module page, in debug builds.
    pub(super) fn debug_check(&self, requests: &RequestTable) {
        if cfg!(debug_assertions) {
            let mut context = 0;
            for (at, member) in self.members.iter().enumerate() {
                let req = &requests[member.slot];
                assert_eq!(req.place, Place::Running(at as u32), "a member knows its position");
                context += context_at_step_0(req);
            }
            assert_eq!(self.context, context, "the sum of contexts follows the members");
        }
    }
}

/// Context of a running request less the decode steps launched before it joined.
fn context_at_step_0(req: &Req) -> i64 {
    i64::from(req.fill) + 1 - req.join as i64
}

fn is_current(finish: &Finish, requests: &RequestTable) -> bool {
    requests
        .get(finish.slot, finish.seq)
        .is_some_and(|r| r.finish_at == finish.at && matches!(r.place, Place::Running(_)))
}
