//! Results of one strategy: one record per request, and their totals.

use gorgo_core::record::{RequestRecord, Status};
use gorgo_core::{Span, Time};
use gorgo_sim::engine::GapHistogram;
use std::collections::BTreeSet;
use std::time::Instant;

/// Results of one strategy.
#[derive(Debug, Clone)]
pub struct Run {
    /// Name of the profile.
    pub name: &'static str,
    /// Requested rate, requests/s; `None` for closed loops and traces.
    pub rate: Option<f64>,
    /// Number of workers of a closed loop.
    pub workers: Option<usize>,
    /// One result per request, ordered by number.
    pub rows: Vec<RequestResult>,
    /// Gaps between the texts of one answer, of all requests.
    pub gaps: GapHistogram,
    /// Time from the start of the schedule to the end of the last request.
    pub span: Span,
    /// Replica names that the records' indices refer to.
    pub replicas: Vec<String>,
}

/// Result of one request.
#[derive(Debug, Clone)]
pub struct RequestResult {
    /// The record, in the format of simulator and router. `sent` is the time at the user.
    pub record: RequestRecord,
    /// Delay of sending behind the schedule.
    pub lateness: Span,
    /// The request was scheduled during warm-up.
    pub warmup: bool,
    /// When the last text reached the user; `None` without any text.
    pub last: Option<Time>,
    /// Why the request failed.
    pub error: Option<String>,
    /// The request was not sent because `max_in_flight` requests were in flight.
    pub dropped: bool,
    pub(super) replica: Option<String>,
    pub(super) gaps_ms: Vec<f32>,
}

impl RequestResult {
    /// The result of a request without an answer or an error so far.
    pub fn new(record: RequestRecord, warmup: bool) -> Self {
        Self {
            record,
            lateness: Span::ZERO,
            warmup,
            last: None,
            error: None,
            dropped: false,
            replica: None,
            gaps_ms: Vec::new(),
        }
    }

    /// Whether the request was answered in full.
    pub fn is_successful(&self) -> bool {
        self.record.status == Status::Finished
    }

    /// End-to-end latency from the scheduled time, s; `None` before the end.
    pub fn latency_s(&self) -> Option<f64> {
        Some((self.record.done.get()? - self.record.scheduled).ms() / 1e3)
    }

    /// TTFT from the scheduled time, ms; `None` without a first token.
    pub fn ttft_ms(&self) -> Option<f64> {
        Some((self.record.first_token.get()? - self.record.scheduled).ms())
    }

    /// Mean inter-token latency, ms; `None` with fewer than two tokens.
    pub fn itl_ms(&self) -> Option<f64> {
        let gaps = self.record.output_tokens.checked_sub(1).filter(|&n| n > 0)?;
        Some((self.last? - self.record.first_token.get()?).ms() / f64::from(gaps))
    }

    /// Time per output token, the first included, ms; `None` without tokens.
    pub fn tpot_ms(&self) -> Option<f64> {
        let last = self.last.filter(|_| self.record.output_tokens > 0)?;
        Some((last - self.record.scheduled).ms() / f64::from(self.record.output_tokens))
    }
}

/// Numbers of requests and answers of a run, warm-up included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RunTotals {
    /// All requests.
    pub all: usize,
    /// Requests answered in full.
    pub answered: usize,
}

impl std::iter::Sum for RunTotals {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |a, b| Self { all: a.all + b.all, answered: a.answered + b.answered })
    }
}

impl Run {
    /// Collects the results of one strategy, whose schedule started at `epoch`.
    pub(super) fn new(
        name: &'static str,
        rate: Option<f64>,
        workers: Option<usize>,
        mut rows: Vec<RequestResult>,
        epoch: Instant,
    ) -> Self {
        let mut gaps = GapHistogram::default();
        for row in rows.iter_mut() {
            let own = std::mem::take(&mut row.gaps_ms);
            if !row.warmup {
                own.iter().for_each(|&ms| gaps.add(f64::from(ms), 1));
            }
        }
        let replicas: BTreeSet<String> = rows.iter().filter_map(|r| r.replica.clone()).collect();
        let replicas: Vec<String> = replicas.into_iter().collect();
        for row in &mut rows {
            let index = row.replica.as_ref().and_then(|name| replicas.binary_search(name).ok());
            row.record.replica = index.and_then(|i| u16::try_from(i).ok()).into();
        }
        let last = rows.iter().filter_map(|r| r.record.done.get()).max();
        let span = last.unwrap_or(time_since(epoch, Instant::now())) - Time::ZERO;
        Self { name, rate, workers, rows, gaps, span, replicas }
    }

    /// Numbers of requests and answers.
    pub fn totals(&self) -> RunTotals {
        let answered = self.rows.iter().filter(|r| r.is_successful()).count();
        RunTotals { all: self.rows.len(), answered }
    }

    /// Finished requests per second.
    pub fn per_second(&self) -> f64 {
        if self.span == Span::ZERO { 0.0 } else { self.totals().answered as f64 / (self.span.ms() / 1e3) }
    }
}

/// `at` as time since `epoch`.
pub(super) fn time_since(epoch: Instant, at: Instant) -> Time {
    Time(u64::try_from(at.saturating_duration_since(epoch).as_nanos()).unwrap_or(u64::MAX))
}
