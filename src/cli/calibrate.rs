//! `gorgo calibrate`: engine, network and policy settings from records of a run, or from a live server.

use super::output::{columns, print_line, print_note};
use anyhow::{Context, bail};
use clap::Args as ClapArgs;
use gorgo_benchmark::load::target::Target;
use gorgo_experiments::calibrate::{self, CalibrateOptions, ProbeOptions, SearchOptions};
use gorgo_experiments::plot::Format;
use gorgo_experiments::records::{self, ColumnMap, ReadOptions, Records};
use gorgo_sim::engine::EngineConfig;
use gorgo_sim::network::NetworkConfig;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// An engine is cold for this long, s.
const WARM_UP_S: f64 = 20.0;
/// Length of the blocks of time that intervals are drawn from, s.
const BLOCK_S: f64 = 30.0;

#[derive(Debug, ClapArgs)]
pub(crate) struct CalibrateArgs {
    /// Records of a run: result folders, folders of tables, tables (CSV, JSON lines) or timelines
    #[arg(value_name = "RECORD", required_unless_present = "probe", conflicts_with = "probe")]
    records: Vec<PathBuf>,
    /// Measure this idle server instead: cold prompts one at a time, then answers in batches
    #[arg(long, value_name = "URL", value_parser = Target::parse)]
    probe: Option<Target>,
    /// Lengths of the probe's prompts, tokens
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [16, 256, 1024, 2048, 4096], requires = "probe", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    lengths: Vec<u32>,
    /// Sizes of the probe's batches
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [1, 2, 4, 8, 16], requires = "probe", value_parser = clap::value_parser!(u32).range(1..=1024))]
    batches: Vec<u32>,
    /// Repetitions of the probe
    #[arg(long, default_value_t = 5, requires = "probe", value_parser = clap::value_parser!(u32).range(3..=1000))]
    repeats: u32,
    /// Bearer token of the probed server
    #[arg(long, env = "GORGO_PROBE_KEY", hide_env_values = true, requires = "probe")]
    key: Option<String>,
    /// The arm to fit on, preferably one that chose replicas at random; the only one when absent
    #[arg(long, value_name = "NAME")]
    arm: Option<String>,
    /// Engine preset whose settings are the prior of the fit
    #[arg(long, default_value = "mistral-7b-a100-80")]
    engine: String,
    /// Leave out requests of the first seconds, when an engine is cold
    #[arg(long, value_name = "SECONDS", default_value_t = WARM_UP_S, value_parser = super::validate::seconds)]
    warm_up: f64,
    /// Fit on this first part of the run; the rest judges the fit
    #[arg(long, value_name = "SHARE", default_value_t = 1.0, value_parser = share)]
    part: f64,
    /// Length of the blocks of time that intervals are drawn from, s
    #[arg(long, value_name = "SECONDS", default_value_t = BLOCK_S, value_parser = super::validate::block)]
    block: f64,
    /// Columns of the tables, for example ttft_ms=first_byte,e2e_s=total,id=request; known tables need none
    #[arg(long, value_name = "MAP", default_value = "")]
    columns: String,
    /// Experiment that simulates the run, to fit the remaining settings with --tune
    #[arg(long, value_name = "FILE", requires = "tune")]
    experiment: Option<PathBuf>,
    /// Setting to search by simulation, at most six: key=low..high
    #[arg(long, value_name = "KEY=LOW..HIGH", requires = "experiment", value_parser = bounds)]
    tune: Vec<(String, f64, f64)>,
    /// Override a setting of the experiment
    #[arg(long = "set", value_name = "KEY=VALUE", requires = "experiment")]
    sets: Vec<String>,
    /// Simulations of the search at most, beside nine for each setting's profile
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u32).range(10..=100_000))]
    evaluations: u32,
    /// Seeds of each simulation
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=100))]
    seeds: u32,
    /// Folder for engine.toml, network.toml, policy.toml, calibration.json and residuals.svg
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &CalibrateArgs) -> anyhow::Result<()> {
    if let Some(target) = &args.probe {
        return probe(args, target);
    }
    let options = ReadOptions { columns: ColumnMap::parse(&args.columns)?, arm: None };
    let mut records = Records::default();
    each_once(&args.records, "record")?;
    for path in &args.records {
        let opened = open(path, &options)?;
        records.rows.extend(opened.rows);
    }
    let settings = CalibrateOptions {
        arm: args.arm.clone(),
        engine: EngineConfig::preset(&args.engine)?,
        network: NetworkConfig::default(),
        warm_up_s: args.warm_up,
        part: args.part,
        block_s: args.block,
    };
    let fitted = calibrate::calibrate(&records, &settings)?;
    let mut tuned = Vec::new();
    if let Some(experiment) = &args.experiment {
        let search = SearchOptions {
            experiment,
            sets: args.sets.clone(),
            tuned: args.tune.clone(),
            evaluations: args.evaluations as usize,
            seeds: args.seeds as usize,
            arm: fitted.arm.clone(),
            warm_up_s: args.warm_up,
            part: args.part,
            block_s: args.block,
        };
        let outcome = calibrate::search(&records, &search)?;
        eprintln!("search: loss {:.2} at the middle of the bounds, {:.2} at the best", outcome.1, outcome.2);
        tuned = outcome.0;
    }
    if args.json {
        print_line(serde_json::to_string_pretty(&serde_json::json!({ "fit": fitted, "search": tuned }))?)?;
    } else {
        print_line(calibrate::table(&fitted, &tuned, width()))?;
    }
    if let Some(dir) = &args.out {
        write(dir, &fitted, &tuned)?;
    }
    Ok(())
}

/// Reads records, and says what was left out of them.
pub(super) fn open(path: &Path, options: &ReadOptions) -> anyhow::Result<Records> {
    let records = records::open(path, options)?;
    records.notices.iter().for_each(print_note);
    Ok(records)
}

/// Columns of a table: those of the terminal, else as many as it takes.
fn width() -> usize {
    columns().unwrap_or(usize::MAX)
}

/// Refuses a path that is given twice: its requests would count twice. `what` names one file.
pub(super) fn each_once(paths: &[PathBuf], what: &str) -> anyhow::Result<()> {
    let mut seen = BTreeSet::new();
    for path in paths {
        let whole = path.canonicalize().unwrap_or_else(|_| path.clone());
        if !seen.insert(whole) {
            bail!("`{}` is given twice; name each {what} once", path.display());
        }
    }
    Ok(())
}

/// Fits settings to one arm of a result folder, and writes them into its folder `fit`.
pub(super) fn fit_run(dir: &Path, arm: &str, engine: &str) -> anyhow::Result<()> {
    let records = open(dir, &ReadOptions::default())?;
    let settings = CalibrateOptions {
        arm: Some(arm.to_owned()),
        engine: EngineConfig::preset(engine)?,
        network: NetworkConfig::default(),
        warm_up_s: WARM_UP_S,
        part: 1.0,
        block_s: BLOCK_S,
    };
    let fitted = calibrate::calibrate(&records, &settings)?;
    print_line(format_args!("\n{}", calibrate::table(&fitted, &[], width())))?;
    write(&dir.join("fit"), &fitted, &[])
}

/// Measures a server and writes its engine settings.
fn probe(args: &CalibrateArgs, target: &Target) -> anyhow::Result<()> {
    let options = ProbeOptions {
        target: target.clone(),
        key: args.key.clone(),
        lengths: args.lengths.clone(),
        batches: args.batches.clone(),
        output: PROBE_OUTPUT,
        repeats: args.repeats,
        // Two probes of one server share no prefix, or the second would measure the first one's cache.
        salt: super::process::fresh_salt(),
        timeout: PROBE_TIMEOUT,
    };
    let probed = super::process::runtime()?.block_on(calibrate::probe(&options))?;
    let fitted = calibrate::fit_probe(&probed, &EngineConfig::preset(&args.engine)?);
    if args.json {
        print_line(serde_json::to_string_pretty(&serde_json::json!({ "probe": probed, "fit": fitted }))?)?;
    } else {
        print_line(calibrate::parameters(&fitted, width()))?;
        print_line(format_args!("{}: round trip {:.1} ms", target.url, probed.rtt_ms))?;
    }
    if let Some(dir) = &args.out {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot create `{}`", dir.display()))?;
        let path = dir.join("engine.toml");
        let text = calibrate::probe_toml(&target.url, &fitted);
        std::fs::write(&path, text).with_context(|| format!("cannot write `{}`", path.display()))?;
        eprintln!("written to {}", path.display());
    }
    Ok(())
}

/// Tokens of an answer of the probe: enough steps for a median.
const PROBE_OUTPUT: u32 = 48;
const PROBE_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(120);

fn write(dir: &Path, fitted: &calibrate::Calibration, tuned: &[calibrate::Tuned]) -> anyhow::Result<()> {
    std::fs::create_dir_all(dir).with_context(|| format!("cannot create `{}`", dir.display()))?;
    let json = serde_json::to_string_pretty(&serde_json::json!({ "fit": fitted, "search": tuned }))?;
    let mut files = vec![
        ("engine.toml", calibrate::engine_toml(fitted).into_bytes()),
        ("network.toml", calibrate::network_toml(fitted).into_bytes()),
        ("policy.toml", calibrate::policy_toml(fitted).into_bytes()),
        ("calibration.json", (json + "\n").into_bytes()),
    ];
    if let Some(figure) = fitted.figure() {
        files.push(("residuals.svg", figure.render(Format::Svg)?));
    }
    for (name, bytes) in files {
        let path = dir.join(name);
        std::fs::write(&path, bytes).with_context(|| format!("cannot write `{}`", path.display()))?;
    }
    eprintln!("written to {}", dir.display());
    Ok(())
}

fn share(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|share: &f64| (0.1..=1.0).contains(share));
    share.ok_or_else(|| format!("`{text}` is no part of a run; write a number from 0.1 to 1, for example 0.5"))
}

fn bounds(text: &str) -> Result<(String, f64, f64), String> {
    let parse = || {
        let (key, range) = text.split_once('=')?;
        let (low, high) = range.split_once("..")?;
        Some((key.to_owned(), low.parse().ok()?, high.parse().ok()?))
    };
    parse().ok_or_else(|| {
        format!("`{text}` is no setting with bounds; write key=low..high, for example fleet.settings.receive_ms=1..20")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_that_is_given_twice_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a.csv"), dir.path().join("b.csv"));
        std::fs::write(&a, "x").unwrap();
        std::fs::write(&b, "x").unwrap();
        each_once(&[a.clone(), b.clone()], "record").unwrap();
        let message = each_once(&[a.clone(), b, dir.path().join(".").join("a.csv")], "record").unwrap_err().to_string();
        assert!(message.contains("a.csv` is given twice"), "{message}");
    }
}
