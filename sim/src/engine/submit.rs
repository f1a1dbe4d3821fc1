//! Submission and cancellation: validation, the tokenizer, and the waiting queue.

use super::request::{Place, Req};
use super::{Engine, EngineError, EngineEvent, EngineKind, EngineRequest};
use gorgo_core::{RequestId, Span, Time};

impl Engine {
    /// Submits a request at `now`. The scheduler receives it after the tokenizer, which serves one request at a time.
    ///
    /// # Errors
    /// The request can never run on this engine (HTTP 400), its id is in flight, or the engine is down.
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

        let slot = self.requests.insert(Req::new(request, self.requests.next_seq(), max_new));
        self.inbox.push_back((ready, slot));
        self.meter.counters.requests += 1;
        Ok(())
    }

    fn check(&mut self, r: &EngineRequest) -> Result<(), EngineError> {
        if r.refused {
            return Err(EngineError::Refused);
        }
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
        if self.requests.slot_of(r.id).is_some() {
            return bad(format!("request {} is already in flight: use a fresh id", r.id.0));
        }
        let is_first = self.requests.next_seq() == 0;
        if !is_first && r.block_tokens != self.pool.block_tokens() {
            let (got, want) = (r.block_tokens, self.pool.block_tokens());
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
        if is_first {
            self.pool.reset(r.block_tokens);
        }
        Ok(())
    }

    /// Cancels request `id` at `now`, after processing everything due by then. A waiting request is dropped at once; a
    /// request in a batch generates one more token and its KV is kept. False if no such request is in flight.
    pub fn cancel(&mut self, now: Time, id: RequestId, out: &mut Vec<EngineEvent>) -> bool {
        self.advance(now, out);
        let Some(slot) = self.requests.slot_of(id) else { return false };
        let done = self.pipeline.done;
        let req = &mut self.requests[slot];
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
            Place::Prefill | Place::Running(_) if self.config.kind == EngineKind::Vllm => {
                self.cancel_blocks(slot, now, out);
            }
            Place::Prefill => req.stop_at = req.generated + 1,
            Place::Running(_) => {
                req.stop_at = req.generated_after(done) + 1;
                if req.prefilled {
                    self.batch.finish_early(&mut self.requests, slot, done + 1);
                }
            }
        }
        self.batch.drop_stale_finishes(&self.requests);
        true
    }

    /// Moves requests that are ready from the inbox to the waiting queue.
    #[inline]
    pub(super) fn receive(&mut self, now: Time, out: &mut Vec<EngineEvent>) {
        while let Some(&(ready, slot)) = self.inbox.front()
            && ready <= now
        {
            self.inbox.pop_front();
            if self.config.max_queued_requests.is_some_and(|most| self.waiting.len() >= most as usize) {
                self.abort(slot, now, EngineError::QueueFull, out);
            } else {
                self.requests[slot].place = Place::Waiting;
                self.waiting.push_back(slot);
            }
        }
    }
}
