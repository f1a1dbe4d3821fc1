//! `gorgo tune`: search a policy's weights on an experiment; held-out seeds decide.

use super::output::{check_writable, print_folded, print_line, print_note};
use anyhow::{Context, bail};
use clap::Args as ClapArgs;
use gorgo_core::tuner::Dimension;
use gorgo_experiments::spec::Experiment;
use gorgo_experiments::tune::{Step, TuneOptions, tune};
use std::path::{Path, PathBuf};

#[derive(Debug, ClapArgs)]
pub(crate) struct TuneArgs {
    /// Experiment file
    file: PathBuf,
    /// Arm to tune; the first with usual weights when absent
    #[arg(long)]
    arm: Option<String>,
    /// Setting of the policy to search and its bounds; the usual ones when absent
    #[arg(long = "key", value_name = "KEY=LOW..HIGH")]
    keys: Vec<String>,
    /// Override any setting of the experiment
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    /// Candidates to try at most
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    steps: u32,
    /// Seeds that compare a candidate with the incumbent, fresh for each
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(2..=1_000))]
    seeds: u64,
    /// Seeds that the search never saw and that decide
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(2..=1_000))]
    held_out: u64,
    /// Seed of the search
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Search as a router with `[tune]` does: on the requests of one run while it serves them
    #[arg(long, conflicts_with_all = ["steps", "seeds"])]
    online: bool,
    /// File for the policy; <name of the experiment>-tuned.toml when absent
    #[arg(long)]
    out: Option<PathBuf>,
}

/// First words of the file.
const HEAD: &str = "# `gorgo tune ";

/// Refuses a file that cannot be written after the search, or that `tune` did not write.
fn check_out(out: &Path) -> anyhow::Result<()> {
    if out.is_file() {
        let there = std::fs::read(out).with_context(|| format!("cannot read `{}`", out.display()))?;
        if !there.is_empty() && !there.starts_with(HEAD.as_bytes()) {
            bail!("`{}` is there, and `gorgo tune` did not write it; choose another file with --out", out.display());
        }
    }
    check_writable(out)
}

pub(super) fn run(args: &TuneArgs) -> anyhow::Result<()> {
    let experiment = Experiment::load(&args.file, &args.sets, &[])?;
    experiment.notes.iter().for_each(print_note);
    let name = args.file.file_stem().map_or("experiment".into(), |stem| stem.to_string_lossy());
    let out = args.out.clone().unwrap_or_else(|| PathBuf::from(format!("{name}-tuned.toml")));
    check_out(&out)?;
    let keys = args.keys.iter().map(|text| dimension(text)).collect::<anyhow::Result<_>>()?;
    let (steps, seeds, held_out, seed) = (args.steps, args.seeds, args.held_out, args.seed);
    let options = TuneOptions { arm: args.arm.clone(), keys, steps, seeds, held_out, seed, online: args.online };
    let tuned = tune(&experiment, &options, &|step: &Step| {
        let weights: Vec<String> = step.weights.iter().map(|weight| format!("{weight:.4}")).collect();
        let taken = if step.accepted { ", taken" } else { "" };
        eprintln!("{}/{steps} {}: {:+.4}{taken}", step.number, weights.join(" "), step.difference);
    })?;
    let policy = toml::Table::from_iter([("policy".to_owned(), toml::Value::try_from(tuned.chosen())?)]);
    let text = format!(
        "{HEAD}{}`, arm {}, {} candidates.\n# {}\n{policy}",
        args.file.display(),
        tuned.arm,
        tuned.steps,
        tuned.verdict()
    );
    if let Err(error) = std::fs::write(&out, &text) {
        print_line(text)?; // the search took long
        bail!("cannot write `{}`: {error}; the policy is printed instead", out.display());
    }
    if let Some(online) = &tuned.online {
        let [[_, ttft, e2e], [_, ttft_before, e2e_before]] = online.means;
        print_folded(&format!(
            "{} requests, {} trials: {} taken, {} ended by the guard; while it searched, mean TTFT {:+.1} %, mean E2E {:+.1} %",
            online.requests,
            online.trials.ended,
            online.trials.taken,
            online.trials.guarded,
            100.0 * (ttft / ttft_before - 1.0),
            100.0 * (e2e / e2e_before - 1.0)
        ))?;
    }
    print_folded(&tuned.verdict())?;
    print_folded(&format!("policy in {}; a router or `gorgo decide --config` reads it", out.display()))?;
    Ok(())
}

fn dimension(text: &str) -> anyhow::Result<Dimension> {
    let parts = text.split_once('=').and_then(|(key, range)| {
        let (low, high) = range.split_once("..")?;
        Some((key.strip_prefix("policy.").unwrap_or(key), low.parse().ok()?, high.parse().ok()?))
    });
    let Some((key, low, high)) = parts else {
        bail!("--key {text} is not a setting with bounds; write KEY=LOW..HIGH, for example rtt_weight=0.05..2");
    };
    Ok(Dimension::new(key, low, high)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_file_of_tune_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("tuned.toml");
        check_out(&out).unwrap();
        std::fs::write(&out, format!("{HEAD}x.toml`, arm gorgo, 3 candidates.\n")).unwrap();
        check_out(&out).unwrap();
        std::fs::write(&out, "mine").unwrap();
        let message = check_out(&out).unwrap_err().to_string();
        assert!(message.contains("tuned.toml") && message.contains("did not write it"), "{message}");
        assert_eq!(std::fs::read_to_string(&out).unwrap(), "mine");
        assert!(check_out(&dir.path().join("missing/tuned.toml")).is_err(), "before the search");
    }
}
