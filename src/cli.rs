//! The command line, one file per command: each parses its options, calls a crate and prints.
//!
//! Shared parts: `experiment` (what `run` and `sweep` do), `router` (what `proxy`, `lb` and `trace` do), `output`, `process`.

use anyhow::Context;
use clap::{CommandFactory, Parser, Subcommand};

mod bench;
mod calibrate;
mod cloud;
mod decide;
mod discovery;
mod duration;
mod engine;
mod evaluate;
mod experiment;
mod lb;
mod merge;
mod output;
mod plot;
mod point;
mod policies;
mod policy_args;
mod process;
mod proxy;
mod relay;
mod report;
mod router;
mod run;
mod schema;
pub(crate) mod stderr;
mod sweep;
mod top;
mod trace;
mod tune;
mod validate;
mod workload;

pub(crate) use output::ExitStatus;

/// Route LLM requests across regions, and simulate the router.
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
        after_help = "What wins: the file < an arm < [vary] < the command line. A key without effect is an error.\n\nExamples:\n  gorgo run experiments/three-regions.toml\n  gorgo run experiments/three-regions.toml --set workload.rate=4.5 --set policy.running_cost_factor=0.1 --seed 7 --out results/tuned\n  gorgo run experiments/three-regions.toml --set arms.physical.policy.tie_band=5 --out results/one-arm\n  gorgo run experiments/three-regions.toml --mode live --seed 1"
    )]
    Run(run::RunArgs),
    /// Run an experiment over a grid of settings
    #[command(
        after_help = "Examples:\n  gorgo sweep experiments/ms-per-token.toml --vary policy.ms_per_token=0.01..1:*2 --vary policy.running_cost_factor=0..2:0.1\n  gorgo sweep experiments/three-regions.toml --vary workload.rate=3,4,5 --shard 0/2 --out results/grid-0\n  gorgo sweep experiments/three-regions.toml --vary workload.rate=3,4,5 --shard 1/2 --out results/grid-1   # then gorgo merge"
    )]
    Sweep(sweep::SweepArgs),
    /// Run one point of a sweep that `gorgo sweep plan` wrote
    #[command(subcommand)]
    Point(point::PointCommand),
    /// Merge the results of shards into the first folder
    #[command(after_help = "Example:\n  gorgo merge results/grid-0 results/grid-1")]
    Merge(merge::MergeArgs),
    /// Draw the plots of result folders again
    #[command(after_help = "Example:\n  gorgo plot results/three-regions --format png")]
    Plot(plot::PlotArgs),
    /// Write the report of a result folder again
    #[command(
        after_help = "Example:\n  gorgo report results/three-regions --only gorgo,physical --sort p95 && open results/three-regions/report.html"
    )]
    Report(report::ReportArgs),
    /// Compare two runs, records or timelines; fails beyond the noise and --max-error
    #[command(
        after_help = "Two result folders are compared by their stored figures. Anything else is compared request by request, and an error that lies within the recording's own noise passes.\n\nExamples:\n  gorgo validate results/three-regions-live results/three-regions --max-error 5\n  gorgo validate results/three-regions-live results/three-regions --rows --by-class --max-error 10 --plot cdf.svg"
    )]
    Validate(Box<validate::ValidateArgs>),
    /// Fit engine, network and policy settings to records of a run
    #[command(
        after_help = "Records of an arm that chose replicas at random are best: a policy that follows caches or load hides what causes what. What the records do not show keeps its value and is marked as not identified.\n\nExamples:\n  gorgo calibrate experiments/records/recorded-fleet --arm random --engine l40s-2-qwen3.5 --part 0.5 --out results/fit\n  gorgo calibrate experiments/records/recorded-fleet --arm random --engine l40s-2-qwen3.5-recorded --experiment experiments/recorded-fleet.toml --tune network.sigma=0.03..0.4 --evaluations 10 --seeds 1\n  gorgo calibrate --probe http://127.0.0.1:8080 --engine l40s-2-qwen3.5 --out results/probe   # an idle engine"
    )]
    Calibrate(Box<calibrate::CalibrateArgs>),
    /// Choose replicas for recorded states: JSON lines in, decisions with all terms out
    #[command(after_help = "Example:\n  gorgo decide --policy gorgo --set policy.ms_per_token=0.058 < states.jsonl")]
    Decide(decide::DecideArgs),
    /// Search a policy's weights on an experiment; seeds that the search never saw decide
    #[command(
        after_help = "The loss is mean ln TTFT + mean ln E2E: one per cent of either counts the same. Weights are only taken when the\nwhole 95 % interval on held-out seeds shows a gain.\n\nExamples:\n  gorgo tune experiments/three-regions.toml --steps 20 --out tuned.toml\n  gorgo tune experiments/three-regions.toml --arm gorgo --key rtt_weight=0.05..2 --key queue_factor=0.05..0.5 --steps 5"
    )]
    Tune(tune::TuneArgs),
    /// Judge another policy by the decision log of a router that explores
    #[command(
        after_help = "The router needs `router.explore = 0.01` (a share of random choices) and `explain.log`. The estimate weighs each\ndecision by its inverse odds; it judges single decisions, not the queues that another policy would have left behind.\n\nExamples:\n  gorgo evaluate decisions.jsonl --policy predictive\n  gorgo evaluate decisions.jsonl --predictions   # how good the predicted times were; needs no exploring"
    )]
    Evaluate(evaluate::EvaluateArgs),
    /// List the policies with their settings and defaults
    #[command(after_help = "Examples:\n  gorgo policies\n  gorgo policies stargate\n  gorgo policies --json")]
    Policies(policies::PoliciesArgs),
    /// Emulate an SGLang or vLLM server, with the engine model in place of a GPU
    #[command(
        after_help = "Examples:\n  gorgo engine --gpu h100 --listen 127.0.0.1:8080\n  gorgo engine --rtt-ms 120 --set max_running_requests=10\n  gorgo engine --kind vllm --preset vllm-llama-3.1-8b-rtx4090\n  curl -X POST localhost:8080/gorgo/crash -d '{\"seconds\": 5}'   # from loopback only"
    )]
    Engine(engine::EngineArgs),
    /// Generate load on a router or an engine
    #[command(
        after_help = "Examples:\n  gorgo bench --target http://127.0.0.1:8000 --profile poisson --rate 5 --duration 60s --out results/bench\n  gorgo bench --target http://127.0.0.1:8001@aws:eu-central-1 --target http://127.0.0.1:8002@aws:us-west-1 --profile trace --user-rtt --duration 60s"
    )]
    Bench(Box<bench::BenchArgs>),
    /// Emulate a wide-area network between loopback ports
    #[command(
        after_help = "Example:\n  gorgo relay --link 127.0.0.1:9001=127.0.0.1:8001,from=aws:eu-central-1,to=aws:us-west-1,name=fra-sfo --control 127.0.0.1:9100\n  curl -X POST 127.0.0.1:9100/links/fra-sfo/partition"
    )]
    Relay(relay::RelayArgs),
    /// Describe, convert and generate request traces
    Workload {
        #[command(subcommand)]
        command: workload::WorkloadCommand,
    },
    /// Start and administer the central router
    Proxy(proxy::ProxyArgs),
    /// Start and administer the edge router beside one engine
    Lb(lb::LbArgs),
    /// Watch a router in the terminal: regions, replicas, last decisions, queue
    #[command(
        after_help = "Keys: q quit, ? help, s sort, r reverse, / filter, f freeze, d drain and u undrain the selected replica (asks first).\nNO_COLOR=1 leaves colours out.\n\nExamples:\n  gorgo top\n  gorgo top https://router.example:8443 --ca ca.pem\n  gorgo top --json   # what it shows, once"
    )]
    Top(top::TopArgs),
    /// Check the sources of replicas: file, DNS, registry, Kubernetes
    Discovery {
        #[command(subcommand)]
        command: discovery::DiscoveryCommand,
    },
    /// Capture timelines of routers as one file for ui.perfetto.dev
    Trace(trace::TraceArgs),
    #[command(flatten)]
    Cloud(cloud::CloudCommand),
    /// Print the JSON schema of a file, for editors
    #[command(
        after_help = "Example:\n  gorgo schema experiment > experiment.schema.json\n\nAn editor that reads TOML checks and completes a file whose first line is\n  #:schema ./experiment.schema.json"
    )]
    Schema(schema::SchemaArgs),
    /// Write a man page for each command
    #[command(hide = true, after_help = "Example:\n  gorgo man ~/.local/share/man/man1")]
    Man {
        /// Folder to write into
        dir: std::path::PathBuf,
    },
    /// Print a completion script for a shell
    #[command(after_help = "Example:\n  gorgo completions bash > ~/.local/share/bash-completion/completions/gorgo")]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

pub(crate) fn run(args: Args) -> anyhow::Result<()> {
    match args.command {
        Command::Run(args) => run::run(&args),
        Command::Sweep(args) => sweep::run(&args),
        Command::Merge(args) => merge::run(&args),
        Command::Plot(args) => plot::run(&args),
        Command::Report(args) => report::run(&args),
        Command::Validate(args) => validate::run(&args),
        Command::Calibrate(args) => calibrate::run(&args),
        Command::Point(command) => point::run(&command),
        Command::Tune(args) => tune::run(&args),
        Command::Evaluate(args) => evaluate::run(&args),
        Command::Policies(args) => policies::run(&args),
        Command::Decide(args) => decide::run(&args),
        Command::Engine(args) => engine::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Relay(args) => relay::run(&args),
        Command::Workload { command } => workload::run(command),
        Command::Proxy(args) => proxy::run(args),
        Command::Lb(args) => lb::run(args),
        Command::Top(args) => top::run(&args),
        Command::Discovery { command } => discovery::run(command),
        Command::Trace(args) => trace::run(args),
        Command::Cloud(command) => cloud::run(command),
        Command::Schema(args) => schema::run(&args),
        Command::Man { dir } => {
            std::fs::create_dir_all(&dir).with_context(|| format!("cannot create `{}`", dir.display()))?;
            clap_mangen::generate_to(Args::command(), &dir)
                .with_context(|| format!("cannot write man pages into `{}`", dir.display()))
        }
        Command::Completions { shell } => {
            // Into memory first: the generator panics when a pipe is closed.
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Args::command(), "gorgo", &mut script);
            output::write_all(&script)?;
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    /// All `gorgo ...` lines of a text, as words; comments and what a shell does behind the command are cut off.
    fn commands(text: &str) -> Vec<Vec<String>> {
        let words = |line: &str| -> Vec<String> {
            let line = line.split(" #").next().unwrap_or(line);
            let line =
                [" < ", " > ", " && ", " | "].iter().fold(line, |line, end| line.split(end).next().unwrap_or(line));
            // Quotes hold no spaces in any of the examples, but braces and double quotes.
            line.split_whitespace().map(|word| word.replace('\'', "")).collect()
        };
        // A backslash at the end of a line joins it with the next, as in a shell.
        let text = text.replace("\\\n", " ");
        text.lines().map(str::trim).filter(|line| line.starts_with("gorgo ")).map(words).collect()
    }

    fn helps(command: &clap::Command, found: &mut Vec<Vec<String>>) {
        let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        found.extend(commands(&help));
        command.get_subcommands().for_each(|inner| helps(inner, found));
    }

    #[test]
    fn every_example_of_readme_and_help_is_a_command() {
        let mut found = commands(include_str!("../README.md"));
        assert!(found.len() > 15);
        found.extend(commands(include_str!("../docs/experiments.md")));
        found.extend(commands(include_str!("../docs/results.md")));
        helps(&Args::command(), &mut found);
        assert!(found.len() > 60);
        for words in found {
            if let Err(e) = Args::try_parse_from(&words) {
                panic!("{}: {e}", words.join(" "));
            }
        }
    }
}
