//! `gorgo bench`: put load on a router or an engine.

use super::say;
use anyhow::{Context, bail};
use clap::{Args as ClapArgs, ValueEnum};
use gorgo_benchmark::load::report::{MAX_LATENESS_MS, Slo};
use gorgo_benchmark::load::run::{Run, RunTotals};
use gorgo_benchmark::load::source::{Api, Output, SourceOptions};
use gorgo_benchmark::load::target::Target;
use gorgo_benchmark::load::{Bench, Limits, Live, Profile, Report, ceiling, files, synthetic};
use gorgo_core::request::TraceRequest;
use gorgo_experiments::results::{ArmRun, Names, ResultFolder, Rows};
use gorgo_live::config::Tls;
use gorgo_live::server::tls;
use gorgo_traces::workload::{Format, Options, open};
use std::fs::File;
use std::io::{BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

#[derive(Debug, ClapArgs)]
pub(crate) struct BenchArgs {
    /// Base URL, with @REGION or @LAT,LON for a place; several: each user enters at the nearest
    #[arg(long, visible_alias = "url", value_name = "URL[@REGION]")]
    target: Vec<String>,
    /// When requests are sent
    #[arg(long, value_enum, default_value_t = Word::Poisson)]
    profile: Word,
    /// Requests a second (poisson, constant), requests at a time (concurrent), runs (sweep)
    #[arg(long)]
    rate: Option<f64>,
    /// Send for this long: 60, 60s, 5m
    #[arg(long, visible_alias = "max-seconds", value_parser = seconds)]
    duration: Option<f64>,
    /// Send this many requests
    #[arg(long)]
    max_requests: Option<usize>,
    /// Trace (file or built-in name), or prompt_tokens=512,output_tokens=128
    #[arg(long, default_value = "wildchat-located")]
    data: String,
    /// Format of the trace; told from its content when absent
    #[arg(long)]
    format: Option<String>,
    /// Location lookup of gotoni's benchmark pair
    #[arg(long)]
    lookup: Option<PathBuf>,
    /// Factor on the trace's times: larger is slower
    #[arg(long, default_value_t = 1.0)]
    time_scale: f64,
    /// Leave out longer prompts (tokens)
    #[arg(long)]
    max_input_tokens: Option<u32>,
    /// Path to ask
    #[arg(long, value_enum, default_value_t = ApiWord::Chat)]
    api: ApiWord,
    /// Ask for the recorded answer lengths exactly, or leave max_tokens as recorded
    #[arg(long, value_enum, default_value_t = OutputWord::Exact)]
    output_length: OutputWord,
    /// Model name to ask for
    #[arg(long, default_value = "")]
    model: String,
    /// Objective that goodput counts, ms: ttft=500,itl=50
    #[arg(long, visible_alias = "goodput")]
    slo: Option<String>,
    /// Requests of the first seconds are sent but not counted
    #[arg(long, value_parser = seconds, default_value = "0")]
    warmup: f64,
    /// Add each user's own round trip to its router
    #[arg(long)]
    user_rtt: bool,
    /// Give a request up after this long
    #[arg(long, value_parser = seconds, default_value = "600")]
    timeout: f64,
    /// After the last request, wait this long for answers
    #[arg(long, value_parser = seconds, default_value = "120")]
    drain: f64,
    /// Requests in flight at most
    #[arg(long, default_value_t = 4096)]
    max_in_flight: usize,
    /// Seed of arrivals
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Other salts say other things, so that no earlier run has warmed a cache
    #[arg(long, default_value_t = 0)]
    salt: u64,
    /// Bearer token to send
    #[arg(long, env = "GORGO_API_KEY", hide_env_values = true)]
    api_key: Option<String>,
    /// PEM roots to check https targets with, in place of the system's
    #[arg(long, value_name = "FILE")]
    tls_ca: Option<PathBuf>,
    /// Do not check the certificates of https targets
    #[arg(long)]
    tls_insecure: bool,
    /// Folder for benchmarks.json, .csv and .html, and the result files of `gorgo run`
    #[arg(long)]
    out: Option<PathBuf>,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
    /// Exit 1 if requests failed or the schedule was not kept
    #[arg(long)]
    strict: bool,
    /// Only measure what this client can do on this machine
    #[arg(long)]
    self_test: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Word {
    Poisson,
    Constant,
    Synchronous,
    Concurrent,
    Throughput,
    Sweep,
    Trace,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ApiWord {
    Chat,
    Completions,
    Generate,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum OutputWord {
    Exact,
    Recorded,
}

/// Seconds of `90`, `90s`, `1.5m`, `250ms`, `1h`.
fn seconds(text: &str) -> Result<f64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match &text[digits.len()..] {
        "" | "s" => 1.0,
        "ms" => 1e-3,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(format!("`{text}` is no time; write 90, 90s, 250ms, 5m or 1h")),
    };
    let value: f64 = digits.parse().map_err(|_| format!("`{text}` is no time; write 90, 90s, 250ms, 5m or 1h"))?;
    Ok(value * factor)
}

impl BenchArgs {
    fn profile(&self) -> anyhow::Result<Profile> {
        let rate = || self.rate.context("--rate is missing; give requests a second, or requests at a time");
        let whole = |least: f64| match rate()? {
            n if n.fract() == 0.0 && n >= least && n < 1e6 => Ok(n as usize),
            n => bail!("--rate {n}: this profile takes a whole number from {least}"),
        };
        Ok(match self.profile {
            Word::Poisson => Profile::Poisson(rate()?),
            Word::Constant => Profile::Constant(rate()?),
            Word::Synchronous => Profile::Synchronous,
            Word::Concurrent => Profile::Concurrent(whole(1.0)?),
            Word::Throughput => Profile::Throughput,
            Word::Sweep => Profile::Sweep(if self.rate.is_some() { whole(3.0)? } else { 10 }),
            Word::Trace => Profile::Trace,
        })
    }

    fn rows(&self) -> anyhow::Result<Vec<TraceRequest>> {
        if synthetic::is_description(&self.data) {
            return synthetic::rows(&self.data).map_err(|e| anyhow::anyhow!("--data {e}"));
        }
        let options = Options {
            format: self.format.as_deref().map(str::parse::<Format>).transpose()?,
            lookup: self.lookup.clone(),
            time_scale: self.time_scale,
            max_input_tokens: self.max_input_tokens,
            ..Options::default()
        };
        let workload = open(&self.data, &options)?;
        workload.notes.iter().for_each(|note| eprintln!("note: {note}"));
        Ok(workload.requests)
    }

    fn bench(&self) -> anyhow::Result<Bench> {
        let targets: Result<Vec<Target>, String> = self.target.iter().map(|t| Target::parse(t)).collect();
        let targets = targets.map_err(|e| anyhow::anyhow!("--{e}"))?;
        if targets.is_empty() {
            bail!("--target is missing; give the URL of a router or engine, for example http://127.0.0.1:8000");
        }
        let tls = if targets.iter().any(Target::is_https) {
            let trust = Tls { insecure: self.tls_insecure, upstream_ca: self.tls_ca.clone(), ..Tls::default() };
            tls::client(&trust)?
        } else {
            None
        };
        Ok(Bench {
            rows: self.rows()?.into(),
            targets: targets.into(),
            profile: self.profile()?,
            limits: Limits { duration_s: self.duration, max_requests: self.max_requests },
            source: SourceOptions {
                api: match self.api {
                    ApiWord::Chat => Api::Chat,
                    ApiWord::Completions => Api::Completions,
                    ApiWord::Generate => Api::Generate,
                },
                output: match self.output_length {
                    OutputWord::Exact => Output::Exact,
                    OutputWord::Recorded => Output::Recorded,
                },
                model: self.model.clone(),
                salt: self.salt,
            },
            seed: self.seed,
            warmup_s: self.warmup,
            timeout_s: self.timeout,
            drain_s: self.drain,
            max_in_flight: self.max_in_flight,
            user_rtt: self.user_rtt,
            key: self.api_key.clone(),
            tls,
        })
    }
}

pub(super) fn run(args: &BenchArgs) -> anyhow::Result<()> {
    let runtime = super::runtime()?;
    if args.self_test {
        let rate = runtime.block_on(ceiling::streams_per_second(5.0))?;
        say(format_args!("this client starts and reads {rate:.0} short streams a second on this machine"))?;
        return Ok(());
    }
    let bench = args.bench()?;
    let slo = args.slo.as_deref().map(Slo::parse).transpose().map_err(|e| anyhow::anyhow!("--slo: {e}"))?;
    let live = Arc::new(Live::default());
    let runs = runtime.block_on(async {
        tokio::select! {
            runs = watched(&bench, &live) => runs,
            stopped = stop(&live) => stopped.map(|never| match never {}),
        }
    })?;
    // The key stays out of files.
    let words = std::env::args().map(|a| if Some(&a) == args.api_key.as_ref() { "***".to_owned() } else { a });
    let command = words.collect::<Vec<_>>().join(" ");
    let report = Report::of(&bench, &runs, &args.data, &command, slo);
    if let Some(dir) = &args.out {
        write(dir, &bench, &runs, &report)?;
    }
    if args.json {
        say(serde_json::to_string_pretty(&report)?)?;
    } else {
        say(files::table(&report))?;
        if let Some(dir) = &args.out {
            say(format_args!("\nresults in {}; open {}", dir.display(), dir.join("benchmarks.html").display()))?;
        }
    }
    let totals: RunTotals = runs.iter().map(Run::totals).sum();
    if !report.valid() {
        eprintln!(
            "invalid: 1 % of the requests were sent more than {MAX_LATENESS_MS} ms late, or some were dropped; the client was the limit"
        );
    }
    if totals.answered == 0 {
        let why = runs.iter().flat_map(|run| &run.rows).find_map(|row| row.error.as_deref()).unwrap_or("no answer");
        bail!("no request was answered ({why}); is a server listening at {}?", args.target.join(", "));
    }
    if args.strict && (!report.valid() || totals.answered < totals.all) {
        bail!(
            "{} of {} requests were answered, and the schedule was{} kept",
            totals.answered,
            totals.all,
            if report.valid() { "" } else { " not" }
        );
    }
    Ok(())
}

/// Never returns; the first signal ends the run in order, the second at once.
async fn stop(live: &Live) -> anyhow::Result<std::convert::Infallible> {
    super::told_to_stop().await?;
    eprintln!("stopping; once more to leave at once");
    live.stop();
    super::told_to_stop().await?;
    bail!("stopped, nothing was written");
}

/// Runs it, with a line a second.
async fn watched(bench: &Bench, live: &Arc<Live>) -> anyhow::Result<Vec<Run>> {
    let start = Instant::now();
    let terminal = std::io::stderr().is_terminal();
    let mut tick = tokio::time::interval(Duration::from_secs(if terminal { 1 } else { 10 }));
    tick.tick().await;
    let running = bench.run(live);
    tokio::pin!(running);
    loop {
        tokio::select! {
            runs = &mut running => {
                if terminal {
                    eprint!("\r\x1b[K");
                }
                return Ok(runs?);
            }
            _ = tick.tick() => {
                let now = live.now();
                let ms = |v: Option<f64>| v.map_or_else(|| "-".to_owned(), |v| format!("{v:.0}"));
                let line = format!(
                    "{:>4.0} s  {} sent, {} running, {} done, {} failed, {} tokens, TTFT p50 {} p99 {} ms",
                    start.elapsed().as_secs_f64(), now.sent, now.sent.saturating_sub(now.finished + now.failed),
                    now.finished, now.failed, now.tokens, ms(now.ttft_p50_ms), ms(now.ttft_p99_ms),
                );
                if terminal { eprint!("\r\x1b[K{line}") } else { eprintln!("{line}") }
            }
        }
    }
}

fn write(dir: &Path, bench: &Bench, runs: &[Run], report: &Report) -> anyhow::Result<()> {
    std::fs::create_dir_all(dir).with_context(|| format!("cannot create `{}`", dir.display()))?;
    let file = |name: &str, fill: &dyn Fn(&mut BufWriter<File>) -> std::io::Result<()>| {
        let path = dir.join(name);
        let made =
            File::create(&path).map(BufWriter::new).and_then(|mut out| fill(&mut out).and_then(|()| out.flush()));
        made.with_context(|| format!("cannot write `{}`", path.display()))
    };
    // First, since it refuses a folder that holds something else.
    let spec = format!(
        "# gorgo bench\n{}\n",
        toml::to_string(&toml::Table::from_iter([
            ("command".to_owned(), toml::Value::String(report.metadata.command.clone())),
            ("data".to_owned(), toml::Value::String(report.metadata.data.clone())),
        ]))?
    );
    let folder = ResultFolder::create(dir, &spec)?;
    for (i, run) in runs.iter().enumerate() {
        let arm = match (run.rate, run.workers) {
            (Some(rate), _) => format!("{} {rate:.2}/s", run.name),
            (None, Some(n)) => format!("{} x{n}", run.name),
            (None, None) => run.name.to_owned(),
        };
        let arm = ArmRun {
            arm,
            policy: "live".to_owned(),
            topology: if bench.targets.len() > 1 { "edge" } else { "proxy" }.to_owned(),
            seed: bench.seed,
            names: Names {
                origins: bench.origins(),
                routers: bench.targets.iter().map(|t| t.name.clone()).collect(),
                replicas: run.replicas.clone(),
            },
            records: run.rows.iter().filter(|r| !r.warmup).map(|r| r.record.clone()).collect(),
            itl: run.gaps.buckets().collect(),
            span: run.span,
            ..ArmRun::default()
        };
        folder.add(u32::try_from(i)?, &arm, Rows::Keep)?;
    }
    folder.finish()?;
    file("benchmarks.json", &|out| files::json(out, report))?;
    file("benchmarks.csv", &|out| files::csv(out, report))?;
    file("benchmarks.html", &|out| files::html(out, report, runs))
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
