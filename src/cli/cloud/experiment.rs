//! `gorgo run --mode live --cloud`: an experiment on machines, from launch to termination.
//!
//! Machines that bear the replicas' names are taken, the others are launched; what was launched ends with the run, at
//! an interrupt and after a failure too. Reading order: `args` (what was asked for)
//! → here → `machines` (which ones, and what they run) → `load` (one run: settings, clocks, load of each region), with
//! `entry` (edges or a proxy), `faults`, and `node` (what is done on one machine).

mod args;
mod entry;
mod faults;
mod load;
mod machines;
mod node;

use super::interrupt::guarded;
use super::launch::{LaunchPlan, launch_all};
use super::{Cloud, Session};
use crate::cli::experiment::{ExperimentArgs, Plan as RunPlan, RealTime, execute};
use crate::cli::process::StopSignal;
use anyhow::bail;
pub(in crate::cli) use args::{FleetArgs, FleetPlan, FleetTable};
use clap::ValueEnum;
use gorgo_cloud::money::total;
use gorgo_cloud::provider::nonce;
use gorgo_cloud::{Node, Time};
use gorgo_experiments::results::Rows;
use gorgo_experiments::spec::{Experiment, PlannedArm};
use load::Carrier;
use machines::{fits, plan_of, replicas, specs};
use std::sync::Arc;

/// Runs the experiment on machines.
pub(in crate::cli) fn run_on_machines(args: &ExperimentArgs, fleet: &FleetPlan) -> anyhow::Result<()> {
    let experiment = args.load(&[])?;
    let arms = experiment.plan()?;
    fits(&arms, fleet)?;
    let runtime = Arc::new(crate::cli::process::runtime()?);
    runtime.block_on(on_machines(args, fleet, (&experiment, &arms), &runtime))
}

async fn on_machines(
    args: &ExperimentArgs,
    asked: &FleetPlan,
    (experiment, arms): (&Experiment, &[PlannedArm]),
    runtime: &Arc<tokio::runtime::Runtime>,
) -> anyhow::Result<()> {
    let session = Arc::new(asked.common.session()?);
    let _held = session.hold("gorgo run")?;
    let before = session.plan().ok();
    let mut interrupts = StopSignal::install()?;
    let run = nonce()[..12].to_owned();
    let fleet = session.fleet();
    let (plan, replicas) = (plan_of(asked, &session, experiment, arms)?, replicas(arms));
    let (taken, missing) = specs(asked, &session, &replicas, &run).await?;
    taken.iter().for_each(|node| eprintln!("{}: taken, and left running after the run", node.name));
    let work = async {
        let (lease_ms, caps, yes) = (asked.lease_ms, asked.caps, asked.yes);
        let launch = LaunchPlan { wanted: missing, lease_ms, caps, yes, watch: true, elsewhere: Vec::new() };
        let launched = launch_all(&session, launch).await?;
        let mut nodes = [taken.clone(), launched].concat();
        let order = |node: &Node| replicas.iter().position(|replica| replica.name == node.name);
        nodes.sort_by_key(order);
        let carrier = Arc::new(Carrier::new(session.clone(), nodes, plan, runtime.clone()));
        carrier.set_up().await?;
        Ok(carrier)
    };
    let done = match guarded(&fleet, &run, &mut interrupts, work).await {
        Ok(carrier) => carry(args, asked.cloud, &carrier, &mut interrupts).await,
        Err(error) => Err(error),
    };
    let done = finish(&session, &run, asked.keep, done, &mut interrupts).await;
    // Machines that were set up before and not taken run on as their own plan says.
    if let Some(before) = before
        && taken.is_empty()
        && fleet.open()?.iter().all(|entry| entry.intent.run != run)
    {
        session.keep(&before)?;
    }
    done
}

/// Runs all arms and seeds; an interrupt ends the one that runs.
async fn carry(
    args: &ExperimentArgs,
    cloud: Cloud,
    carrier: &Arc<Carrier>,
    interrupts: &mut StopSignal,
) -> anyhow::Result<()> {
    let work = std::thread::scope(|scope| {
        // The runs have threads of their own and call back into the runtime.
        let place = cloud.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
        let runs = scope.spawn(move || {
            let carried = |arm: &PlannedArm, seed, requests: &[_], built| carrier.carry(arm, seed, requests, built);
            let folder = |dir: &std::path::Path| carrier.collect_in(&dir.join("machines"));
            let real = RealTime { place: format!("machines of {place}"), carrier: &carried, folder: &folder };
            execute(args, &RunPlan { real_time: Some(real), vary: &[], shard: None, rows: Rows::Keep })
        });
        tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(async {
                while !runs.is_finished() {
                    tokio::select! {
                        () = tokio::time::sleep(std::time::Duration::from_millis(50)) => {}
                        () = interrupts.recv() => {
                            eprintln!("interrupted: ending this run and the machines that were launched for it");
                            carrier.stop();
                        }
                    }
                }
            });
        });
        runs.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a run panicked")))
    });
    let logs = carrier.logs().await;
    work.and(logs)
}

/// Ends what was launched for this run and says what costs still.
async fn finish(
    session: &Session,
    run: &str,
    keep: bool,
    done: anyhow::Result<()>,
    interrupts: &mut StopSignal,
) -> anyhow::Result<()> {
    let fleet = session.fleet();
    let mine = |entry: &gorgo_cloud::ledger::Entry| entry.intent.run == run;
    let entries: Vec<_> = fleet.open()?.into_iter().filter(mine).collect();
    let ended = match (keep, entries.is_empty()) {
        (false, false) => {
            eprintln!("ending {} machine(s) of this run; interrupt to leave them", entries.len());
            tokio::select! {
                ended = fleet.kill_all(&entries) => ended,
                () = interrupts.recv() => {
                    let names: Vec<&str> = entries.iter().map(|entry| entry.intent.name.as_str()).collect();
                    bail!("{} may still cost money; end them with `gorgo kill --all`", names.join(", "));
                }
            }
        }
        _ => Ok(()),
    };
    let now_ms = Time::real().now_ms();
    let spent = total(session.ledger.entries()?.iter().filter(|entry| mine(entry)).map(|entry| entry.cents(now_ms)));
    let open = fleet.open()?;
    let hourly = total(open.iter().map(|entry| entry.intent.cents_per_hour));
    let names: Vec<&str> = open.iter().map(|entry| entry.intent.name.as_str()).collect();
    eprintln!("cost of this run so far: {spent}");
    match names.is_empty() {
        true => eprintln!("nothing runs any more"),
        false => eprintln!("still running for {hourly} an hour: {}", names.join(", ")),
    }
    let failures: Vec<String> = ended.err().unwrap_or_default().iter().map(ToString::to_string).collect();
    match (done, failures.is_empty()) {
        (done, true) => done,
        (Ok(()), false) => bail!("{}", failures.join("\n")),
        (Err(error), false) => Err(error.context(failures.join("\n"))),
    }
}
