//! Result files of a bench.

use anyhow::Context;
use gorgo_benchmark::load::run::Run;
use gorgo_benchmark::load::{Bench, Report, files};
use gorgo_experiments::report::bench_html;
use gorgo_experiments::results::{ArmRun, Names, ResultFolder, Rows, measured, own_files};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

/// What `experiment.toml` of the result folder holds.
pub(super) fn spec(command: &str, data: &str) -> anyhow::Result<String> {
    let text = |text: &str| toml::Value::String(text.to_owned());
    let table = toml::Table::from_iter([("command".to_owned(), text(command)), ("data".to_owned(), text(data))]);
    Ok(format!("{}\n{}\n", own_files::BENCH_HEAD, toml::to_string(&table)?))
}

/// Writes the bench's own files and the result folder of `gorgo run` into `dir`.
pub(super) fn write(dir: &Path, spec: &str, bench: &Bench, runs: &[Run], report: &Report) -> anyhow::Result<()> {
    std::fs::create_dir_all(dir).with_context(|| format!("cannot create `{}`", dir.display()))?;
    let file = |name: &str, fill: &dyn Fn(&mut BufWriter<File>) -> std::io::Result<()>| {
        let path = dir.join(name);
        let made =
            File::create(&path).map(BufWriter::new).and_then(|mut out| fill(&mut out).and_then(|()| out.flush()));
        made.with_context(|| format!("cannot write `{}`", path.display()))
    };
    // First, since it refuses a folder that holds something else.
    let folder = ResultFolder::create(dir, spec)?;
    for (i, run) in runs.iter().enumerate() {
        let arm = measured::arm_run(arm(bench, run), run);
        folder.add(u32::try_from(i)?, &arm, Rows::Keep)?;
    }
    folder.finish()?;
    file("benchmarks.json", &|out| files::json(out, report))?;
    file("benchmarks.csv", &|out| files::csv(out, report))?;
    let page = bench_html(report, runs)?;
    file("benchmarks.html", &|out| out.write_all(page.as_bytes()))
}

/// The arm that one run of the bench stands for.
fn arm(bench: &Bench, run: &Run) -> ArmRun {
    ArmRun {
        arm: match (run.rate, run.workers) {
            (Some(rate), _) => format!("{} {rate:.2}/s", run.name),
            (None, Some(n)) => format!("{} x{n}", run.name),
            (None, None) => run.name.to_owned(),
        },
        policy: "live".to_owned(),
        topology: if bench.targets.len() > 1 { "edge" } else { "proxy" }.to_owned(),
        seed: bench.seed,
        names: Names {
            origins: bench.origins(),
            routers: bench.targets.iter().map(|t| t.name.clone()).collect(),
            replicas: run.replicas.clone(),
        },
        ..ArmRun::default()
    }
}
