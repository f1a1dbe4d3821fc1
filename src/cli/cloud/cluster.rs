//! `gorgo cluster` and `gorgo status`. `setup` sets machines up; what looks at them and what ends a run is here.

mod setup;

pub(super) use setup::{EngineKind, Hub, NeedsArgs, ProgramArgs, show};
use setup::{RestartArgs, SetupArgs, UploadArgs, restart, setup, upload};

use super::table::columns;
use super::{CloudArgs, Session};
use crate::cli::output::print_line;
use anyhow::bail;
use clap::{Args as ClapArgs, Subcommand, ValueEnum};
use gorgo_cloud::cluster::{self, Flushed};
use gorgo_cloud::setup::{Member, Plan};
use serde_json::{Value, json};
use std::path::PathBuf;

#[derive(Debug, ClapArgs)]
pub(crate) struct ClusterArgs {
    #[command(subcommand)]
    command: ClusterCommand,
}

#[derive(Debug, Subcommand)]
enum ClusterCommand {
    /// Install and start engine and router on all machines, then send a completion through every path
    #[command(after_help = "Example:\n  gorgo cluster setup --strategy gorgo --max-concurrent 100")]
    Setup(SetupArgs),
    /// Show engine and router of each machine
    #[command(after_help = "Example:\n  gorgo cluster status --json")]
    Status(StatusArgs),
    /// Upload this program and restart routers that ran another one
    #[command(after_help = "Example:\n  gorgo cluster upload --binary target/release/gorgo")]
    Upload(UploadArgs),
    /// Change the routers' settings and restart them
    #[command(after_help = "Example:\n  gorgo cluster restart-lb --strategy prefix-tree")]
    RestartLb(RestartArgs),
    /// Empty the engines' KV caches and the routers' indexes; busy engines are named
    #[command(after_help = "Example:\n  gorgo cluster flush-cache")]
    FlushCache(CloudArgs),
    /// Start a timeline on every router
    #[command(after_help = "Example:\n  gorgo cluster start-trace")]
    StartTrace(CloudArgs),
    /// End the timelines and collect them; `gorgo trace merge` joins them
    #[command(after_help = "Example:\n  gorgo cluster stop-trace --output-dir traces")]
    StopTrace {
        #[command(flatten)]
        common: CloudArgs,
        /// Folder for the files, one a machine
        #[arg(long, default_value = "benchmark_results")]
        output_dir: PathBuf,
    },
    /// Print the end of a log
    #[command(after_help = "Example:\n  gorgo cluster logs my-node --of router --lines 20")]
    Logs {
        #[command(flatten)]
        common: CloudArgs,
        /// Name or id
        node: String,
        /// Whose log
        #[arg(long, value_enum, default_value_t = Log::Engine)]
        of: Log,
        /// Lines
        #[arg(long, default_value_t = 100)]
        lines: usize,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Log {
    Engine,
    Router,
    Proxy,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    common: CloudArgs,
}

pub(super) async fn run(args: ClusterArgs) -> anyhow::Result<()> {
    match args.command {
        ClusterCommand::Setup(args) => setup(&args).await,
        ClusterCommand::Status(args) => status(&args).await,
        ClusterCommand::Upload(args) => upload(&args).await,
        ClusterCommand::RestartLb(args) => restart(&args).await,
        ClusterCommand::FlushCache(common) => flush(&common).await,
        ClusterCommand::StartTrace(common) => {
            let (_, plan, members) = open(&common).await?;
            each(&members, async |member| {
                cluster::Router::Edge.start_trace(member, &plan).await.map(|()| "timeline started".to_owned())
            })
            .await
        }
        ClusterCommand::StopTrace { common, output_dir } => {
            let (_, plan, members) = open(&common).await?;
            each(&members, async |member| {
                let path = cluster::Router::Edge.stop_trace(member, &plan, &output_dir).await?;
                Ok(path.display().to_string())
            })
            .await
        }
        ClusterCommand::Logs { common, node, of, lines } => {
            let session = common.session()?;
            let plan = session.plan()?;
            let members = session.members(vec![session.node(&node).await?]).await;
            let word = match of {
                Log::Engine => "engine",
                Log::Router => "router",
                Log::Proxy => "proxy",
            };
            Ok(print_line(cluster::log(&members[0], &plan, word, lines).await?)?)
        }
    }
}

/// The cluster: its plan and all machines that run.
async fn open(common: &CloudArgs) -> anyhow::Result<(Session, Plan, Vec<Member>)> {
    let session = common.session()?;
    let plan = session.plan()?;
    let members = all(&session).await?;
    Ok((session, plan, members))
}

/// As [`open`], for `command` alone until its end: it changes what runs.
pub(super) async fn open_for(common: &CloudArgs, command: &str) -> anyhow::Result<(Held, Plan, Vec<Member>)> {
    let session = common.session()?;
    let lock = session.hold(command)?;
    let plan = session.plan()?;
    let members = all(&session).await?;
    Ok((Held { session, _lock: lock }, plan, members))
}

/// A session whose cluster no other command changes meanwhile.
pub(super) struct Held {
    session: Session,
    _lock: std::fs::File,
}

impl std::ops::Deref for Held {
    type Target = Session;

    fn deref(&self) -> &Session {
        &self.session
    }
}

async fn all(session: &Session) -> anyhow::Result<Vec<Member>> {
    let nodes = session.nodes().await?;
    if nodes.is_empty() {
        bail!("no machine runs; launch some with `gorgo launch`");
    }
    Ok(session.members(nodes).await)
}

/// Does `work` on all members at the same time and prints a line for each.
async fn each(members: &[Member], work: impl AsyncFn(&Member) -> gorgo_cloud::Result<String>) -> anyhow::Result<()> {
    let done = futures_util::future::join_all(members.iter().map(|member| work(member))).await;
    let mut failed = 0;
    for (member, done) in members.iter().zip(done) {
        match done {
            Ok(text) => print_line(format_args!("{}: {text}", member.node.name))?,
            Err(error) => {
                failed += 1;
                print_line(format_args!("{}: {error}", member.node.name))?;
            }
        }
    }
    if failed > 0 {
        bail!("{failed} of {} machines failed", members.len());
    }
    Ok(())
}

pub(super) async fn status(args: &StatusArgs) -> anyhow::Result<()> {
    let (_, plan, members) = open(&args.common).await?;
    let states = futures_util::future::join_all(members.iter().map(|member| cluster::state(member, &plan))).await;
    let bad = states.iter().filter(|state| state.engine.is_err() || state.router.is_err()).count();
    if args.common.json {
        let row = |(member, state): (&Member, &cluster::NodeState)| {
            let error = |e: &gorgo_cloud::Error| Value::String(e.to_string());
            json!({
                "name": member.node.name, "region": member.node.region, "address": member.node.address,
                "engine": state.engine.as_ref().map_or_else(error, |()| json!("healthy")),
                "router": state.router.as_ref().map_or_else(error, Clone::clone),
            })
        };
        print_line(serde_json::to_string_pretty(&members.iter().zip(&states).map(row).collect::<Vec<_>>())?)?;
    } else {
        let row = |(member, state): (&Member, &cluster::NodeState)| {
            let engine = if state.engine.is_ok() { "healthy" } else { "failed" }.to_owned();
            let mut cells = vec![member.node.name.clone(), member.node.region.clone(), engine];
            match &state.router {
                Ok(router) => {
                    let count = |key: &str| router[key].as_u64().unwrap_or(0);
                    cells.push(router["policy"].as_str().unwrap_or("-").to_owned());
                    cells.push(format!("{}/{}", count("healthy_peers"), count("peer_count")));
                    cells.push(format!("{} running, {} waiting", count("running_reqs"), count("queue_size")));
                }
                Err(_) => cells.push("failed".to_owned()),
            }
            cells
        };
        let rows: Vec<Vec<String>> = members.iter().zip(&states).map(row).collect();
        print_line(columns(&["NAME", "REGION", "ENGINE", "ROUTER", "PEERS", "LOAD"], &rows))?;
        for (member, state) in members.iter().zip(&states) {
            let failures = [("engine", state.engine.as_ref().err()), ("router", state.router.as_ref().err())];
            for (what, error) in failures.into_iter().filter_map(|(what, error)| Some((what, error?))) {
                print_line(format_args!("{}: {what}: {error}", member.node.name))?;
            }
        }
    }
    if bad > 0 {
        bail!("{bad} of {} machines are not healthy; run `gorgo cluster setup` again", members.len());
    }
    Ok(())
}

async fn flush(common: &CloudArgs) -> anyhow::Result<()> {
    let (_, plan, members) = open(common).await?;
    let busy = std::cell::RefCell::new(Vec::new());
    each(&members, async |member| {
        Ok(match cluster::flush(member, &plan).await? {
            Flushed::Empty => "cache and index are empty".to_owned(),
            Flushed::Busy => {
                busy.borrow_mut().push(member.node.name.clone());
                "busy: the engine runs requests and kept its cache".to_owned()
            }
        })
    })
    .await?;
    let busy = busy.into_inner();
    if !busy.is_empty() {
        bail!("not flushed: {}; wait until they are idle and flush again", busy.join(", "));
    }
    Ok(())
}
