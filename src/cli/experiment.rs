//! Runs an experiment: shared code of `gorgo run` and `gorgo sweep`. `beside` simulates a live run after it.

mod beside;
mod progress;

pub(super) use beside::compare_with_simulation;

use super::cloud::experiment::FleetTable;
use super::output::{columns, print_line, print_note};
use clap::Args as ClapArgs;
use gorgo_experiments::live;
use gorgo_experiments::results::own_files::{self, Owner};
use gorgo_experiments::results::{ResultError, ResultFolder, Results, Rows, arms_are_known};
use gorgo_experiments::runner::{self, Carrier, RunOptions, Shard};
use gorgo_experiments::spec::Experiment;
use gorgo_experiments::stats::PERCENTILES;
use gorgo_experiments::summary::{ArmSummary, ten_best};
use gorgo_experiments::{table, verdict};
use progress::ProgressBar;
use std::path::{Path, PathBuf};

/// Options that `run` and `sweep` share.
#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct ExperimentArgs {
    /// Experiment file
    file: PathBuf,
    /// Result folder; results/<name of the file> when absent
    #[arg(long)]
    out: Option<PathBuf>,
    /// Override any setting, for example policy.running_cost_factor=0.5
    ///
    /// What stands later here wins: the file, an arm, [vary], the command line. `policy.K=v` reaches every arm whose
    /// policy has the setting K, `arms.NAME.key=v` one arm, and a key in [vary] stops varying.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    /// Run this seed only
    #[arg(long)]
    seed: Option<u64>,
    /// Threads; all cores when absent
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1024))]
    jobs: Option<u16>,
    /// Delete earlier results in the folder (only files that gorgo wrote) instead of continuing from them
    #[arg(long)]
    fresh: bool,
    // Not flattened: clap sees no optional group of arguments that holds another (`gorgo sweep` without a file).
    /// Order of the rows: the best first
    #[arg(long, value_enum, value_name = "KEY")]
    sort: Option<SortKey>,
    /// Show these arms only, by name, with or without the varied settings behind it
    #[arg(long, value_name = "ARM", value_delimiter = ',')]
    only: Vec<String>,
    /// Print the table as JSON
    #[arg(long)]
    json: bool,
}

/// What the table shows.
#[derive(Debug, ClapArgs)]
pub(crate) struct ShowArgs {
    /// Order of the rows: the best first
    #[arg(long, value_enum, value_name = "KEY")]
    sort: Option<SortKey>,
    /// Show these arms only, by name, with or without the varied settings behind it
    #[arg(long, value_name = "ARM", value_delimiter = ',')]
    only: Vec<String>,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum SortKey {
    /// Mean time to first token
    Ttft,
    /// Its median
    P50,
    /// Its 95th percentile
    P95,
    /// Its 99th percentile
    P99,
    /// 95th percentile of the end-to-end time
    E2e,
    /// Time per output token
    Tpot,
    /// Share of prompt tokens found in the cache
    Hit,
    /// Requests a second within the objective
    Goodput,
    /// Name
    Arm,
}

impl ExperimentArgs {
    fn show(&self) -> ShowArgs {
        ShowArgs { sort: self.sort, only: self.only.clone() }
    }
}

impl ShowArgs {
    pub(super) fn is_sorted(&self) -> bool {
        self.sort.is_some()
    }

    /// The results with the wanted arms, in the wanted order. What an arm did not measure comes last.
    pub(super) fn apply(&self, results: Results) -> anyhow::Result<Results> {
        let mut results = results.only(&self.only).map_err(|why| anyhow::anyhow!("--only: {why}"))?;
        let Some(key) = self.sort else { return Ok(results) };
        if matches!(key, SortKey::Arm) {
            results.summary.sort_by(|a, b| a.arm.cmp(&b.arm));
            return Ok(results);
        }
        let value = |arm: &ArmSummary| -> f64 {
            let found = match key {
                SortKey::Ttft => arm.ttft_ms.map(|s| s.mean.value),
                SortKey::P50 => arm.ttft_ms.map(|s| s.p50.value),
                SortKey::P95 => arm.ttft_ms.map(|s| s.p95.value),
                SortKey::P99 => arm.ttft_ms.map(|s| s.p99.value),
                SortKey::E2e => arm.e2e_ms.map(|s| s.p95.value),
                SortKey::Tpot => arm.tpot_ms.map(|s| s.mean.value),
                SortKey::Hit => arm.hit_rate.map(|e| -e.value),
                SortKey::Goodput => arm.goodput_per_second.map(|e| -e.value),
                SortKey::Arm => None,
            };
            found.unwrap_or(f64::INFINITY)
        };
        results.summary.sort_by(|a, b| value(a).total_cmp(&value(b)));
        Ok(results)
    }
}

/// How an experiment is run.
pub(super) struct Plan<'a> {
    /// In real time; simulated otherwise.
    pub(super) real_time: Option<RealTime<'a>>,
    /// Further settings to vary: `key=values`.
    pub(super) vary: &'a [String],
    /// Only part `i` of `n`.
    pub(super) shard: Option<Shard>,
    pub(super) rows: Rows,
}

/// Where a run in real time happens.
pub(super) struct RealTime<'a> {
    /// In words, for the result folder.
    pub(super) place: String,
    /// What carries a run.
    pub(super) carrier: &'a Carrier<'a>,
    /// Told the result folder before the first run.
    pub(super) folder: &'a (dyn Fn(&Path) + Sync),
}

/// Reads the experiment, runs what its result folder does not hold yet, and prints the comparison.
pub(super) fn execute(args: &ExperimentArgs, plan: &Plan<'_>) -> anyhow::Result<()> {
    let (experiment, results, dir) = carry_out(args, plan)?;
    if let (true, Some(shard)) = (results.points.is_empty(), plan.shard) {
        eprintln!("shard {shard} holds none of the {} runs", results.missing.len());
        if !args.json {
            return Ok(());
        }
    }
    note_gap(&results);
    print_results(&experiment, &args.show().apply(results)?, &dir, args.json, args.sort.is_some())
}

/// Runs what the result folder does not hold yet. Returns the experiment, its results and their folder.
fn carry_out(args: &ExperimentArgs, plan: &Plan<'_>) -> anyhow::Result<(Experiment, Results, PathBuf)> {
    let mut experiment = args.load(plan.vary)?;
    FleetTable::read(experiment.cloud.as_ref())?.check()?;
    let arms = experiment.plan()?;
    arms_are_known(&args.only, arms.iter().map(|arm| (arm.label.as_str(), &arm.settings)))
        .map_err(|why| anyhow::anyhow!("--only: {why}"))?;
    runner::check(&experiment, &arms)?;
    experiment.read_digests(&arms)?;
    let real = plan.real_time.as_ref();
    let (dir, folder) = args.open_folder(&experiment, real.map(|real| real.place.as_str()))?;
    if let Some(real) = real {
        (real.folder)(&dir);
    }
    let bar = ProgressBar::new();
    let jobs = args.jobs.map(usize::from);
    let options = RunOptions { jobs, rows: plan.rows, live: real.is_some(), shard: plan.shard };
    let carrier = real.map_or(&live::run as &Carrier<'_>, |real| real.carrier);
    let results = runner::run_by(&experiment, &arms, &folder, options, carrier, &|news| bar.update(news));
    bar.finish();
    Ok((experiment, results?, dir))
}

impl ExperimentArgs {
    pub(super) fn load(&self, vary: &[String]) -> anyhow::Result<Experiment> {
        let mut experiment = Experiment::load(&self.file, &self.sets, vary)?;
        experiment.notes.iter().for_each(print_note);
        if let Some(seed) = self.seed {
            experiment.seeds = vec![seed];
        }
        Ok(experiment)
    }

    /// The result folder of a run, live or simulated.
    fn folder(&self, live: bool) -> PathBuf {
        let name = self.file.file_stem().map_or("experiment".into(), |stem| stem.to_string_lossy());
        let name = if live { format!("{name}-live") } else { name.into_owned() };
        self.out.clone().unwrap_or_else(|| Path::new("results").join(name))
    }

    fn open_folder(&self, experiment: &Experiment, place: Option<&str>) -> anyhow::Result<(PathBuf, ResultFolder)> {
        let dir = self.folder(place.is_some());
        // The mode is part of the experiment: a folder does not mix measured and simulated runs.
        let resolved =
            experiment.resolved() + &place.map_or_else(String::new, |place| format!("# Run live, on {place}.\n"));
        let differs = matches!(own_files::owner(&dir)?, Owner::Results(found) if found != resolved);
        if self.fresh {
            own_files::clear(&dir)?;
        } else if differs && self.out.is_none() {
            // The default folder belongs to the file: results of other settings make room, but are not lost.
            let aside = own_files::keep_aside(&dir)?;
            let (dir, aside) = (dir.display(), aside.display());
            print_note(format_args!(
                "`{dir}` held results of other settings, of another trace or version; they are in `{aside}` now"
            ));
        }
        let folder = ResultFolder::create(&dir, &resolved).map_err(|error| match error {
            // Of the commands that write result folders, only these replace them.
            ResultError::Other { .. } => anyhow::anyhow!("{error}, or replace them with --fresh"),
            error => error.into(),
        })?;
        Ok((dir, folder))
    }
}

/// Names the runs that the results lack.
pub(super) fn note_gap(results: &Results) {
    if let Some(gap) = results.gap() {
        print_note(gap);
    }
}

/// The table of arms, and the best arm of each load and objective, as the report says it. Of a long list that is not
/// `sorted` the ten of the lowest mean TTFT are shown.
pub(super) fn print_table(results: &Results, sorted: bool) -> anyhow::Result<()> {
    let width = columns().unwrap_or(table::WIDTH);
    let few = ten_best(&results.summary, sorted);
    let shown = few.as_deref().unwrap_or(&results.summary);
    print_line(format_args!("\n{}\n{PERCENTILES}", table::comparison(shown, width)))?;
    if few.is_some() {
        let all = results.summary.len();
        let which = if sorted { "first ten" } else { "ten of the lowest mean TTFT" };
        let note =
            format!("of {all} arms the {which} of a load and its baseline; --only shows others, summary.csv has all");
        table::fold(&note, width.max(40)).iter().try_for_each(print_line)?;
    }
    let lines = verdict::lines(&verdict::verdicts(&results.points));
    if !lines.is_empty() {
        print_line("")?;
    }
    for line in lines.lines() {
        let indent = " ".repeat(line.len() - line.trim_start().len());
        let room = width.max(40) - indent.len() - 2;
        for (i, part) in table::fold(line.trim_start(), room).into_iter().enumerate() {
            print_line(format_args!("{indent}{}{part}", if i > 0 { "  " } else { "" }))?;
        }
    }
    Ok(())
}

fn print_results(
    experiment: &Experiment,
    results: &Results,
    dir: &Path,
    json: bool,
    sorted: bool,
) -> anyhow::Result<()> {
    if json {
        print_line(serde_json::to_string_pretty(&results.summary)?)?;
        return Ok(());
    }
    if !experiment.title.is_empty() {
        print_line(format_args!("\n{}", experiment.title))?;
    }
    if !experiment.question.is_empty() {
        print_line(&experiment.question)?;
    }
    print_table(results, sorted)?;
    print_line(format_args!("\nresults in {}; open {} for plots", dir.display(), dir.join("report.html").display()))?;
    Ok(())
}
