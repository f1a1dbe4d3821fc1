//! `gorgo sweep`: an experiment over a grid of settings.

use super::experiment::{ExperimentArgs, Plan, execute};
use anyhow::bail;
use clap::Args as ClapArgs;
use gorgo_experiments::results::Rows;

#[derive(Debug, ClapArgs)]
pub(crate) struct SweepArgs {
    #[command(flatten)]
    experiment: ExperimentArgs,
    /// Cross the arms with values: key=from..to:step, key=from..to:*factor or key=a,b,c
    #[arg(long, value_name = "KEY=VALUES")]
    vary: Vec<String>,
    /// Run part i of n, counted from 0
    #[arg(long, value_name = "i/n")]
    shard: Option<String>,
    /// Keep one row per request too (large)
    #[arg(long)]
    rows: bool,
}

pub(super) fn run(args: &SweepArgs) -> anyhow::Result<()> {
    let shard = args.shard.as_deref().map(parse_shard).transpose()?;
    let rows = if args.rows { Rows::Keep } else { Rows::Drop };
    execute(&args.experiment, &Plan { real_time: None, vary: &args.vary, shard, rows })
}

fn parse_shard(text: &str) -> anyhow::Result<(usize, usize)> {
    let parts = text.split_once('/').and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?)));
    match parts {
        Some((i, n)) if i < n => Ok((i, n)),
        _ => bail!("--shard {text} is not a part; write i/n with i from 0 to n-1, for example 0/4"),
    }
}
