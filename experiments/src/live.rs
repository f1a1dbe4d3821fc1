//! The same experiment in the real world: emulated replicas, relays that make loopback as far as the regions are, and
//! real routers, all in this process; users are the load generator's. With `[live] nodes` the replicas, or replicas
//! and routers, are servers that exist.
//!
//! It takes real time: a run of 60 simulated seconds takes 60 s and the start. What differs from the simulation is
//! what is real: sockets, HTTP, the scheduler of this machine, prompts as text. Emulated engines run the same model
//! with the same seeds; links have the same medians and the same slow swing, but messages their own jitter.
//!
//! Reading order: `town` (what is started) → `setup` (what it is told) → `nodes` (servers that exist).

use crate::build::Built;
use crate::results::ArmRun;
use crate::spec::PlannedArm;
use gorgo_benchmark::load::run::Run;
use gorgo_benchmark::load::source::{Output, SourceOptions};
use gorgo_benchmark::load::{Bench, Limits, Live, Profile};
use gorgo_core::record::QueueSample;
use gorgo_core::request::TraceRequest;
use gorgo_sim::world::Client;
use std::sync::Arc;
use std::time::{Duration, Instant};
use town::Town;

mod nodes;
mod setup;
mod town;

/// Why a live run could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LiveError {
    /// A part did not start.
    #[error("the {part} did not start: {why}")]
    Start {
        /// Which.
        part: String,
        /// Its words.
        why: String,
    },
    /// The routers saw no healthy replicas in time.
    #[error("after {0} s not every router saw its replicas; is the machine very busy?")]
    NotReady(u64),
    /// A setting of `[live]` does not fit.
    #[error("[live] {0}")]
    Setting(String),
    /// The load generator refused.
    #[error("the load generator says: {0}")]
    Load(String),
    /// The runtime.
    #[error("cannot start the runtime: {0}")]
    Runtime(#[from] std::io::Error),
}

fn start(part: impl Into<String>) -> impl FnOnce(&dyn std::fmt::Display) -> LiveError {
    let part = part.into();
    move |why| LiveError::Start { part, why: why.to_string() }
}

/// Runs one arm with one seed in real time.
///
/// # Errors
/// When a part does not start.
pub fn run(arm: &PlannedArm, seed: u64, requests: &[TraceRequest], built: Built) -> Result<ArmRun, LiveError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let result = runtime.block_on(async {
        let town = Town::build(arm, seed, &built).await?;
        load(&town, arm, seed, requests, built).await
    });
    // Streams of a run that was cut short must not outlive it.
    runtime.shutdown_timeout(Duration::from_secs(2));
    result
}

/// Sends the requests, and does meanwhile what the experiment does to the replicas.
async fn load(
    town: &Town,
    arm: &PlannedArm,
    seed: u64,
    requests: &[TraceRequest],
    built: Built,
) -> Result<ArmRun, LiveError> {
    let (world, live) = (&built.world, &arm.spec.live);
    // An emulated model is told where to end; a real one is asked for the recorded length.
    let output = if live.nodes.is_empty() { Output::Recorded } else { Output::Exact };
    let bench = Bench {
        rows: requests.to_vec().into(),
        targets: town.targets.clone().into(),
        profile: match world.client {
            Client::Open => Profile::Trace,
            Client::Bounded { workers } => Profile::Concurrent(workers),
        },
        limits: Limits { duration_s: None, max_requests: Some(requests.len()) },
        source: SourceOptions { output, salt: seed, model: live.model.clone(), ..SourceOptions::default() },
        seed,
        warmup_s: 0.0,
        timeout_s: world.patience_ms.map_or(3_600.0, |ms| ms / 1e3),
        drain_s: world.drain_limit_s,
        max_in_flight: 100_000,
        user_rtt: true,
        key: nodes::key(live.router_key_env.as_deref())?,
        tls: nodes::trust(&town.targets)?,
    };
    let begun = Instant::now();
    let faults = town.faults(&built, begun);
    let (stop, sampler) = town.sampler(&built, begun);
    let mut runs = bench.run(&Arc::new(Live::default())).await.map_err(|e| LiveError::Load(e.to_string()))?;
    faults.abort();
    drop(stop);
    let samples = sampler.await.unwrap_or_default();
    let run = runs.pop().ok_or_else(|| LiveError::Load("there was no run".to_owned()))?;
    Ok(arm_run(arm, seed, built, run, samples))
}

/// The load generator's rows in the form of a simulated run.
fn arm_run(arm: &PlannedArm, seed: u64, built: Built, run: Run, samples: Vec<QueueSample>) -> ArmRun {
    let place = |name: &String| built.names.replicas.iter().position(|r| r == name).map_or(u16::MAX, |i| i as u16);
    let replicas: Vec<u16> = run.replicas.iter().map(place).collect();
    let records = run.rows.into_iter().map(|row| {
        let mut record = row.record;
        record.replica = replicas.get(usize::from(record.replica)).copied().unwrap_or(u16::MAX);
        record
    });
    ArmRun {
        itl: run.gaps.buckets().collect(),
        samples,
        span: run.span,
        records: records.collect(),
        ..ArmRun::empty(arm, seed, built.names)
    }
}
