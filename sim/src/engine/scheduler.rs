//! What runs next: SGLang's `get_next_batch_to_run`, decode batches and retraction.

use super::Engine;
use super::request::Place;
use super::steps::{PREFILL, Run, pairs};
use gorgo_core::{Span, Time};
use std::cmp::Reverse;

/// Decode steps that must fit after a retraction.
const RETRACT_DECODE_STEPS: u64 = 20;

/// A step of the GPU, running or about to.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) start: Time,
    pub(super) end: Time,
    pub(super) work: Work,
}

#[derive(Debug)]
pub(super) enum Work {
    Prefill(Batch),
    /// Decode step number `index`.
    Decode {
        index: u64,
        run: Run,
    },
}

/// A prefill batch.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) items: Vec<Item>,
    /// Requests in the running batch when this one was chosen.
    pub(super) running: u32,
    pub(super) new_tokens: u64,
    pub(super) cached_tokens: u64,
}

/// A prompt, or a chunk of one, in a prefill batch.
#[derive(Debug, Clone, Copy)]
pub(super) struct Item {
    pub(super) slot: u32,
    pub(super) seq: u64,
    pub(super) new: u32,
    pub(super) past: u32,
    /// The prompt is complete with it, so it gives a token.
    pub(super) last: bool,
}

/// A request in the running batch. Few bytes, since admission sums over all of them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Member {
    pub(super) slot: u32,
    /// Decode steps processed by when it will have made `max_new_tokens`.
    pub(super) limit_at: u64,
}

impl Engine {
    /// Chooses the step that will start at `start`.
    pub(super) fn choose(&mut self, start: Time) -> Option<Step> {
        if let Some(slot) = self.chunked {
            self.insert_prompt(slot); // the chunk computed last
        }
        self.join_running();
        if let Some(batch) = self.choose_prefill() {
            let pairs = batch.items.iter().map(|i| pairs(i.past, i.new)).sum();
            let mut ms = self.config.prefill.ms(batch.new_tokens, pairs) * self.noise.stretch(PREFILL, self.prefills);
            if std::mem::take(&mut self.cold) {
                ms += self.config.first_step_extra_ms;
            }
            self.prefills += 1;
            self.changed = true;
            return Some(Step { start, end: start + Span::from_ms(ms).max(Span(1)), work: Work::Prefill(batch) });
        }
        self.choose_decode(start)
    }

    /// The prompts of the batch chosen last join the running batch, whether its results are known or not.
    fn join_running(&mut self) {
        if self.joining.is_empty() {
            return;
        }
        if self.running.is_empty() && self.unfiltered == 0 {
            self.latched = false; // the batch takes the place of an empty one, and its flag
        }
        for slot in std::mem::take(&mut self.joining) {
            let (at, launched) = (self.running.len() as u32, self.launched);
            let req = self.req_mut(slot);
            let first = req.generated + u32::from(!req.prefilled);
            req.place = Place::Running(at);
            req.join = launched;
            // One that ends with its first token has no finish time here: the prefill's result ends it.
            req.finish_at = launched + u64::from(req.stop_at.saturating_sub(first));
            let limit_at = launched + u64::from(req.max_new.saturating_sub(first));
            let entry = (req.finish_at, req.seq, slot);
            let (ends_now, context) = (req.stop_at <= first, i64::from(req.fill) + 1 - launched as i64);
            self.context += context;
            if !ends_now {
                self.finishes.push(Reverse(entry));
            }
            self.running.push(Member { slot, limit_at });
        }
        self.changed = true;
    }

    pub(super) fn allocate(&mut self, tokens: u64) {
        if self.free < tokens {
            self.evict(tokens);
        }
        debug_assert!(self.free >= tokens, "admission promised the room");
        self.free -= tokens;
        self.private += tokens;
    }

    fn evict(&mut self, tokens: u64) {
        let freed = self.cache.evict(tokens);
        self.free += freed;
        self.meter.counters.evicted_tokens += freed;
    }

    fn choose_decode(&mut self, start: Time) -> Option<Step> {
        if std::mem::take(&mut self.unfiltered) > 0 || self.running.is_empty() {
            self.latched = false;
        }
        if self.running.is_empty() {
            return None;
        }
        if self.free < self.running.len() as u64 {
            self.evict(self.running.len() as u64);
        }
        if self.free < self.running.len() as u64 {
            self.retract();
        } else {
            self.ratio.1 += 1;
        }
        let rows = self.running.len() as u32;
        let index = self.launched;
        let run = match self.run {
            Some(run) if !self.changed => run,
            _ => {
                let context = (self.context + i64::from(rows) * index as i64) as u64;
                Run::new(&self.config.decode, self.noise, index, start, rows, context)
            }
        };
        (self.run, self.changed) = (Some(run), false);
        self.allocate(u64::from(rows));
        self.launched += 1;
        Some(Step { start, end: run.end(index), work: Work::Decode { index, run } })
    }

    /// Takes KV away from running requests until the next step fits: fewest generated tokens first, of those the
    /// longest prompt, of those the last to join. They go to the back of the queue with their tokens, and the reserve is
    /// set anew from those that stay. The last one always fits, since no admitted sequence is longer than the pool.
    fn retract(&mut self) {
        while self.running.len() > 1 {
            let victim = (0..self.running.len()).min_by_key(|&at| {
                let req = self.req(self.running[at].slot);
                (req.generated_after(self.done), Reverse(req.input), Reverse((req.join, req.seq)))
            });
            let Some(at) = victim else { break };
            let slot = self.running[at].slot;
            let (done, last_decode) = (self.done, self.meter.last_decode);
            let req = self.req_mut(slot);
            let generated = req.generated_after(done);
            if req.prefilled && done > req.join {
                req.last_token = Some(last_decode);
            }
            req.generated = generated;
            req.retractions += 1;
            let node = req.node;
            self.release_private(slot);
            self.leave_running(slot);
            self.req_mut(slot).place = Place::Waiting;
            self.cache.unlock(node, false);
            self.waiting.push_back(slot);
            self.meter.counters.retracted += 1;
            let ahead = RETRACT_DECODE_STEPS * self.running.len() as u64;
            if self.free < ahead {
                self.evict(ahead);
            }
            if self.free >= self.running.len() as u64 {
                break;
            }
        }
        let (mut generated, mut most) = (0u64, 0u64);
        for member in &self.running {
            let req = self.req(member.slot);
            generated += u64::from(req.generated_after(self.done));
            most += u64::from(req.max_new);
        }
        let ahead = RETRACT_DECODE_STEPS * self.running.len() as u64;
        self.ratio = (((generated + ahead) as f64 / (most + 1) as f64).min(1.0), 0);
        self.latched = false;
    }
}
