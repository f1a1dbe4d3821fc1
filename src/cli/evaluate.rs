//! `gorgo evaluate`: what another policy would have reached, from the decision log of an exploring router.

use super::output::print_line;
use super::policy_args::PolicyArgs;
use anyhow::{Context, bail};
use clap::Args as ClapArgs;
use gorgo_core::off_policy::{Estimate, Log, estimate};
use gorgo_core::rng;
use serde_json::{Value, json};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;

#[derive(Debug, ClapArgs)]
pub(crate) struct EvaluateArgs {
    /// Decision logs (`explain.log`) of a router with `router.explore` above 0, oldest first
    #[arg(required = true)]
    logs: Vec<PathBuf>,
    #[command(flatten)]
    policy: PolicyArgs,
    /// Seed of random ties and of the resampling
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &EvaluateArgs) -> anyhow::Result<()> {
    let config = args.policy.read("evaluate")?;
    let mut policy = config.build();
    let mut log = Log::new(&mut *policy, rng::stream(args.seed, "policy", 0));
    for path in &args.logs {
        let shown = path.display();
        let file = File::open(path).with_context(|| format!("cannot read `{shown}`"))?;
        for (number, line) in BufReader::new(file).lines().enumerate() {
            let at = || format!("`{shown}`, line {}", number + 1);
            let line = line.with_context(at)?;
            if !line.trim().is_empty() {
                log.line(&line).with_context(at)?;
            }
        }
    }
    if log.with_odds == 0 {
        bail!(
            "no decision in the log has odds, so it shows nothing of other policies; log with `router.explore = 0.01` or more, \
             then evaluate again"
        );
    }
    let mut found = Vec::new();
    for (name, logged) in [("TTFT", &log.ttft), ("E2E", &log.e2e)] {
        if let Some(estimate) = estimate(logged, &mut rng::stream(args.seed, "bootstrap", 0)) {
            found.push((name, estimate));
        }
    }
    if found.is_empty() {
        bail!(
            "`{}` never chooses as the log does in {} decisions with an outcome; log longer, or with a larger `router.explore`",
            config.name(),
            log.ttft.len()
        );
    }
    if args.json {
        let of = |(name, e): &(&str, Estimate)| {
            let value = json!({
                "mean_ms": e.mean_ms, "low_ms": e.interval_ms.0, "high_ms": e.interval_ms.1, "logged_mean_ms": e.logged_ms,
                "effective_decisions": e.effective, "same_choices": e.same, "decisions": e.decisions,
            });
            (name.to_lowercase(), value)
        };
        let mut value: Value = found.iter().map(of).collect::<serde_json::Map<_, _>>().into();
        value["policy"] = json!(config.name());
        value["left_out"] = json!(log.retried);
        return Ok(print_line(serde_json::to_string_pretty(&value)?)?);
    }
    for (name, e) in &found {
        print_line(format_args!(
            "{name}: {} would have a mean of {:.1} ms (95 % interval {:.1} to {:.1}); the log has {:.1} ms",
            config.name(),
            e.mean_ms,
            e.interval_ms.0,
            e.interval_ms.1,
            e.logged_ms
        ))?;
        print_line(format_args!(
            "  {} of {} decisions are the same; they weigh as much as {:.0} of its own",
            e.same, e.decisions, e.effective
        ))?;
    }
    if log.retried > 0 {
        print_line(format_args!("  {} requests that were decided more than once are left out", log.retried))?;
    }
    Ok(())
}
