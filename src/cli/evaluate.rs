//! `gorgo evaluate`: reads a router's decision log, and estimates the latency under another policy, or checks the
//! predictions.

use super::calibrate::each_once;
use super::output::{columns, print_folded, print_line, print_note};
use super::policy_args::PolicyArgs;
use anyhow::{Context, bail};
use clap::Args as ClapArgs;
use gorgo_core::decide::DecideError;
use gorgo_core::off_policy::predictions::{Calibration, Predictions};
use gorgo_core::off_policy::{Estimate, Log, estimate};
use gorgo_core::rng;
use gorgo_experiments::records::{LineError, read_lines, unpacked};
use gorgo_experiments::table::shorten;
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
        print_folded(&format!(
            "{name}: {} would have a mean of {:.1} ms (95 % interval {:.1} to {:.1}); the log has {:.1} ms",
            config.name(),
            e.mean_ms,
            e.interval_ms.0,
            e.interval_ms.1,
            e.logged_ms
        ))?;
        print_folded(&format!(
            "  {} of {} decisions are the same; they weigh as much as {:.0} of its own",
            e.same, e.decisions, e.effective
        ))?;
    }
    if log.retried() > 0 {
        print_folded(&format!("  {} requests that were decided more than once are left out", log.retried()))?;
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
            Ok(Some(notice)) => print_note(format_args!("`{shown}`: {notice}")),
            Err(LineError::Io(line, error)) => return Err(error).with_context(|| at(line)),
            Err(LineError::Line(line, error)) => return Err(error).with_context(|| at(line)),
            Err(LineError::Broken(line, why)) => {
                bail!("{}: {why}; give the decision log of a router (`explain.log`)", at(line))
            }
        }
    }
    Ok(())
}

/// Head of the table of predictions. Times are in ms.
const HEAD: &str = "replica     count  pred. ms  actual    bias  error   near  <=p50  <=p90  <=p95";
/// Room of a replica's name in it.
const NAME: usize = 11;

/// A line of the table of predictions; where the table is wider than `width`, a long name loses its middle. Coverage is
/// `-` where the log has no quantiles.
fn line(name: &str, c: &Calibration, width: usize) -> String {
    let name = if HEAD.len() + name.chars().count() > width.saturating_add(NAME) {
        shorten(name, NAME - 1)
    } else {
        name.to_owned()
    };
    let share = |i: usize| c.coverage.map_or_else(|| "-".to_owned(), |shares| format!("{:.1}%", 100.0 * shares[i]));
    format!(
        "{name:<NAME$}{:>6}{:>10.1}{:>8.1}{:>+7.1}%{:>7.1}{:>6.1}%{:>7}{:>7}{:>7}",
        c.requests,
        c.predicted_ms,
        c.actual_ms,
        100.0 * c.bias,
        c.error_ms,
        100.0 * c.near,
        share(0),
        share(1),
        share(2)
    )
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
    let width = columns().unwrap_or(usize::MAX);
    print_line(HEAD)?;
    let row = |name: &str, calibration: &Calibration| print_line(line(name, calibration, width));
    for (i, decile) in deciles.iter().enumerate() {
        row(&format!("decile {}", i + 1), decile)?;
    }
    for (name, replica) in &replicas {
        row(name, replica)?;
    }
    row("all", &all)?;
    if log.retried() > 0 {
        print_folded(&format!("{} requests that were dispatched more than once are left out", log.retried()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn predictions_fit_a_terminal_and_have_no_coverage_without_quantiles() {
        let mut calibration = Calibration {
            requests: 10_000,
            predicted_ms: 12_345.6,
            actual_ms: 12_345.6,
            bias: -0.398,
            error_ms: 1_234.5,
            near: 1.0,
            coverage: Some([1.0; 3]),
        };
        let long = "a-replica-with-a-long-name";
        assert_eq!((HEAD.len(), line("decile 10", &calibration, 80).chars().count()), (78, 78));
        assert_eq!(line(long, &calibration, 80).chars().count(), 78);
        assert!(line(long, &calibration, usize::MAX).starts_with(long));
        calibration.coverage = None;
        assert!(line("all", &calibration, 80).ends_with("     -      -      -"));
    }

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
