//! Many decode steps at once.
//!
//! While the batch does not change, the end of a step is quiet: the scheduler looks, finds nothing to do and chooses
//! the same batch again. Quiet ends are skipped in closed form up to the next loud one: a request finishes, an
//! arrival could be admitted, or the pool is short of slots. Reports fall due in between and are made on the way.

use super::Engine;
use super::gaps::limit_ms;
use super::scheduler::{Step, Work};
use super::steps::Run;
use gorgo_core::Time;
use std::cmp::Reverse;

impl Engine {
    /// The step on the GPU and its run, if the pipeline holds nothing else and nothing is about to change.
    fn steady(&self) -> Option<(&Step, u64, &Run)> {
        let step = self.current.as_ref()?;
        let Work::Decode { index, run } = &step.work else { return None };
        let same_batch_follows = !self.config.overlap
            || matches!(&self.next, Some(Step { work: Work::Decode { run: next, .. }, .. }) if next.first == run.first);
        let quiet_queue = self.waiting.is_empty() || self.latched;
        let steady = same_batch_follows
            && quiet_queue
            && !self.config.stream_tokens
            && !self.changed
            && self.unfiltered == 0
            && self.joining.is_empty()
            && self.meter.fresh.is_empty()
            && self.meter.last_decode == step.start;
        steady.then_some((step, *index, run))
    }

    /// Step ends, counted from the current one, at which neither a request finishes nor slots run out.
    fn quiet_ends(&self, run: &Run) -> u64 {
        let finish = self.finishes.peek().map_or(u64::MAX, |Reverse((at, ..))| at.saturating_sub(self.done + 1));
        finish.min(self.free / u64::from(run.rows))
    }

    /// When the next arrival is ready, if the scheduler would do more than queue it.
    fn loud_arrival(&self) -> Option<Time> {
        let matters = !self.latched || self.config.max_queued_requests.is_some();
        self.inbox.front().filter(|_| matters).map(|&(ready, _)| ready)
    }

    /// When the scheduler next has something to do; `None` unless the engine is in a run of decode steps.
    pub(super) fn next_loud_boundary(&self) -> Option<Time> {
        let (_, index, run) = self.steady()?;
        let end = run.end(index + self.quiet_ends(run));
        match self.loud_arrival() {
            Some(ready) if ready <= end => Some(run.end(run.first_ending_at(index, ready)).min(end)),
            _ => Some(end),
        }
    }

    /// Skips the quiet step ends due at or before `now`.
    pub(super) fn jump(&mut self, now: Time) {
        while let Some((step, index, run)) = self.steady() {
            if step.end > now {
                return;
            }
            let (start, run) = (step.start, *run);
            let interval = u64::from(self.config.decode_log_interval);
            let mut ends = self.quiet_ends(&run).min(interval - self.done % interval);
            let before = self.loud_arrival().map_or(now, |ready| now.min(Time(ready.0.saturating_sub(1))));
            if ends > 0 && run.end(index + ends - 1) > before {
                ends = run.first_ending_at(index, Time(before.0 + 1)) - index;
            }
            if ends == 0 {
                return;
            }
            self.skip(start, index, &run, ends);
        }
    }

    fn skip(&mut self, start: Time, index: u64, run: &Run, ends: u64) {
        let rows = u64::from(run.rows);
        let mut at = index;
        while at < index + ends {
            let ms = run.step_ms(at);
            let alike = run.steps_below(at, limit_ms(ms), index + ends - at);
            self.meter.gaps.add(ms, alike * rows);
            at += alike;
        }
        let last = index + ends - 1;
        let ended = run.end(last);
        self.done += ends;
        self.launched += ends;
        self.ratio.1 += ends;
        self.free -= ends * rows;
        self.private += ends * rows;
        self.meter.decoded(ended, ends * rows);
        let end = run.end(last + 1);
        self.current = Some(Step { start: ended, end, work: Work::Decode { index: last + 1, run: *run } });
        if self.config.overlap {
            let work = Work::Decode { index: last + 2, run: *run };
            self.next = Some(Step { start: end, end: run.end(last + 2), work });
        }
        if self.done.is_multiple_of(u64::from(self.config.decode_log_interval)) {
            let began = if ends > 1 { run.end(last - 1) } else { start };
            // The report comes before the slots of the step chosen at this end are taken.
            let (queued, used) = (self.queued_at(began), self.used() - rows);
            self.meter.publish_decode(ended, run.rows, queued, used);
        }
    }
}
