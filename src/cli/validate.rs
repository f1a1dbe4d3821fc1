//! `gorgo validate`: a simulated result against a measured one.

use super::output::{columns, print_line};
use anyhow::{Context, bail};
use clap::Args as ClapArgs;
use gorgo_core::suggest::did_you_mean;
use gorgo_experiments::plot::Format;
use gorgo_experiments::records::{ColumnMap, ReadOptions, Records};
use gorgo_experiments::results::ResultFolder;
use gorgo_experiments::stats::PERCENTILES;
use gorgo_experiments::table::fold;
use gorgo_experiments::validate::{self, RowSettings};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Length of the blocks of time that the noise is drawn from, s.
const BLOCK_S: f64 = 30.0;

/// Longest prompts of the classes tiny and mid, tokens.
const CLASSES: (f64, f64) = (64.0, 4096.0);

#[derive(Debug, ClapArgs)]
pub(crate) struct ValidateArgs {
    /// The measured run: a result folder, a folder of tables, a table (CSV, JSON lines, GuideLLM's JSON) or a timeline
    #[arg(value_name = "MEASURED", required_unless_present = "measured", conflicts_with = "measured")]
    first: Option<PathBuf>,
    /// The simulated run, or any other
    #[arg(value_name = "SIMULATED", required_unless_present = "simulated", conflicts_with = "simulated")]
    second: Option<PathBuf>,
    /// The measured run, by name
    #[arg(long)]
    measured: Option<PathBuf>,
    /// The simulated run, by name
    #[arg(long)]
    simulated: Option<PathBuf>,
    /// Fail if the error of p50 or p95 of TTFT or E2E is larger, per cent; request by request, errors within the
    /// recording's noise pass as well
    #[arg(long, value_name = "PCT", value_parser = percent)]
    max_error: Option<f64>,
    /// Compare two result folders request by request, too
    #[arg(long)]
    rows: bool,
    /// Names of measured arms in the simulated run
    #[arg(long, value_name = "A=B", value_delimiter = ',', value_parser = renamed)]
    arm_map: Vec<(String, String)>,
    /// Names of measured replicas in the simulated run
    #[arg(long, value_name = "A=B", value_delimiter = ',', value_parser = renamed)]
    replica_map: Vec<(String, String)>,
    /// Leave out requests of the first seconds of the measured run
    #[arg(long, value_name = "SECONDS", default_value_t = 0.0, value_parser = seconds)]
    warm_up: f64,
    /// Length of the blocks of time that the noise is drawn from, s [default: 30]
    #[arg(long, value_name = "SECONDS", value_parser = block)]
    block: Option<f64>,
    /// Columns of the measured table, for example ttft_ms=first_byte,e2e_s=total,id=request,answered=200; known tables
    /// need none
    #[arg(long, value_name = "MAP", default_value = "")]
    columns: String,
    /// Columns of the simulated table
    #[arg(long, value_name = "MAP", default_value = "")]
    simulated_columns: String,
    /// Name of the arm of a measured table without such a column
    #[arg(long, value_name = "NAME")]
    arm: Option<String>,
    /// Compare distributions of requests that are not the same
    #[arg(long)]
    unpaired: bool,
    /// Show each class of prompt length and replica
    #[arg(long)]
    by_class: bool,
    /// Longest prompts of the classes tiny and mid, tokens
    #[arg(long, value_name = "TINY,MID", default_value = "64,4096", value_parser = class_bounds)]
    classes: (f64, f64),
    /// Draw the distributions into this file (.svg or .png)
    #[arg(long, value_name = "FILE", value_parser = plot)]
    plot: Option<(PathBuf, Format)>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &ValidateArgs) -> anyhow::Result<()> {
    let path = |position: &Option<PathBuf>, named: &Option<PathBuf>| position.clone().or(named.clone());
    let measured = path(&args.first, &args.measured).context("name the measured run")?;
    let simulated = path(&args.second, &args.simulated).context("name the simulated run")?;
    let folder = |path: &Path| path.join("experiment.toml").exists();
    if args.by_row() || !folder(&measured) || !folder(&simulated) {
        return by_request(args, &measured, &simulated);
    }
    let load = |dir: &Path| ResultFolder::open(dir)?.load();
    let comparison = validate::compare(&load(&measured)?, &load(&simulated)?)?;
    let arms = &comparison.arms;
    if args.json {
        print_line(serde_json::to_string_pretty(&comparison)?)?;
    } else {
        let width = columns().unwrap_or(usize::MAX);
        print_line(validate::table_in(arms, width))?;
        let notes = comparison.notes.iter().map(|note| format!("note: {note}"));
        let below = std::iter::once(PERCENTILES.to_owned()).chain(notes);
        below.flat_map(|text| fold(&text, width)).try_for_each(print_line)?;
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

impl ValidateArgs {
    /// Whether an option asks for the comparison request by request.
    fn by_row(&self) -> bool {
        let named = !self.columns.is_empty() || !self.simulated_columns.is_empty() || self.arm.is_some();
        let mapped = !self.arm_map.is_empty() || !self.replica_map.is_empty();
        self.rows
            || named
            || mapped
            || self.by_class
            || self.unpaired
            || self.warm_up > 0.0
            || self.block.is_some()
            || self.plot.is_some()
            || self.classes != CLASSES
    }

    /// Refuses names that neither source has: what they ask for would be left out silently.
    fn names_are_known(&self, measured: &Records, simulated: &Records) -> anyhow::Result<()> {
        let check = |option: &str, name: &str, what: &str, known: &[Arc<str>]| {
            if known.iter().any(|other| **other == *name) {
                return Ok(());
            }
            let hint = did_you_mean(name, known.iter().map(|name| &**name));
            bail!("{option}: `{name}` is no {what}; {hint}")
        };
        let (arms, theirs) = (measured.arms(), simulated.arms());
        if let Some(name) = &self.arm {
            check("--arm", name, "arm of the measured run, which names its own", &arms)?;
        }
        for (a, b) in &self.arm_map {
            check("--arm-map", a, "arm of the measured run", &arms)?;
            check("--arm-map", b, "arm of the simulated run", &theirs)?;
        }
        let (replicas, theirs) = (measured.replicas(), simulated.replicas());
        for (a, b) in &self.replica_map {
            check("--replica-map", a, "replica of the measured run", &replicas)?;
            check("--replica-map", b, "replica of the simulated run", &theirs)?;
        }
        Ok(())
    }
}

fn by_request(args: &ValidateArgs, measured: &Path, simulated: &Path) -> anyhow::Result<()> {
    let open = |path: &Path, columns: &str, arm: Option<&String>| -> anyhow::Result<Records> {
        super::calibrate::open(path, &ReadOptions { columns: ColumnMap::parse(columns)?, arm: arm.cloned() })
    };
    let measured = open(measured, &args.columns, args.arm.as_ref())?;
    let simulated = open(simulated, &args.simulated_columns, None)?;
    args.names_are_known(&measured, &simulated)?;
    let settings = RowSettings {
        warm_up_s: args.warm_up,
        block_s: args.block.unwrap_or(BLOCK_S),
        arms: args.arm_map.iter().cloned().collect(),
        replicas: args.replica_map.iter().cloned().collect(),
        unpaired: args.unpaired,
        max_error: args.max_error,
        classes: args.classes,
    };
    let comparison = validate::compare_rows(&measured, &simulated, &settings);
    if args.json {
        print_line(serde_json::to_string_pretty(&comparison)?)?;
    } else {
        let block = settings.block_s;
        let noise = format!("noise: central 95 % over blocks of {block} s of the measured run drawn again");
        let width = columns().unwrap_or(usize::MAX);
        print_line(format_args!("{}\n", validate::rows_table(&comparison, args.by_class, width)))?;
        fold(&format!("{PERCENTILES}; {noise}"), width).iter().try_for_each(print_line)?;
    }
    if let (Some((path, format)), Some(figure)) = (&args.plot, validate::curves(&comparison)) {
        let bytes = figure.render(*format)?;
        std::fs::write(path, bytes).with_context(|| format!("cannot write `{}`", path.display()))?;
    }
    let gaps = comparison.gaps();
    if !gaps.is_empty() {
        bail!("the sources do not match: {}", gaps.join("; "));
    }
    let beyond = comparison.beyond();
    let size = |(_, figure): &(&str, &validate::RowFigure)| figure.error.map_or(0.0, f64::abs);
    let worst = beyond.iter().max_by(|a, b| size(a).total_cmp(&size(b)));
    if let Some((arm, figure)) = worst {
        let limit = args.max_error.map_or_else(String::new, |limit| format!(" and --max-error {limit}"));
        let (name, error) = (&figure.name, figure.error.unwrap_or_default());
        let count = beyond.len();
        bail!(
            "{name} of {arm} has an error of {error:+.1} %, beyond the recording's noise{limit} ({count} such figures)"
        );
    }
    Ok(())
}

/// A file for a plot, with the format that its ending names.
fn plot(text: &str) -> Result<(PathBuf, Format), String> {
    let path = PathBuf::from(text);
    let ending = path.extension().map(|end| end.to_string_lossy().to_lowercase());
    match ending.as_deref() {
        Some("svg") => Ok((path, Format::Svg)),
        Some("png") => Ok((path, Format::Png)),
        _ => Err(format!("`{text}` is no name of a plot; write one that ends with .svg or .png")),
    }
}

/// A limit in per cent, from 0 on.
fn percent(text: &str) -> Result<f64, String> {
    let limit = text.parse().ok().filter(|limit: &f64| limit.is_finite() && *limit >= 0.0);
    limit.ok_or_else(|| format!("`{text}` is no limit; write per cent, from 0 on, for example 5"))
}

pub(super) fn seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse().ok().filter(|s: &f64| (0.0..=1e9).contains(s));
    seconds.ok_or_else(|| format!("`{text}` is no time; write seconds from 0 on, for example 20"))
}

pub(super) fn block(text: &str) -> Result<f64, String> {
    match seconds(text)? {
        // The work grows with the number of blocks.
        length if length < 0.1 => {
            Err(format!("a block of {length} s holds next to nothing; write 0.1 s or more, for example 30"))
        }
        length => Ok(length),
    }
}

fn renamed(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').filter(|(a, b)| !a.is_empty() && !b.is_empty());
    let (a, b) = pair.ok_or_else(|| format!("`{text}` is no pair of names; write measured=simulated"))?;
    Ok((a.to_owned(), b.to_owned()))
}

fn class_bounds(text: &str) -> Result<(f64, f64), String> {
    let bounds = text.split_once(',').and_then(|(a, b)| Some((a.trim().parse().ok()?, b.trim().parse().ok()?)));
    let bounds = bounds.filter(|(tiny, mid): &(f64, f64)| *tiny >= 0.0 && mid > tiny && mid.is_finite());
    bounds.ok_or_else(|| format!("`{text}` are no bounds; write tokens in ascending order, for example 64,4096"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use gorgo_experiments::records;

    #[derive(clap::Parser)]
    struct Parsed {
        #[command(flatten)]
        args: ValidateArgs,
    }

    #[test]
    fn names_that_no_source_has_are_refused() {
        let args = |more: &[&str]| {
            let parsed: Parsed = clap::Parser::parse_from([&["validate", "a", "b"], more].concat());
            parsed.args
        };
        let records = |text: &str| {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("x.csv");
            std::fs::write(&path, text).unwrap();
            let columns = ColumnMap::parse("arm=arm,id=n,replica=where,ttft_ms=first,e2e_ms=whole").unwrap();
            records::open(&path, &ReadOptions { columns, arm: None }).unwrap()
        };
        let a = records("arm,n,where,first,whole\none,1,r1,5.0,9.0\n");
        for (more, message) in [
            (&["--arm", "two"][..], "--arm: `two` is no arm of the measured run"),
            (&["--arm-map", "one=two"], "--arm-map: `two` is no arm of the simulated run"),
            (&["--replica-map", "r2=r1"], "--replica-map: `r2` is no replica of the measured run"),
        ] {
            let error = args(more).names_are_known(&a, &a).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
        args(&["--arm", "one", "--arm-map", "one=one", "--replica-map", "r1=r1"]).names_are_known(&a, &a).unwrap();
        assert!(args(&["--classes", "32,64"]).by_row() && !args(&[]).by_row());
        assert!(args(&["--block", "30"]).by_row(), "an option that was given has an effect");
    }

    #[test]
    fn a_plot_has_the_format_of_its_ending_and_a_block_is_not_tiny() {
        assert_eq!(plot("a/b.PNG"), Ok(("a/b.PNG".into(), Format::Png)));
        assert_eq!(plot("b.svg"), Ok(("b.svg".into(), Format::Svg)));
        for wrong in ["b.pdf", "b"] {
            assert!(plot(wrong).unwrap_err().contains("ends with .svg or .png"), "{wrong}");
        }
        assert_eq!(block("0.1"), Ok(0.1));
        for wrong in ["0", "1e-9"] {
            assert!(block(wrong).unwrap_err().contains("write 0.1 s or more"), "{wrong}");
        }
    }
}
