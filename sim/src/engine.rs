//! Model of one SGLang or vLLM replica, as a state machine without a clock.
//!
//! Reading order: [`EngineConfig`] and its presets → [`EngineRequest`] and [`EngineEvent`] (input and output) →
//! `table` (the requests in flight) → `submit` (validation, tokenizer, waiting queue) → `steps` (step times) → `pool`
//! and `cache` (KV slots and the radix cache) → `running` (the running batch) → `pipeline` (the steps in progress) →
//! `scheduler` and `admission` (choosing the next step) → `results` (processing a finished step) → `jump` (many decode
//! steps at once) → `gauges` (metrics) → `lifecycle` (flush, crash, restart). `vllm` holds vLLM's scheduler, `blocks` its
//! pool and `cache_log` what that does, which take the place of `pool` to `results`; the rest serves both kinds.
//!
//! The model follows SGLang 0.5.10 with its defaults: prefill runs before decode, chunks do not interleave with
//! decode steps, and the scheduler works one batch ahead of the GPU (overlap):
//!
//! - when step k ends, step k+1 (already chosen) starts, the results of k are processed, requests ready by then are
//!   received, and step k+2 is chosen. So a busy engine starts an arrival's prefill after the rest of the current
//!   step and one whole step more; a finished request occupies one more decode slot; and a prompt computed in step k
//!   is in the cache for step k+2, not for k+1;
//! - an idle engine starts a request at once.
//!
//! Every call passes `now`, which must not decrease. [`Engine::next_event`] returns when the state changes next if
//! nothing is submitted, [`Engine::advance`] processes everything that is due. Decode steps of an unchanged batch are
//! advanced in closed form, so cost grows with the number of events, not of tokens.

mod admission;
mod blocks;
mod cache;
mod cache_log;
mod config;
mod gaps;
mod gauges;
mod jump;
mod lifecycle;
mod pipeline;
mod pool;
mod presets;
mod request;
mod results;
mod running;
mod scheduler;
mod steps;
mod submit;
mod table;
mod vllm;

#[cfg(test)]
mod tests;

pub use cache_log::CacheEntry;
pub use config::{ConfigError, EngineConfig, EngineKind};
pub use gaps::{GapBucket, GapHistogram};
pub use gauges::{Counters, Gauges, Loads};
pub use lifecycle::Health;
pub use request::{EngineError, EngineEvent, EngineRequest};
pub use steps::{DecodeTimes, PrefillTimes};

use gauges::Meter;
use gorgo_core::Time;
use pipeline::{Pipeline, Step, Work};
use pool::KvPool;
use running::RunningBatch;
use std::collections::VecDeque;
use steps::Noise;
use table::RequestTable;
use vllm::Vllm;

/// One replica: [`Self::submit`] requests, [`Self::advance`] to the time of the next event, read the events.
#[derive(Debug, Clone)]
pub struct Engine {
    config: EngineConfig,
    noise: Noise,
    down: bool,
    up_at: Time,
    starts: u64,
    /// The next prefill step compiles kernels first.
    cold: bool,
    /// Start of the first prefill step of a cold engine, until it is warm.
    warming_since: Option<Time>,

    requests: RequestTable,
    /// With the tokenizer and on the way to the scheduler: (when it can be received, slot), ascending.
    inbox: VecDeque<(Time, u32)>,
    tokenizer_free: Time,
    waiting: VecDeque<u32>,
    /// The prompt that was cut and goes first in the next prefill batch.
    chunked: Option<u32>,
    batch: RunningBatch,
    pipeline: Pipeline,
    prefills: u64,
    pool: KvPool,
    /// Share of `max_tokens` reserved for running requests: value at some step and decode steps since.
    ratio: (f64, u64),
    /// Running requests and blocks of a vLLM engine; its pool is empty in an SGLang engine.
    vllm: Vllm,

    meter: Meter,
}

impl Engine {
    /// Creates an idle, warm engine with an empty cache. Equal `seed`s give equal step times.
    ///
    /// # Errors
    /// A setting out of range.
    pub fn new(config: EngineConfig, seed: u64) -> Result<Self, ConfigError> {
        config.validate()?;
        Ok(Self {
            noise: Noise { seed, sigma: config.step_noise },
            down: false,
            up_at: Time::ZERO,
            starts: 0,
            cold: config.cold_at_start,
            warming_since: None,
            requests: RequestTable::default(),
            inbox: VecDeque::new(),
            tokenizer_free: Time::ZERO,
            waiting: VecDeque::new(),
            chunked: None,
            batch: RunningBatch::default(),
            pipeline: Pipeline::default(),
            prefills: 0,
            pool: KvPool::new(config.kv_tokens, 1),
            ratio: (config.ratio_bounds().0, 0),
            vllm: Vllm::new(config.blocks_of_tokens()),
            meter: Meter::new(config.kv_tokens),
            config,
        })
    }

    /// Keeps what the cache of a vLLM engine does, for [`Self::take_cache_log`]. An SGLang engine's cache keeps no log.
    pub fn log_cache(&mut self) {
        self.vllm.pool.log.switch_on();
    }

    /// What the cache did since the last call, in order; `None` if some of it was lost because it was not taken in time.
    pub fn take_cache_log(&mut self) -> Option<Vec<CacheEntry>> {
        self.vllm.pool.log.take()
    }

    /// The settings of the engine.
    pub fn config(&self) -> &EngineConfig {
        &self.config
    }

    /// When the engine has to act next if no request is submitted or cancelled; `None` if it is idle.
    pub fn next_event(&self) -> Option<Time> {
        match self.pipeline.current_end() {
            None => self.inbox.front().map(|&(ready, _)| ready),
            Some(end) => Some(self.next_eventful_end().unwrap_or(end)),
        }
    }

    /// Processes everything due at or before `now`, in order, and appends the events to `out`.
    pub fn advance(&mut self, now: Time, out: &mut Vec<EngineEvent>) {
        loop {
            self.jump(now);
            match (self.pipeline.current_end(), self.inbox.front()) {
                (Some(end), _) if end <= now => self.end_step(out),
                (None, Some(&(ready, _))) if ready <= now => self.wake(ready, out),
                _ => break,
            }
            self.batch.drop_stale_finishes(&self.requests);
            self.pool.debug_check();
            self.batch.debug_check(&self.requests);
            self.pipeline.debug_check();
        }
    }

    fn wake(&mut self, now: Time, out: &mut Vec<EngineEvent>) {
        self.meter.publish_idle(now, self.config.idle_publish_s);
        self.receive(now, out);
        self.fill_pipeline(now, out);
    }

    /// The step on the GPU ends: the next one starts, then the results are processed and another step is chosen.
    fn end_step(&mut self, out: &mut Vec<EngineEvent>) {
        let Some(ended) = self.pipeline.advance() else { return };
        let now = ended.end;
        self.report_prefill_start(out);
        match ended.work {
            Work::Prefill(batch) => self.prefill_done(&batch, now, out),
            Work::Mixed(items) => self.mixed_done(&items, now, out),
            Work::Decode { run, .. } => self.decode_done(ended.start, now, &run, out),
        }
        self.receive(now, out);
        self.fill_pipeline(now, out);
    }

    fn fill_pipeline(&mut self, now: Time, out: &mut Vec<EngineEvent>) {
        if self.pipeline.current.is_none() {
            // A choice that only found its batch empty is followed by another at once: the loop does not wait.
            self.pipeline.current = self.choose(now).or_else(|| self.choose(now));
            if self.pipeline.current.is_some() {
                self.report_prefill_start(out);
            } else {
                self.reset_ratio();
                self.meter.idle_since = now;
            }
        }
        if self.config.overlap
            && let Some(end) = self.pipeline.current_end()
        {
            self.pipeline.next = self.choose(end);
        }
    }

    /// Reports the requests whose first prefill step has just started on the GPU.
    fn report_prefill_start(&mut self, out: &mut Vec<EngineEvent>) {
        let Some(Step { start, work, .. }) = &self.pipeline.current else { return };
        let items = match work {
            Work::Prefill(batch) => &batch.items,
            Work::Mixed(items) => items,
            Work::Decode { .. } => return,
        };
        for item in items {
            if let Some(req) = self.requests.get_mut(item.slot, item.seq).filter(|r| !r.started) {
                req.started = true;
                let cached_tokens = req.cached.unwrap_or(0);
                out.push(EngineEvent::PrefillStarted { id: req.id, at: *start, cached_tokens });
            }
        }
    }

    /// Ends a request that holds no KV.
    fn abort(&mut self, slot: u32, at: Time, error: EngineError, out: &mut Vec<EngineEvent>) {
        let req = self.requests.remove(slot);
        self.meter.counters.aborted += 1;
        out.push(EngineEvent::Aborted { id: req.id, at, error });
    }
}
