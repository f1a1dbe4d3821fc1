//! Compares a live run with the simulator: simulates the same experiment, validates it, and fits settings to the run.

use super::{ExperimentArgs, Plan, carry_out};
use crate::cli::calibrate;
use crate::cli::output::{print_line, print_note};
use anyhow::Context;
use gorgo_core::policy::PolicyConfig;
use gorgo_experiments::results::{ResultFolder, Rows};
use gorgo_experiments::stats::PERCENTILES;
use gorgo_experiments::validate;

/// Simulates the experiment of a live run into `simulated/` of its folder, prints both beside each other and writes
/// `validation.json`; with `fit` also settings fitted to the run, into `fit/`. The run itself stands whatever comes of it.
pub(in crate::cli) fn compare_with_simulation(args: &ExperimentArgs, fit: bool) -> anyhow::Result<()> {
    if let Err(why) = compare(args) {
        print_note(format_args!("the run is not compared with its simulation: {why:#}"));
    }
    if fit { calibrate_on(args).context("cannot fit settings to the run") } else { Ok(()) }
}

fn compare(args: &ExperimentArgs) -> anyhow::Result<()> {
    let dir = args.folder(true);
    let twin = ExperimentArgs { out: Some(dir.join("simulated")), fresh: true, ..args.clone() };
    let plan = Plan { real_time: None, vary: &[], shard: None, rows: Rows::Keep };
    let (_, simulated, _) = carry_out(&twin, &plan)?;
    let comparison = validate::compare(&ResultFolder::open(&dir)?.load()?, &simulated)?;
    let path = dir.join("validation.json");
    std::fs::write(&path, serde_json::to_string_pretty(&comparison)?)
        .with_context(|| format!("cannot write `{}`", path.display()))?;
    if !args.json {
        print_line(format_args!("\nmeasured and simulated\n{}\n{PERCENTILES}", validate::table(&comparison.arms)))?;
        print_line(format_args!("the simulated run is in {}", dir.join("simulated").display()))?;
    }
    comparison.notes.iter().for_each(print_note);
    let gaps = comparison.gaps();
    if !gaps.is_empty() {
        print_note(format_args!("the runs do not match: {}", gaps.join("; ")));
    }
    Ok(())
}

/// Fits settings on the arm that chose at random, which shows most, or on the first one.
fn calibrate_on(args: &ExperimentArgs) -> anyhow::Result<()> {
    let arms = args.load(&[])?.plan()?;
    let random = arms.iter().find(|arm| matches!(arm.spec.policy, PolicyConfig::Random(_)));
    let arm = random.or(arms.first()).context("the experiment has no arm")?;
    calibrate::fit_run(&args.folder(true), &arm.label, &arm.spec.fleet.engine)
}
