//! Results of a finished step: tokens are reported, prompts and answers enter the radix cache, requests finish.

use super::pipeline::Batch;
use super::request::Place;
use super::steps::{Run, mix};
use super::{Engine, EngineError, EngineEvent};
use gorgo_core::{Span, Time};
use std::sync::Arc;

impl Engine {
    pub(super) fn output_at(&self, now: Time) -> Time {
        now + Span::from_ms(self.config.output_ms)
    }

    pub(super) fn prefill_done(&mut self, batch: &Batch, now: Time, out: &mut Vec<EngineEvent>) {
        let (at, stream) = (self.output_at(now), self.config.stream_tokens);
        let mut fresh = 0;
        for item in batch.items.iter().filter(|item| item.last) {
            let req = self.requests.get_mut(item.slot, item.seq);
            // A request that was retracted before its result was known has lost the token.
            let Some(req) = req.filter(|r| r.place != Place::Waiting) else { continue };
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
            if generated >= self.requests[item.slot].stop_at {
                self.finish(item.slot, generated, now, out);
            } else {
                self.insert_prompt(item.slot);
                fresh += 1;
            }
        }
        if fresh > 0 {
            self.meter.fresh.push((now, fresh));
        }
        let (queued, used) = (self.waiting.len() as u64, self.pool.used());
        self.meter.publish_prefill(now, batch, queued, used);
    }

    pub(super) fn decode_done(&mut self, start: Time, now: Time, run: &Run, out: &mut Vec<EngineEvent>) {
        let index = self.pipeline.done;
        self.pipeline.done += 1;
        let done = self.pipeline.done;
        self.meter.decode_gaps(start, now, run.step_ms(index), self.batch.len() as u64);
        if self.config.stream_tokens {
            let at = self.output_at(now);
            for member in self.batch.members() {
                let req = &self.requests[member.slot];
                out.push(EngineEvent::Token { id: req.id, at, generated: req.generated_after(done) });
            }
        }
        while let Some(slot) = self.batch.pop_finished(&self.requests, done) {
            let generated = self.requests[slot].generated_after(done);
            self.finish(slot, generated, now, out);
        }
        if done.is_multiple_of(u64::from(self.config.decode_log_interval)) {
            self.meter.publish_decode(now, run.rows, self.queued_at(start), self.pool.used());
        }
    }

    /// Finishes a request that generated `generated` tokens. Its KV stays in the tree, except for the last token,
    /// whose KV was never computed.
    fn finish(&mut self, slot: u32, generated: u32, now: Time, out: &mut Vec<EngineEvent>) {
        if self.config.radix_cache {
            self.keep_answer(slot, generated);
        }
        self.release_private(slot);
        self.batch.remove_finished(&mut self.requests, slot);
        let req = self.requests.remove(slot);
        self.pool.cache.unlock(req.node, true);
        let (id, at) = (req.id, self.output_at(now));
        if req.cancelled {
            self.meter.counters.aborted += 1;
            out.push(EngineEvent::Aborted { id, at, error: EngineError::Cancelled });
        } else {
            let (cached_tokens, retractions) = (req.cached.unwrap_or(0), req.retractions);
            out.push(EngineEvent::Finished { id, at, output_tokens: generated, cached_tokens, retractions });
        }
    }

    /// Inserts the computed part of a prompt into the tree: its whole blocks while chunks are missing, then all of it.
    /// Slots of tokens that the tree already holds (an equal prompt was faster) are freed.
    pub(super) fn insert_prompt(&mut self, slot: u32) {
        let req = &self.requests[slot];
        let whole = req.computed >= req.input;
        let symbols = if whole { req.blocks.len() } else { (req.computed / self.pool.block_tokens()) as usize };
        if self.config.radix_cache {
            self.insert_blocks(slot, symbols);
        }
    }

    /// Inserts the prompt up to `symbols` blocks and extends the request's lock to their end.
    fn insert_blocks(&mut self, slot: u32, symbols: usize) {
        let per = u64::from(self.pool.block_tokens());
        let req = &mut self.requests[slot];
        let tokens = |symbols: usize| (symbols as u64 * per).min(u64::from(req.input)) as u32;
        let mut added = 0;
        if symbols > req.symbols {
            let more = tokens(symbols) - tokens(req.symbols);
            let (node, new) = self.pool.cache.extend(req.node, &req.blocks[req.symbols..symbols], more);
            self.pool.cache.lock(req.node, node);
            (req.node, req.symbols, added) = (node, symbols, new);
        }
        let given = (((req.symbols as u64 * per).min(u64::from(req.input.min(req.computed)))) as u32)
            .saturating_sub(req.shared);
        req.shared += given;
        self.pool.move_to_cache(given, added);
    }

    /// Inserts the KV of prompt and answer: the whole blocks whose ids the trace knows, so that the next turn finds
    /// them, and the rest as a leaf that only occupies its slots.
    fn keep_answer(&mut self, slot: u32, generated: u32) {
        let per = self.pool.block_tokens();
        let req = &self.requests[slot];
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
                let req = &mut self.requests[slot];
                let (node, added) = self.pool.cache.extend(req.node, &answer[..known], tokens);
                self.pool.cache.lock(req.node, node);
                (req.node, req.shared) = (node, req.shared + tokens);
                self.pool.move_to_cache(tokens, added);
                rest = committed - (whole + known) as u32 * per;
            }
        }
        if rest > 0 {
            let req = &mut self.requests[slot];
            self.pool.cache.add_unmatchable(req.node, mix(req.seq.wrapping_add(0x9e37_79b9_7f4a_7c15)), rest);
            req.shared += rest;
            self.pool.move_to_cache(rest, rest);
        }
    }

    /// Takes the prompt's partial last block out of the tree, so that it can be inserted as part of the answer's first
    /// whole block. If another request holds the block, its tokens are needed twice; false if there is no room.
    fn open_partial_block(&mut self, slot: u32) -> bool {
        let per = self.pool.block_tokens();
        let req = &mut self.requests[slot];
        let (partial, whole) = (req.input % per, (req.input / per) as usize);
        if req.symbols == whole {
            return true;
        }
        let (above, room) = self.pool.reopen_last_block(req.node, partial);
        (req.node, req.symbols) = (above, whole);
        if room {
            req.shared -= partial;
        }
        room
    }

    /// Frees the private slots of a request.
    pub(super) fn release_private(&mut self, slot: u32) {
        let launched = self.pipeline.launched;
        let req = &self.requests[slot];
        let decoded = if matches!(req.place, Place::Running(_)) { launched - req.join } else { 0 };
        let held = u64::from(req.computed) + decoded - u64::from(req.shared);
        self.pool.release(held);
    }

    /// Length of the waiting queue once the requests ready by `t` are received.
    pub(super) fn queued_at(&self, t: Time) -> u64 {
        (self.waiting.len() + self.inbox.partition_point(|&(ready, _)| ready <= t)) as u64
    }
}
