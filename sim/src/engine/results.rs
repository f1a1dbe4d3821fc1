//! What a finished step changes: tokens leave, prompts and answers enter the tree, finished requests go.

use super::request::Place;
use super::scheduler::Batch;
use super::steps::{Run, mix};
use super::{Engine, EngineError, EngineEvent};
use gorgo_core::{Span, Time};
use std::cmp::Reverse;
use std::sync::Arc;

impl Engine {
    fn output_at(&self, now: Time) -> Time {
        now + Span::from_ms(self.config.output_ms)
    }

    pub(super) fn prefill_done(&mut self, batch: &Batch, now: Time, out: &mut Vec<EngineEvent>) {
        let (at, stream) = (self.output_at(now), self.config.stream_tokens);
        let mut fresh = 0;
        for item in batch.items.iter().filter(|item| item.last) {
            let live = self.reqs[item.slot as usize].as_mut();
            // One that was retracted before its result was known has lost it.
            let Some(req) = live.filter(|r| r.seq == item.seq && r.place != Place::Waiting) else { continue };
            req.generated += 1;
            req.prefilled = true;
            let (id, generated, cached_tokens) = (req.id, req.generated, req.cached.unwrap_or(0));
            if let Some(last) = req.last_token.replace(now) {
                self.meter.gaps.add((now - last).ms(), 1);
            }
            self.meter.counters.generated_tokens += 1;
            if generated == 1 {
                out.push(EngineEvent::FirstToken { id, at, cached_tokens });
            } else if stream {
                out.push(EngineEvent::Token { id, at, generated });
            }
            if generated >= self.req(item.slot).stop_at {
                self.finish(item.slot, generated, now, out);
            } else {
                self.insert_prompt(item.slot);
                fresh += 1;
            }
        }
        if fresh > 0 {
            self.meter.fresh.push((now, fresh));
        }
        let (queued, used) = (self.waiting.len() as u64, self.used());
        self.meter.publish_prefill(now, batch, queued, used);
    }

    pub(super) fn decode_done(&mut self, start: Time, now: Time, run: &Run, out: &mut Vec<EngineEvent>) {
        let index = self.done;
        self.done += 1;
        let emitted = self.running.len() as u64;
        self.meter.decode_gaps(start, now, run.step_ms(index), emitted);
        if self.config.stream_tokens {
            let at = self.output_at(now);
            for member in &self.running {
                let req = self.req(member.slot);
                out.push(EngineEvent::Token { id: req.id, at, generated: req.generated_after(self.done) });
            }
        }
        while let Some(&Reverse((finish_at, seq, slot))) = self.finishes.peek()
            && finish_at <= self.done
        {
            self.finishes.pop();
            if self.is_live(finish_at, seq, slot) {
                let generated = self.req(slot).generated_after(self.done);
                self.finish(slot, generated, now, out);
            }
        }
        if self.done.is_multiple_of(u64::from(self.config.decode_log_interval)) {
            let used = self.used();
            self.meter.publish_decode(now, run.rows, self.queued_at(start), used);
        }
    }

    /// Whether an entry of the finish times still stands: not retracted, cancelled or finished since.
    fn is_live(&self, finish_at: u64, seq: u64, slot: u32) -> bool {
        self.reqs[slot as usize]
            .as_ref()
            .is_some_and(|r| r.seq == seq && r.finish_at == finish_at && matches!(r.place, Place::Running(_)))
    }

    /// Keeps the earliest finish time a true one.
    pub(super) fn drop_stale_finishes(&mut self) {
        while let Some(&Reverse((finish_at, seq, slot))) = self.finishes.peek()
            && !self.is_live(finish_at, seq, slot)
        {
            self.finishes.pop();
        }
    }

    /// Ends a request that made `generated` tokens: its KV stays in the tree, but for the last token's, which was
    /// never needed.
    fn finish(&mut self, slot: u32, generated: u32, now: Time, out: &mut Vec<EngineEvent>) {
        if self.config.radix_cache {
            self.keep_answer(slot, generated);
        }
        self.release_private(slot);
        match self.req(slot).place {
            Place::Running(_) => {
                self.leave_running(slot);
                self.unfiltered += 1; // the scheduler drops it at the next decode it chooses
            }
            _ => {
                self.joining.retain(|&other| other != slot);
                self.latched = false;
            }
        }
        let req = self.forget(slot);
        self.cache.unlock(req.node, true);
        let (id, at) = (req.id, self.output_at(now));
        if req.cancelled {
            self.meter.counters.aborted += 1;
            out.push(EngineEvent::Aborted { id, at, error: EngineError::Cancelled });
        } else {
            let (cached_tokens, retractions) = (req.cached.unwrap_or(0), req.retractions);
            out.push(EngineEvent::Finished { id, at, output_tokens: generated, cached_tokens, retractions });
        }
    }

    /// Inserts the computed part of a prompt: whole blocks of it while chunks are missing, all of it then. Slots that
    /// the tree turns out to have already (a twin was faster) are freed.
    pub(super) fn insert_prompt(&mut self, slot: u32) {
        let req = self.req(slot);
        let whole = req.computed >= req.input;
        let symbols = if whole { req.blocks.len() } else { (req.computed / self.block_tokens) as usize };
        if self.config.radix_cache {
            self.insert_blocks(slot, symbols);
        }
    }

    /// Inserts the prompt up to `symbols` blocks and moves the request's lock there.
    fn insert_blocks(&mut self, slot: u32, symbols: usize) {
        let per = u64::from(self.block_tokens);
        let req = self.reqs[slot as usize].as_mut().expect("a live slot");
        let tokens = |symbols: usize| (symbols as u64 * per).min(u64::from(req.input)) as u32;
        let mut added = 0;
        if symbols > req.symbols {
            let more = tokens(symbols) - tokens(req.symbols);
            let (node, new) = self.cache.extend(req.node, &req.blocks[req.symbols..symbols], more);
            self.cache.lock(req.node, node);
            (req.node, req.symbols, added) = (node, symbols, new);
        }
        let given = (((req.symbols as u64 * per).min(u64::from(req.input.min(req.computed)))) as u32)
            .saturating_sub(req.shared);
        req.shared += given;
        self.private -= u64::from(given);
        self.free += u64::from(given - added);
    }

    /// Inserts what prompt and answer filled: the whole blocks the trace knows, so that the next turn finds them, and
    /// the rest as a leaf that only takes its room.
    fn keep_answer(&mut self, slot: u32, generated: u32) {
        let per = self.block_tokens;
        let req = self.req(slot);
        let committed = req.input + generated - 1;
        let whole = (req.input / per) as usize;
        let known = ((committed / per) as usize - whole).min(req.answer_blocks.len());
        let answer = Arc::clone(&req.answer_blocks);
        let mut rest = generated - 1;
        if known == 0 {
            self.insert_prompt(slot);
        } else {
            self.insert_blocks(slot, whole);
            if self.open_partial_block(slot) {
                let tokens = known as u32 * per;
                let req = self.reqs[slot as usize].as_mut().expect("a live slot");
                let (node, added) = self.cache.extend(req.node, &answer[..known], tokens);
                self.cache.lock(req.node, node);
                (req.node, req.shared) = (node, req.shared + tokens);
                self.private -= u64::from(tokens);
                self.free += u64::from(tokens - added);
                rest = committed - (whole + known) as u32 * per;
            }
        }
        if rest > 0 {
            let req = self.reqs[slot as usize].as_mut().expect("a live slot");
            self.cache.hang(req.node, mix(req.seq.wrapping_add(0x9e37_79b9_7f4a_7c15)), rest);
            req.shared += rest;
            self.private -= u64::from(rest);
        }
    }

    /// Takes the prompt's partial last block back from the tree, to go in again as part of the answer's first whole
    /// block. Where another request holds it, its tokens are needed twice; false if there is no room for that.
    fn open_partial_block(&mut self, slot: u32) -> bool {
        let partial = self.req(slot).input % self.block_tokens;
        let whole = (self.req(slot).input / self.block_tokens) as usize;
        let req = self.reqs[slot as usize].as_mut().expect("a live slot");
        if req.symbols == whole {
            return true;
        }
        let (above, left) = self.cache.drop_last_block(req.node);
        (req.node, req.symbols) = (above, whole);
        let room = left || self.free >= u64::from(partial);
        if room {
            req.shared -= partial;
            self.private += u64::from(partial);
            if !left {
                self.free -= u64::from(partial);
            }
        }
        room
    }

    /// Frees the slots that only this request holds.
    pub(super) fn release_private(&mut self, slot: u32) {
        let launched = self.launched;
        let req = self.req(slot);
        let decoded = if matches!(req.place, Place::Running(_)) { launched - req.join } else { 0 };
        let held = u64::from(req.computed) + decoded - u64::from(req.shared);
        self.private -= held;
        self.free += held;
    }

    pub(super) fn leave_running(&mut self, slot: u32) {
        let req = self.req(slot);
        let Place::Running(at) = req.place else { return };
        self.context -= i64::from(req.fill) + 1 - req.join as i64;
        self.running.swap_remove(at as usize);
        if let Some(moved) = self.running.get(at as usize).map(|member| member.slot) {
            self.req_mut(moved).place = Place::Running(at);
        }
        self.changed = true;
    }

    /// Tokens of the pool that are neither free nor merely cached, which is what the gauges call used.
    pub(super) fn used(&self) -> u64 {
        self.private + self.cache.protected()
    }

    /// Requests in the queue after those ready by `t` were received.
    pub(super) fn queued_at(&self, t: Time) -> u64 {
        (self.waiting.len() + self.inbox.partition_point(|&(ready, _)| ready <= t)) as u64
    }
}
