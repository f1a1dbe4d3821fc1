//! `gorgo validate`: a simulated result against a measured one.

use super::output::print_line;
use anyhow::bail;
use clap::Args as ClapArgs;
use gorgo_experiments::results::ResultFolder;
use gorgo_experiments::stats::PERCENTILES;
use gorgo_experiments::validate;
use std::path::{Path, PathBuf};

#[derive(Debug, ClapArgs)]
pub(crate) struct ValidateArgs {
    /// Result folder of the measured run
    #[arg(long)]
    measured: PathBuf,
    /// Result folder of the simulated run
    #[arg(long)]
    simulated: PathBuf,
    /// Fail if the error of p50 or p95 of TTFT or E2E is larger, per cent
    #[arg(long, value_name = "PCT", value_parser = percent)]
    max_error: Option<f64>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &ValidateArgs) -> anyhow::Result<()> {
    let load = |dir: &Path| ResultFolder::open(dir)?.load();
    let comparison = validate::compare(&load(&args.measured)?, &load(&args.simulated)?)?;
    let arms = &comparison.arms;
    if args.json {
        print_line(serde_json::to_string_pretty(&comparison)?)?;
    } else {
        print_line(format_args!("{}\n{PERCENTILES}", validate::table(arms)))?;
    }
    let gaps = comparison.gaps();
    if !gaps.is_empty() {
        bail!("the results do not match: {}", gaps.join("; "));
    }
    if let (Some(limit), Some((error, arm, figure))) = (args.max_error, validate::worst(arms))
        && error > limit
    {
        bail!("{figure} of {arm} has an error of {error:.1} %, more than --max-error {limit}");
    }
    Ok(())
}

/// A limit in per cent, from 0 on.
fn percent(text: &str) -> Result<f64, String> {
    let limit = text.parse().ok().filter(|limit: &f64| limit.is_finite() && *limit >= 0.0);
    limit.ok_or_else(|| format!("`{text}` is no limit; write per cent, from 0 on, for example 5"))
}
