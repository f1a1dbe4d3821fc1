//! `gorgo bench`: load on a router or an engine, as its options in `args` describe it.

mod args;
mod progress;
mod results;

use super::output::{check_writable, columns, print_line, print_note};
use super::process::{StopSignal, since_1970};
use anyhow::{Context, bail};
use args::ApiName;
pub(crate) use args::BenchArgs;
use gorgo_benchmark::load::bench::LEAD;
use gorgo_benchmark::load::client::served_models;
use gorgo_benchmark::load::report::{MAX_LATENESS_MS, MAX_LATENESS_SHARE};
use gorgo_benchmark::load::run::{Run, RunTotals};
use gorgo_benchmark::load::slo::Slo;
use gorgo_benchmark::load::{Bench, Limits, Profile, Progress, Report, ceiling, table};
use gorgo_experiments::results::ResultFolder;
use gorgo_experiments::results::measured::Part;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// The model to ask for: the first that the target names. A target that names none gets `default`, as before.
async fn model(bench: &Bench) -> String {
    let found = served_models(&bench.targets[0], bench.key.as_deref(), bench.tls.as_ref()).await;
    let url = &bench.targets[0].url;
    match found {
        Ok(models) if models.len() > 1 => {
            print_note(format_args!(
                "{url} serves {} models; asking for `{}`, or give --model",
                models.len(),
                models[0]
            ));
            models[0].clone()
        }
        Ok(mut models) => models.pop().unwrap_or_default(),
        Err(why) => {
            print_note(format_args!(
                "{url} names no model at /v1/models ({why}); asking for `default`, or give --model"
            ));
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
        print_note(format_args!(
            "turns wait for the end of the turn before them, so the trace lasts as long as its answers take"
        ));
    }
    let shown = if lasts < 7200.0 { format!("{lasts:.0} s") } else { format!("{:.1} h", lasts / 3600.0) };
    print_note(format_args!(
        "the trace is replayed at its own times for {shown}; for less: --duration, --max-requests, --time-scale"
    ));
}

impl BenchArgs {
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

impl BenchArgs {
    /// Refuses files that could not be written after the load, before it begins.
    fn check_files(&self, spec: &str) -> anyhow::Result<()> {
        self.records.iter().try_for_each(|file| check_writable(file))?;
        self.out.iter().try_for_each(|dir| ResultFolder::check(dir, spec).map_err(Into::into))
    }
}

/// Says when the warm-up leaves a small share of all requests.
///
/// # Errors
/// It leaves none.
fn warm_up_leaves(counted: u64, all: u64, warm_up_s: f64) -> anyhow::Result<()> {
    if counted == 0 && all > 0 {
        bail!("--warmup {warm_up_s} s leaves none of the {all} requests; give a shorter one or send longer");
    }
    if counted * 20 < all {
        print_note(format_args!("--warmup {warm_up_s} s leaves {counted} of {all} requests"));
    }
    Ok(())
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
    // The key stays out of files.
    let words = std::env::args().map(|a| if Some(&a) == args.api_key.as_ref() { "***".to_owned() } else { a });
    let command = words.collect::<Vec<_>>().join(" ");
    let spec = results::spec(&command, &args.data)?;
    args.check_files(&spec)?;
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
    let report = Report::of(&bench, &runs, &args.data, &command, slo);
    let records = match (&args.records, runs.first()) {
        (Some(file), Some(run)) => write_part(file, &Part::of(run, epoch_ns, &numbers, bench.origins())),
        _ => Ok(()),
    };
    let folder = args.out.iter().try_for_each(|dir| results::write(dir, &spec, &bench, &runs, &report));
    // The measurement is shown, whatever became of its files.
    if args.json {
        print_line(serde_json::to_string_pretty(&report)?)?;
    } else {
        print_line(table::table(&report, columns().unwrap_or(160)))?;
        if let (Some(dir), true) = (&args.out, folder.is_ok()) {
            print_line(format_args!("\nresults in {}; open {}", dir.display(), dir.join("benchmarks.html").display()))?;
        }
    }
    records.and(folder)?;
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
    let counted: (u64, u64) = report.benchmarks.iter().fold((0, 0), |(answered, all), one| {
        (answered + one.request_totals.successful, all + one.request_totals.total)
    });
    warm_up_leaves(counted.1, totals.all as u64, args.warmup)?;
    if args.strict && (!report.is_valid() || counted.0 < counted.1) {
        bail!(
            "{} of {} counted requests were answered, and the schedule was{} kept",
            counted.0,
            counted.1,
            if report.is_valid() { "" } else { " not" }
        );
    }
    Ok(())
}
