//! Runs an arm in real time: emulated replicas, relays that add the round trips between regions to loopback, and real
//! routers, all in this process. The load generator plays the users. With `[live] nodes`, the replicas (or replicas and
//! routers) are existing servers.
//!
//! A run of 60 simulated seconds takes 60 s plus the start. Sockets, HTTP, the machine's scheduler and prompts as text
//! are real and differ from the simulation. Emulated engines run the same model with the same seeds. Links have the
//! same medians and the same slow swing; the jitter of single messages is drawn anew.
//!
//! Reading order: `deployment` (what is started) → `setup` (configuration of links and routers) →
//! `servers` (existing servers).

use crate::build::Built;
use crate::results::{ArmRun, measured};
use crate::spec::PlannedArm;
use deployment::LiveDeployment;
use gorgo_benchmark::load::client::served_models;
use gorgo_benchmark::load::source::{Output, SourceOptions};
use gorgo_benchmark::load::{Bench, Limits, Profile, Progress};
use gorgo_core::request::TraceRequest;
use gorgo_sim::world::Client;
use std::sync::Arc;
use std::time::{Duration, Instant};

mod deployment;
mod servers;
mod setup;

pub use servers::check;
pub use setup::router_settings;

/// Why a live run failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LiveError {
    /// A part did not start.
    #[error("the {part} did not start: {why}")]
    Start {
        /// The part.
        part: String,
        /// Its error.
        why: String,
    },
    /// A router has not reached all its replicas in time.
    #[error("after {0} s not every router has reached its replicas; free the machine of other work and try again")]
    NotReady(u64),
    /// A setting of `[live]` does not fit.
    #[error("[live] {0}")]
    Setting(String),
    /// The load generator failed.
    #[error("the load generator failed: {0}")]
    Load(String),
    /// Machines that carry the run failed.
    #[error("{0}")]
    Machines(String),
    /// The runtime did not start.
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
        let deployment = LiveDeployment::build(arm, seed, &built).await?;
        send_load(&deployment, arm, seed, requests, built).await
    });
    // Streams of a run that was cut short must not outlive it.
    runtime.shutdown_timeout(Duration::from_secs(2));
    result
}

/// Sends the requests while faults are injected and queues are sampled.
async fn send_load(
    deployment: &LiveDeployment,
    arm: &PlannedArm,
    seed: u64,
    requests: &[TraceRequest],
    built: Built,
) -> Result<ArmRun, LiveError> {
    let (world, live) = (&built.world, &arm.spec.live);
    // An emulated engine ends at the recorded length by itself; a real one is asked for exactly that length.
    let output = if live.nodes.is_empty() { Output::Recorded } else { Output::Exact };
    let (key, tls) = (servers::key(live.router_key_env.as_deref())?, servers::trust(&deployment.targets)?);
    let model = match (&live.model, deployment.targets.first()) {
        // Routers refuse models that no replica serves: ask for one that is served.
        (named, Some(target)) if named.is_empty() => {
            let models = served_models(target, key.as_deref(), tls.as_ref()).await;
            models.map_err(LiveError::Load)?.into_iter().next().unwrap_or_default()
        }
        (named, _) => named.clone(),
    };
    let in_turn = requests.iter().any(|r| r.delay.is_some());
    if in_turn && matches!(world.client, Client::Bounded { .. }) {
        let why =
            "cannot run a client of `workers` on a trace whose turns wait for each other; leave [client] workers out";
        return Err(LiveError::Setting(why.to_owned()));
    }
    let bench = Bench {
        rows: requests.to_vec().into(),
        targets: deployment.targets.clone().into(),
        profile: match world.client {
            Client::Open => Profile::Trace,
            Client::Bounded { workers } => Profile::Concurrent(workers),
        },
        limits: Limits {
            duration_s: world.until.filter(|_| in_turn).map(gorgo_core::Time::secs),
            max_requests: Some(requests.len()),
        },
        source: SourceOptions { output, salt: seed, model, ..SourceOptions::default() },
        seed,
        warmup_s: 0.0,
        timeout_s: world.patience_ms.map_or(3_600.0, |ms| ms / 1e3),
        drain_s: world.drain_limit_s,
        max_in_flight: 100_000,
        user_rtt: true,
        network: world.network.clone(),
        key,
        tls,
    };
    let begun = Instant::now();
    let faults = deployment.faults(&built, begun);
    let (stop, sampler) = deployment.sampler(&built, begun);
    let mut runs = bench.run(&Arc::new(Progress::default())).await.map_err(|e| LiveError::Load(e.to_string()))?;
    faults.abort();
    drop(stop);
    let samples = sampler.await.unwrap_or_default();
    let run = runs.pop().ok_or_else(|| LiveError::Load("it made no run".to_owned()))?;
    let measured = measured::arm_run(ArmRun::empty(arm, seed, built.names), &run);
    Ok(ArmRun { samples, ..measured })
}
