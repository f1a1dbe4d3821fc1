//! `gorgo bench`: load on a router or an engine.

mod progress;
mod results;

use super::duration::scaled;
use super::output::{columns, print_line};
use super::process::{StopSignal, fresh_salt, since_1970};
use anyhow::{Context, bail};
use clap::{Args as ClapArgs, ValueEnum};
use gorgo_benchmark::InputError;
use gorgo_benchmark::load::bench::LEAD;
use gorgo_benchmark::load::client::served_models;
use gorgo_benchmark::load::report::{MAX_LATENESS_MS, MAX_LATENESS_SHARE};
use gorgo_benchmark::load::run::{Run, RunTotals};
use gorgo_benchmark::load::slo::Slo;
use gorgo_benchmark::load::source::{Api, Output, SourceOptions};
use gorgo_benchmark::load::target::{Target, entry};
use gorgo_benchmark::load::{Bench, Limits, Profile, Progress, Report, ceiling, synthetic, table};
use gorgo_core::request::TraceRequest;
use gorgo_experiments::results::measured::Part;
use gorgo_live::config::Tls;
use gorgo_traces::workload::{Format, Options, Prompts, open};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

#[derive(Debug, ClapArgs)]
pub(crate) struct BenchArgs {
    /// Base URL, with @REGION or @LAT,LON for a place; several: each user enters at the nearest
    #[arg(long, visible_alias = "url", value_name = "URL[@REGION]")]
    target: Vec<String>,
    /// When requests are sent
    #[arg(long, value_enum, default_value_t = ProfileName::Poisson)]
    profile: ProfileName,
    /// Requests a second, for the profiles poisson and constant
    #[arg(long)]
    rate: Option<f64>,
    /// Requests at a time, for the profile concurrent
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..1_000_000))]
    concurrency: Option<u32>,
    /// Runs of the profile sweep; 10 when absent
    #[arg(long, value_parser = clap::value_parser!(u32).range(3..1_000))]
    runs: Option<u32>,
    /// Send for this long: 60, 60s, 5m
    #[arg(long, visible_alias = "max-seconds", value_parser = seconds)]
    duration: Option<f64>,
    /// Send this many requests
    #[arg(long)]
    max_requests: Option<usize>,
    /// Trace (file, built-in name, or - for standard input), or prompt_tokens=512,output_tokens=128
    #[arg(long, default_value = "wildchat-located")]
    data: String,
    /// Format of the trace; recognised from its content when absent
    #[arg(long)]
    format: Option<String>,
    /// Location lookup of gotoni's benchmark pair
    #[arg(long)]
    lookup: Option<PathBuf>,
    /// What lengths, ids and messages of a row are: the whole prompt, or what a turn adds to its session
    #[arg(long, value_parser = ["whole", "added"], default_value = "whole")]
    prompts: String,
    /// Factor on the trace's times: larger is slower
    #[arg(long, default_value_t = 1.0)]
    time_scale: f64,
    /// Leave out longer prompts (tokens)
    #[arg(long)]
    max_input_tokens: Option<u32>,
    /// API to call
    #[arg(long, value_enum, default_value_t = ApiName::Chat)]
    api: ApiName,
    /// Request the recorded answer lengths exactly, or send max_tokens as recorded
    #[arg(long, value_enum, default_value_t = OutputLength::Exact)]
    output_length: OutputLength,
    /// Model name in requests; the first that the target names at /v1/models when absent
    #[arg(long, default_value = "")]
    model: String,
    /// Objective that goodput counts, ms: ttft=500,itl=50
    #[arg(long, visible_alias = "goodput")]
    slo: Option<String>,
    /// Do not count requests of the first seconds
    #[arg(long, value_parser = seconds, default_value = "0")]
    warmup: f64,
    /// Add each user's own round trip to its router
    #[arg(long)]
    user_rtt: bool,
    /// Cancel a request after this long
    #[arg(long, value_parser = seconds, default_value = "600")]
    timeout: f64,
    /// Wait this long for answers after the last request
    #[arg(long, value_parser = seconds, default_value = "120")]
    drain: f64,
    /// Most requests in flight
    #[arg(long, default_value_t = 4096)]
    max_in_flight: usize,
    /// Seed of arrival times
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Varies the text of prompts; drawn anew for every run when absent, so that no earlier run has filled a cache
    #[arg(long)]
    salt: Option<u64>,
    /// Tokens per block of the trace's block ids
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    block_tokens: Option<u32>,
    /// Bearer token to send
    #[arg(long, env = "GORGO_API_KEY", hide_env_values = true)]
    api_key: Option<String>,
    /// Root certificates (PEM) for https targets, in place of the system's
    #[arg(long, value_name = "FILE")]
    tls_ca: Option<PathBuf>,
    /// Do not check the certificates of https targets
    #[arg(long)]
    tls_insecure: bool,
    /// Folder for benchmarks.json, .csv and .html, and the result files of `gorgo run`
    #[arg(long)]
    out: Option<PathBuf>,
    /// Send only what enters at this one of the targets, counted from 0: several machines share a load
    #[arg(long, value_name = "N", conflicts_with_all = ["rate", "runs", "out"])]
    entry: Option<usize>,
    /// Start the schedule at this time, milliseconds since 1970 by this machine's clock
    #[arg(long, value_name = "MS")]
    at: Option<u64>,
    /// Write one record a request to this file, as `gorgo run --cloud` collects them
    #[arg(long, value_name = "FILE", conflicts_with = "runs")]
    records: Option<PathBuf>,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
    /// Exit with 1 if requests failed or the schedule was not kept
    #[arg(long)]
    strict: bool,
    /// Only measure the client's limit on this machine
    #[arg(long)]
    self_test: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ProfileName {
    Poisson,
    Constant,
    Synchronous,
    Concurrent,
    Throughput,
    Sweep,
    Trace,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ApiName {
    Chat,
    Completions,
    Generate,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum OutputLength {
    Exact,
    Recorded,
}

/// Seconds of `90`, `90s`, `1.5m`, `250ms`, `1h`.
fn seconds(text: &str) -> Result<f64, String> {
    let units = [("", 1.0), ("s", 1.0), ("ms", 1e-3), ("m", 60.0), ("h", 3600.0)];
    scaled(text, &units).ok_or_else(|| format!("`{text}` is not a duration; write 90, 90s, 250ms, 5m or 1h"))
}

impl BenchArgs {
    fn profile(&self) -> anyhow::Result<Profile> {
        use ProfileName::{Concurrent, Constant, Poisson, Sweep};
        let name = self.profile.to_possible_value().map(|v| v.get_name().to_owned()).unwrap_or_default();
        for (option, given, fits) in [
            ("--rate", self.rate.is_some(), matches!(self.profile, Poisson | Constant)),
            ("--concurrency", self.concurrency.is_some(), matches!(self.profile, Concurrent)),
            ("--runs", self.runs.is_some(), matches!(self.profile, Sweep)),
        ] {
            if given && !fits {
                bail!(
                    "{option} has no effect on the profile {name}; --rate is for poisson and constant, --concurrency for concurrent, --runs for sweep"
                );
            }
        }
        let rate = || match self.rate {
            Some(rate) if rate.is_finite() && rate > 0.0 => Ok(rate),
            Some(rate) => bail!("--rate {rate} is no rate; give requests a second, above 0"),
            None => bail!("--rate is missing; give requests a second"),
        };
        let workers = || self.concurrency.context("--concurrency is missing; give requests at a time");
        Ok(match self.profile {
            ProfileName::Poisson => Profile::Poisson(rate()?),
            ProfileName::Constant => Profile::Constant(rate()?),
            ProfileName::Synchronous => Profile::Synchronous,
            ProfileName::Concurrent => Profile::Concurrent(workers()? as usize),
            ProfileName::Throughput => Profile::Throughput,
            ProfileName::Sweep => Profile::Sweep(self.runs.unwrap_or(10) as usize),
            ProfileName::Trace => Profile::Trace,
        })
    }

    fn rows(&self) -> anyhow::Result<Vec<TraceRequest>> {
        if synthetic::is_description(&self.data) {
            return synthetic::rows(&self.data).map_err(|e| anyhow::anyhow!("--data {e}"));
        }
        let options = Options {
            format: self.format.as_deref().map(str::parse::<Format>).transpose()?,
            lookup: self.lookup.clone(),
            prompts: if self.prompts == "added" { Prompts::Added } else { Prompts::Whole },
            time_scale: self.time_scale,
            max_input_tokens: self.max_input_tokens,
            block_tokens: self.block_tokens,
            ..Options::default()
        };
        let workload = open(&self.data, &options)?;
        workload.notes.iter().for_each(|note| eprintln!("note: {note}"));
        Ok(workload.requests)
    }

    /// The benchmark, and the numbers of the rows that it sends.
    fn bench(&self) -> anyhow::Result<(Bench, Vec<u64>)> {
        let targets: Result<Vec<Target>, InputError> = self.target.iter().map(|t| Target::parse(t)).collect();
        let targets = targets.map_err(|e| anyhow::anyhow!("--{e}"))?;
        if targets.is_empty() {
            bail!("--target is missing; give the URL of a router or engine, for example http://127.0.0.1:8000");
        }
        let (targets, rows, numbers) = self.share(targets, self.rows()?)?;
        let tls = if targets.iter().any(Target::is_https) {
            let trust = Tls { insecure: self.tls_insecure, upstream_ca: self.tls_ca.clone(), ..Tls::default() };
            gorgo_live::tls_client_config(&trust)?
        } else {
            None
        };
        let bench = Bench {
            rows: rows.into(),
            targets: targets.into(),
            profile: self.profile()?,
            limits: Limits { duration_s: self.duration, max_requests: self.max_requests },
            source: SourceOptions {
                api: match self.api {
                    ApiName::Chat => Api::Chat,
                    ApiName::Completions => Api::Completions,
                    ApiName::Generate => Api::Generate,
                },
                output: match self.output_length {
                    OutputLength::Exact => Output::Exact,
                    OutputLength::Recorded => Output::Recorded,
                },
                model: self.model.clone(),
                salt: self.salt.unwrap_or_else(fresh_salt),
            },
            seed: self.seed,
            warmup_s: self.warmup,
            timeout_s: self.timeout,
            drain_s: self.drain,
            max_in_flight: self.max_in_flight,
            user_rtt: self.user_rtt,
            network: gorgo_sim::network::NetworkConfig::default(),
            key: self.api_key.clone(),
            tls,
        };
        Ok((bench, numbers))
    }
}

/// The model to ask for: the first that the target names. A target that names none gets `default`, as before.
async fn model(bench: &Bench) -> String {
    let found = served_models(&bench.targets[0], bench.key.as_deref(), bench.tls.as_ref()).await;
    let url = &bench.targets[0].url;
    match found {
        Ok(models) if models.len() > 1 => {
            eprintln!("note: {url} serves {} models; asking for `{}`, or give --model", models.len(), models[0]);
            models[0].clone()
        }
        Ok(mut models) => models.pop().unwrap_or_default(),
        Err(why) => {
            eprintln!("note: {url} names no model at /v1/models ({why}); asking for `default`, or give --model");
            String::new()
        }
    }
}

/// Says beforehand how long a trace lasts that is replayed at its own times.
fn note_length(args: &BenchArgs, bench: &Bench) {
    if !matches!(bench.profile, Profile::Trace) {
        return;
    }
    let rows = args.max_requests.unwrap_or(usize::MAX).min(bench.rows.len());
    let whole = rows.checked_sub(1).and_then(|last| bench.rows.get(last)).map_or(0.0, |last| last.at.secs());
    let lasts = args.duration.map_or(whole, |limit| limit.min(whole));
    if bench.rows.iter().any(|row| row.delay.is_some()) {
        eprintln!(
            "note: turns wait for the end of the turn before them, so the trace lasts as long as its answers take"
        );
    }
    let shown = if lasts < 7200.0 { format!("{lasts:.0} s") } else { format!("{:.1} h", lasts / 3600.0) };
    eprintln!(
        "note: the trace is replayed at its own times for {shown}; for less: --duration, --max-requests, --time-scale"
    );
}

impl BenchArgs {
    /// The targets and rows that this process works on, and the rows' numbers.
    fn share(
        &self,
        mut targets: Vec<Target>,
        rows: Vec<TraceRequest>,
    ) -> anyhow::Result<(Vec<Target>, Vec<TraceRequest>, Vec<u64>)> {
        let Some(own) = self.entry else {
            let numbers = (0..rows.len() as u64).collect();
            return Ok((targets, rows, numbers));
        };
        if own >= targets.len() {
            bail!("--entry {own} names no target; {} are given, counted from 0", targets.len());
        }
        let enters = |(number, row): &(usize, TraceRequest)| entry(&targets, row, *number).0 == own;
        let (numbers, rows) = rows.into_iter().enumerate().filter(enters).map(|(i, row)| (i as u64, row)).unzip();
        Ok((vec![targets.swap_remove(own)], rows, numbers))
    }

    /// Waits until the schedule shall start.
    async fn wait(&self) -> anyhow::Result<()> {
        let Some(at) = self.at else { return Ok(()) };
        let lead = Duration::from_millis(at).saturating_sub(since_1970()).saturating_sub(LEAD);
        if lead > Duration::from_secs(3_600) {
            bail!("--at {at} is {} s from now; give a time within an hour", lead.as_secs());
        }
        tokio::time::sleep(lead).await;
        Ok(())
    }
}

fn write_part(path: &Path, part: &Part) -> anyhow::Result<()> {
    let text = serde_json::to_vec(part)?;
    std::fs::write(path, text).with_context(|| format!("cannot write `{}`", path.display()))
}

pub(super) fn run(args: &BenchArgs) -> anyhow::Result<()> {
    let runtime = super::process::runtime()?;
    if args.self_test {
        let limits = Limits { duration_s: Some(5.0), max_requests: None };
        let rate = runtime.block_on(ceiling::streams_per_second(limits))?;
        print_line(format_args!("this client starts and reads {rate:.0} short streams a second on this machine"))?;
        return Ok(());
    }
    let (mut bench, numbers) = args.bench()?;
    if let (true, Some(file)) = (bench.rows.is_empty() && args.entry.is_some(), &args.records) {
        let started = (since_1970() + LEAD).as_nanos() as u64;
        write_part(file, &Part { epoch_ns: started, ..Part::default() })?;
        return Ok(print_line("no request enters here")?);
    }
    if args.model.is_empty() && !matches!(args.api, ApiName::Generate) {
        bench.source.model = runtime.block_on(model(&bench));
    }
    note_length(args, &bench);
    let slo = args.slo.as_deref().map(Slo::parse).transpose().map_err(|e| anyhow::anyhow!("--slo: {e}"))?;
    let progress = Arc::new(Progress::default());
    let mut epoch_ns = 0;
    let runs = runtime.block_on(async {
        let mut signal = StopSignal::install()?;
        args.wait().await?;
        epoch_ns = (since_1970() + LEAD).as_nanos() as u64;
        tokio::select! {
            runs = progress::run(&bench, &progress) => runs,
            stopped = progress::stop(&mut signal, &progress) => stopped.map(|never| match never {}),
        }
    })?;
    if let (Some(file), Some(run)) = (&args.records, runs.first()) {
        write_part(file, &Part::of(run, epoch_ns, &numbers, bench.origins()))?;
    }
    // The key stays out of files.
    let words = std::env::args().map(|a| if Some(&a) == args.api_key.as_ref() { "***".to_owned() } else { a });
    let command = words.collect::<Vec<_>>().join(" ");
    let report = Report::of(&bench, &runs, &args.data, &command, slo);
    if let Some(dir) = &args.out {
        results::write(dir, &bench, &runs, &report)?;
    }
    if args.json {
        print_line(serde_json::to_string_pretty(&report)?)?;
    } else {
        print_line(table::table(&report, columns().unwrap_or(160)))?;
        if let Some(dir) = &args.out {
            print_line(format_args!("\nresults in {}; open {}", dir.display(), dir.join("benchmarks.html").display()))?;
        }
    }
    let totals: RunTotals = runs.iter().map(Run::totals).sum();
    if !report.is_valid() {
        eprintln!(
            "warning: the schedule was not kept: 1 % of the requests were sent late by more than {:.0} % of the median time to first token (and more than {MAX_LATENESS_MS} ms), or some were dropped; the client was the limit",
            100.0 * MAX_LATENESS_SHARE
        );
    }
    if totals.answered == 0 {
        let why = runs.iter().flat_map(|run| &run.rows).find_map(|row| row.error.as_deref()).unwrap_or("no answer");
        bail!("no request was answered ({why}); is a server listening at {}?", args.target.join(", "));
    }
    if args.strict && (!report.is_valid() || totals.answered < totals.all) {
        bail!(
            "{} of {} requests were answered, and the schedule was{} kept",
            totals.answered,
            totals.all,
            if report.is_valid() { "" } else { " not" }
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        assert_eq!((seconds("60"), seconds("250ms"), seconds("1.5m")), (Ok(60.0), Ok(0.25), Ok(90.0)));
        assert!(seconds("5 parsecs").unwrap_err().contains("5 parsecs"));
    }
}
