//! The steps in progress: one on the GPU and, with overlap, the one that follows it.
//!
//! Invariants, which [`Pipeline::debug_check`] asserts in tests and debug builds: a step follows only while another
//! is on the GPU, it starts when that one ends, and the decode steps chosen but not yet processed are exactly those
//! in the pipeline.

use super::steps::Run;
use gorgo_core::Time;

/// One step of the GPU.
#[derive(Debug, Clone)]
pub(super) struct Step {
    pub(super) start: Time,
    pub(super) end: Time,
    pub(super) work: Work,
}

/// What a step computes.
#[derive(Debug, Clone)]
pub(super) enum Work {
    Prefill(Batch),
    /// Chunks of prompts and decodes together (vLLM).
    Mixed(Vec<Item>),
    /// Decode step number `index` of the engine.
    Decode {
        index: u64,
        run: Run,
    },
}

/// A prefill batch.
#[derive(Debug, Clone)]
pub(super) struct Batch {
    pub(super) items: Vec<Item>,
    /// Requests in the running batch when this one was chosen.
    pub(super) running: u32,
    pub(super) new_tokens: u64,
    pub(super) cached_tokens: u64,
}

/// A prompt, a chunk of one, or one decode of a request in a step.
#[derive(Debug, Clone, Copy)]
pub(super) struct Item {
    pub(super) slot: u32,
    pub(super) seq: u64,
    pub(super) new: u32,
    pub(super) past: u32,
    /// This item completes the prompt, so the step also generates a token.
    pub(super) last: bool,
    /// The next token after the ones generated so far; only in mixed steps.
    pub(super) decode: bool,
}

/// The steps in progress and the count of decode steps.
#[derive(Debug, Clone, Default)]
pub(super) struct Pipeline {
    /// On the GPU.
    pub(super) current: Option<Step>,
    /// Chosen to follow (overlap only).
    pub(super) next: Option<Step>,
    /// Decode steps chosen so far.
    pub(super) launched: u64,
    /// Decode steps whose results were processed.
    pub(super) done: u64,
}

impl Pipeline {
    /// When the step on the GPU ends; `None` if the GPU is idle.
    pub(super) fn current_end(&self) -> Option<Time> {
        self.current.as_ref().map(|step| step.end)
    }

    /// Takes the step that ended off the GPU; the step chosen to follow takes its place.
    pub(super) fn advance(&mut self) -> Option<Step> {
        let ended = self.current.take();
        self.current = self.next.take();
        ended
    }

    /// The decode step on the GPU with its start and its index, if nothing but further steps of its run follows.
    pub(super) fn steady_run(&self, overlap: bool) -> Option<(Time, u64, &Run)> {
        let step = self.current.as_ref()?;
        let Work::Decode { index, run } = &step.work else { return None };
        let same_run_follows = !overlap
            || matches!(&self.next, Some(Step { work: Work::Decode { run: next, .. }, .. }) if next.first == run.first);
        same_run_follows.then_some((step.start, *index, run))
    }

    /// Completes `steps` decode steps of `run`, of which step `index` is on the GPU, and returns when the last of
    /// them ended.
    pub(super) fn skip(&mut self, run: &Run, index: u64, steps: u64, overlap: bool) -> Time {
        let last = index + steps - 1;
        // The ends of the steps in the pipeline are known.
        let ended = match &self.current {
            Some(current) if steps == 1 => current.end,
            _ => run.end(last),
        };
        let end = match &self.next {
            Some(next) if steps == 1 => next.end,
            _ => run.end(last + 1),
        };
        self.done += steps;
        self.launched += steps;
        self.current = Some(Step { start: ended, end, work: Work::Decode { index: last + 1, run: *run } });
        if overlap {
            let work = Work::Decode { index: last + 2, run: *run };
            self.next = Some(Step { start: end, end: run.end(last + 2), work });
        }
        ended
    }

    /// Drops all steps: their results are lost.
    pub(super) fn clear(&mut self) {
        (self.current, self.next, self.launched) = (None, None, self.done);
    }

    /// Asserts the invariants of the module page, in debug builds.
    pub(super) fn debug_check(&self) {
        let decode = |step: &Option<Step>| u64::from(matches!(step, Some(Step { work: Work::Decode { .. }, .. })));
        debug_assert_eq!(self.launched - self.done, decode(&self.current) + decode(&self.next));
        if let Some(next) = &self.next {
            debug_assert_eq!(Some(next.start), self.current_end(), "steps follow one another without a gap");
        }
    }
}
