//! The command line: one file a command.

use clap::{Args as ClapArgs, CommandFactory, Parser, Subcommand};
use std::io::Write;
use std::path::PathBuf;

mod bench;
mod decide;
mod engine;
mod lb;
mod live;
mod proxy;
mod relay;
mod run;
mod stop;
mod trace;
mod workload;

/// Route LLM requests over regions, and simulate what the router will do.
#[derive(Debug, Parser)]
#[command(
    name = "gorgo",
    version,
    propagate_version = true,
    after_help = "Example:\n  gorgo run experiments/three-regions.toml\n\nEvery command has its own --help with an example."
)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run an experiment: every arm with every seed
    #[command(
        after_help = "Examples:\n  gorgo run experiments/three-regions.toml\n  gorgo run experiments/three-regions.toml --set workload.rate=20 --seed 7 --out /tmp/r\n  gorgo run experiments/three-regions.toml --mode live --seed 1"
    )]
    Run {
        #[command(flatten)]
        run: RunArgs,
        /// Simulate, or run on emulated replicas in real time
        #[arg(long, value_enum, default_value_t = Mode::Sim)]
        mode: Mode,
    },
    /// Run a grid over any settings
    #[command(
        after_help = "Examples:\n  gorgo sweep experiments/ms-per-token.toml --vary policy.ms_per_token=0.01..1:*2 --vary policy.running_cost_factor=0..2:0.1\n  gorgo sweep FILE --vary workload.rate=5,10,20 --shard 0/4   # then gorgo merge"
    )]
    Sweep(SweepArgs),
    /// Join the results of shards into the first folder
    #[command(after_help = "Example:\n  gorgo merge results/grid-0 results/grid-1")]
    Merge {
        /// Result folders of one experiment; the first takes the others in
        #[arg(required = true)]
        dirs: Vec<PathBuf>,
    },
    /// Draw the plots of result folders again
    #[command(after_help = "Example:\n  gorgo plot results/three-regions --format png")]
    Plot {
        /// Result folders
        #[arg(required = true)]
        dirs: Vec<PathBuf>,
        /// Only this format; both when absent
        #[arg(long, value_enum)]
        format: Option<PlotFormat>,
    },
    /// Write the report of a result folder again
    #[command(after_help = "Example:\n  gorgo report results/three-regions && open results/three-regions/report.html")]
    Report {
        /// Result folder
        dir: PathBuf,
    },
    /// Compare two results quantile by quantile; fails beyond --max-error
    #[command(
        after_help = "Example:\n  gorgo validate --measured results/live --simulated results/three-regions --max-error 5"
    )]
    Validate(run::ValidateArgs),
    /// Decide recorded fleet states: JSON lines in, decisions with every term out
    #[command(after_help = "Example:\n  gorgo decide --policy gorgo --set policy.ms_per_token=0.058 < states.jsonl")]
    Decide(decide::DecideArgs),
    /// Serve as SGLang does, with the engine model in place of a GPU
    #[command(
        after_help = "Examples:\n  gorgo engine --gpu h100 --listen 127.0.0.1:8080\n  gorgo engine --rtt-ms 120 --set max_running_requests=10\n  curl -X POST localhost:8080/gorgo/crash -d '{\"seconds\": 5}'   # from loopback only"
    )]
    Engine(engine::EngineArgs),
    /// Put load on a router or an engine
    #[command(
        after_help = "Examples:\n  gorgo bench --target http://127.0.0.1:8000 --profile poisson --rate 5 --duration 60s --out results/bench\n  gorgo bench --target http://127.0.0.1:8001@aws:eu-central-1 --target http://127.0.0.1:8002@aws:us-west-1 --profile trace --user-rtt"
    )]
    Bench(Box<bench::BenchArgs>),
    /// Put a wide-area network between loopback ports
    #[command(
        after_help = "Example:\n  gorgo relay --link 127.0.0.1:9001=127.0.0.1:8001,from=aws:eu-central-1,to=aws:us-west-1,name=fra-sfo --control 127.0.0.1:9100\n  curl -X POST 127.0.0.1:9100/links/fra-sfo/partition"
    )]
    Relay(relay::RelayArgs),
    /// Read, describe, convert and make request traces
    Workload {
        #[command(subcommand)]
        command: workload::WorkloadCommand,
    },
    /// The central router, and its administration
    Proxy(proxy::ProxyArgs),
    /// The edge router beside one engine, and its administration
    Lb(lb::LbArgs),
    /// Capture timelines on routers and merge them into one file for ui.perfetto.dev
    Trace(trace::TraceArgs),
    /// Print a completion script for a shell
    #[command(after_help = "Example:\n  gorgo completions bash > ~/.local/share/bash-completion/completions/gorgo")]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(crate) enum PlotFormat {
    Svg,
    Png,
}

/// What `run` and `sweep` share.
#[derive(Debug, ClapArgs)]
pub(crate) struct RunArgs {
    /// Experiment file
    file: PathBuf,
    /// Result folder; results/<name of the file> when absent
    #[arg(long)]
    out: Option<PathBuf>,
    /// Override any setting, for example policy.running_cost_factor=0.5
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    /// Run this seed only
    #[arg(long)]
    seed: Option<u64>,
    /// Threads; all cores when absent
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1024))]
    jobs: Option<u16>,
    /// Throw earlier results in the folder away instead of going on from them
    #[arg(long)]
    fresh: bool,
    /// Print the table as JSON
    #[arg(long)]
    json: bool,
}

/// Which world.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Mode {
    /// Virtual time
    Sim,
    /// Emulated replicas, relays and real routers on this machine, in real time
    Live,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct SweepArgs {
    #[command(flatten)]
    run: RunArgs,
    /// Cross the arms with values: key=from..to:step, key=from..to:*factor or key=a,b,c
    #[arg(long, value_name = "KEY=VALUES")]
    vary: Vec<String>,
    /// Run part i of n, counted from 0
    #[arg(long, value_name = "i/n")]
    shard: Option<String>,
    /// Keep a row a request too (large)
    #[arg(long)]
    rows: bool,
}

pub(crate) fn run(args: Args) -> anyhow::Result<()> {
    match args.command {
        Command::Run { run, mode } => run::run(&run, mode),
        Command::Sweep(args) => run::sweep(&args),
        Command::Merge { dirs } => run::merge(&dirs),
        Command::Plot { dirs, format } => run::plot(&dirs, format),
        Command::Report { dir } => run::report(&dir),
        Command::Validate(args) => run::validate(&args),
        Command::Decide(args) => decide::run(&args),
        Command::Engine(args) => engine::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Relay(args) => relay::run(&args),
        Command::Workload { command } => workload::run(command),
        Command::Proxy(args) => proxy::run(args),
        Command::Lb(args) => lb::run(args),
        Command::Trace(args) => trace::run(args),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Args::command(), "gorgo", &mut std::io::stdout());
            Ok(())
        }
    }
}

/// Runs what speaks to sockets.
pub(crate) fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.map_err(|e| anyhow::anyhow!("cannot start threads ({e}); the machine is out of resources"))
}

/// Lets this process open as many files as the system allows; a stream through a router takes two.
pub(crate) fn raise_file_limit(streams: usize) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let most = getrlimit(Resource::Nofile).maximum;
    let _ = setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most }); // what it was may do as well
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    if files / 2 < streams as u64 {
        tracing::warn!(
            "this process may open {files} files, enough for {} streams of the {streams} connections allowed; raise `ulimit -n`",
            files / 2
        );
    }
}

/// Returns on SIGINT or SIGTERM.
pub(crate) async fn told_to_stop() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}

/// Prints to standard output; unlike `println!` it reports a closed pipe instead of panicking.
pub(crate) fn say(text: impl std::fmt::Display) -> std::io::Result<()> {
    writeln!(std::io::stdout(), "{text}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }
}
