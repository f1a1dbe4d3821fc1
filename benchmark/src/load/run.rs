//! All requests of a run: sent at their instants or by their workers, collected as records.

use super::client::{Client, Outcome};
use super::live::Live;
use super::profile::{Limits, Profile, Strategy, sweep_rates};
use super::source::{Prepared, Source, SourceOptions};
use super::target::Target;
use crate::clock::Alarms;
use gorgo_core::record::{RequestRecord, Status};
use gorgo_core::request::TraceRequest;
use gorgo_core::{Span, Time};
use gorgo_sim::engine::GapHistogram;
use gorgo_sim::network::{Network, NetworkConfig};
use rustls::ClientConfig;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Requests made ready before they are due.
const AHEAD: usize = 128;
/// From the start of the threads to the first instant of the schedule.
const LEAD: Duration = Duration::from_millis(100);
/// How often a waiting feeder looks whether it was told to stop.
const SLICE: Duration = Duration::from_millis(100);

/// What is to be run.
#[derive(Debug, Clone)]
pub struct Bench {
    /// Rows of the trace, at least one.
    pub rows: Arc<[TraceRequest]>,
    /// Where requests enter, at least one.
    pub targets: Arc<[Target]>,
    /// When they are sent.
    pub profile: Profile,
    /// Until when.
    pub limits: Limits,
    /// What they say.
    pub source: SourceOptions,
    /// Seed of drawn arrivals and of users' jitter.
    pub seed: u64,
    /// Requests scheduled in the first seconds are sent but not counted.
    pub warmup_s: f64,
    /// A request without an end after this long is given up, s.
    pub timeout_s: f64,
    /// After the last request of the schedule, unfinished ones are waited for this long, s.
    pub drain_s: f64,
    /// Requests in flight at most; an open loop drops what comes beyond, and says so.
    pub max_in_flight: usize,
    /// Add each user's round trip to the router it enters at, as the simulator does.
    pub user_rtt: bool,
    /// Bearer token.
    pub key: Option<String>,
    /// Whom https targets must be vouched for by.
    pub tls: Option<Arc<ClientConfig>>,
}

/// One strategy, done.
#[derive(Debug, Clone)]
pub struct Run {
    /// Name of its profile.
    pub name: &'static str,
    /// Requests/s asked for, where one number tells.
    pub rate: Option<f64>,
    /// Workers of a closed loop.
    pub workers: Option<usize>,
    /// One row a request, by number.
    pub rows: Vec<Row>,
    /// Gaps between texts of one answer, pooled.
    pub gaps: GapHistogram,
    /// From the start of the schedule to the last end.
    pub span: Span,
    /// Replicas behind the records' indices.
    pub replicas: Vec<String>,
}

/// One request.
#[derive(Debug, Clone)]
pub struct Row {
    /// In the form that simulator and router write too. `sent` is the user's click.
    pub record: RequestRecord,
    /// Sent this much later than scheduled.
    pub lateness: Span,
    /// Sent during warm-up.
    pub warmup: bool,
    /// The last text reached the user.
    pub last: Time,
    /// What went wrong.
    pub error: Option<String>,
    /// Never sent: `max_in_flight` requests were open.
    pub dropped: bool,
    replica: Option<String>,
    gaps_ms: Vec<f32>,
}

/// Why a run did not begin.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// A setting.
    #[error("{0}")]
    Setting(String),
    /// No thread.
    #[error("cannot start a thread ({0}); the machine is out of resources")]
    Thread(#[from] std::io::Error),
}

impl Bench {
    /// Runs it: one [`Run`], or several for a sweep.
    ///
    /// # Errors
    /// A setting is out of range, before anything was sent.
    pub async fn run(&self, live: &Arc<Live>) -> Result<Vec<Run>, BenchError> {
        self.check().map_err(BenchError::Setting)?;
        let Profile::Sweep(strategies) = self.profile else {
            return Ok(vec![self.one(self.profile, 0, live).await?]);
        };
        if !(3..=100).contains(&strategies) {
            return Err(BenchError::Setting(format!("a sweep of {strategies} runs: give 3 to 100")));
        }
        let slow = self.one(Profile::Synchronous, 0, live).await?;
        let fast = self.one(Profile::Throughput, 1, live).await?;
        let rates = sweep_rates(strategies, slow.per_second(), fast.per_second());
        let mut runs = vec![slow, fast];
        for (i, rate) in rates.into_iter().enumerate() {
            if live.stopped() {
                break;
            }
            runs.push(self.one(Profile::Constant(rate.max(1e-3)), 2 + i as u64, live).await?);
        }
        Ok(runs)
    }

    fn check(&self) -> Result<(), String> {
        if self.rows.is_empty() || self.targets.is_empty() {
            return Err("there must be at least one request and one target".to_owned());
        }
        for (key, s) in [("warmup", self.warmup_s), ("timeout", self.timeout_s), ("drain", self.drain_s)] {
            if !(0.0..=86_400.0).contains(&s) {
                return Err(format!("{key} is {s} s: give 0 to 86,400"));
            }
        }
        if !(1..=1_000_000).contains(&self.max_in_flight) {
            return Err(format!("max_in_flight is {}: give 1 to 1,000,000", self.max_in_flight));
        }
        Ok(())
    }

    async fn one(&self, profile: Profile, index: u64, live: &Arc<Live>) -> Result<Run, BenchError> {
        let data: Vec<Time> = self.rows.iter().map(|r| r.at).collect();
        // A closed loop needs no more workers than an engine takes at a time.
        let workers = self.max_in_flight.min(512);
        let strategy = profile.strategy(&data, &self.limits, self.seed, workers).map_err(BenchError::Setting)?;
        let sender = Arc::new(self.sender(index, live)?);
        let (made, ready) = mpsc::channel(AHEAD);
        // Another run says other things, or the cache would hold them.
        let salt = self.source.salt.wrapping_add(index << 32);
        let source = Source::new(
            Arc::clone(&self.rows),
            Arc::clone(&self.targets),
            SourceOptions { salt, ..self.source.clone() },
        );
        let most = match &strategy {
            Strategy::Open { at, .. } => at.len(),
            Strategy::Closed { requests, .. } => *requests,
        };
        std::thread::Builder::new().name("prompts".to_owned()).spawn(move || {
            // Ends when all are made or nobody wants more.
            source.take(most).try_for_each(|p| made.blocking_send(p).map_err(drop))
        })?;
        let epoch = sender.epoch;
        let (mut tasks, name, rate, workers) = match strategy {
            Strategy::Open { name, rate, at } => {
                let (runtime, sender) = (tokio::runtime::Handle::current(), Arc::clone(&sender));
                let feeding = tokio::task::spawn_blocking(move || sender.feed(&runtime, &at, ready));
                (feeding.await.unwrap_or_default(), name, rate, None)
            }
            Strategy::Closed { name, workers, until, .. } => {
                let ready = Arc::new(tokio::sync::Mutex::new(ready));
                let mut tasks = JoinSet::new();
                for _ in 0..workers {
                    tasks.spawn(Arc::clone(&sender).work(Arc::clone(&ready), until));
                }
                (tasks, name, None, Some(workers))
            }
        };
        let mut rows = Vec::new();
        let limit = tokio::time::Instant::now()
            + match workers {
                // Workers end themselves when their time is up.
                Some(_) => Duration::from_secs_f64(self.limits.duration_s.unwrap_or(86_400.0) + self.drain_s),
                None => Duration::from_secs_f64(self.drain_s),
            };
        loop {
            tokio::select! {
                ended = tasks.join_next() => match ended {
                    None => break,
                    Some(Ok(more)) => rows.extend(more),
                    Some(Err(_)) => {}
                },
                () = tokio::time::sleep_until(limit) => break,
                () = tokio::time::sleep(SLICE) => {
                    if live.stopped() {
                        break;
                    }
                }
            }
        }
        drop(tasks);
        rows.extend(sender.unfinished());
        rows.sort_by_key(|row| row.record.request);
        Ok(finish(name, rate, workers, rows, epoch))
    }

    fn sender(&self, index: u64, live: &Arc<Live>) -> Result<Sender, BenchError> {
        let timeout = Duration::from_secs_f64(self.timeout_s);
        let path = self.source.api.path();
        let client = |target| {
            Client::new(target, path, self.key.as_deref(), timeout, self.tls.as_ref()).map_err(BenchError::Setting)
        };
        let countries: BTreeSet<[u8; 2]> = self.rows.iter().filter_map(|r| r.country).collect();
        Ok(Sender {
            clients: self.targets.iter().map(client).collect::<Result<_, _>>()?,
            bench: self.clone(),
            countries: countries.into_iter().collect(),
            network: Network::new(NetworkConfig::default(), self.seed, &[], |_, _| None),
            alarms: Alarms::start()?,
            epoch: Instant::now() + LEAD,
            live: Arc::clone(live),
            run: index,
            flying: Mutex::default(),
        })
    }

    /// Names of the users' countries behind the records' `origin`; the last one is "unknown".
    pub fn origins(&self) -> Vec<String> {
        let countries: BTreeSet<[u8; 2]> = self.rows.iter().filter_map(|r| r.country).collect();
        let names = countries.into_iter().map(gorgo_traces::geo::country_name);
        names.chain(["unknown".to_owned()]).collect()
    }
}

/// How many of a run's requests were answered, warm-up included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RunTotals {
    /// All.
    pub all: usize,
    /// Answered in full.
    pub answered: usize,
}

impl std::iter::Sum for RunTotals {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |a, b| Self { all: a.all + b.all, answered: a.answered + b.answered })
    }
}

impl Run {
    /// How many were answered.
    pub fn totals(&self) -> RunTotals {
        let answered = self.rows.iter().filter(|r| r.record.status == Status::Finished).count();
        RunTotals { all: self.rows.len(), answered }
    }

    /// Finished requests a second.
    pub fn per_second(&self) -> f64 {
        if self.span == Span::ZERO { 0.0 } else { self.totals().answered as f64 / (self.span.ms() / 1e3) }
    }
}

fn finish(name: &'static str, rate: Option<f64>, workers: Option<usize>, mut rows: Vec<Row>, epoch: Instant) -> Run {
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
        row.record.replica = index.and_then(|i| u16::try_from(i).ok()).unwrap_or(u16::MAX);
    }
    let last = rows.iter().map(|r| r.record.done).filter(|&at| at != Time::NEVER).max();
    let span = last.unwrap_or(time(epoch, Instant::now())) - Time::ZERO;
    Run { name, rate, workers, rows, gaps, span, replicas }
}

fn time(epoch: Instant, at: Instant) -> Time {
    Time(u64::try_from(at.saturating_duration_since(epoch).as_nanos()).unwrap_or(u64::MAX))
}

/// What every request of a run needs.
struct Sender {
    bench: Bench,
    clients: Vec<Client>,
    countries: Vec<[u8; 2]>,
    network: Network,
    alarms: Alarms,
    epoch: Instant,
    live: Arc<Live>,
    run: u64,
    /// Records of requests that are not over: a run may end before them.
    flying: Mutex<std::collections::BTreeMap<usize, RequestRecord>>,
}

type Ready = mpsc::Receiver<Prepared>;

impl Sender {
    /// Sends each request at its instant; runs on a thread of its own, whose sleep is precise to 0.1 ms.
    fn feed(self: Arc<Self>, runtime: &tokio::runtime::Handle, at: &[Time], mut ready: Ready) -> JoinSet<Vec<Row>> {
        let mut tasks = JoinSet::new();
        for &at in at {
            let Some(prepared) = ready.blocking_recv() else { break };
            let due = self.epoch + Duration::from_nanos(at.0);
            while let Some(rest) = due.checked_duration_since(Instant::now()).filter(|d| !d.is_zero()) {
                if self.live.stopped() {
                    return tasks;
                }
                std::thread::sleep(rest.min(SLICE));
            }
            if self.live.stopped() {
                break;
            }
            tasks.spawn_on(Arc::clone(&self).open(prepared, at), runtime);
        }
        tasks
    }

    async fn open(self: Arc<Self>, prepared: Prepared, at: Time) -> Vec<Row> {
        vec![self.request(prepared, at).await]
    }

    /// A worker of a closed loop: a request is scheduled when the one before is over.
    async fn work(self: Arc<Self>, ready: Arc<tokio::sync::Mutex<Ready>>, until: Time) -> Vec<Row> {
        let mut rows = Vec::new();
        self.alarms.sleep_until(self.epoch).await;
        while !self.live.stopped() {
            let Some(prepared) = ready.lock().await.recv().await else { break };
            let now = time(self.epoch, Instant::now());
            if now >= until {
                break;
            }
            rows.push(self.request(prepared, now).await);
        }
        rows
    }

    async fn request(&self, prepared: Prepared, at: Time) -> Row {
        let (number, target, user_rtt_ms) = (prepared.number, prepared.target, prepared.user_rtt_ms);
        let way = |leg: u64| match self.bench.user_rtt {
            true => self.network.user_one_way(user_rtt_ms, ((number as u64) << 8) | leg),
            false => Span::ZERO,
        };
        let mut record = self.record(&prepared, at);
        {
            let mut flying = self.flying.lock().unwrap_or_else(PoisonError::into_inner);
            if flying.len() >= self.bench.max_in_flight {
                (record.status, record.done) = (Status::Rejected, at);
                drop(flying);
                let error = format!("dropped: {} requests were in flight", self.bench.max_in_flight);
                return Row { dropped: true, ..self.row(record, Some(error)) };
            }
            flying.insert(number, record.clone());
        }
        // The user's click is at `at`; its request reaches the router a little later.
        let due = at + way(1);
        if self.bench.user_rtt {
            self.alarms.sleep_until(self.epoch + Duration::from_nanos(due.0)).await;
        }
        self.live.sending();
        let id = format!("bench-{}-{:x}-{number}", self.bench.seed, self.run);
        let outcome = self.clients[target].send(prepared.body, &id).await;
        let row = self.ended(record, due, way(2), way(3), outcome);
        self.flying.lock().unwrap_or_else(PoisonError::into_inner).remove(&number);
        self.live.ended(&row.record);
        row
    }

    fn record(&self, prepared: &Prepared, at: Time) -> RequestRecord {
        let row = &self.bench.rows[prepared.row];
        let origin = row.country.and_then(|c| self.countries.binary_search(&c).ok()).unwrap_or(self.countries.len());
        RequestRecord {
            origin: u16::try_from(origin).unwrap_or(u16::MAX),
            router: u16::try_from(prepared.target).unwrap_or(u16::MAX),
            status: Status::Cancelled,
            attempts: 1,
            ..RequestRecord::scheduled(prepared.number as u64, row, at)
        }
    }

    fn row(&self, record: RequestRecord, error: Option<String>) -> Row {
        let warmup = record.scheduled.secs() < self.bench.warmup_s;
        Row {
            lateness: Span::ZERO,
            warmup,
            last: Time::NEVER,
            error,
            dropped: false,
            replica: None,
            gaps_ms: Vec::new(),
            record,
        }
    }

    /// `due` is when it should have reached the router; `first` and `last` are the ways back of its tokens.
    fn ended(&self, mut record: RequestRecord, due: Time, first: Span, last: Span, outcome: Outcome) -> Row {
        let at = |instant: Instant| time(self.epoch, instant);
        let lateness = at(outcome.sent) - due;
        record.status = outcome.status;
        record.sent = record.scheduled + lateness;
        record.arrived = at(outcome.sent);
        if let Some(instant) = outcome.first {
            (record.router_first, record.first_token) = (at(instant), at(instant) + first);
        }
        // Ways back differ a little: the end never overtakes the first token (`NEVER` if there was none).
        record.done = (at(outcome.done) + last).max(record.first_token.min(at(outcome.done) + first));
        record.prompt_tokens = outcome.counts.prompt.unwrap_or(record.prompt_tokens);
        record.output_tokens = outcome.counts.output.unwrap_or(outcome.chunks);
        record.cached_tokens = outcome.counts.cached.unwrap_or(0);
        let mut row = self.row(record, outcome.error);
        row.lateness = lateness;
        row.last = outcome.last.map_or(Time::NEVER, |instant| at(instant) + last);
        (row.replica, row.gaps_ms) = (outcome.replica, outcome.gaps_ms);
        row
    }

    /// Rows of requests whose tasks were dropped.
    fn unfinished(&self) -> Vec<Row> {
        let now = time(self.epoch, Instant::now());
        let flying = std::mem::take(&mut *self.flying.lock().unwrap_or_else(PoisonError::into_inner));
        let row = |mut record: RequestRecord| {
            record.done = now.max(record.scheduled);
            self.row(record, Some("not over when the run ended".to_owned()))
        };
        flying.into_values().map(row).collect()
    }
}
