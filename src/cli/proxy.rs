//! `gorgo proxy`: the central router.

use super::live::{StartArgs, Target, Verb, fleet, lines, verb};
use clap::{Args as ClapArgs, Subcommand};
use gorgo_live::config::Role;
use http::Method;
use serde_json::json;

#[derive(Debug, ClapArgs)]
pub(crate) struct ProxyArgs {
    #[command(flatten)]
    target: Target,
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
        /// Engines, in place of the file's
        #[arg(long, value_name = "URL[@REGION]", value_delimiter = ',')]
        servers: Vec<String>,
    },
    /// List, add, remove or drain engines
    #[command(after_help = "Example:\n  gorgo proxy servers add http://10.2.0.1:8080@asia")]
    Servers {
        #[command(subcommand)]
        command: Option<ServersVerb>,
    },
    #[command(flatten)]
    Verb(Verb),
}

#[derive(Debug, Subcommand)]
enum ServersVerb {
    /// All engines
    List,
    /// Add an engine
    Add {
        /// URL[@region]
        url: String,
        /// Its name; host and port when absent
        #[arg(long)]
        name: Option<String>,
    },
    /// Take an engine out: what waits there goes elsewhere
    Remove {
        /// Name or host:port
        name: String,
    },
    /// Give an engine nothing new
    Drain {
        /// Name or host:port
        name: String,
        /// Give it requests again
        #[arg(long)]
        undo: bool,
    },
}

pub(super) fn run(args: ProxyArgs) -> anyhow::Result<()> {
    let target = &args.target;
    match args.command {
        ProxyCommand::Start { start, servers } => start.at(target)?.start(Role::Proxy, servers, Vec::new()),
        ProxyCommand::Verb(common) => verb(common, target, "/proxy"),
        ProxyCommand::Servers { command } => match command.unwrap_or(ServersVerb::List) {
            ServersVerb::List => target.call(&Method::GET, "/proxy/servers", None, fleet),
            ServersVerb::Add { url, name } => {
                let (url, region) =
                    url.rsplit_once('@').map_or((url.as_str(), None), |(url, region)| (url, Some(region)));
                let body = json!({"url": url, "name": name, "region": region});
                target.call(&Method::POST, "/proxy/servers", Some(&body), lines)
            }
            ServersVerb::Remove { name } => {
                target.call(&Method::DELETE, &format!("/proxy/servers?id={name}"), None, lines)
            }
            ServersVerb::Drain { name, undo } => {
                let body = json!({"id": name, "draining": !undo});
                target.call(&Method::POST, "/proxy/servers/drain", Some(&body), lines)
            }
        },
    }
}
