//! Flush, crash and restart.

use super::vllm::Vllm;
use super::{Engine, EngineError, EngineEvent, EngineKind, steps};
use gorgo_core::{Span, Time};

/// Health of an engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// Crashed and not restarted: connections are refused.
    Down,
    /// Loading until the given time; requests are accepted and wait.
    Starting(Time),
    /// Serving requests.
    Up,
}

impl Engine {
    /// Empties the cache and returns true if nothing stands against it: SGLang must be idle, vLLM must hold no block
    /// (a step whose only request was cancelled holds none).
    pub fn flush(&mut self, now: Time) -> bool {
        if self.config.kind == EngineKind::Vllm {
            let free = !self.down && self.vllm.pool.used() == 0;
            if free {
                self.vllm.pool.forget();
            }
            return free;
        }
        let received = self.inbox.front().is_some_and(|&(ready, _)| ready <= now);
        if self.down || received || self.pipeline.current.is_some() || !self.waiting.is_empty() {
            return false;
        }
        self.pool.reset(self.pool.block_tokens());
        true
    }

    /// Crashes the engine at `now`, after processing everything due by then. All requests in flight and the cache are
    /// lost, and submissions fail until [`Self::restart`].
    pub fn crash(&mut self, now: Time, out: &mut Vec<EngineEvent>) {
        self.advance(now, out);
        self.pool.reset(self.pool.block_tokens());
        let logs = self.vllm.pool.log.is_on();
        self.vllm = Vllm::new(self.config.blocks_of_tokens());
        if logs {
            self.log_cache();
        }
        self.inbox.clear();
        self.waiting.clear();
        self.chunked = None;
        self.batch.clear();
        self.pipeline.clear();
        for slot in self.requests.slots_by_seq() {
            self.abort(slot, now, EngineError::Crashed, out);
        }
        self.reset_ratio();
        self.meter.reset(now);
        self.down = true;
    }

    /// Restarts a crashed engine and returns when it will serve: `cold_start_s` after `now`, with log-normal spread.
    /// Requests are accepted from `now` on and wait until then. Does nothing if the engine is not down.
    pub fn restart(&mut self, now: Time) -> Time {
        if self.down {
            let spread = (self.config.cold_start_sigma * self.noise.z(steps::START, self.starts)).exp();
            self.up_at = now + Span::from_secs(self.config.cold_start_s * spread);
            self.starts += 1;
            (self.down, self.cold, self.tokenizer_free) = (false, true, self.up_at);
            self.warming_since = None;
        }
        self.up_at
    }

    /// Health at `now`.
    pub fn health(&self, now: Time) -> Health {
        match self.down {
            true => Health::Down,
            false if now < self.up_at => Health::Starting(self.up_at),
            false => Health::Up,
        }
    }
}
