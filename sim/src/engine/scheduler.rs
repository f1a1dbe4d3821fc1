//! Choice of the next step: SGLang's `get_next_batch_to_run`, decode batches and retraction.

use super::pipeline::{Step, Work};
use super::request::Place;
use super::steps::{PREFILL, pairs};
use super::{Engine, EngineKind};
use gorgo_core::{Span, Time};
use std::cmp::Reverse;

/// Decode steps that must fit after a retraction.
const RETRACT_DECODE_STEPS: u64 = 20;

impl Engine {
    /// Chooses the step that will start at `start`.
    pub(super) fn choose(&mut self, start: Time) -> Option<Step> {
        if self.config.kind == EngineKind::Vllm {
            return self.choose_mixed(start);
        }
        if let Some(slot) = self.chunked {
            self.insert_prompt(slot); // the chunk computed last
        }
        if self.batch.has_joining() {
            self.batch.join(&mut self.requests, self.pipeline.launched);
        }
        if let Some(batch) = self.choose_prefill() {
            let pairs = batch.items.iter().map(|i| pairs(i.past, i.new)).sum();
            let warm = self.config.prefill.ms(batch.new_tokens, pairs) * self.noise.stretch(PREFILL, self.prefills);
            let ms = warm + self.cold_extra_ms(start);
            self.prefills += 1;
            self.batch.end_run();
            return Some(Step { start, end: start + Span::from_ms(ms).max(Span(1)), work: Work::Prefill(batch) });
        }
        self.choose_decode(start)
    }

    /// What a prefill step that starts at `start` takes longer because kernels are compiled, ms.
    pub(super) fn cold_extra_ms(&mut self, start: Time) -> f64 {
        let mut extra = 0.0;
        if std::mem::take(&mut self.cold) {
            extra += self.config.first_step_extra_ms;
            self.warming_since = Some(start);
        }
        if let Some(since) = self.warming_since {
            let left = 1.0 - (start - since).ms() / (self.config.warm_up_s * 1e3).max(1e-9);
            if left > 0.0 {
                extra += self.config.warm_up_extra_ms * left;
            } else {
                self.warming_since = None;
            }
        }
        extra
    }

    /// Gives free slots to a request, evicting cached tokens if too few are free.
    pub(super) fn allocate(&mut self, tokens: u64) {
        self.make_room(tokens);
        self.pool.allocate(tokens);
    }

    /// Evicts cached tokens if fewer than `tokens` slots are free; false if that was not enough.
    fn make_room(&mut self, tokens: u64) -> bool {
        self.meter.counters.evicted_tokens += self.pool.make_room(tokens);
        self.pool.free() >= tokens
    }

    fn choose_decode(&mut self, start: Time) -> Option<Step> {
        self.batch.drop_finished();
        if self.batch.len() == 0 {
            return None;
        }
        if self.make_room(self.batch.len() as u64) {
            self.ratio.1 += 1;
        } else {
            self.retract();
        }
        let index = self.pipeline.launched;
        let run = self.batch.decode_run(&self.config.decode, self.noise, index, start);
        self.allocate(u64::from(run.rows));
        self.pipeline.launched += 1;
        Some(Step { start, end: run.end(index), work: Work::Decode { index, run } })
    }

    /// Retracts running requests until the next step fits: fewest generated tokens first, of those the longest
    /// prompt, of those the last to join. They lose their KV, keep their tokens and go to the back of the queue; the
    /// reserved share is recomputed from the requests that stay. The last request always fits, because no admitted
    /// sequence is longer than the pool.
    fn retract(&mut self) {
        let done = self.pipeline.done;
        while self.batch.len() > 1 {
            let victim = self.batch.members().iter().map(|member| member.slot).min_by_key(|&slot| {
                let req = &self.requests[slot];
                (req.generated_after(done), Reverse(req.input), Reverse((req.join, req.seq)))
            });
            let Some(slot) = victim else { break };
            let req = &mut self.requests[slot];
            let generated = req.generated_after(done);
            if req.prefilled && done > req.join {
                req.last_token = Some(self.meter.last_decode);
            }
            req.generated = generated;
            req.retractions += 1;
            let node = req.node;
            self.release_private(slot);
            self.batch.remove(&mut self.requests, slot);
            self.requests[slot].place = Place::Waiting;
            self.pool.cache.unlock(node, false);
            self.waiting.push_back(slot);
            self.meter.counters.retracted += 1;
            self.make_room(RETRACT_DECODE_STEPS * self.batch.len() as u64);
            if self.pool.free() >= self.batch.len() as u64 {
                break;
            }
        }
        let (mut generated, mut most) = (0u64, 0u64);
        for member in self.batch.members() {
            let req = &self.requests[member.slot];
            generated += u64::from(req.generated_after(done));
            most += u64::from(req.max_new);
        }
        let ahead = RETRACT_DECODE_STEPS * self.batch.len() as u64;
        self.ratio = (((generated + ahead) as f64 / (most + 1) as f64).min(1.0), 0);
        self.batch.full = false;
    }
}
