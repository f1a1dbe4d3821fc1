//! `gorgo lb`: the edge router beside one engine.

use super::live::{StartArgs, Target, Verb, fleet, lines, verb};
use clap::{Args as ClapArgs, Subcommand};
use gorgo_live::config::Role;
use http::Method;
use serde_json::{Value, json};

#[derive(Debug, ClapArgs)]
pub(crate) struct LbArgs {
    #[command(flatten)]
    target: Target,
    #[command(subcommand)]
    command: LbCommand,
}

#[derive(Debug, Subcommand)]
enum LbCommand {
    /// Route between the engine beside this router and other edges
    #[command(
        after_help = "Example:\n  gorgo lb start --engine http://127.0.0.1:8080 --peers http://10.1.0.1:8000,http://10.2.0.1:8000"
    )]
    Start {
        #[command(flatten)]
        start: StartArgs,
        /// The engine beside this router; http://127.0.0.1:8080 when neither this nor the file names one
        #[arg(long)]
        engine: Option<String>,
        /// Other edges, in place of the file's
        #[arg(long, value_name = "URL", value_delimiter = ',')]
        peers: Vec<String>,
    },
    /// List, add or remove other edges
    #[command(after_help = "Example:\n  gorgo lb peers add 10.2.0.1:8000")]
    Peers {
        #[command(subcommand)]
        command: Option<PeersVerb>,
    },
    #[command(flatten)]
    Verb(Verb),
}

#[derive(Debug, Subcommand)]
enum PeersVerb {
    /// All peers
    List,
    /// Add peers
    Add {
        /// host:port or URL
        #[arg(required = true)]
        urls: Vec<String>,
    },
    /// Give each of the routers named by --host all others as peers
    AddMesh,
    /// Remove peers
    Remove {
        /// Name or host:port
        #[arg(required = true)]
        names: Vec<String>,
    },
}

pub(super) fn run(args: LbArgs) -> anyhow::Result<()> {
    let target = &args.target;
    match args.command {
        LbCommand::Start { start, engine, peers } => {
            let engine = engine.or_else(|| (!start.has_config()).then(|| "http://127.0.0.1:8080".to_owned()));
            start.at(target)?.start(Role::Edge, engine.into_iter().collect(), peers)
        }
        LbCommand::Verb(common) => verb(common, target, "/lb"),
        LbCommand::Peers { command } => peers(command.unwrap_or(PeersVerb::List), target),
    }
}

fn peers(command: PeersVerb, target: &Target) -> anyhow::Result<()> {
    let add = |target: &Target, url: &str| target.call(&Method::POST, "/lb/peers", Some(&json!({"url": url})), lines);
    match command {
        PeersVerb::List => target.call(&Method::GET, "/lb/peers", None, fleet),
        PeersVerb::Add { urls } => urls.iter().try_for_each(|url| add(target, url)),
        PeersVerb::AddMesh => {
            let names: Vec<String> = target.clients()?.iter().map(gorgo_live::client::Admin::name).collect();
            for (i, host) in names.iter().enumerate() {
                let one = Target { host: vec![host.clone()], ..target.clone() };
                for (_, other) in names.iter().enumerate().filter(|&(j, _)| j != i) {
                    add(&one, other)?;
                }
            }
            Ok(())
        }
        PeersVerb::Remove { names } => names.iter().try_for_each(|name| {
            let body = match name.rsplit_once(':').map(|(ip, port)| (ip, port.parse::<u16>())) {
                Some((ip, Ok(port))) => json!({"id": name, "ip": ip, "port": port}),
                _ => Value::from_iter([("id", name.as_str())]),
            };
            target.call(&Method::DELETE, "/lb/peers", Some(&body), lines)
        }),
    }
}
