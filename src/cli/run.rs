//! `gorgo run`: every arm of an experiment with every seed.

use super::experiment::{ExperimentArgs, Plan, execute};
use clap::Args as ClapArgs;
use gorgo_experiments::results::Rows;

#[derive(Debug, ClapArgs)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    experiment: ExperimentArgs,
    /// Simulate, or run on emulated replicas in real time
    #[arg(long, value_enum, default_value_t = Mode::Sim)]
    mode: Mode,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Mode {
    /// Simulation in virtual time
    Sim,
    /// Emulated replicas, relays and real routers on this machine, in real time
    Live,
}

pub(super) fn run(args: &RunArgs) -> anyhow::Result<()> {
    execute(&args.experiment, &Plan { real_time: args.mode == Mode::Live, vary: &[], shard: None, rows: Rows::Keep })
}
