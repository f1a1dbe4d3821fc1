//! `gorgo run`: every arm of an experiment with every seed.

use super::cloud::experiment::{FleetArgs, run_on_machines};
use super::experiment::{ExperimentArgs, Plan, RealTime, compare_with_simulation, execute};
use anyhow::bail;
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
    /// After a live run, fit engine, network and policy settings to it, as `gorgo calibrate` does, into its folder `fit`
    #[arg(long)]
    calibrate: bool,
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
        if args.calibrate {
            bail!("--calibrate fits settings to a live run; give --mode live with it, or records to `gorgo calibrate`");
        }
        return execute(&args.experiment, &plan(None));
    }
    if let Some(fleet) = args.fleet.choose(&args.experiment)? {
        run_on_machines(&args.experiment, &fleet)?;
        return compare_with_simulation(&args.experiment, args.calibrate);
    }
    args.fleet.refuse()?;
    let real = RealTime { place: "emulated replicas".to_owned(), carrier: &live::run, folder: &|_| () };
    execute(&args.experiment, &plan(Some(real)))?;
    compare_with_simulation(&args.experiment, args.calibrate)
}
