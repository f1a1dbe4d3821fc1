//! `gorgo proxy`: the central router.

use super::router::{AdminCommand, RouterAddress, StartArgs, fields, replicas_table, run_admin_command};
use clap::{Args as ClapArgs, Subcommand};
use gorgo_core::url::url_and_region;
use gorgo_live::config::Role;
use http::Method;
use serde_json::json;

#[derive(Debug, ClapArgs)]
pub(crate) struct ProxyArgs {
    #[command(flatten)]
    address: RouterAddress,
    /// Call the central router on this machine of GORGO_CLOUD, deployed by `gorgo proxy deploy`
    #[arg(long, value_name = "MACHINE", global = true, conflicts_with_all = ["host", "tls", "ca"])]
    remote: Option<String>,
    #[command(subcommand)]
    command: ProxyCommand,
}

#[derive(Debug, Subcommand)]
enum ProxyCommand {
    /// Route to engines over the network
    #[command(
        after_help = "Examples:\n  gorgo proxy start --servers http://10.0.0.1:8080@us-west,http://10.1.0.1:8080@eu\n  gorgo proxy start --config router.toml --set policy.ms_per_token=0.058"
    )]
    Start {
        #[command(flatten)]
        start: StartArgs,
        /// Engines, in place of those in the file
        #[arg(long, value_name = "URL[@REGION]", value_delimiter = ',')]
        servers: Vec<String>,
    },
    /// List, add, remove or drain engines
    #[command(after_help = "Example:\n  gorgo proxy servers add http://10.2.0.1:8080@asia")]
    Servers {
        #[command(subcommand)]
        command: Option<ServersCommand>,
    },
    /// Start a central router on one of the machines that `gorgo cluster setup` set up
    #[command(after_help = "Examples:\n  gorgo proxy deploy us-west-2\n  gorgo proxy --remote us-west-2 status")]
    Deploy(super::cloud::deploy::DeployArgs),
    #[command(flatten)]
    Admin(AdminCommand),
}

#[derive(Debug, Subcommand)]
enum ServersCommand {
    /// List all engines
    List,
    /// Add an engine
    Add {
        /// URL[@region]
        url: String,
        /// Its name; host and port when absent
        #[arg(long)]
        name: Option<String>,
    },
    /// Remove an engine; its waiting requests go to others
    Remove {
        /// Name or host:port
        name: String,
    },
    /// Send an engine no new requests
    Drain {
        /// Name or host:port
        name: String,
        /// Send it requests again; the same as `undrain`
        #[arg(long)]
        undo: bool,
    },
    /// Send a drained engine requests again
    Undrain {
        /// Name or host:port
        name: String,
    },
}

pub(super) fn run(mut args: ProxyArgs) -> anyhow::Result<()> {
    let local = matches!(args.command, ProxyCommand::Start { .. } | ProxyCommand::Deploy(_));
    if local && args.remote.is_some() {
        anyhow::bail!("--remote calls a router that runs; start one there with `gorgo proxy deploy MACHINE`");
    }
    let _way = args.remote.as_deref().map(|name| super::cloud::deploy::reach(name, &mut args.address)).transpose()?;
    let address = &args.address;
    match args.command {
        ProxyCommand::Start { start, servers } => start.listen_at(address)?.run(Role::Proxy, servers, Vec::new()),
        ProxyCommand::Deploy(deploy) => super::cloud::deploy::run(&deploy),
        ProxyCommand::Admin(command) => run_admin_command(command, address, "/proxy"),
        ProxyCommand::Servers { command } => match command.unwrap_or(ServersCommand::List) {
            ServersCommand::List => address.call(&Method::GET, "/proxy/servers", None, replicas_table),
            ServersCommand::Add { url, name } => {
                let (url, region) = url_and_region(&url).unwrap_or((&url, None));
                let body = json!({"url": url, "name": name, "region": region});
                address.call(&Method::POST, "/proxy/servers", Some(&body), fields)
            }
            ServersCommand::Remove { name } => {
                address.call(&Method::DELETE, &format!("/proxy/servers?id={name}"), None, fields)
            }
            ServersCommand::Drain { name, undo } => drain(address, &name, !undo),
            ServersCommand::Undrain { name } => drain(address, &name, false),
        },
    }
}

fn drain(address: &RouterAddress, name: &str, draining: bool) -> anyhow::Result<()> {
    let body = json!({"id": name, "draining": draining});
    address.call(&Method::POST, "/proxy/servers/drain", Some(&body), fields)
}
