//! `gorgo lb`: the edge router beside one engine.

use super::router::{AdminCommand, RouterAddress, StartArgs, fields, replicas_table, run_admin_command};
use clap::{Args as ClapArgs, Subcommand};
use gorgo_live::config::Role;
use http::Method;
use serde_json::{Value, json};

#[derive(Debug, ClapArgs)]
pub(crate) struct LbArgs {
    #[command(flatten)]
    address: RouterAddress,
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
        /// Other edges, in place of those in the file
        #[arg(long, value_name = "URL", value_delimiter = ',')]
        peers: Vec<String>,
    },
    /// List, add or remove other edges
    #[command(after_help = "Example:\n  gorgo lb peers add 10.2.0.1:8000")]
    Peers {
        #[command(subcommand)]
        command: Option<PeersCommand>,
    },
    #[command(flatten)]
    Admin(AdminCommand),
}

#[derive(Debug, Subcommand)]
enum PeersCommand {
    /// List all peers
    List,
    /// Add peers
    Add {
        /// host:port or URL
        #[arg(required = true)]
        urls: Vec<String>,
    },
    /// Make all routers named by --host peers of each other
    AddMesh,
    /// Remove peers
    Remove {
        /// Name or host:port
        #[arg(required = true)]
        names: Vec<String>,
    },
}

pub(super) fn run(args: LbArgs) -> anyhow::Result<()> {
    let address = &args.address;
    match args.command {
        LbCommand::Start { start, engine, peers } => {
            let engine = engine.or_else(|| (!start.has_config()).then(|| "http://127.0.0.1:8080".to_owned()));
            start.listen_at(address)?.run(Role::Edge, engine.into_iter().collect(), peers)
        }
        LbCommand::Admin(command) => run_admin_command(command, address, "/lb"),
        LbCommand::Peers { command } => peers(command.unwrap_or(PeersCommand::List), address),
    }
}

fn peers(command: PeersCommand, address: &RouterAddress) -> anyhow::Result<()> {
    let add = |address: &RouterAddress, url: &str| {
        address.call(&Method::POST, "/lb/peers", Some(&json!({"url": url})), fields)
    };
    match command {
        PeersCommand::List => address.call(&Method::GET, "/lb/peers", None, replicas_table),
        PeersCommand::Add { urls } => urls.iter().try_for_each(|url| add(address, url)),
        PeersCommand::AddMesh => {
            let names: Vec<String> = address.clients()?.iter().map(gorgo_live::AdminClient::name).collect();
            for (i, host) in names.iter().enumerate() {
                let one = RouterAddress { host: vec![host.clone()], ..address.clone() };
                for (_, other) in names.iter().enumerate().filter(|&(j, _)| j != i) {
                    add(&one, other)?;
                }
            }
            Ok(())
        }
        PeersCommand::Remove { names } => names.iter().try_for_each(|name| {
            let body = match name.rsplit_once(':').map(|(ip, port)| (ip, port.parse::<u16>())) {
                Some((ip, Ok(port))) => json!({"id": name, "ip": ip, "port": port}),
                _ => Value::from_iter([("id", name.as_str())]),
            };
            address.call(&Method::DELETE, "/lb/peers", Some(&body), fields)
        }),
    }
}
