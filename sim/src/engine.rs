//! One SGLang replica as a pure state machine.
//!
//! Reading order: [`EngineConfig`] and its presets → [`EngineRequest`] and [`EngineEvent`] (what goes in, what comes
//! out) → `steps` (how long a step takes) → `cache` (the radix cache) → `scheduler` (what runs next) → `results` (what
//! a finished step changes) → `jump` (many decode steps at once) → `gauges` (what a scraper sees).
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

mod cache;
mod config;
mod gaps;
mod gauges;
mod jump;
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
pub use request::{EngineError, EngineEvent, EngineRequest};
pub use steps::{DecodeTimes, PrefillTimes};

use cache::Cache;
use gauges::Meter;
use gorgo_core::{RequestId, Span, Time};
use request::{Place, Req};
use rustc_hash::FxHashMap;
use scheduler::{Member, Step, Work};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use steps::{Noise, Run};

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

    /// Moves requests that are ready from the inbox to the waiting queue.
    fn receive(&mut self, now: Time, out: &mut Vec<EngineEvent>) {
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
