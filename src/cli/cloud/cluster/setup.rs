//! `gorgo cluster setup`, `upload` and `restart-lb`: what the machines shall run, and setting them up.

use super::{all, open_for};
use crate::cli::cloud::table::columns;
use crate::cli::cloud::{CloudArgs, Session};
use crate::cli::output::print_line;
use anyhow::{Context, bail};
use clap::{Args as ClapArgs, ValueEnum};
use gorgo_cloud::setup::{DISK_GIB, Engine, HEALTHY_WITHIN_MIN, Keys, Plan, Progress, Report, routers, run as set_up};
use gorgo_core::settings::{parse_assignment, set_key};
use std::collections::BTreeMap;
use std::path::PathBuf;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum EngineKind {
    /// `gorgo engine`: the model of SGLang, without a GPU
    Emulated,
    /// SGLang in Docker
    Docker,
    /// SGLang as a process, where the machine is a container with it (modal)
    Sglang,
}

impl EngineKind {
    /// The engine that was asked for, else the provider's usual one.
    pub(in crate::cli) fn choose(asked: Option<Self>, session: &Session) -> anyhow::Result<Self> {
        let able = session.provider.capabilities();
        let kind = asked.unwrap_or(match (able.emulated, able.containers) {
            (true, _) => Self::Emulated,
            (false, true) => Self::Sglang,
            (false, false) => Self::Docker,
        });
        if able.containers && kind == Self::Docker {
            bail!(
                "{} has no Docker; use --engine sglang, and name an image at `gorgo launch`",
                session.provider.name()
            );
        }
        Ok(kind)
    }
}

#[derive(Debug, ClapArgs)]
pub(super) struct UploadArgs {
    #[command(flatten)]
    common: CloudArgs,
    #[command(flatten)]
    program: ProgramArgs,
}

/// The program for the nodes.
#[derive(Debug, Clone, Default, ClapArgs)]
pub(in crate::cli) struct ProgramArgs {
    /// Program for x86-64 nodes; this one when absent. One that runs on older systems is built by
    /// `cargo zigbuild --release --target x86_64-unknown-linux-gnu.2.28`
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// Program for arm64 nodes
    #[arg(long, value_name = "FILE")]
    binary_arm64: Option<PathBuf>,
}

/// Settings of the routers.
#[derive(Debug, ClapArgs)]
struct RouterArgs {
    /// Policy of the routers
    #[arg(long)]
    strategy: Option<String>,
    /// Requests a router sends to its engine at a time
    #[arg(long)]
    max_concurrent: Option<u32>,
    /// Any setting of the routers' file, for example policy.ms_per_token=0.058
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
}

#[derive(Debug, ClapArgs)]
pub(super) struct RestartArgs {
    #[command(flatten)]
    common: CloudArgs,
    #[command(flatten)]
    router: RouterArgs,
}

#[derive(Debug, ClapArgs)]
pub(super) struct SetupArgs {
    #[command(flatten)]
    common: CloudArgs,
    #[command(flatten)]
    router: RouterArgs,
    #[command(flatten)]
    program: ProgramArgs,
    /// Engine; emulated with --cloud local, sglang with modal, else docker
    #[arg(long, value_enum)]
    engine: Option<EngineKind>,
    /// Command that serves the model on $PORT, in place of --engine, for example 'vllm serve M --port $PORT'
    #[arg(long, value_name = "COMMAND", conflicts_with_all = ["engine", "image", "engine_arg"])]
    engine_command: Option<String>,
    /// More words for the engine, one an option
    #[arg(long, value_name = "WORD", allow_hyphen_values = true)]
    engine_arg: Vec<String>,
    /// Image of SGLang; chosen by the oldest NVIDIA driver when absent
    #[arg(long)]
    image: Option<String>,
    /// Model
    #[arg(long, default_value = "mistralai/Mistral-7B-Instruct-v0.3")]
    model: String,
    /// Requests an engine runs at a time
    #[arg(long, default_value_t = 10)]
    max_running: u32,
    #[command(flatten)]
    needs: NeedsArgs,
}

/// What an engine needs before it serves.
#[derive(Debug, Clone, Copy, ClapArgs)]
pub(in crate::cli) struct NeedsArgs {
    /// Free disk that a machine with Docker must have, GiB
    #[arg(long, value_name = "GIB", default_value_t = DISK_GIB)]
    pub(in crate::cli) disk_gib: u64,
    /// Minutes within which an engine must be healthy
    #[arg(long, value_name = "MINUTES", default_value_t = HEALTHY_WITHIN_MIN)]
    pub(in crate::cli) healthy_within: u64,
}

pub(in crate::cli) fn show(progress: &Progress) {
    eprintln!("{}: {}", progress.node, progress.step);
}

impl ProgramArgs {
    pub(in crate::cli) fn choose(&self, plan: &mut Plan) -> anyhow::Result<()> {
        if let Some(file) = &self.binary {
            plan.binary.clone_from(file);
        }
        if self.binary_arm64.is_some() {
            plan.binary_arm64.clone_from(&self.binary_arm64);
        }
        for file in plan.binary_arm64.iter().chain([&plan.binary]) {
            std::fs::metadata(file).with_context(|| format!("cannot read the program `{}`", file.display()))?;
        }
        Ok(())
    }
}

impl RouterArgs {
    fn apply(&self, table: &mut toml::Table) -> anyhow::Result<()> {
        let mut set = |key: &str, value: toml::Value| set_key(table, key, value);
        if let Some(policy) = &self.strategy {
            set("policy", policy.as_str().into())?;
        }
        if let Some(most) = self.max_concurrent {
            set("router.gates.max_running", i64::from(most).into())?;
        }
        for text in &self.sets {
            let (key, value) = parse_assignment(text)?;
            set(&key, value)?;
        }
        // What no router would take is refused before any node is touched.
        let mut whole = table.clone();
        whole.insert("role".to_owned(), "proxy".into());
        gorgo_live::config::Config::from_table(whole)?;
        Ok(())
    }
}

/// Where models come from.
pub(in crate::cli) struct Hub {
    pub(in crate::cli) token: Option<String>,
    pub(in crate::cli) url: String,
}

impl Hub {
    /// Reads `HF_TOKEN` and `HF_ENDPOINT`.
    pub(in crate::cli) fn from_environment() -> anyhow::Result<Self> {
        let token = std::env::var("HF_TOKEN").ok().filter(|token| !token.is_empty());
        let plain = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.:/".contains(c));
        if token.as_deref().is_some_and(|token| !plain(token)) {
            bail!("HF_TOKEN holds characters that no token has; export it again");
        }
        let url = std::env::var("HF_ENDPOINT").unwrap_or_else(|_| "https://huggingface.co".to_owned());
        Ok(Self { token, url })
    }
}

pub(super) async fn setup(args: &SetupArgs) -> anyhow::Result<()> {
    let session = args.common.session()?;
    let _held = session.hold("gorgo cluster setup")?;
    let earlier = session.plan().ok();
    let kind = EngineKind::choose(args.engine, &session)?;
    let engine = match (&args.engine_command, kind) {
        (Some(command), _) => Engine::Command { argv: ["sh", "-c", command].map(str::to_owned).to_vec() },
        (None, EngineKind::Emulated) => Engine::Emulated { args: args.engine_arg.clone() },
        (None, EngineKind::Sglang) => Engine::Sglang { args: args.engine_arg.clone() },
        (None, EngineKind::Docker) => Engine::Docker { image: args.image.clone(), args: args.engine_arg.clone() },
    };
    let hub = Hub::from_environment()?;
    let mut plan = Plan {
        engine,
        model: args.model.clone(),
        max_running: args.max_running,
        own: BTreeMap::new(),
        rates: BTreeMap::new(),
        owner: session.owner()?,
        router: earlier.as_ref().map(|plan| plan.router.clone()).unwrap_or_default(),
        // Keys stay, so that routers that run need no restart and clients no new key.
        keys: earlier.map_or_else(Keys::random, |plan| plan.keys),
        binary: std::env::current_exe().context("cannot find this program's own file")?,
        binary_arm64: None,
        disk_gib: args.needs.disk_gib,
        healthy_within_min: args.needs.healthy_within,
        hub_token: hub.token.map(Into::into),
        hub: hub.url,
    };
    args.program.choose(&mut plan)?;
    args.router.apply(&mut plan.router)?;
    let members = all(&session).await?;
    session.keep(&plan)?;
    let reports = set_up(session.provider.as_ref(), &members, &plan, &show).await;
    summary(&reports, args.common.json)?;
    if !args.common.json {
        print_line(format_args!(
            "keys of the routers (`api` for clients, `admin` for operators): {}",
            session.keys_file().display()
        ))?;
    }
    Ok(())
}

pub(super) async fn upload(args: &UploadArgs) -> anyhow::Result<()> {
    let (session, mut plan, members) = open_for(&args.common, "gorgo cluster upload").await?;
    plan.binary = std::env::current_exe().context("cannot find this program's own file")?;
    args.program.choose(&mut plan)?;
    session.keep(&plan)?;
    summary(&routers(session.provider.as_ref(), &members, &plan, &show).await, args.common.json)
}

pub(super) async fn restart(args: &RestartArgs) -> anyhow::Result<()> {
    let (session, mut plan, members) = open_for(&args.common, "gorgo cluster restart-lb").await?;
    args.router.apply(&mut plan.router)?;
    session.keep(&plan)?;
    summary(&routers(session.provider.as_ref(), &members, &plan, &show).await, args.common.json)
}

fn summary(reports: &[Report], as_json: bool) -> anyhow::Result<()> {
    if as_json {
        print_line(serde_json::to_string_pretty(reports)?)?;
    } else {
        let mut rows = Vec::new();
        for report in reports {
            for step in &report.steps {
                let state = if step.changed { "changed" } else { "-" };
                let seconds = format!("{:.1}", step.seconds);
                rows.push(vec![
                    report.node.clone(),
                    step.name.to_owned(),
                    state.to_owned(),
                    seconds,
                    step.note.clone(),
                ]);
            }
            if report.failure.is_some() {
                rows.push([report.node.as_str(), "FAILED", "", "", "see below"].map(str::to_owned).to_vec());
            }
        }
        print_line(columns(&["NODE", "STEP", "STATE", "S", "NOTE"], &rows))?;
        for (report, failure) in reports.iter().filter_map(|report| Some((report, report.failure.as_ref()?))) {
            print_line(format_args!("{}: {failure}", report.node))?;
        }
    }
    let failed = reports.iter().filter(|report| report.failure.is_some()).count();
    if failed > 0 {
        bail!(
            "{failed} of {} machines are not ready; run the same command again once the causes are removed",
            reports.len()
        );
    }
    Ok(())
}
