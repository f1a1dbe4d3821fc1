//! The options of `gorgo bench`, and the benchmark that they describe.

use crate::cli::duration::scaled;
use crate::cli::output::print_note;
use crate::cli::process::fresh_salt;
use anyhow::{Context, bail};
use clap::{Args as ClapArgs, ValueEnum};
use gorgo_benchmark::InputError;
use gorgo_benchmark::load::source::{Api, Output, SourceOptions};
use gorgo_benchmark::load::target::{Target, entry};
use gorgo_benchmark::load::{Bench, Limits, Profile, synthetic};
use gorgo_core::request::TraceRequest;
use gorgo_live::config::Tls;
use gorgo_traces::workload::{Format, Options, Prompts, open};
use std::path::PathBuf;

#[derive(Debug, ClapArgs)]
pub(crate) struct BenchArgs {
    /// Base URL, with @REGION or @LAT,LON for a place; several: each user enters at the nearest
    #[arg(long, visible_alias = "url", value_name = "URL[@REGION]")]
    pub(super) target: Vec<String>,
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
    pub(super) duration: Option<f64>,
    /// Send this many requests
    #[arg(long)]
    pub(super) max_requests: Option<usize>,
    /// Trace (file, built-in name, or - for standard input), or prompt_tokens=512,output_tokens=128
    #[arg(long, default_value = "wildchat-located")]
    pub(super) data: String,
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
    pub(super) api: ApiName,
    /// Request the recorded answer lengths exactly, or send max_tokens as recorded
    #[arg(long, value_enum, default_value_t = OutputLength::Exact)]
    output_length: OutputLength,
    /// Model name in requests; the first that the target names at /v1/models when absent
    #[arg(long, default_value = "")]
    pub(super) model: String,
    /// Objective that goodput counts, ms: ttft=500,itl=50
    #[arg(long, visible_alias = "goodput")]
    pub(super) slo: Option<String>,
    /// Do not count requests of the first seconds
    #[arg(long, value_parser = seconds, default_value = "0")]
    pub(super) warmup: f64,
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
    /// Varies the text of prompts; drawn again for every run when absent, so that no earlier run has filled a cache
    #[arg(long)]
    salt: Option<u64>,
    /// Tokens per block of the trace's block ids
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    block_tokens: Option<u32>,
    /// Bearer token to send
    #[arg(long, env = "GORGO_API_KEY", hide_env_values = true)]
    pub(super) api_key: Option<String>,
    /// Root certificates (PEM) for https targets, in place of the system's
    #[arg(long, value_name = "FILE")]
    tls_ca: Option<PathBuf>,
    /// Do not check the certificates of https targets
    #[arg(long)]
    tls_insecure: bool,
    /// Folder for benchmarks.json, .csv and .html, and the result files of `gorgo run`
    #[arg(long)]
    pub(super) out: Option<PathBuf>,
    /// Send only what enters at this one of the targets, counted from 0: several machines share a load
    #[arg(long, value_name = "N", conflicts_with_all = ["rate", "runs", "out"])]
    pub(super) entry: Option<usize>,
    /// Start the schedule at this time, milliseconds since 1970 by this machine's clock
    #[arg(long, value_name = "MS")]
    pub(super) at: Option<u64>,
    /// Write one record a request to this file, as `gorgo run --cloud` collects them
    #[arg(long, value_name = "FILE", conflicts_with = "runs")]
    pub(super) records: Option<PathBuf>,
    /// Print the report as JSON
    #[arg(long)]
    pub(super) json: bool,
    /// Exit with 1 if requests failed or the schedule was not kept
    #[arg(long)]
    pub(super) strict: bool,
    /// Only measure the client's limit on this machine
    #[arg(long)]
    pub(super) self_test: bool,
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
pub(super) enum ApiName {
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
            Some(rate) => Ok(rate),
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
        workload.notes.iter().for_each(print_note);
        Ok(workload.requests)
    }

    /// The benchmark, and the numbers of the rows that it sends.
    pub(super) fn bench(&self) -> anyhow::Result<(Bench, Vec<u64>)> {
        let targets: Result<Vec<Target>, InputError> = self.target.iter().map(|t| Target::parse(t)).collect();
        let targets = targets.map_err(|e| anyhow::anyhow!("--{e}"))?;
        if let Some(duration) = self.duration.filter(|&duration| self.warmup > 0.0 && self.warmup >= duration) {
            bail!("--warmup {} s leaves nothing of --duration {duration} s; give a shorter warm-up", self.warmup);
        }
        for (option, value) in [("--rate", self.rate.unwrap_or(1.0)), ("--time-scale", self.time_scale)] {
            if !(1e-6..=1e6).contains(&value) {
                bail!("{option} {value} must lie between 0.000001 and 1000000");
            }
        }
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(clap::Parser)]
    struct Parsed {
        #[command(flatten)]
        args: BenchArgs,
    }

    #[test]
    fn a_warm_up_of_the_whole_duration_and_times_beyond_the_clock_are_refused_before_the_load() {
        for (given, message) in [
            (&["--duration", "10", "--warmup", "10"][..], "--warmup 10 s leaves nothing of --duration 10 s"),
            (&["--rate", "1e-300"], "--rate 0.0"),
            (&["--rate=-1"], "--rate -1 must lie between 0.000001 and 1000000"),
            (&["--time-scale", "1e300"], "must lie between 0.000001 and 1000000"),
        ] {
            let words = [&["bench", "--target", "http://127.0.0.1:1", "--data", "prompt_tokens=8"], given].concat();
            let parsed: Parsed = clap::Parser::parse_from(words);
            let error = parsed.args.bench().map(|_| ()).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
    }

    #[test]
    fn times_are_read() {
        assert_eq!((seconds("60"), seconds("250ms"), seconds("1.5m")), (Ok(60.0), Ok(0.25), Ok(90.0)));
        assert!(seconds("5 parsecs").unwrap_err().contains("5 parsecs"));
    }
}
