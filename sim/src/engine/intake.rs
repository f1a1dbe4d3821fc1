//! The way in: what is refused at the door, the tokenizer, the waiting queue, and cancelling.

use super::cache::Cache;
use super::request::{Place, Req};
use super::{Engine, EngineError, EngineEvent, EngineRequest};
use gorgo_core::{RequestId, Span, Time};
use std::cmp::Reverse;

impl Engine {
    /// Hands over a request at `now`. The scheduler sees it when the tokenizer, a serial server, is done with it.
    ///
    /// # Errors
    /// The request can never run here (HTTP 400), its id is in flight, or nothing listens.
    pub fn submit(&mut self, now: Time, request: EngineRequest) -> Result<(), EngineError> {
        if self.down {
            return Err(EngineError::Down);
        }
        self.check(&request)?;
        let room = self.config.max_sequence() - request.input_tokens;
        let max_new = request.max_new_tokens.unwrap_or(u32::MAX).min(room.saturating_sub(1));
        let tokenize =
            self.config.tokenizer_fixed_ms + self.config.tokenizer_ms_per_token * f64::from(request.input_tokens);
        self.tokenizer_free = self.tokenizer_free.max(now).max(self.up_at) + Span::from_ms(tokenize);
        let ready = self.tokenizer_free + Span::from_ms(self.config.receive_ms);

        let (id, seq) = (request.id, self.submitted);
        self.submitted += 1;
        let req = Req::new(request, seq, max_new);
        let slot = self.vacant.pop().unwrap_or_else(|| {
            self.reqs.push(None);
            self.reqs.len() as u32 - 1
        });
        self.reqs[slot as usize] = Some(req);
        self.by_id.insert(id, slot);
        self.inbox.push_back((ready, slot));
        self.meter.counters.requests += 1;
        Ok(())
    }

    fn check(&mut self, r: &EngineRequest) -> Result<(), EngineError> {
        let bad = |text: String| Err(EngineError::BadRequest(text));
        if r.input_tokens == 0 || r.output_tokens == 0 || r.max_new_tokens == Some(0) || r.block_tokens == 0 {
            return bad(format!(
                "request {}: input_tokens {}, output_tokens {}, max_new_tokens {:?} and block_tokens {} must be at least 1",
                r.id.0, r.input_tokens, r.output_tokens, r.max_new_tokens, r.block_tokens
            ));
        }
        let blocks = r.input_tokens.div_ceil(r.block_tokens) as usize;
        if r.blocks.len() != blocks {
            let (id, got, per) = (r.id.0, r.blocks.len(), r.block_tokens);
            return bad(format!(
                "request {id} has {got} blocks: {} tokens are {blocks} blocks of {per}",
                r.input_tokens
            ));
        }
        if self.by_id.contains_key(&r.id) {
            return bad(format!("request {} is already in flight: use a fresh id", r.id.0));
        }
        if self.submitted > 0 && r.block_tokens != self.block_tokens {
            let (got, want) = (r.block_tokens, self.block_tokens);
            return bad(format!("request {} has block_tokens {got}: earlier requests here have {want}", r.id.0));
        }
        let (input, limit) = (r.input_tokens, self.config.context_len);
        if input >= limit {
            return Err(EngineError::InputTooLong { input, limit });
        }
        let requested = u64::from(input) + u64::from(r.max_new_tokens.unwrap_or(0));
        if requested > u64::from(limit) {
            return Err(EngineError::TooManyRequested { requested, limit });
        }
        if input > self.config.max_input() {
            return Err(EngineError::ExceedsPool { input, limit: self.config.max_input() });
        }
        if self.submitted == 0 {
            (self.block_tokens, self.cache) = (r.block_tokens, Cache::new(r.block_tokens));
        }
        Ok(())
    }

    /// The client of `id` left at `now`. A waiting request goes at once; one that is being computed makes one more
    /// token and its KV is kept. First does what was due by `now`. False if no such request is in flight.
    pub fn cancel(&mut self, now: Time, id: RequestId, out: &mut Vec<EngineEvent>) -> bool {
        self.advance(now, out);
        let Some(&slot) = self.by_id.get(&id) else { return false };
        let done = self.done;
        let req = self.req_mut(slot);
        req.cancelled = true;
        match req.place {
            Place::Inbox => {
                self.inbox.retain(|&(_, other)| other != slot);
                self.abort(slot, now, EngineError::Cancelled, out);
            }
            Place::Waiting => {
                self.waiting.retain(|&other| other != slot);
                self.abort(slot, now, EngineError::Cancelled, out);
            }
            Place::Prefill => req.stop_at = req.generated + 1,
            Place::Running(_) => {
                req.stop_at = req.generated_after(done) + 1;
                if req.prefilled {
                    req.finish_at = done + 1;
                    let entry = (req.finish_at, req.seq, slot);
                    self.finishes.push(Reverse(entry));
                }
            }
        }
        self.drop_stale_finishes();
        true
    }

    /// Moves requests that are ready from the inbox to the waiting queue.
    pub(super) fn receive(&mut self, now: Time, out: &mut Vec<EngineEvent>) {
        while let Some(&(ready, slot)) = self.inbox.front()
            && ready <= now
        {
            self.inbox.pop_front();
            if self.config.max_queued_requests.is_some_and(|most| self.waiting.len() >= most as usize) {
                self.abort(slot, now, EngineError::QueueFull, out);
            } else {
                self.req_mut(slot).place = Place::Waiting;
                self.waiting.push_back(slot);
            }
        }
    }
}
