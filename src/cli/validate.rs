//! `gorgo validate`: a measured result against a simulated one.

use super::say;
use anyhow::bail;
use clap::Args as ClapArgs;
use gorgo_experiments::validate::folders;
use std::path::PathBuf;

#[derive(Debug, ClapArgs)]
pub(crate) struct ValidateArgs {
    /// Result folder of a live run: `gorgo bench --out` or `gorgo run --mode live`
    #[arg(long)]
    measured: PathBuf,
    /// Result folder of a simulated run
    #[arg(long)]
    simulated: PathBuf,
    /// Exit 1 if a judged figure is off by more than this (percent, or percentage points for shares)
    #[arg(long, value_name = "PCT")]
    max_error: Option<f64>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &ValidateArgs) -> anyhow::Result<()> {
    if let Some(most) = args.max_error.filter(|most| !(0.0..=1e6).contains(most)) {
        bail!("--max-error is {most}; give a percentage from 0");
    }
    let compared = folders(&args.measured, &args.simulated)?;
    if args.json {
        say(serde_json::to_string_pretty(&compared)?)?;
    } else {
        for comparison in &compared {
            say(format_args!("{}\n", comparison.table()))?;
        }
    }
    if let Some(most) = args.max_error
        && let Some(bad) = compared.iter().find(|c| !c.within(most))
    {
        let worst = bad.worst().map_or("nothing to compare".to_owned(), |l| {
            l.error.map_or(format!("{} is on one side only", l.figure), |e| format!("{} is off by {e:+.1}", l.figure))
        });
        bail!("arm {}: {worst}, more than --max-error {most}", bad.measured);
    }
    Ok(())
}
