//! Sends the requests of one strategy: at their scheduled times, or from the workers of a closed loop.

use super::bench::Bench;
use super::client::{Client, Outcome};
use super::progress::Progress;
use super::run::{RequestResult, time_since};
use super::source::{Prepared, Source};
use crate::timer::PreciseTimer;
use gorgo_core::record::{RequestRecord, Status};
use gorgo_core::turns::{Turn, Turns};
use gorgo_core::{Span, Time};
use gorgo_sim::network::Network;
use parking_lot::{Mutex, MutexGuard};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// How often a waiting thread checks whether the benchmark was stopped.
pub(super) const SLICE: Duration = Duration::from_millis(100);

/// Sends the requests of one strategy and collects their results.
pub(super) struct Sender {
    pub(super) bench: Bench,
    pub(super) clients: Vec<Client>,
    pub(super) countries: Vec<[u8; 2]>,
    pub(super) network: Network,
    pub(super) timer: PreciseTimer,
    /// Start of the schedule.
    pub(super) epoch: Instant,
    pub(super) progress: Arc<Progress>,
    /// Number of the strategy within the benchmark.
    pub(super) run: u64,
    /// Records of requests in flight, by number: the run may end before they do.
    pub(super) in_flight: Mutex<BTreeMap<usize, RequestRecord>>,
    /// Results so far.
    pub(super) ended: Mutex<Vec<RequestResult>>,
    /// Numbers of the turns that wait for the turn before them, and what prepares them.
    pub(super) turns: Mutex<Turns<usize>>,
    pub(super) source: Arc<Mutex<Source>>,
}

type Ready = mpsc::Receiver<Prepared>;

impl Sender {
    /// Sends each request at its scheduled time. Runs on its own thread, whose sleep is accurate to 0.1 ms.
    pub(super) fn send_on_schedule(
        self: Arc<Self>,
        runtime: &tokio::runtime::Handle,
        at: &[Time],
        mut ready: Ready,
    ) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        while let Some(prepared) = ready.blocking_recv() {
            let Some(&at) = at.get(prepared.number) else { break };
            let due = self.epoch + Duration::from_nanos(at.0);
            while let Some(rest) = due.checked_duration_since(Instant::now()).filter(|d| !d.is_zero()) {
                if self.progress.is_stopped() {
                    return tasks;
                }
                std::thread::sleep(rest.min(SLICE));
            }
            if self.progress.is_stopped() {
                break;
            }
            tasks.spawn_on(Arc::clone(&self).send_in_turn(prepared, at), runtime);
        }
        tasks
    }

    /// Sends a request, and then the turns of its session that wait for each other.
    async fn send_in_turn(self: Arc<Self>, mut prepared: Prepared, mut at: Time) {
        loop {
            let turn = Turn::from(&self.bench.rows[prepared.row]);
            let result = self.send(prepared, at).await;
            let done = result.record.done.get().unwrap_or(at);
            self.ended.lock().push(result);
            let Some((next, number)) = self.turns.lock().ended(turn, done) else { return };
            // A long prompt takes milliseconds, which no other request may wait.
            let source = Arc::clone(&self.source);
            let made = tokio::task::spawn_blocking(move || source.lock().prepare(number)).await;
            let Ok(Some(made)) = made else { return };
            self.timer.sleep_until(self.epoch + Duration::from_nanos(next.0)).await;
            if self.progress.is_stopped() {
                return;
            }
            (prepared, at) = (made, next);
        }
    }

    /// Runs a worker of a closed loop: it sends its next request when the previous one has ended.
    pub(super) async fn run_worker(self: Arc<Self>, ready: Arc<tokio::sync::Mutex<Ready>>, until: Time) {
        self.timer.sleep_until(self.epoch).await;
        while !self.progress.is_stopped() {
            let Some(prepared) = ready.lock().await.recv().await else { break };
            let now = time_since(self.epoch, Instant::now());
            if now >= until {
                break;
            }
            let result = self.send(prepared, now).await;
            self.ended.lock().push(result);
        }
    }

    /// Sends one request, scheduled at `at`, and waits for its end.
    async fn send(&self, prepared: Prepared, at: Time) -> RequestResult {
        let (number, target, user_rtt_ms) = (prepared.number, prepared.target, prepared.user_rtt_ms);
        let one_way = |leg: u64| match self.bench.user_rtt {
            true => self.network.user_one_way(user_rtt_ms, ((number as u64) << 8) | leg),
            false => Span::ZERO,
        };
        let mut record = self.record(&prepared, at);
        {
            let mut in_flight = self.in_flight();
            if in_flight.len() >= self.bench.max_in_flight {
                (record.status, record.done) = (Status::Rejected, at.into());
                drop(in_flight);
                let error = format!("dropped: {} requests were in flight", self.bench.max_in_flight);
                return RequestResult { dropped: true, ..self.unanswered(record, Some(error)) };
            }
            in_flight.insert(number, record.clone());
        }
        // The user sends at `at`; the request reaches the router one way later.
        let due = at + one_way(1) + self.user_upload(&prepared);
        if self.bench.user_rtt {
            self.timer.sleep_until(self.epoch + Duration::from_nanos(due.0)).await;
        }
        self.progress.request_sent();
        let id = format!("bench-{}-{:x}-{number}", self.bench.seed, self.run);
        let outcome = self.clients[target].send(prepared.body, &id).await;
        let row = self.result(record, due, one_way(2), one_way(3), outcome);
        self.in_flight().remove(&number);
        self.progress.request_ended(&row.record);
        row
    }

    /// What a long prompt takes longer on its way from the user.
    fn user_upload(&self, prepared: &Prepared) -> Span {
        let network = &self.bench.network;
        let tokens = self.bench.rows[prepared.row].input_tokens;
        let ms = prepared.user_rtt_ms * network.scale * network.user_upload_trips(tokens);
        if self.bench.user_rtt { Span::from_ms(ms) } else { Span::ZERO }
    }

    fn in_flight(&self) -> MutexGuard<'_, BTreeMap<usize, RequestRecord>> {
        self.in_flight.lock()
    }

    /// The record of a request that is about to be sent.
    fn record(&self, prepared: &Prepared, at: Time) -> RequestRecord {
        let row = &self.bench.rows[prepared.row];
        let origin = row.country.and_then(|c| self.countries.binary_search(&c).ok()).unwrap_or(self.countries.len());
        let router = u16::try_from(prepared.target).unwrap_or(u16::MAX);
        RequestRecord {
            origin: u16::try_from(origin).ok().into(),
            status: Status::Cancelled,
            attempts: 1,
            ..RequestRecord::scheduled(prepared.number as u64, row, at, router)
        }
    }

    /// The result of a request that has no answer.
    fn unanswered(&self, record: RequestRecord, error: Option<String>) -> RequestResult {
        let warmup = record.scheduled.secs() < self.bench.warmup_s;
        RequestResult { error, ..RequestResult::new(record, warmup) }
    }

    /// The result of a request. `due` is when it should have reached the router; `first` and `last` are the one-way
    /// times of its first and last token to the user.
    fn result(&self, mut record: RequestRecord, due: Time, first: Span, last: Span, outcome: Outcome) -> RequestResult {
        let at = |instant: Instant| time_since(self.epoch, instant);
        let lateness = at(outcome.sent) - due;
        record.status = outcome.status;
        record.sent = record.scheduled + lateness;
        record.arrived = at(outcome.sent).into();
        let router_first = outcome.first.map(at);
        let first_token = router_first.map(|at| at + first);
        (record.router_first, record.first_token) = (router_first.into(), first_token.into());
        // One-way times differ: the end must not overtake the first token.
        let ended = at(outcome.done);
        record.done = (ended + last).max(first_token.unwrap_or(Time::NEVER).min(ended + first)).into();
        record.prompt_tokens = outcome.counts.prompt.unwrap_or(record.prompt_tokens);
        record.output_tokens = outcome.counts.output.unwrap_or(outcome.chunks);
        record.cached_tokens = outcome.counts.cached.unwrap_or(0);
        let mut row = self.unanswered(record, outcome.error);
        row.lateness = lateness;
        row.last = outcome.last.map(|instant| at(instant) + last);
        (row.replica, row.gaps_ms) = (outcome.replica, outcome.gaps_ms);
        row
    }

    /// All results; requests whose tasks were dropped in flight have no answer.
    pub(super) fn results(&self) -> Vec<RequestResult> {
        let now = time_since(self.epoch, Instant::now());
        let in_flight = std::mem::take(&mut *self.in_flight());
        let row = |mut record: RequestRecord| {
            record.done = now.max(record.scheduled).into();
            self.unanswered(record, Some("not over when the run ended".to_owned()))
        };
        let mut rows = std::mem::take(&mut *self.ended.lock());
        rows.extend(in_flight.into_values().map(row));
        rows
    }
}
