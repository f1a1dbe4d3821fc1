//! `gorgo evaluate`: reads a router's decision log, and estimates the latency under another policy, or checks the
//! predictions.

use super::calibrate::each_once;
use super::output::print_line;
use super::policy_args::PolicyArgs;
use anyhow::{Context, bail};
use clap::Args as ClapArgs;
use gorgo_core::decide::DecideError;
use gorgo_core::off_policy::predictions::{Calibration, Predictions};
use gorgo_core::off_policy::{Estimate, Log, estimate};
use gorgo_core::rng;
use gorgo_experiments::records::{LineError, read_lines, unpacked};
use serde_json::{Value, json};
use std::path::PathBuf;

#[derive(Debug, ClapArgs)]
pub(crate) struct EvaluateArgs {
    /// Decision logs (`explain.log`) of a router, also packed with gzip, oldest first; with `router.explore` above 0 to judge a policy
    #[arg(required = true)]
    logs: Vec<PathBuf>,
    #[command(flatten)]
    policy: PolicyArgs,
    /// Judge the predicted times to first token instead: bias by tenth of the prediction, coverage of the quantiles
    #[arg(long, conflicts_with_all = ["policy", "config", "sets"])]
    predictions: bool,
    /// Seed of random ties and of the resampling
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &EvaluateArgs) -> anyhow::Result<()> {
    if args.predictions {
        return judge_predictions(args);
    }
    let config = args.policy.read("evaluate")?;
    let mut policy = config.build();
    let mut log = Log::new(&mut *policy, rng::stream(args.seed, "policy", 0));
    read(&args.logs, |line| log.line(line))?;
    if log.with_choice == 0 {
        bail!("no decision in the log was between two replicas, so every policy decides the same; log a larger fleet");
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
        value["left_out"] = json!(log.retried());
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
    if log.retried() > 0 {
        print_line(format_args!("  {} requests that were decided more than once are left out", log.retried()))?;
    }
    Ok(())
}

/// Reads logs line by line. Lines that a killed router tore are left out, with a note.
fn read(logs: &[PathBuf], mut line_of: impl FnMut(&str) -> Result<(), DecideError>) -> anyhow::Result<()> {
    each_once(logs, "log")?;
    for path in logs {
        let shown = path.display();
        let file = unpacked(path).with_context(|| format!("cannot read `{shown}`"))?;
        let at = |line: u64| format!("`{shown}`, line {line}");
        match read_lines(file, |_, line| line_of(line)) {
            Ok(None) => {}
            Ok(Some(notice)) => eprintln!("note: `{shown}`: {notice}"),
            Err(LineError::Io(line, error)) => return Err(error).with_context(|| at(line)),
            Err(LineError::Line(line, error)) => return Err(error).with_context(|| at(line)),
            Err(LineError::Broken(line, why)) => {
                bail!("{}: {why}; give the decision log of a router (`explain.log`)", at(line))
            }
        }
    }
    Ok(())
}

/// Prints the accuracy of the predictions for the chosen replicas.
fn judge_predictions(args: &EvaluateArgs) -> anyhow::Result<()> {
    let mut log = Predictions::default();
    read(&args.logs, |line| log.line(line))?;
    let Some(all) = Calibration::of(log.rows.iter()) else {
        bail!(
            "the log holds {} decisions and no request that was dispatched once and got a first token; give the decision log of a \
             router that served streams, with `explain.log` and `explain.outcomes = true`",
            log.decisions
        );
    };
    let (deciles, replicas) = (Calibration::deciles(&log.rows), Calibration::by_replica(&log.rows));
    if args.json {
        let replicas: serde_json::Map<String, Value> =
            replicas.into_iter().map(|(name, of)| (name, json!(of))).collect();
        let value = json!({"all": all, "deciles": deciles, "replicas": replicas, "left_out": log.retried()});
        return Ok(print_line(serde_json::to_string_pretty(&value)?)?);
    }
    print_line("replica      count predicted ms  actual    bias   error   near  <=p50  <=p90  <=p95")?;
    let row = |name: &str, c: &Calibration| {
        let [p50, p90, p95] = c.coverage.map(|share| 100.0 * share);
        print_line(format_args!(
            "{name:<12}{:>6}{:>13.1}{:>8.1}{:>+7.1}%{:>8.1}{:>6.1}%{p50:>6.1}%{p90:>6.1}%{p95:>6.1}%",
            c.requests,
            c.predicted_ms,
            c.actual_ms,
            100.0 * c.bias,
            c.error_ms,
            100.0 * c.near
        ))
    };
    for (i, decile) in deciles.iter().enumerate() {
        row(&format!("decile {}", i + 1), decile)?;
    }
    for (name, replica) in &replicas {
        row(name, replica)?;
    }
    row("all", &all)?;
    if log.retried() > 0 {
        print_line(format_args!("{} requests that were dispatched more than once are left out", log.retried()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_packed_log_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("decisions.jsonl.gz");
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packed.write_all(b"{\"a\": 1}\n{\"b\": 2}\n").unwrap();
        std::fs::write(&path, packed.finish().unwrap()).unwrap();
        let mut lines = Vec::new();
        let taken = read(&[path], |line| {
            lines.push(line.trim_end().to_owned());
            Ok(())
        });
        taken.unwrap();
        assert_eq!(lines, ["{\"a\": 1}", "{\"b\": 2}"]);
    }
}
