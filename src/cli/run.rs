//! `gorgo run`, `sweep`, `merge`, `plot`, `report`, `validate`.

use super::{Mode, PlotFormat, RunArgs, SweepArgs, say};
use anyhow::{Context, bail};
use gorgo_experiments::plot::Format;
use gorgo_experiments::results::{ResultFolder, Results, Rows};
use gorgo_experiments::runner::{self, Progress, RunOptions};
use gorgo_experiments::spec::Experiment;
use gorgo_experiments::{table, validate};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};

pub(super) fn run(args: &RunArgs, mode: Mode) -> anyhow::Result<()> {
    start(args, mode, &[], None, Rows::Keep)
}

pub(super) fn sweep(args: &SweepArgs) -> anyhow::Result<()> {
    let shard = args.shard.as_deref().map(shard).transpose()?;
    start(&args.run, Mode::Sim, &args.vary, shard, if args.rows { Rows::Keep } else { Rows::Drop })
}

fn shard(text: &str) -> anyhow::Result<(usize, usize)> {
    let parts = text.split_once('/').and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?)));
    match parts {
        Some((i, n)) if i < n => Ok((i, n)),
        _ => bail!("--shard {text} is no part; write i/n with i from 0 to n-1, for example 0/4"),
    }
}

fn start(args: &RunArgs, mode: Mode, vary: &[String], shard: Option<(usize, usize)>, rows: Rows) -> anyhow::Result<()> {
    let live = mode == Mode::Live;
    let mut experiment = Experiment::load(&args.file, &args.sets, vary)?;
    experiment.notes.iter().for_each(|note| eprintln!("note: {note}"));
    if let Some(seed) = args.seed {
        experiment.seeds = vec![seed];
    }
    let plan = experiment.plan()?;
    let name = args.file.file_stem().map_or("experiment".into(), |stem| stem.to_string_lossy());
    let name = if live { format!("{name}-live") } else { name.into_owned() };
    let dir = args.out.clone().unwrap_or_else(|| Path::new("results").join(name));
    // The mode is part of what was run: a folder does not mix measured and simulated runs.
    let resolved = experiment.resolved() + if live { "# Run live, on emulated replicas.\n" } else { "" };
    let differs = std::fs::read_to_string(dir.join("experiment.toml")).is_ok_and(|there| there != resolved);
    // The default folder belongs to the file: an edited experiment starts it anew. A folder named by hand does not.
    if args.fresh || (differs && args.out.is_none()) {
        clear(&dir)?;
    }
    let folder = ResultFolder::create(&dir, &resolved)?;
    let bar = Bar::new();
    let options = RunOptions { jobs: args.jobs.map(usize::from), rows, live, shard };
    let results = runner::run(&experiment, &plan, &folder, options, &|news| bar.tell(news));
    bar.done();
    let results = results?;
    show(&experiment, &results, &dir, args.json)?;
    Ok(())
}

/// Empties a result folder, and refuses to empty anything else.
fn clear(dir: &Path) -> anyhow::Result<()> {
    if !dir.exists() {
        return Ok(());
    }
    if !dir.join("experiment.toml").exists() && dir.read_dir()?.next().is_some() {
        bail!("`{}` is not a result folder, so it is not emptied; choose another with --out", dir.display());
    }
    std::fs::remove_dir_all(dir).with_context(|| format!("cannot empty `{}`", dir.display()))
}

fn show(experiment: &Experiment, results: &Results, dir: &Path, json: bool) -> anyhow::Result<()> {
    if json {
        say(serde_json::to_string_pretty(&results.summary)?)?;
        return Ok(());
    }
    if !experiment.title.is_empty() {
        say(format_args!("\n{}", experiment.title))?;
    }
    if !experiment.question.is_empty() {
        say(&experiment.question)?;
    }
    say(format_args!("\n{}", table::comparison(&results.summary)))?;
    say(format_args!("\nresults in {}; open {} for plots", dir.display(), dir.join("report.html").display()))?;
    Ok(())
}

pub(super) fn merge(dirs: &[PathBuf]) -> anyhow::Result<()> {
    let folder = ResultFolder::open(&dirs[0])?;
    let mut points = 0;
    for dir in &dirs[1..] {
        points += folder.absorb(&ResultFolder::open(dir)?)?;
    }
    let results = folder.finish()?;
    say(format_args!("{points} points taken into {}\n", dirs[0].display()))?;
    say(table::comparison(&results.summary))?;
    Ok(())
}

pub(super) fn plot(dirs: &[PathBuf], format: Option<PlotFormat>) -> anyhow::Result<()> {
    let formats: &[Format] = match format {
        Some(PlotFormat::Svg) => &[Format::Svg],
        Some(PlotFormat::Png) => &[Format::Png],
        None => &[Format::Svg, Format::Png],
    };
    for dir in dirs {
        let folder = ResultFolder::open(dir)?;
        for path in folder.write_plots(&folder.load()?, formats)? {
            say(path.display())?;
        }
    }
    Ok(())
}

pub(super) fn report(dir: &Path) -> anyhow::Result<()> {
    let folder = ResultFolder::open(dir)?;
    say(folder.write_report(&folder.load()?)?.display())?;
    Ok(())
}

/// What to compare.
#[derive(Debug, clap::Args)]
pub(crate) struct ValidateArgs {
    /// Result folder of the measured run
    #[arg(long)]
    measured: PathBuf,
    /// Result folder of the simulated run
    #[arg(long)]
    simulated: PathBuf,
    /// Fail if p50 or p95 of TTFT or E2E is further off, per cent
    #[arg(long, value_name = "PCT")]
    max_error: Option<f64>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn validate(args: &ValidateArgs) -> anyhow::Result<()> {
    let load = |dir: &Path| ResultFolder::open(dir)?.load();
    let arms = validate::compare(&load(&args.measured)?, &load(&args.simulated)?)?;
    if args.json {
        say(serde_json::to_string_pretty(&arms)?)?;
    } else {
        say(validate::table(&arms))?;
    }
    if let (Some(limit), Some((error, arm, figure))) = (args.max_error, validate::worst(&arms))
        && error > limit
    {
        bail!("{figure} of {arm} is {error:.1} % off, more than --max-error {limit}");
    }
    Ok(())
}

/// What live runs take, and how to have less of it.
fn real_time(points: usize, s: f64) -> String {
    let runs = if points == 1 { "1 run".to_owned() } else { format!("{points} runs") };
    let time = if s < 90.0 {
        format!("{s:.0} s")
    } else if s < 5400.0 {
        format!("{:.0} min", s / 60.0)
    } else {
        format!("{:.1} h", s / 3600.0)
    };
    let advice = "; for less: --seed 1, --set workload.duration_s=30, --jobs 4";
    format!("{runs} in real time, at least {time}{}", if s < 600.0 { "" } else { advice })
}

/// A bar with rate and time left on a terminal, plain lines otherwise.
struct Bar {
    bar: ProgressBar,
    plain: bool,
}

impl Bar {
    fn new() -> Self {
        let plain = !std::io::stderr().is_terminal();
        let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
        let style = ProgressStyle::with_template("{bar:32} {pos}/{len} runs  {elapsed} (left {eta})  {msg}");
        if let Ok(style) = style {
            bar.set_style(style);
        }
        if plain {
            bar.set_draw_target(ProgressDrawTarget::hidden());
        }
        Self { bar, plain }
    }

    fn tell(&self, news: Progress) {
        match news {
            Progress::Start { points, kept, real_time_s } => {
                self.bar.set_length(points as u64);
                if self.plain && kept > 0 {
                    eprintln!("{kept} runs are there already, {points} to go");
                }
                if let Some(s) = real_time_s.filter(|_| points > 0) {
                    // On a terminal the bar follows.
                    eprintln!("{}", real_time(points, s));
                }
            }
            Progress::Point { arm, seed, requests } => {
                self.bar.inc(1);
                let (done, all) = (self.bar.position(), self.bar.length().unwrap_or(0));
                self.bar.set_message(format!("{arm}, seed {seed}"));
                // Without a terminal about ten lines tell enough.
                if self.plain && (all <= 20 || done % (all / 10) == 0 || done == all) {
                    eprintln!("{done}/{all} {arm}, seed {seed}: {requests} requests");
                }
            }
        }
    }

    fn done(&self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn live_runs_say_beforehand_how_long_they_take_and_long_ones_how_to_have_less() {
        assert_eq!(real_time(1, 58.9), "1 run in real time, at least 59 s");
        assert_eq!(real_time(4, 240.0), "4 runs in real time, at least 4 min");
        let long = real_time(540, 32_400.0);
        assert!(long.starts_with("540 runs in real time, at least 9.0 h; for less: --seed 1"), "{long}");
    }
}
