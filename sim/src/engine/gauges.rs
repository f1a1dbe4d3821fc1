//! Metrics of an engine: gauges, counters and the scheduler's true load.
//!
//! As in SGLang, gauges are published after a prefill batch, every `decode_log_interval` decode steps, and every
//! `idle_publish_s` when idle. In between they are stale, so a router that scrapes them gets stale figures, too.

use super::gaps::GapHistogram;
use super::pipeline::Batch;
#[cfg(test)]
use super::request::Place;
use super::{Engine, EngineKind};
use gorgo_core::{Span, Time};
use serde::Serialize;

/// Gauges of `/metrics`, as last published.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Gauges {
    /// Size of the running batch. After a prefill it excludes the requests just prefilled, after a decode step it
    /// includes those just finished.
    pub num_running_reqs: u32,
    /// Length of the waiting queue.
    pub num_queue_reqs: u64,
    /// KV slots that are neither free nor merely cached.
    pub num_used_tokens: u64,
    /// `num_used_tokens` over `max_total_num_tokens`.
    pub token_usage: f64,
    /// Size of the KV pool, tokens.
    pub max_total_num_tokens: u32,
    /// Tokens a second over the last report interval.
    pub gen_throughput: f64,
    /// Cached over all prompt tokens of the last prefill batch; set to 0 by a decode report.
    pub cache_hit_rate: f64,
    /// When these values were published.
    pub published: Time,
}

/// Counters of `/metrics`, updated with every step or request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Counters {
    /// Requests accepted.
    pub requests: u64,
    /// Requests that ended without a complete answer.
    pub aborted: u64,
    /// Prompt tokens of requests that reached a prefill.
    pub prompt_tokens: u64,
    /// Prompt tokens of those requests that were found in the cache.
    pub cached_tokens: u64,
    /// Tokens computed by prefill steps, repeated work after retractions included.
    pub computed_tokens: u64,
    /// Tokens generated.
    pub generated_tokens: u64,
    /// Tokens evicted from the cache.
    pub evicted_tokens: u64,
    /// Retractions of running requests.
    pub retracted: u64,
}

/// Load of the scheduler now, as SGLang's `/v1/loads` reports it.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Loads {
    /// Requests decoding.
    pub running: u64,
    /// Requests in a prefill batch.
    pub prefilling: u64,
    /// Requests in the queue.
    pub waiting: u64,
    /// Requests at the tokenizer or on the way to the scheduler.
    pub arriving: u64,
    /// Prompt tokens of waiting and arriving requests.
    pub waiting_tokens: u64,
    /// KV slots that are neither free nor merely cached.
    pub used_tokens: u64,
    /// KV slots held by the radix cache, evictable or locked; of vLLM those in free blocks that are still cached.
    pub tree_tokens: u64,
    /// Free KV slots.
    pub free_tokens: u64,
    /// Share of `max_tokens` reserved for running requests.
    pub new_token_ratio: f64,
}

/// Counters, gauges and inter-token latencies of one engine.
#[derive(Debug, Clone)]
pub(super) struct Meter {
    gauges: Gauges,
    pub(super) counters: Counters,
    pub(super) gaps: GapHistogram,
    /// When the last decode step ended.
    pub(super) last_decode: Time,
    /// Requests whose first token was generated since then: (when, how many).
    pub(super) fresh: Vec<(Time, u64)>,
    pub(super) idle_since: Time,
    window_tokens: u64,
    window_start: Time,
}

impl Meter {
    pub(super) fn new(kv_tokens: u32) -> Self {
        Self {
            gauges: Gauges { max_total_num_tokens: kv_tokens, ..Gauges::default() },
            counters: Counters::default(),
            gaps: GapHistogram::default(),
            last_decode: Time::ZERO,
            fresh: Vec::new(),
            idle_since: Time::ZERO,
            window_tokens: 0,
            window_start: Time::ZERO,
        }
    }

    /// Resets gauges and counters for a new process. Inter-token latencies belong to the experiment and are kept.
    pub(super) fn reset(&mut self, now: Time) {
        let gaps = std::mem::take(&mut self.gaps);
        *self = Self {
            gaps,
            idle_since: now,
            last_decode: now,
            window_start: now,
            ..Self::new(self.gauges.max_total_num_tokens)
        };
    }

    /// Counts the gaps before the `emitted` tokens of a decode step. The gap of a request that took part in the last
    /// decode step begins at the end of that step, that of another request at its first token.
    pub(super) fn decode_gaps(&mut self, start: Time, now: Time, step_ms: f64, emitted: u64) {
        let mut rest = emitted;
        for (at, count) in std::mem::take(&mut self.fresh) {
            let count = count.min(rest);
            self.gaps.add((now - at).ms(), count);
            rest -= count;
        }
        // Steps back to back count as their smooth length, which is the same however many are taken at once.
        let ms = if start == self.last_decode { step_ms } else { (now - self.last_decode).ms() };
        self.gaps.add(ms, rest);
        self.decoded(now, emitted);
    }

    pub(super) fn decoded(&mut self, ended: Time, tokens: u64) {
        self.last_decode = ended;
        self.counters.generated_tokens += tokens;
        self.window_tokens += tokens;
    }

    pub(super) fn publish_prefill(&mut self, now: Time, batch: &Batch, queued: u64, used: u64) {
        self.publish(now, batch.running, queued, used);
        self.gauges.cache_hit_rate = batch.cached_tokens as f64 / (batch.cached_tokens + batch.new_tokens) as f64;
    }

    pub(super) fn publish_decode(&mut self, now: Time, rows: u32, queued: u64, used: u64) {
        self.publish(now, rows, queued, used);
        let window = (now - self.window_start).ms() / 1e3;
        self.gauges.gen_throughput = if window > 0.0 { self.window_tokens as f64 / window } else { 0.0 };
        self.gauges.cache_hit_rate = 0.0;
        (self.window_tokens, self.window_start) = (0, now);
    }

    /// Publishes the gauges of an idle engine once they are `period_s` old.
    pub(super) fn publish_idle(&mut self, now: Time, period_s: f64) {
        let due = (self.gauges.published + Span::from_secs(period_s)).max(self.idle_since);
        if due <= now && self.idle_since >= self.gauges.published {
            self.publish(due, 0, 0, 0);
            self.gauges.gen_throughput = 0.0;
        }
    }

    pub(super) fn publish(&mut self, now: Time, running: u32, queued: u64, used: u64) {
        let g = &mut self.gauges;
        (g.num_running_reqs, g.num_queue_reqs, g.num_used_tokens, g.published) = (running, queued, used, now);
        g.token_usage = used as f64 / f64::from(g.max_total_num_tokens);
    }
}

impl Engine {
    /// The gauges that a scrape at `now` reads; they may be stale. Call [`Self::advance`] first.
    pub fn metrics(&mut self, now: Time) -> Gauges {
        self.jump(now);
        if self.pipeline.current.is_none() && self.waiting.is_empty() {
            self.meter.publish_idle(now, self.config.idle_publish_s);
        }
        self.meter.gauges
    }

    /// The true load at `now`. Call [`Self::advance`] first.
    pub fn loads(&mut self, now: Time) -> Loads {
        self.jump(now);
        let received = self.inbox.partition_point(|&(ready, _)| ready <= now);
        let tokens = |slot: u32| u64::from(self.requests[slot].input);
        let waiting = (self.waiting.len() + received) as u64;
        let arriving = (self.inbox.len() - received) as u64;
        let decoding = |slot: u32| self.requests[slot].prefilled;
        let in_batch = self.batch.members().iter().filter(|m| decoding(m.slot)).count();
        let running = (in_batch + self.vllm.running().iter().filter(|&&slot| decoding(slot)).count()) as u64;
        let [used_tokens, tree_tokens, free_tokens] = match self.config.kind {
            EngineKind::Sglang => [self.pool.used(), self.pool.cached(), self.pool.free()],
            EngineKind::Vllm => self.vllm.tokens(),
        };
        Loads {
            running,
            prefilling: self.requests.len() as u64 - running - waiting - arriving,
            waiting,
            arriving,
            waiting_tokens: self.waiting.iter().map(|&slot| tokens(slot)).sum::<u64>()
                + self.inbox.iter().map(|&(_, slot)| tokens(slot)).sum::<u64>(),
            used_tokens,
            tree_tokens,
            free_tokens,
            new_token_ratio: self.new_token_ratio(),
        }
    }

    /// Counters since the process started. Call [`Self::advance`] first.
    pub fn counters(&mut self, now: Time) -> Counters {
        self.jump(now);
        self.meter.counters
    }

    /// Gaps between tokens of one request, pooled over all requests, since the last [`Self::take_gaps`]. Jitter of
    /// single steps is left out where steps follow one another, so that skipping and walking count alike.
    pub fn gaps(&self) -> &GapHistogram {
        &self.meter.gaps
    }

    /// Returns the gaps counted so far and resets them.
    pub fn take_gaps(&mut self) -> GapHistogram {
        std::mem::take(&mut self.meter.gaps)
    }

    /// Number of requests in flight, whatever their state.
    pub fn in_flight(&self) -> usize {
        self.requests.len()
    }

    #[cfg(test)]
    pub(super) fn place(&self, id: u64) -> Option<Place> {
        self.requests.slot_of(gorgo_core::RequestId(id)).map(|slot| self.requests[slot].place)
    }
}
