//! Many decode steps at once, in closed form.
//!
//! While the running batch does not change, the end of a decode step changes nothing else: the scheduler finds no
//! new work and chooses the same batch again. Such step ends are skipped, up to the next one at which the scheduler
//! acts: a request finishes, an arrival could be admitted, or the pool runs short of slots. Gauge reports that fall
//! due in between are published on the way.

use super::Engine;
use super::gaps::limit_ms;
use super::steps::Run;
use gorgo_core::Time;

impl Engine {
    /// The start and index of the decode step on the GPU and its run, if the run goes on until something happens.
    fn steady_run(&self) -> Option<(Time, u64, &Run)> {
        let (start, index, run) = self.pipeline.steady_run(self.config.overlap)?;
        let queue_is_idle = self.waiting.is_empty() || self.batch.full;
        let steady = queue_is_idle
            && !self.config.stream_tokens
            && self.batch.is_settled()
            && self.meter.fresh.is_empty()
            && self.meter.last_decode == start;
        steady.then_some((start, index, run))
    }

    /// Step ends, counted from the current one, at which neither a request finishes nor slots run out.
    fn uneventful_ends(&self, run: &Run) -> u64 {
        let finish = self.batch.next_finish().map_or(u64::MAX, |at| at.saturating_sub(self.pipeline.done + 1));
        finish.min(self.pool.free() / u64::from(run.rows))
    }

    /// When the next arrival is ready, if the scheduler would do more than queue it.
    fn relevant_arrival(&self) -> Option<Time> {
        let matters = !self.batch.full || self.config.max_queued_requests.is_some();
        self.inbox.front().filter(|_| matters).map(|&(ready, _)| ready)
    }

    /// The next step end at which the scheduler acts; `None` unless the engine is in a run of decode steps.
    pub(super) fn next_eventful_end(&self) -> Option<Time> {
        let (_, index, run) = self.steady_run()?;
        let end = run.end(index + self.uneventful_ends(run));
        match self.relevant_arrival() {
            Some(ready) if ready <= end => Some(run.end(run.first_ending_at(index, ready)).min(end)),
            _ => Some(end),
        }
    }

    /// Skips the uneventful step ends due at or before `now`.
    pub(super) fn jump(&mut self, now: Time) {
        while let Some(end) = self.pipeline.current_end().filter(|&end| end <= now) {
            let Some((start, index, &run)) = self.steady_run() else { return };
            let interval = u64::from(self.config.decode_log_interval);
            let mut ends = self.uneventful_ends(&run).min(interval - self.pipeline.done % interval);
            let before = self.relevant_arrival().map_or(now, |ready| now.min(Time(ready.0.saturating_sub(1))));
            if ends == 0 || end > before {
                return;
            }
            if ends > 1 && run.end(index + ends - 1) > before {
                ends = run.first_ending_at(index, Time(before.0 + 1)) - index;
            }
            self.skip(start, index, &run, ends);
        }
    }

    /// Skips `ends` step ends, the first of which is the end of step `index`, which began at `start`.
    fn skip(&mut self, start: Time, index: u64, run: &Run, ends: u64) {
        let rows = u64::from(run.rows);
        let mut at = index;
        while at < index + ends {
            let ms = run.step_ms(at);
            let alike = run.steps_below(at, limit_ms(ms), index + ends - at);
            self.meter.gaps.add(ms, alike * rows);
            at += alike;
        }
        let ended = self.pipeline.skip(run, index, ends, self.config.overlap);
        self.ratio.1 += ends;
        self.pool.allocate(ends * rows);
        self.meter.decoded(ended, ends * rows);
        if self.pipeline.done.is_multiple_of(u64::from(self.config.decode_log_interval)) {
            let began = if ends > 1 { run.end(index + ends - 2) } else { start };
            // The report comes before the slots of the step chosen at this end are taken.
            let (queued, used) = (self.queued_at(began), self.pool.used() - rows);
            self.meter.publish_decode(ended, run.rows, queued, used);
        }
    }
}
