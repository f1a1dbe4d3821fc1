//! Runs the points of a plan (arm × seed) on all cores and stores each result when its run ends.

mod counted;
mod late_faults;

use crate::build::{Built, build};
use crate::live::{self, LiveError};
use crate::results::{ArmRun, ArmTiming, DECISIONS, ResultError, ResultFolder, Results, Rows, Timing};
use crate::spec::{Experiment, PlannedArm, SpecError};
use gorgo_core::Time;
use gorgo_core::record::{RequestRecord, Status};
use gorgo_core::request::TraceRequest;
use gorgo_sim::world::{self, Decided, WorldError};
use gorgo_traces::timeline::Decision;
use gorgo_traces::workload::Workload;
use rayon::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

pub(crate) use counted::few_counted;
use late_faults::late_fault;

/// Why a run failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The experiment is malformed.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// Results cannot be written.
    #[error(transparent)]
    Result(#[from] ResultError),
    /// The world could not be run to its end.
    #[error("arm `{arm}`, seed {seed}: {source}")]
    World {
        /// Which arm.
        arm: String,
        /// With which seed.
        seed: u64,
        /// Why.
        source: Box<WorldError>,
    },
    /// A live run failed.
    #[error("arm `{arm}`, seed {seed}, live: {source}")]
    Live {
        /// Which arm.
        arm: String,
        /// With which seed.
        seed: u64,
        /// Why.
        source: LiveError,
    },
    /// Warm-up and cool-down leave nothing to count.
    #[error(
        "arm `{arm}`, seed {seed}: measure.warm_up_s = {warm_up_s} and measure.cool_down_s = {cool_down_s} leave none of the {requests} requests, which arrive within {last_s:.1} s; give smaller ones or a longer run"
    )]
    NothingCounted {
        /// Which arm.
        arm: String,
        /// With which seed.
        seed: u64,
        /// Its warm-up, s.
        warm_up_s: f64,
        /// Its cool-down, s.
        cool_down_s: f64,
        /// Requests of the run.
        requests: usize,
        /// When the last of them arrived, s.
        last_s: f64,
    },
    /// No thread pool.
    #[error("cannot start {jobs} worker threads; give a smaller --jobs")]
    Jobs {
        /// How many were asked for.
        jobs: usize,
    },
}

/// How to run.
#[derive(Debug, Clone, Copy)]
pub struct RunOptions {
    /// Points to run in parallel. By default as many as the machine has cores, but one at a time in live runs, which
    /// would disturb each other.
    pub jobs: Option<usize>,
    /// Whether to keep one row per request.
    pub rows: Rows,
    /// Run on emulated replicas and real routers, in real time.
    pub live: bool,
    /// Run only this part of the points.
    pub shard: Option<Shard>,
}

/// One of several equal parts of an experiment's points.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    /// Which part, from 0.
    pub index: usize,
    /// Number of parts.
    pub of: usize,
}

impl std::fmt::Display for Shard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.index, self.of)
    }
}

/// Progress of a run.
#[derive(Debug, Clone)]
pub enum Progress {
    /// The run starts.
    Start {
        /// Points to run.
        points: usize,
        /// Points found in the folder.
        kept: usize,
        /// Least duration of live runs, s: until each has sent its last request. `None` in simulation.
        real_time_s: Option<f64>,
    },
    /// Remarks on a trace: rows that were skipped or left out, changed times.
    Notes {
        /// One sentence each.
        notes: Vec<String>,
    },
    /// A point is done.
    Point {
        /// Which arm.
        arm: String,
        /// Which seed.
        seed: u64,
        /// Requests in it.
        requests: usize,
    },
}

/// Carries a live run: gets the arm, the seed, the requests and the world they belong to.
pub type Carrier<'a> = dyn Fn(&PlannedArm, u64, &[TraceRequest], Built) -> Result<ArmRun, LiveError> + Sync + 'a;

type Reading = Result<Option<Workload>, String>;
type Drawn = Result<Arc<Vec<TraceRequest>>, String>;

/// A workload that several runs share.
#[derive(Default)]
struct SharedWorkload {
    drawn: Mutex<Option<Drawn>>,
    /// Runs that have not started.
    waiting: AtomicUsize,
}

impl SharedWorkload {
    /// The requests, drawn at the first call.
    fn get(&self, draw: impl FnOnce() -> Drawn) -> Drawn {
        lock(&self.drawn).get_or_insert_with(draw).clone()
    }

    /// A run that has got the requests starts. The last one need not share them.
    fn start(&self) {
        if self.waiting.fetch_sub(1, Ordering::Relaxed) == 1 {
            *lock(&self.drawn) = None;
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs every arm with every seed, skips points that `folder` already holds, and writes all its files.
///
/// # Errors
/// The first failure. Points that ended before stay in the folder, so the same command continues from them.
pub fn run(
    experiment: &Experiment,
    plan: &[PlannedArm],
    folder: &ResultFolder,
    options: RunOptions,
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<Results, RunError> {
    run_by(experiment, plan, folder, options, &live::run, progress)
}

/// As [`run`], with live runs carried by `carrier`.
///
/// # Errors
/// See [`run`].
pub fn run_by(
    experiment: &Experiment,
    plan: &[PlannedArm],
    folder: &ResultFolder,
    options: RunOptions,
    carrier: &Carrier<'_>,
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<Results, RunError> {
    let mut points = Vec::new();
    for (position, arm) in plan.iter().enumerate() {
        points.extend(experiment.seeds.iter().map(|&seed| (position, arm, seed)));
    }
    if let Some(Shard { index, of }) = options.shard {
        points = points.into_iter().enumerate().filter(|(i, _)| i % of == index).map(|(_, p)| p).collect();
    }
    let all = points.len();
    if all == 0 && options.shard.is_some() {
        // More shards than runs: this one has nothing to do.
        return Ok(Results::of(experiment.resolved(), Vec::new()));
    }
    points.retain(|(_, arm, seed)| !folder.holds(&arm.label, *seed, options.rows));
    // Each trace is read once, and each workload drawn once and shared by the arms that run it, so they get the same
    // requests.
    let readings: BTreeMap<String, OnceLock<Reading>> =
        points.iter().map(|(_, arm, _)| (arm.spec.workload.reading_key(), OnceLock::new())).collect();
    let mut workloads: BTreeMap<String, SharedWorkload> = BTreeMap::new();
    for (_, arm, seed) in &points {
        *workloads.entry(workload_key(arm, *seed)).or_default().waiting.get_mut() += 1;
    }
    let told = Mutex::new(BTreeSet::new());
    let requests = |arm: &PlannedArm, seed: u64| {
        let workload = &arm.spec.workload;
        let drawn = workloads[&workload_key(arm, seed)].get(|| {
            let reading = readings[&workload.reading_key()].get_or_init(|| {
                let reading = workload.read(&experiment.dir).map_err(|error| error.to_string())?;
                let notes = reading.iter().flat_map(|read| read.notes.iter().cloned()).collect::<Vec<_>>();
                if !notes.is_empty() {
                    progress(Progress::Notes { notes });
                }
                Ok(reading)
            });
            let reading = reading.as_ref().map_err(Clone::clone)?;
            let drawn = workload.draw_noted(reading.as_ref(), seed).map_err(|error| error.to_string())?;
            let (requests, mut notes) = drawn;
            // Of one seed: those of others say the same, and so may those of other loads.
            notes.retain(|note| experiment.seeds.first() == Some(&seed) && lock(&told).insert(note.clone()));
            if !notes.is_empty() {
                progress(Progress::Notes { notes });
            }
            Ok(Arc::new(requests))
        });
        drawn.map_err(|message| SpecError::Key {
            file: experiment.file.clone(),
            place: "[workload]".to_owned(),
            message,
        })
    };
    let jobs = options.jobs.unwrap_or(if options.live { 1 } else { 0 });
    let mut real_time_s = None;
    if options.live {
        let mut sum = 0.0;
        for &(_, arm, seed) in &points {
            sum += requests(arm, seed)?.last().map_or(0.0, |last| (last.at - Time::ZERO).ms() / 1e3);
        }
        real_time_s = Some(sum / jobs.max(1) as f64);
    }
    progress(Progress::Start { points: points.len(), kept: all - points.len(), real_time_s });

    let timings = Mutex::new(Vec::new());
    let started = Instant::now();
    let one = |&(position, arm, seed): &(usize, &PlannedArm, u64)| -> Result<(), RunError> {
        let requests = requests(arm, seed)?;
        workloads[&workload_key(arm, seed)].start();
        let (run, timing) = if options.live {
            measure(&experiment.file, arm, seed, &requests, carrier)?
        } else {
            // Of the first seed, since the timeline draws that one.
            let keeps = options.rows == Rows::Keep && experiment.seeds.first() == Some(&seed);
            simulate_shared(&experiment.file, arm, seed, requests, if keeps { DECISIONS } else { 0 })?
        };
        let few = few_counted(&run)?;
        if experiment.seeds.first() == Some(&seed) {
            let notes = few.into_iter().chain(late_fault(&arm.spec.faults, &run));
            notes.for_each(|note| progress(Progress::Notes { notes: vec![note] }));
        }
        folder.add(position as u32, &run, options.rows)?;
        lock(&timings).push((run.records.len(), timing));
        progress(Progress::Point { arm: arm.label.clone(), seed, requests: run.records.len() });
        Ok(())
    };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(jobs).build().map_err(|_| RunError::Jobs { jobs })?;
    pool.install(|| points.par_iter().try_for_each(one))?;
    let timings = timings.into_inner().unwrap_or_else(PoisonError::into_inner);
    if !timings.is_empty() {
        folder.write_timing(&Timing::of(timings, started.elapsed().as_secs_f64()))?;
    }
    Ok(folder.finish()?)
}

/// Builds every arm without running it, so that a mistake in regions or engine settings is found before results are
/// touched.
///
/// # Errors
/// The first mistake.
pub fn check(experiment: &Experiment, plan: &[PlannedArm]) -> Result<(), SpecError> {
    plan.iter().try_for_each(|arm| build(&experiment.file, &arm.spec, 1, &[]).map(|_| ()))
}

/// Runs one arm with one seed in real time.
fn measure(
    file: &str,
    arm: &PlannedArm,
    seed: u64,
    requests: &[TraceRequest],
    carrier: &Carrier<'_>,
) -> Result<(ArmRun, ArmTiming), RunError> {
    let built = build(file, &arm.spec, seed, requests)?;
    let started = Instant::now();
    let run = carrier(arm, seed, requests, built).map_err(|source| RunError::Live {
        arm: arm.label.clone(),
        seed,
        source,
    })?;
    let wall_s = started.elapsed().as_secs_f64();
    let timing = ArmTiming { arm: run.arm.clone(), seed, wall_s, simulated_requests_per_second: 0.0 };
    Ok((run, timing))
}

fn workload_key(arm: &PlannedArm, seed: u64) -> String {
    format!("{seed} {}", serde_json::to_string(&arm.spec.workload).unwrap_or_default())
}

/// Simulates one arm with one seed.
///
/// # Errors
/// When its world cannot be built or does not end.
pub fn simulate(
    file: &str,
    arm: &PlannedArm,
    seed: u64,
    requests: &[TraceRequest],
) -> Result<(ArmRun, ArmTiming), RunError> {
    let built = build(file, &arm.spec, seed, requests)?;
    simulate_in(built, arm, seed, &mut requests.iter().cloned())
}

/// The same for requests that other runs may share. If none does, each is dropped when it has ended: of a million they
/// are most of the memory. Keeps the decisions of the first `decisions_of` requests.
fn simulate_shared(
    file: &str,
    arm: &PlannedArm,
    seed: u64,
    requests: Arc<Vec<TraceRequest>>,
    decisions_of: usize,
) -> Result<(ArmRun, ArmTiming), RunError> {
    let mut built = build(file, &arm.spec, seed, &requests)?;
    built.world.decisions_of = decisions_of;
    match Arc::try_unwrap(requests) {
        Ok(own) => simulate_in(built, arm, seed, &mut own.into_iter()),
        Err(shared) => simulate_in(built, arm, seed, &mut shared.iter().cloned()),
    }
}

fn simulate_in(
    built: Built,
    arm: &PlannedArm,
    seed: u64,
    requests: &mut dyn Iterator<Item = TraceRequest>,
) -> Result<(ArmRun, ArmTiming), RunError> {
    let policy = arm.spec.policy.clone();
    let started = Instant::now();
    let outcome = world::run(&built.world, &|| policy.build(), requests).map_err(|source| RunError::World {
        arm: arm.label.clone(),
        seed,
        source: Box::new(source),
    })?;
    let wall_s = started.elapsed().as_secs_f64();
    let entry = |one: &&Decided| outcome.records[one.record].router == one.router;
    let shown = |one: &Decided| Decision::of(outcome.records[one.record].request, &one.decision);
    let run = ArmRun {
        decisions: outcome.decisions.iter().filter(entry).map(shown).collect(),
        itl: outcome.itl.buckets().collect(),
        samples: outcome.samples,
        event_hash: outcome.event_hash,
        events: outcome.events,
        span: outcome.span,
        fenced: outcome.fenced,
        shared: outcome.shared,
        records: outcome.records,
        ..ArmRun::empty(arm, seed, built.names)
    };
    let in_order = |r: &RequestRecord| r.first_token.get().zip(r.done.get()).is_some_and(|(first, done)| first <= done);
    debug_assert!(run.records.iter().all(|r| r.status != Status::Finished || in_order(r)));
    let rate = run.records.len() as f64 / wall_s.max(1e-9);
    let timing = ArmTiming { arm: run.arm.clone(), seed, wall_s, simulated_requests_per_second: rate };
    Ok((run, timing))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workload_is_drawn_once_and_belongs_to_the_last_run_that_starts() {
        let shared = SharedWorkload { waiting: AtomicUsize::new(2), ..SharedWorkload::default() };
        let first = shared.get(|| Ok(Arc::default())).unwrap();
        shared.start();
        let second = shared.get(|| Err("drawn twice".to_owned())).unwrap();
        assert!(Arc::ptr_eq(&first, &second));
        shared.start();
        drop(first);
        assert!(Arc::try_unwrap(second).is_ok());
    }
}
