//! `gorgo point`: one run of a planned sweep.

use super::output::print_line;
use anyhow::bail;
use clap::{Args as ClapArgs, Subcommand};
use gorgo_experiments::points;
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
pub(crate) enum PointCommand {
    /// Run one point of a plan, unless its result is there
    #[command(
        after_help = "Examples:\n  gorgo point run plans/rates/points/NAME.json\n  gorgo point run --plan plans/rates --index 0"
    )]
    Run(PointArgs),
}

#[derive(Debug, ClapArgs)]
pub(crate) struct PointArgs {
    /// File of the point
    point: Option<PathBuf>,
    /// Folder of a plan, to choose the point by number
    #[arg(long, requires = "index", conflicts_with = "point")]
    plan: Option<PathBuf>,
    /// Number of the point in the plan, from 0: the task of an array job
    #[arg(long, requires = "plan")]
    index: Option<usize>,
    /// Result folder; the plan's when absent
    #[arg(long)]
    out: Option<PathBuf>,
}

pub(super) fn run(command: &PointCommand) -> anyhow::Result<()> {
    let PointCommand::Run(args) = command;
    let path = match (&args.point, &args.plan, args.index) {
        (Some(path), _, _) => path.clone(),
        (None, Some(plan), Some(index)) => points::nth(plan, index)?,
        _ => bail!("name the file of a point, or give --plan DIR --index N"),
    };
    let ran = points::run(&path, args.out.as_deref())?;
    let done = match ran.requests {
        Some(requests) => format!("{requests} requests"),
        None => "its result is there already".to_owned(),
    };
    Ok(print_line(format_args!("{}, seed {}: {done}", ran.arm, ran.seed))?)
}
