//! `gorgo sweep`: an experiment over a grid of settings.

use super::experiment::{ExperimentArgs, Plan, execute, note_gap, print_table};
use super::output::{print_line, print_note};
use anyhow::{Context, bail};
use clap::{Args as ClapArgs, Subcommand};
use gorgo_experiments::results::Rows;
use gorgo_experiments::runner::Shard;
use gorgo_experiments::spec::Experiment;
use gorgo_experiments::{points, runner};
use std::path::{Path, PathBuf};

#[derive(Debug, ClapArgs)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    override_usage = "gorgo sweep [OPTIONS] <FILE>, or gorgo sweep plan|collect"
)]
pub(crate) struct SweepArgs {
    #[command(subcommand)]
    command: Option<SweepCommand>,
    #[command(flatten)]
    experiment: Option<ExperimentArgs>,
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

#[derive(Debug, Subcommand)]
enum SweepCommand {
    /// Write a sweep as self-contained points, to be run on many machines
    #[command(
        after_help = "Example:\n  gorgo sweep plan experiments/three-regions.toml --vary workload.rate=3,4 --out plans/rates"
    )]
    Plan(PlanArgs),
    /// Make the report of a planned sweep from the points that have run; fails while some are missing
    #[command(after_help = "Example:\n  gorgo sweep collect plans/rates")]
    Collect(CollectArgs),
}

#[derive(Debug, ClapArgs)]
struct PlanArgs {
    /// Experiment file
    file: PathBuf,
    /// Cross the arms with values: key=from..to:step, key=from..to:*factor or key=a,b,c
    #[arg(long, value_name = "KEY=VALUES")]
    vary: Vec<String>,
    /// Override any setting
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    /// Folder of the plan; plans/<name of the file> when absent
    #[arg(long)]
    out: Option<PathBuf>,
}

#[derive(Debug, ClapArgs)]
struct CollectArgs {
    /// Folder of the plan
    dir: PathBuf,
    /// Do not fail when points are missing
    #[arg(long)]
    partial: bool,
}

pub(super) fn run(args: &SweepArgs) -> anyhow::Result<()> {
    match &args.command {
        Some(SweepCommand::Plan(args)) => return plan(args),
        Some(SweepCommand::Collect(args)) => return collect(args),
        None => {}
    }
    let Some(experiment) = &args.experiment else { bail!("name the experiment file") };
    let shard = args.shard.as_deref().map(parse_shard).transpose()?;
    let rows = if args.rows { Rows::Keep } else { Rows::Drop };
    execute(experiment, &Plan { real_time: None, vary: &args.vary, shard, rows })
}

fn plan(args: &PlanArgs) -> anyhow::Result<()> {
    let mut experiment = Experiment::load(&args.file, &args.sets, &args.vary)?;
    experiment.notes.iter().for_each(print_note);
    let arms = experiment.plan()?;
    runner::check(&experiment, &arms)?;
    experiment.read_digests(&arms)?;
    let name = args.file.file_stem().map_or("experiment".into(), |stem| stem.to_string_lossy());
    let dir = args.out.clone().unwrap_or_else(|| Path::new("plans").join(&*name));
    let count = points::write_plan(&experiment, &arms, &dir)?;
    let dir = dir.display();
    print_line(format_args!("{count} points in {dir}, listed in {dir}/points.txt, numbered from 0"))?;
    print_line(format_args!(
        "run each with `gorgo point run {dir}/points/NAME.json` or `gorgo point run --plan {dir} --index N`"
    ))?;
    print_line(format_args!("then `gorgo sweep collect {dir}`"))?;
    Ok(())
}

fn collect(args: &CollectArgs) -> anyhow::Result<()> {
    let (results, missing) = points::collect(&args.dir)?;
    if let Some(results) = &results {
        note_gap(results);
        print_table(results, false)?;
        let dir = points::results_of(&args.dir);
        print_line(format_args!(
            "\nresults in {}; open {} for plots",
            dir.display(),
            dir.join("report.html").display()
        ))?;
    }
    if missing.is_empty() {
        return Ok(());
    }
    let path = args.dir.join("missing.txt");
    let list: String = missing.iter().map(|path| format!("{}\n", path.display())).collect();
    std::fs::write(&path, list).with_context(|| format!("cannot write `{}`", path.display()))?;
    let said = format!("{} points have not run; `{}` lists their files", missing.len(), path.display());
    if args.partial {
        print_note(said);
        return Ok(());
    }
    bail!("{said}")
}

fn parse_shard(text: &str) -> anyhow::Result<Shard> {
    let parts = text.split_once('/').and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?)));
    match parts {
        Some((index, of)) if index < of => Ok(Shard { index, of }),
        _ => bail!("--shard {text} is not a part; write i/n with i from 0 to n-1, for example 0/4"),
    }
}
