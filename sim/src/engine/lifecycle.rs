//! Flushing, crashing and starting again.

use super::cache::Cache;
use super::{Engine, EngineError, EngineEvent, steps};
use gorgo_core::{Span, Time};

/// Whether the engine serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// Nothing listens: it crashed and was not restarted.
    Down,
    /// Loading until the given instant; requests are accepted and wait.
    Starting(Time),
    /// Serving.
    Up,
}

impl Engine {
    /// Empties the cache if the engine is fully idle and says whether it was (HTTP 200 or 400).
    pub fn flush(&mut self, now: Time) -> bool {
        let received = self.inbox.front().is_some_and(|&(ready, _)| ready <= now);
        if self.down || received || self.current.is_some() || !self.waiting.is_empty() {
            return false;
        }
        self.empty_cache();
        true
    }

    fn empty_cache(&mut self) {
        self.cache = Cache::new(self.block_tokens);
        (self.free, self.private) = (u64::from(self.config.kv_tokens), 0);
    }

    /// The process dies at `now`: everything in flight is lost, the cache too, and nothing listens until
    /// [`Self::restart`]. First does what was due by `now`.
    pub fn crash(&mut self, now: Time, out: &mut Vec<EngineEvent>) {
        self.advance(now, out);
        let mut lost: Vec<(u64, u32)> = self.by_id.values().map(|&slot| (self.req(slot).seq, slot)).collect();
        lost.sort_unstable();
        self.empty_cache();
        self.inbox.clear();
        self.waiting.clear();
        self.joining.clear();
        self.running.clear();
        self.finishes.clear();
        (self.chunked, self.current, self.next) = (None, None, None);
        (self.unfiltered, self.latched, self.context) = (0, false, 0);
        (self.launched, self.changed) = (self.done, true);
        for (_, slot) in lost {
            self.abort(slot, now, EngineError::Crashed, out);
        }
        self.reset_ratio();
        self.meter.reset(now);
        self.down = true;
    }

    /// Starts a crashed engine again, cold, and returns when it will be up: `cold_start_s` after `now`, spread
    /// log-normally. Requests are accepted from now on and wait until then. An engine that runs is left alone.
    pub fn restart(&mut self, now: Time) -> Time {
        if self.down {
            let spread = (self.config.cold_start_sigma * self.noise.z(steps::START, self.starts)).exp();
            self.up_at = now + Span::from_secs(self.config.cold_start_s * spread);
            self.starts += 1;
            (self.down, self.cold, self.tokenizer_free) = (false, true, self.up_at);
        }
        self.up_at
    }

    /// Whether it serves at `now`.
    pub fn health(&self, now: Time) -> Health {
        match self.down {
            true => Health::Down,
            false if now < self.up_at => Health::Starting(self.up_at),
            false => Health::Up,
        }
    }
}
