//! A benchmark: its settings, and the runs of its strategies.

use super::client::Client;
use super::profile::{Limits, Profile, Strategy, sweep_rates};
use super::progress::Progress;
use super::run::Run;
use super::sender::{SLICE, Sender};
use super::source::{Source, SourceOptions};
use super::target::Target;
use crate::input_error::InputError;
use crate::timer::PreciseTimer;
use gorgo_core::request::TraceRequest;
use gorgo_core::turns::Turns;
use gorgo_core::{Span, Time};
use gorgo_sim::network::{Network, NetworkConfig};
use parking_lot::Mutex;
use rustls::ClientConfig;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Requests prepared before they are due.
const AHEAD: usize = 128;
/// Time from the start of the threads to the start of the schedule.
pub const LEAD: Duration = Duration::from_millis(100);

/// Settings of a benchmark.
#[derive(Debug, Clone)]
pub struct Bench {
    /// Requests of the trace, at least one.
    pub rows: Arc<[TraceRequest]>,
    /// Targets that requests are sent to, at least one.
    pub targets: Arc<[Target]>,
    /// When requests are sent.
    pub profile: Profile,
    /// When the benchmark ends.
    pub limits: Limits,
    /// What requests contain.
    pub source: SourceOptions,
    /// Seed of random arrivals and of users' jitter.
    pub seed: u64,
    /// Requests scheduled in this time from the start are sent but not counted, s.
    pub warmup_s: f64,
    /// Timeout of a request, s.
    pub timeout_s: f64,
    /// Wait for unfinished requests this long after the last one of the schedule, s.
    pub drain_s: f64,
    /// Most requests in flight; an open loop drops further ones and reports them.
    pub max_in_flight: usize,
    /// Add each user's round trip to the target, as the simulator does.
    pub user_rtt: bool,
    /// The network between users and targets.
    pub network: NetworkConfig,
    /// Bearer token.
    pub key: Option<String>,
    /// Root certificates for https targets; `None` rejects https.
    pub tls: Option<Arc<ClientConfig>>,
}

/// Why a benchmark did not start.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// A setting is out of range.
    #[error("{0}")]
    Setting(#[from] InputError),
    /// No thread.
    #[error("cannot start a thread ({0}); the machine is out of resources")]
    Thread(#[from] std::io::Error),
}

impl Bench {
    /// Runs the benchmark: one [`Run`], or several for a sweep.
    ///
    /// # Errors
    /// A setting is out of range; no request was sent then.
    pub async fn run(&self, progress: &Arc<Progress>) -> Result<Vec<Run>, BenchError> {
        self.check()?;
        let Profile::Sweep(strategies) = self.profile else {
            return Ok(vec![self.run_strategy(self.profile, 0, progress).await?]);
        };
        if !(3..=100).contains(&strategies) {
            return Err(BenchError::Setting(format!("a sweep of {strategies} runs: give 3 to 100").into()));
        }
        let slow = self.run_strategy(Profile::Synchronous, 0, progress).await?;
        let fast = self.run_strategy(Profile::Throughput, 1, progress).await?;
        let rates = sweep_rates(strategies, slow.per_second(), fast.per_second());
        let mut runs = vec![slow, fast];
        for (i, rate) in rates.into_iter().enumerate() {
            if progress.is_stopped() {
                break;
            }
            runs.push(self.run_strategy(Profile::Constant(rate.max(1e-3)), 2 + i as u64, progress).await?);
        }
        Ok(runs)
    }

    fn check(&self) -> Result<(), InputError> {
        if self.rows.is_empty() || self.targets.is_empty() {
            return Err("there must be at least one request and one target".into());
        }
        for (key, s) in [("warmup", self.warmup_s), ("timeout", self.timeout_s), ("drain", self.drain_s)] {
            if !(0.0..=86_400.0).contains(&s) {
                return Err(format!("{key} is {s} s: give 0 to 86,400").into());
            }
        }
        if !(1..=1_000_000).contains(&self.max_in_flight) {
            return Err(format!("max_in_flight is {}: give 1 to 1,000,000", self.max_in_flight).into());
        }
        Ok(())
    }

    async fn run_strategy(&self, profile: Profile, index: u64, progress: &Arc<Progress>) -> Result<Run, BenchError> {
        let data: Vec<Time> = self.rows.iter().map(|r| r.at).collect();
        // A closed loop needs no more workers than one engine runs at a time.
        let workers = self.max_in_flight.min(512);
        let strategy = profile.strategy(&data, &self.limits, self.seed, workers)?;
        let (made, ready) = mpsc::channel(AHEAD);
        // Every run has its own salt: otherwise the cache would hold its prompts.
        let salt = self.source.salt.wrapping_add(index << 32);
        let source = Source::new(
            Arc::clone(&self.rows),
            Arc::clone(&self.targets),
            SourceOptions { salt, ..self.source.clone() },
        );
        let source = Arc::new(Mutex::new(source));
        // Turns that wait for the turn before them are prepared when that has ended.
        let mut turns = Turns::new(self.limits.duration_s.map(|s| Time::ZERO + Span::from_secs(s)));
        let first: Box<dyn Iterator<Item = usize> + Send> = match (&strategy, profile) {
            (Strategy::Open { at, .. }, Profile::Trace) => {
                let rows = self.rows.iter().take(at.len()).enumerate();
                let at_once: Vec<usize> = rows.filter_map(|(number, row)| turns.due(row.into(), number)).collect();
                Box::new(at_once.into_iter())
            }
            (Strategy::Open { at, .. }, _) => Box::new(0..at.len()),
            (Strategy::Closed { requests, .. }, _) => Box::new(0..*requests),
        };
        let waits = !turns.is_empty();
        let sender = Arc::new(self.new_sender(index, progress, turns, Arc::clone(&source))?);
        std::thread::Builder::new().name("prompts".to_owned()).spawn(move || {
            // Ends when all are sent or the receiver is dropped.
            for number in first {
                let Some(prepared) = source.lock().prepare(number) else { break };
                if made.blocking_send(prepared).is_err() {
                    break;
                }
            }
        })?;
        let epoch = sender.epoch;
        let (mut tasks, name, rate, workers) = match strategy {
            Strategy::Open { name, rate, at } => {
                let (runtime, sender) = (tokio::runtime::Handle::current(), Arc::clone(&sender));
                let feeding = tokio::task::spawn_blocking(move || sender.send_on_schedule(&runtime, &at, ready));
                (feeding.await.unwrap_or_default(), name, rate, None)
            }
            Strategy::Closed { name, workers, until, .. } => {
                let ready = Arc::new(tokio::sync::Mutex::new(ready));
                let mut tasks = JoinSet::new();
                for _ in 0..workers {
                    tasks.spawn(Arc::clone(&sender).run_worker(Arc::clone(&ready), until));
                }
                (tasks, name, None, Some(workers))
            }
        };
        // Workers and sessions stop by themselves at the end of the duration.
        let more_s = if workers.is_some() || waits { self.limits.duration_s.unwrap_or(86_400.0) } else { 0.0 };
        let limit = tokio::time::Instant::now() + Duration::from_secs_f64(more_s + self.drain_s);
        loop {
            tokio::select! {
                ended = tasks.join_next() => if ended.is_none() {
                    break;
                },
                () = tokio::time::sleep_until(limit) => break,
                () = tokio::time::sleep(SLICE) => {
                    if progress.is_stopped() {
                        break;
                    }
                }
            }
        }
        drop(tasks);
        let mut rows = sender.results();
        rows.sort_by_key(|row| row.record.request);
        Ok(Run::new(name, rate, workers, rows, epoch))
    }

    fn new_sender(
        &self,
        index: u64,
        progress: &Arc<Progress>,
        turns: Turns<usize>,
        source: Arc<Mutex<Source>>,
    ) -> Result<Sender, BenchError> {
        let timeout = Duration::from_secs_f64(self.timeout_s);
        let path = self.source.api.path();
        let client = |target| {
            Client::new(target, path, self.key.as_deref(), timeout, self.tls.as_ref()).map_err(BenchError::from)
        };
        let countries: BTreeSet<[u8; 2]> = self.rows.iter().filter_map(|r| r.country).collect();
        Ok(Sender {
            clients: self.targets.iter().map(client).collect::<Result<_, _>>()?,
            bench: self.clone(),
            countries: countries.into_iter().collect(),
            network: Network::new(self.network.clone(), self.seed, &[], |_, _| None),
            timer: PreciseTimer::start()?,
            epoch: Instant::now() + LEAD,
            progress: Arc::clone(progress),
            run: index,
            in_flight: Mutex::default(),
            ended: Mutex::default(),
            turns: Mutex::new(turns),
            source,
        })
    }

    /// Country names that the records' `origin` refers to; the last one is "unknown".
    pub fn origins(&self) -> Vec<String> {
        let countries: BTreeSet<[u8; 2]> = self.rows.iter().filter_map(|r| r.country).collect();
        let names = countries.into_iter().map(gorgo_traces::geo::country_name);
        names.chain(["unknown".to_owned()]).collect()
    }
}
