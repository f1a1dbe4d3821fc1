//! Admission to the next prefill batch: worst-case reservation, the batch-full flag, and chunked prompts.

use super::Engine;
use super::pipeline::{Batch, Item};
use super::request::Place;
use gorgo_core::radix::ROOT;
use std::sync::Arc;

/// Most tokens of output that admission reserves for one request, whatever its `max_tokens`.
const CLIP_MAX_NEW_TOKENS: u32 = 4096;

/// What a prefill batch may still admit.
struct Budget {
    /// Tokens reserved for running requests and for those admitted so far.
    offset: f64,
    input: i64,
    chunk: i64,
}

enum Answer {
    Continue,
    NoToken,
    Other,
}

impl Engine {
    pub(super) fn choose_prefill(&mut self) -> Option<Batch> {
        if self.chunked.is_none() && (self.batch.full || self.waiting.is_empty()) {
            return None;
        }
        let running = self.batch.places_taken();
        let slots = self.config.max_running_requests.saturating_sub(running) as usize;
        if slots == 0 && self.chunked.is_none() {
            self.batch.full = true;
            return None;
        }
        let mut budget = Budget {
            offset: self.batch.remaining_output(self.pipeline.done, u64::from(CLIP_MAX_NEW_TOKENS)) as f64
                * self.new_token_ratio(),
            input: i64::from(self.config.max_prefill_tokens),
            chunk: match self.config.chunked_prefill_size {
                0 => i64::MAX / 2,
                size => i64::from(size),
            },
        };
        let mut items = Vec::new();
        if let Some(slot) = self.chunked.take() {
            self.continue_chunked(slot, &mut budget, &mut items);
        }
        while let Some(&slot) = self.waiting.front() {
            if items.len() >= slots {
                self.batch.full = true;
                break;
            }
            let before = items.len();
            let answer = self.admit(slot, &mut budget, &mut items);
            if items.len() > before {
                self.waiting.pop_front();
            }
            match answer {
                Answer::Continue => {}
                Answer::NoToken => {
                    self.batch.full = true;
                    break;
                }
                Answer::Other => break,
            }
        }
        if items.is_empty() {
            return None;
        }
        let new_tokens = items.iter().map(|item| u64::from(item.new)).sum();
        self.allocate(new_tokens);
        let cached_tokens = items.iter().map(|item| u64::from(item.past)).sum();
        items.iter().filter(|item| item.last).for_each(|item| self.batch.join_later(item.slot));
        self.meter.counters.computed_tokens += new_tokens;
        Some(Batch { items, running, new_tokens, cached_tokens })
    }

    /// Share of the remaining output that is reserved. It falls with every decode step that found room.
    pub(super) fn new_token_ratio(&self) -> f64 {
        let (init, least) = self.config.ratio_bounds();
        let decay = (init - least) / f64::from(self.config.new_token_ratio_decay_steps);
        let (value, steps) = self.ratio;
        if steps == 0 { value } else { (value - decay * steps as f64).max(least) }
    }

    pub(super) fn reset_ratio(&mut self) {
        self.ratio = (self.config.ratio_bounds().0, 0);
    }

    fn available(&self) -> f64 {
        self.pool.available() as f64
    }

    /// Puts the rest of a chunked prompt, or as much of it as fits, first into the batch.
    fn continue_chunked(&mut self, slot: u32, budget: &mut Budget, items: &mut Vec<Item>) {
        let room = (self.available() - budget.offset) as i64;
        let most = if room > 0 { budget.chunk.min(room) } else { budget.chunk };
        let req = &self.requests[slot];
        let rest = req.fill - req.computed;
        let new = i64::from(rest).min(most) as u32;
        let reserve = if new < rest { 0 } else { req.max_new.min(CLIP_MAX_NEW_TOKENS) };
        self.take(slot, new, reserve, budget, items);
    }

    /// SGLang's `PrefillAdder.add_one_req`: match now, reserve for the worst case, cut at the chunk budget.
    fn admit(&mut self, slot: u32, budget: &mut Budget, items: &mut Vec<Item>) -> Answer {
        let req = &self.requests[slot];
        let (fill, reserve) = (req.input + req.generated, req.max_new.min(CLIP_MAX_NEW_TOKENS));
        let needed = (req.max_new - req.generated).min(CLIP_MAX_NEW_TOKENS);
        let blocks = Arc::clone(&req.blocks);
        // The last token is always computed, because its logits are needed.
        let (node, symbols, tokens) =
            if self.config.radix_cache { self.pool.cache.find(&blocks) } else { (ROOT, 0, 0) };
        let past = tokens.min(fill - 1);
        let past = past - past % self.config.resume_tokens;
        let extend = fill - past;
        let total = f64::from(extend) + f64::from(needed);
        if total >= self.available() - budget.offset {
            return Answer::NoToken;
        }
        if i64::from(extend) >= budget.input && !items.is_empty() {
            return Answer::Other;
        }
        self.pool.cache.lock(ROOT, node);
        // Locking made the matched tokens unavailable.
        let fits = total < self.available() - budget.offset;
        if !fits || budget.chunk <= 0 {
            self.pool.cache.unlock(node, false);
            return if fits { Answer::Other } else { Answer::NoToken };
        }
        let req = &mut self.requests[slot];
        (req.fill, req.computed, req.shared, req.node, req.symbols) = (fill, past, past, node, symbols);
        (req.place, req.prefilled) = (Place::Prefill, false);
        let prompt = u64::from(req.input);
        if req.cached.is_none() {
            req.cached = Some(past);
            self.meter.counters.cached_tokens += u64::from(past);
            self.meter.counters.prompt_tokens += prompt;
        }
        let new = i64::from(extend).min(budget.chunk) as u32;
        self.take(slot, new, if new < extend { 0 } else { reserve }, budget, items);
        if self.available() - budget.offset <= 0.0 {
            Answer::NoToken
        } else if budget.input <= 0 || budget.chunk <= 0 {
            Answer::Other
        } else {
            Answer::Continue
        }
    }

    fn take(&mut self, slot: u32, new: u32, reserve: u32, budget: &mut Budget, items: &mut Vec<Item>) {
        budget.offset += f64::from(new) + f64::from(reserve) + 1.0; // a page more, and pages hold one token
        budget.input -= i64::from(new);
        budget.chunk -= i64::from(new);
        let req = &mut self.requests[slot];
        let past = req.computed;
        req.computed += new;
        let (seq, last) = (req.seq, req.computed == req.fill);
        if !last {
            self.chunked = Some(slot);
        }
        items.push(Item { slot, seq, new, past, last, decode: false });
    }
}
