//! `gorgo discovery check`: what the sources of discovery list, and what would change. Changes nothing.

use super::output::print_line;
use super::router::RouterAddress;
use anyhow::bail;
use clap::{Args as ClapArgs, Subcommand};
use gorgo_live::config::{Config, PeerConfig, Role};
use gorgo_live::discovery::{SourceAnswer, ask_all};
use http::Method;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
pub(crate) enum DiscoveryCommand {
    /// Ask every source of [discovery] once and print what would change; changes nothing
    #[command(
        after_help = "Examples:\n  gorgo discovery check --config router.toml\n  gorgo discovery check --config router.toml --against-running --port 8000"
    )]
    Check(CheckArgs),
}

#[derive(Debug, ClapArgs)]
pub(crate) struct CheckArgs {
    /// The router's configuration
    #[arg(long, default_value = "router.toml")]
    config: PathBuf,
    /// Compare with the fleet of the running router at --host and --port, not with the configured replicas
    #[arg(long)]
    against_running: bool,
    #[command(flatten)]
    router: RouterAddress,
}

pub(crate) fn run(command: DiscoveryCommand) -> anyhow::Result<()> {
    let DiscoveryCommand::Check(args) = command;
    let mut config = Config::from_table(Config::table(&args.config)?)?;
    gorgo_live::keys_from_environment(&mut config);
    config.check()?;
    let runtime = super::process::runtime()?;
    let answers = runtime.block_on(ask_all(&config.discovery))?;
    if answers.is_empty() {
        bail!("{} has no source in [discovery]; set discovery.file, dns, rest or kubernetes", args.config.display());
    }
    let fleet =
        if args.against_running { runtime.block_on(running(&args.router, config.role))? } else { configured(&config) };
    let failed = answers.iter().filter(|answer| answer.endpoints.is_err()).count();
    if args.router.json {
        let shown: Vec<Value> = answers.iter().map(|answer| json(answer, &fleet)).collect();
        print_line(&serde_json::to_string_pretty(&shown)?)?;
    } else {
        for line in answers.iter().flat_map(|answer| text(answer, &fleet)) {
            print_line(&line)?;
        }
    }
    if failed > 0 {
        bail!("{failed} of {} sources gave no endpoints", answers.len());
    }
    Ok(())
}

/// Replicas by name, with their URL.
type Fleet = BTreeMap<String, String>;

fn configured(config: &Config) -> Fleet {
    if config.role == Role::Edge {
        let name = |peer: &PeerConfig| peer.name.clone().unwrap_or_else(|| peer.url.clone());
        return config.peers.iter().map(|peer| (name(peer), peer.url.clone())).collect();
    }
    let engines = config.replicas.iter().map(|replica| (replica.shown_name(), replica.url.clone()));
    engines.collect()
}

async fn running(router: &RouterAddress, role: Role) -> anyhow::Result<Fleet> {
    let mut fleet = Fleet::new();
    for client in router.clients()? {
        let path = if role == Role::Edge { "/lb/peers" } else { "/proxy/servers" };
        let answer = client.call(Method::GET, path, None).await?;
        let servers = answer.get("peers").unwrap_or(&answer);
        let text = |server: &Value, key: &str| server[key].as_str().unwrap_or_default().to_owned();
        fleet.extend(servers.as_array().into_iter().flatten().map(|server| (text(server, "id"), text(server, "url"))));
    }
    Ok(fleet)
}

/// `+` for an endpoint that would join, ` ` for one that is in the fleet.
fn sign(fleet: &Fleet, name: &str) -> char {
    if fleet.contains_key(name) { ' ' } else { '+' }
}

fn text(answer: &SourceAnswer, fleet: &Fleet) -> Vec<String> {
    let endpoints = match &answer.endpoints {
        Err(wrong) => return vec![format!("{}: {wrong}; a running router keeps its last set", answer.source)],
        Ok(endpoints) => endpoints,
    };
    let new = endpoints.iter().filter(|endpoint| !fleet.contains_key(&endpoint.name)).count();
    let mut lines = vec![format!("{}: {} endpoints, {new} not in the fleet", answer.source, endpoints.len())];
    for endpoint in endpoints {
        let state = if endpoint.draining { "  draining" } else { "" };
        let region = endpoint.region.as_ref().map_or(String::new(), |region| format!("  {region}"));
        let sign = sign(fleet, &endpoint.name);
        lines.push(format!("  {sign} {}  {}{region}{state}", endpoint.name, endpoint.url));
    }
    lines
}

fn json(answer: &SourceAnswer, fleet: &Fleet) -> Value {
    match &answer.endpoints {
        Err(wrong) => json!({"source": answer.source, "error": wrong.to_string()}),
        Ok(endpoints) => {
            let shown = endpoints.iter().map(|endpoint| {
                json!({"name": endpoint.name, "url": endpoint.url, "region": endpoint.region,
                    "draining": endpoint.draining, "in_fleet": fleet.contains_key(&endpoint.name)})
            });
            json!({"source": answer.source, "endpoints": shown.collect::<Vec<Value>>()})
        }
    }
}
