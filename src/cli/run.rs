//! `gorgo run`: every arm of an experiment with every seed.

use super::cloud::experiment::{FleetArgs, run_on_machines};
use super::experiment::{ExperimentArgs, Plan, RealTime, execute};
use clap::Args as ClapArgs;
use gorgo_experiments::live;
use gorgo_experiments::results::Rows;

#[derive(Debug, ClapArgs)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    experiment: ExperimentArgs,
    /// Simulate, or run in real time
    #[arg(long, value_enum, default_value_t = Mode::Sim)]
    mode: Mode,
    #[command(flatten)]
    fleet: FleetArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Mode {
    /// Simulation in virtual time
    Sim,
    /// Emulated replicas, relays and real routers on this machine, or machines of --cloud, in real time
    Live,
}

pub(super) fn run(args: &RunArgs) -> anyhow::Result<()> {
    let plan = |real_time| Plan { real_time, vary: &[], shard: None, rows: Rows::Keep };
    if args.mode == Mode::Sim {
        args.fleet.refuse()?;
        return execute(&args.experiment, &plan(None));
    }
    if let Some(fleet) = args.fleet.choose(&args.experiment)? {
        return run_on_machines(&args.experiment, &fleet);
    }
    args.fleet.refuse()?;
    let real = RealTime { place: "emulated replicas".to_owned(), carrier: &live::run, folder: &|_| () };
    execute(&args.experiment, &plan(Some(real)))
}
