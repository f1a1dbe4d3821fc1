//! One SGLang replica as a pure state machine.
//!
//! Reading order: [`EngineConfig`] and its presets → [`EngineRequest`] and [`EngineEvent`] (what goes in, what comes
//! out) → `intake` (the way to the queue) → `steps` (how long a step takes) → `cache` (the radix cache) →
//! `scheduler` and `admission` (what runs next) → `results` (what a finished step changes) → `jump` (many decode steps
//! at once) → `gauges` (what a scraper sees) → `lifecycle` (flush, crash, restart).
//!
//! Facts are those of SGLang 0.5.10 with its defaults: prefill goes before decode, chunks do not interleave with it,
//! and the scheduler works one batch ahead of the GPU (overlap):
//!
//! - when step k ends, step k+1 (already chosen) starts, the results of k are processed, requests ready by then are
//!   received, and step k+2 is chosen. So a busy engine starts an arrival's prefill after the rest of the current
//!   step and one whole step more; a finished request occupies one more decode slot; and a prompt computed in step k
//!   is in the cache for step k+2, not for k+1;
//! - an idle engine starts a request at once.
//!
//! There is no clock: every call passes `now`, never less than before. [`Engine::next_event`] says when something
//! will happen next if nothing is submitted, [`Engine::advance`] does all that is due. Between events, decode steps of
//! an unchanged batch are advanced in closed form, so cost grows with events, not with tokens.

mod admission;
mod cache;
mod config;
mod gaps;
mod gauges;
mod intake;
mod jump;
mod lifecycle;
mod presets;
mod request;
mod results;
mod scheduler;
mod steps;

#[cfg(test)]
mod behaviour;
#[cfg(test)]
mod harness;
#[cfg(test)]
mod laws;
#[cfg(test)]
mod traps;

pub use config::{ConfigError, EngineConfig};
pub use gaps::GapHistogram;
pub use gauges::{Counters, Gauges, Loads};
pub use lifecycle::Health;
pub use request::{EngineError, EngineEvent, EngineRequest};
pub use steps::{DecodeTimes, PrefillTimes};

use cache::Cache;
use gauges::Meter;
use gorgo_core::{RequestId, Time};
use request::Req;
use rustc_hash::FxHashMap;
use scheduler::{Member, Step, Work};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use steps::{Noise, Run};

/// An SGLang replica. See the module page.
#[derive(Debug)]
pub struct Engine {
    config: EngineConfig,
    noise: Noise,
    down: bool,
    up_at: Time,
    starts: u64,
    /// The next prefill step compiles kernels first.
    cold: bool,

    reqs: Vec<Option<Req>>,
    vacant: Vec<u32>,
    by_id: FxHashMap<RequestId, u32>,
    submitted: u64,

    /// With the tokenizer and on the way to the scheduler: (when it can be received, slot), ascending.
    inbox: VecDeque<(Time, u32)>,
    tokenizer_free: Time,
    waiting: VecDeque<u32>,
    /// The prompt that was cut and goes first in the next prefill batch.
    chunked: Option<u32>,
    /// Requests of the batch chosen last that join the running batch at the next choice.
    joining: Vec<u32>,
    running: Vec<Member>,
    /// Finished requests that the scheduler has not dropped from its running batch yet.
    unfiltered: u32,
    /// `batch_is_full`: admission said no, and is not asked again until a request leaves the running batch.
    latched: bool,
    /// The latest run of decode steps.
    run: Option<Run>,
    /// The running batch is not what that run was made for, or it was interrupted.
    changed: bool,

    /// On the GPU.
    current: Option<Step>,
    /// Chosen to follow (overlap only).
    next: Option<Step>,
    /// Decode steps chosen, and those whose results were processed.
    launched: u64,
    done: u64,
    prefills: u64,
    /// (decode steps processed when it finishes, seq, slot).
    finishes: BinaryHeap<Reverse<(u64, u64, u32)>>,
    /// Sum over running requests of context minus the decode steps launched before they joined: the context of decode
    /// step `i` is this plus `i` for each of them.
    context: i64,

    block_tokens: u32,
    cache: Cache,
    free: u64,
    private: u64,
    /// Share of `max_tokens` reserved for running requests: value at some step and decode steps since.
    ratio: (f64, u64),

    meter: Meter,
}

impl Engine {
    /// An idle, warm engine with an empty cache. Equal `seed`s give equal step times.
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
            cold: false,
            reqs: Vec::new(),
            vacant: Vec::new(),
            by_id: FxHashMap::default(),
            submitted: 0,
            inbox: VecDeque::new(),
            tokenizer_free: Time::ZERO,
            waiting: VecDeque::new(),
            chunked: None,
            joining: Vec::new(),
            running: Vec::new(),
            unfiltered: 0,
            latched: false,
            run: None,
            changed: false,
            current: None,
            next: None,
            launched: 0,
            done: 0,
            prefills: 0,
            finishes: BinaryHeap::new(),
            context: 0,
            block_tokens: 1,
            cache: Cache::new(1),
            free: u64::from(config.kv_tokens),
            private: 0,
            ratio: (config.ratio_bounds().0, 0),
            meter: Meter::new(config.kv_tokens),
            config,
        })
    }

    /// Its settings.
    pub fn config(&self) -> &EngineConfig {
        &self.config
    }

    /// When something happens next if nothing is submitted or cancelled; `None` when nothing ever does.
    pub fn next_event(&self) -> Option<Time> {
        match &self.current {
            None => self.inbox.front().map(|&(ready, _)| ready),
            Some(step) => Some(self.next_loud_boundary().unwrap_or(step.end)),
        }
    }

    /// Does everything due at or before `now`, in order, and appends what it led to.
    pub fn advance(&mut self, now: Time, out: &mut Vec<EngineEvent>) {
        loop {
            self.jump(now);
            match (&self.current, self.inbox.front()) {
                (Some(step), _) if step.end <= now => self.boundary(out),
                (None, Some(&(ready, _))) if ready <= now => self.wake(ready, out),
                _ => break,
            }
            self.drop_stale_finishes();
            debug_assert_eq!(
                self.free + self.private + self.cache.evictable() + self.cache.protected(),
                u64::from(self.config.kv_tokens),
                "every slot of the pool is free, private to a request, or in the tree"
            );
        }
    }

    fn wake(&mut self, now: Time, out: &mut Vec<EngineEvent>) {
        self.meter.publish_idle(now, self.config.idle_publish_s);
        self.receive(now, out);
        self.fill_pipeline(now, out);
    }

    /// The step on the GPU ends.
    fn boundary(&mut self, out: &mut Vec<EngineEvent>) {
        let Some(ended) = self.current.take() else { return };
        let now = ended.end;
        if let Some(next) = self.next.take() {
            self.start(next, out);
        }
        match ended.work {
            Work::Prefill(batch) => self.prefill_done(&batch, now, out),
            Work::Decode { run, .. } => self.decode_done(ended.start, now, &run, out),
        }
        self.receive(now, out);
        self.fill_pipeline(now, out);
    }

    fn fill_pipeline(&mut self, now: Time, out: &mut Vec<EngineEvent>) {
        if self.current.is_none() {
            // A choice that only found its batch empty is followed by another at once: the loop does not wait.
            let step = self.choose(now).or_else(|| self.choose(now));
            match step {
                Some(step) => self.start(step, out),
                None => {
                    self.reset_ratio();
                    self.meter.idle_since = now;
                }
            }
        }
        if self.config.overlap
            && let Some(end) = self.current.as_ref().map(|step| step.end)
        {
            self.next = self.choose(end);
        }
    }

    fn start(&mut self, step: Step, out: &mut Vec<EngineEvent>) {
        if let Work::Prefill(batch) = &step.work {
            for item in &batch.items {
                if let Some(req) = self.reqs[item.slot as usize].as_mut().filter(|r| r.seq == item.seq && !r.started) {
                    req.started = true;
                    let cached_tokens = req.cached.unwrap_or(0);
                    out.push(EngineEvent::PrefillStarted { id: req.id, at: step.start, cached_tokens });
                }
            }
        }
        self.current = Some(step);
    }

    /// Ends a request that holds no KV.
    fn abort(&mut self, slot: u32, at: Time, error: EngineError, out: &mut Vec<EngineEvent>) {
        let req = self.forget(slot);
        self.meter.counters.aborted += 1;
        out.push(EngineEvent::Aborted { id: req.id, at, error });
    }

    fn forget(&mut self, slot: u32) -> Req {
        let req = self.reqs[slot as usize].take().expect("a live slot");
        self.by_id.remove(&req.id);
        self.vacant.push(slot);
        req
    }

    fn req(&self, slot: u32) -> &Req {
        self.reqs[slot as usize].as_ref().expect("a live slot")
    }

    fn req_mut(&mut self, slot: u32) -> &mut Req {
        self.reqs[slot as usize].as_mut().expect("a live slot")
    }
}
