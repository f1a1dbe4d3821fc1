//! vLLM v1's scheduler: one token budget a step for decodes and chunks of prompts.
//!
//! It follows vLLM 0.19 with its defaults. Each step serves the running requests in the order of their admission, one
//! token for those that decode and a chunk for the one whose prompt is not done, then admits waiting requests first come
//! first served, until `max_num_batched_tokens` are spent. A request without room for its next token preempts the
//! request admitted last (perhaps itself), which loses its KV and goes to the front of the queue; in that step no request
//! is admitted. Blocks of a prompt are cached when they are scheduled, so equal prompts of one step share them.
//!
//! With `overlap` (vLLM's `async_scheduling`) a step is chosen while the one before runs, as SGLang's are. A request
//! that reaches its `max_tokens` is known to end; one that ends by itself takes part in one more step.
//!
//! Unlike SGLang's decode steps, vLLM's are simulated one by one (see `jump`): each takes time linear in the number of
//! running requests.

use super::blocks::{BLOCK_TOKENS, BlockPool};
use super::pipeline::{Item, Step, Work};
use super::request::{Place, Req};
use super::steps::{MIXED, mix, pairs};
use super::{Engine, EngineError, EngineEvent};
use gorgo_core::{Span, Time};

/// State of the scheduler.
#[derive(Debug, Clone, Default)]
pub(super) struct Vllm {
    /// Running requests in the order of their admission.
    running: Vec<u32>,
    pub(super) pool: BlockPool,
    /// Steps chosen so far.
    steps: u64,
}

impl Vllm {
    /// An idle scheduler over blocks of `tokens` together.
    pub(super) fn new(tokens: u32) -> Self {
        Self { pool: BlockPool::new(tokens / BLOCK_TOKENS), ..Self::default() }
    }

    pub(super) fn running(&self) -> &[u32] {
        &self.running
    }

    /// Tokens in blocks that a request holds, in free blocks that are still cached, and in free blocks that are not.
    pub(super) fn tokens(&self) -> [u64; 3] {
        let cached = self.pool.free_cached();
        [self.pool.used(), cached, self.pool.free() - cached].map(|blocks| u64::from(blocks) * u64::from(BLOCK_TOKENS))
    }

    /// Blocks that `req` needs beyond those it holds for its first `tokens` tokens.
    fn blocks_for(req: &Req, tokens: u32) -> u32 {
        tokens.div_ceil(BLOCK_TOKENS).saturating_sub(req.held.len() as u32)
    }
}

/// Tokens that a request has to compute, those included that steps in progress generate.
fn known(req: &Req) -> u32 {
    req.input + req.generated + req.in_flight
}

/// Content of block `index` of a request whose trace has blocks of `per` tokens: equal for equal prefixes. A block of
/// generated tokens that the trace does not know can only be found by the request itself, after a preemption.
fn key(req: &Req, per: u32, index: u32, finished: bool) -> u64 {
    let last = index * BLOCK_TOKENS + BLOCK_TOKENS - 1;
    let (block, offset) = ((last / per) as usize, u64::from(last % per));
    let whole = (req.input / per) as usize;
    let of_answer = || block.checked_sub(whole).and_then(|at| req.answer_blocks.get(at));
    let id = if last < req.input && (block < whole || !finished) {
        req.blocks.get(block)
    } else {
        of_answer().or_else(|| req.blocks.get(block).filter(|_| last < req.input))
    };
    id.map_or_else(|| mix(mix(req.seq ^ 0x7661_6c6c_6d00) ^ u64::from(index)), |&id| mix(id ^ mix(offset + 1)))
}

impl Engine {
    /// Chooses the step that will start at `start`: `Scheduler.schedule` of vLLM.
    pub(super) fn choose_mixed(&mut self, start: Time) -> Option<Step> {
        let mut budget = self.config.max_num_batched_tokens;
        let mut items = Vec::with_capacity(self.vllm.running.len() + 1);
        let mut preempted = false;
        let mut at = 0;
        while let Some(&slot) = self.vllm.running.get(at).filter(|_| budget > 0) {
            let req = &self.requests[slot];
            if req.generated + req.in_flight >= req.max_new {
                at += 1; // its last token is being computed
                continue;
            }
            let new = (known(req) - req.computed).min(budget);
            if !self.make_room_by_preemption(slot, new, &mut preempted) {
                break;
            }
            items.push(self.schedule(slot, new));
            budget -= new;
            at += 1;
        }
        while !preempted && budget > 0 && self.vllm.running.len() < self.config.max_running_requests as usize {
            let Some(&slot) = self.waiting.front() else { break };
            let Some(new) = self.admit_to_blocks(slot, budget) else { break };
            self.waiting.pop_front();
            self.vllm.running.push(slot);
            items.push(self.schedule(slot, new));
            budget -= new;
        }
        if items.is_empty() {
            return None;
        }
        let mut ms = self.mixed_ms(&items) * self.noise.stretch(MIXED, self.vllm.steps);
        if items.iter().any(|item| !item.decode) {
            ms += self.cold_extra_ms(start);
        }
        self.vllm.steps += 1;
        Some(Step { start, end: start + Span::from_ms(ms).max(Span(1)), work: Work::Mixed(items) })
    }

    /// Time of a step, ms. A step of decodes alone is a decode step; otherwise all tokens share the linear layers.
    fn mixed_ms(&self, items: &[Item]) -> f64 {
        let (mut tokens, mut pairs_, mut rows, mut context) = (0u64, 0.0, 0u32, 0u64);
        for item in items {
            if item.decode {
                (rows, context) = (rows + 1, context + u64::from(item.past) + 1);
            } else {
                (tokens, pairs_) = (tokens + u64::from(item.new), pairs_ + pairs(item.past, item.new));
            }
        }
        let decode = &self.config.decode;
        if tokens == 0 {
            return decode.ms(rows, context);
        }
        let shared = self.config.prefill.ms(tokens + u64::from(rows), pairs_);
        shared + decode.ms_per_row * f64::from(rows) + decode.ms_per_context_token * context as f64
    }

    /// Makes room for `new` tokens of a running request, preempting the request admitted last as often as needed. False
    /// if that was the request itself.
    fn make_room_by_preemption(&mut self, slot: u32, new: u32, preempted: &mut bool) -> bool {
        loop {
            let req = &self.requests[slot];
            if Vllm::blocks_for(req, req.computed + new) <= self.vllm.pool.free() {
                return true;
            }
            let Some(victim) = self.vllm.running.pop() else { return false };
            self.preempt(victim);
            *preempted = true;
            if victim == slot {
                return false;
            }
        }
    }

    /// A running request loses its KV and waits first in the queue. A token that is being computed for it still counts.
    fn preempt(&mut self, slot: u32) {
        self.release_blocks(slot);
        let req = &mut self.requests[slot];
        (req.place, req.prefilled, req.computed, req.symbols) = (Place::Waiting, false, 0, 0);
        req.retractions += 1;
        self.waiting.push_front(slot);
        self.meter.counters.retracted += 1;
    }

    /// Releases the blocks of a request, the last one first.
    fn release_blocks(&mut self, slot: u32) {
        let held = std::mem::take(&mut self.requests[slot].held);
        held.iter().rev().for_each(|&block| self.vllm.pool.release(block));
    }

    /// Admits the first waiting request if its prompt fits (its first chunk, without `reserve_full_prompt`): holds the
    /// cached blocks of its prefix and returns the tokens to compute in this step.
    fn admit_to_blocks(&mut self, slot: u32, budget: u32) -> Option<u32> {
        let per = self.pool.block_tokens();
        let req = &self.requests[slot];
        let total = known(req);
        // The last token is always computed, because its logits are needed.
        let most = if self.config.radix_cache { (total - 1) / BLOCK_TOKENS } else { 0 };
        let mut hits: Vec<(u32, bool)> = Vec::new();
        while let Some(hit) = Some(hits.len() as u32).filter(|&n| n < most) {
            let Some(found) = self.vllm.pool.find(key(req, per, hit, false)) else { break };
            hits.push(found);
        }
        let past = hits.len() as u32 * BLOCK_TOKENS;
        let past = past - past % self.config.resume_tokens.next_multiple_of(BLOCK_TOKENS);
        hits.truncate((past / BLOCK_TOKENS) as usize);
        let new = (total - past).min(budget);
        let fits = if self.config.reserve_full_prompt { total } else { past + new };
        let needed = fits.div_ceil(BLOCK_TOKENS) - hits.len() as u32;
        let freed = hits.iter().filter(|&&(_, free)| free).count() as u32;
        if needed + freed > self.vllm.pool.free() {
            return None;
        }
        hits.iter().for_each(|&(block, _)| self.vllm.pool.hold(block));
        let req = &mut self.requests[slot];
        req.held = hits.into_iter().map(|(block, _)| block).collect();
        (req.computed, req.symbols, req.place) = (past, req.held.len(), Place::Running(0));
        let (prompt, past_of_prompt) = (u64::from(req.input), past.min(req.input));
        if req.cached.is_none() {
            req.cached = Some(past_of_prompt);
            self.meter.counters.cached_tokens += u64::from(past_of_prompt);
            self.meter.counters.prompt_tokens += prompt;
        }
        Some(new)
    }

    /// Puts `new` tokens of a request, for which there is room, into the step.
    fn schedule(&mut self, slot: u32, new: u32) -> Item {
        let (req, pool) = (&mut self.requests[slot], &mut self.vllm.pool);
        for _ in 0..Vllm::blocks_for(req, req.computed + new) {
            let (block, was_cached) = pool.take().expect("the caller made room");
            req.held.push(block);
            self.meter.counters.evicted_tokens += u64::from(was_cached) * u64::from(BLOCK_TOKENS);
        }
        let past = req.computed;
        req.computed += new;
        let last = req.computed == known(req);
        req.in_flight += u32::from(last);
        self.cache_full_blocks(slot, false);
        let req = &self.requests[slot];
        let decode = past >= req.input && new == 1;
        self.meter.counters.computed_tokens += u64::from(new) * u64::from(!decode);
        Item { slot, seq: req.seq, new, past, last, decode }
    }

    /// Caches the full blocks of tokens whose values are known.
    fn cache_full_blocks(&mut self, slot: u32, finished: bool) {
        if !self.config.radix_cache {
            return;
        }
        let per = self.pool.block_tokens();
        let req = &mut self.requests[slot];
        let full = (req.computed.min(req.input + req.generated) / BLOCK_TOKENS) as usize;
        // Once the answer is known, the prompt's last partial block of the trace is part of a whole one.
        let from =
            if finished { req.symbols.min((req.input / per * per / BLOCK_TOKENS) as usize) } else { req.symbols };
        let logs = self.vllm.pool.log.is_on() && from < full;
        let mut parent = from.checked_sub(1).filter(|_| logs).map(|before| key(req, per, before as u32, finished));
        for index in from..full.min(req.held.len()) {
            let content = key(req, per, index as u32, finished);
            self.vllm.pool.set_key(req.held[index], content, parent, req.id);
            parent = Some(content);
        }
        req.symbols = full.max(req.symbols);
    }

    /// Processes the results of a step.
    pub(super) fn mixed_done(&mut self, items: &[Item], now: Time, out: &mut Vec<EngineEvent>) {
        let (at, stream) = (self.output_at(now), self.config.stream_tokens);
        for item in items.iter().filter(|item| item.last) {
            let Some(req) = self.requests.get_mut(item.slot, item.seq) else { continue };
            req.in_flight -= 1;
            req.generated += 1;
            req.prefilled = req.place != Place::Waiting;
            let (id, generated, cached_tokens) = (req.id, req.generated, req.cached.unwrap_or(0));
            if let Some(last) = req.last_token.replace(now) {
                self.meter.gaps.add((now - last).ms(), 1);
            }
            self.meter.decoded(now, 1);
            if generated == 1 {
                out.push(EngineEvent::FirstToken { id, at, cached_tokens });
            } else if stream {
                out.push(EngineEvent::Token { id, at, generated });
            }
            if generated >= self.requests[item.slot].stop_at {
                self.finish_blocks(item.slot, now, out);
            }
        }
        let (running, queued) = (self.vllm.running.len() as u32, self.waiting.len() as u64);
        let used = self.vllm.tokens()[0];
        self.meter.publish(now, running, queued, used);
    }

    /// Takes a request out of the running ones, or out of the queue.
    fn leave(&mut self, slot: u32) -> Req {
        match self.requests[slot].place {
            Place::Waiting => self.waiting.retain(|&other| other != slot),
            _ => self.vllm.running.retain(|&other| other != slot),
        }
        self.release_blocks(slot);
        self.requests.remove(slot)
    }

    fn finish_blocks(&mut self, slot: u32, now: Time, out: &mut Vec<EngineEvent>) {
        self.cache_full_blocks(slot, true);
        let req = self.leave(slot);
        out.push(EngineEvent::Finished {
            id: req.id,
            at: self.output_at(now),
            output_tokens: req.generated,
            cached_tokens: req.cached.unwrap_or(0),
            retractions: req.retractions,
        });
    }

    /// Ends a cancelled request at once; a step in progress goes on without it.
    pub(super) fn cancel_blocks(&mut self, slot: u32, now: Time, out: &mut Vec<EngineEvent>) {
        let req = self.leave(slot);
        self.meter.counters.aborted += 1;
        out.push(EngineEvent::Aborted { id: req.id, at: now, error: EngineError::Cancelled });
    }
}
