//! `gorgo discovery check`: what the sources of discovery list, and what would change. Changes nothing.

use super::output::print_line;
use super::router::RouterAddress;
use anyhow::bail;
use clap::{Args as ClapArgs, Subcommand};
use gorgo_core::MAX_REPLICAS;
use gorgo_live::config::{Config, PeerConfig, Role, is_same_address};
use gorgo_live::discovery::{DiscoveredEndpoint, Listed, SourceAnswer, ask_all};
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
    let failed = answers.iter().filter(|answer| answer.listed.is_err()).count();
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

/// What the router has.
#[derive(Default)]
struct Fleet {
    /// Replicas by name.
    members: BTreeMap<String, Member>,
    /// Names that an operator has removed.
    removed: Vec<String>,
}

struct Member {
    url: String,
    /// The source of discovery that it joined from.
    source: Option<String>,
}

fn configured(config: &Config) -> Fleet {
    let replica = |(name, url): (String, String)| (name, Member { url, source: None });
    let name = |peer: &PeerConfig| peer.name.clone().unwrap_or_else(|| peer.url.clone());
    let members: Vec<(String, String)> = if config.role == Role::Edge {
        config.peers.iter().map(|peer| (name(peer), peer.url.clone())).collect()
    } else {
        config.replicas.iter().map(|replica| (replica.shown_name(), replica.url.clone())).collect()
    };
    Fleet { members: members.into_iter().map(replica).collect(), removed: Vec::new() }
}

async fn running(router: &RouterAddress, role: Role) -> anyhow::Result<Fleet> {
    let mut fleet = Fleet::default();
    for client in router.clients()? {
        let (prefix, path) = if role == Role::Edge { ("/lb", "/lb/peers") } else { ("/proxy", "/proxy/servers") };
        let answer = client.call(Method::GET, path, None).await?;
        let servers = answer.get("peers").unwrap_or(&answer);
        let text = |server: &Value, key: &str| server[key].as_str().unwrap_or_default().to_owned();
        let member = |server: &Value| {
            let source = server["discovered_from"].as_str().map(str::to_owned);
            (text(server, "id"), Member { url: text(server, "url"), source })
        };
        fleet.members.extend(servers.as_array().into_iter().flatten().map(member));
        let status = client.call(Method::GET, &format!("{prefix}/status"), None).await?;
        let removed = status["removed_by_operator"].as_array().into_iter().flatten();
        fleet.removed.extend(removed.filter_map(|name| name.as_str().map(str::to_owned)));
    }
    Ok(fleet)
}

/// What would become of an endpoint of an answer, or of a replica that the answer lacks.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    Stays,
    Joins,
    /// Another engine of its name leaves, from this URL.
    Replaces(String),
    Leaves,
    /// It does not join, for this reason.
    Refused(String),
}

impl Fate {
    fn sign(&self) -> char {
        match self {
            Self::Stays => ' ',
            Self::Joins => '+',
            Self::Replaces(_) => '*',
            Self::Leaves => '-',
            Self::Refused(_) => '!',
        }
    }

    fn note(&self) -> String {
        match self {
            Self::Stays | Self::Joins => String::new(),
            Self::Replaces(url) => format!("  in place of the engine at {url}"),
            Self::Leaves => "  no longer listed".to_owned(),
            Self::Refused(why) => format!("  does not join: {why}"),
        }
    }
}

/// The endpoints of an answer, and the replicas that would leave: name, URL, fate, and the endpoint if there is one.
fn fates<'a>(
    source: &str,
    listed: &'a Listed,
    fleet: &'a Fleet,
) -> Vec<(&'a str, &'a str, Fate, Option<&'a DiscoveredEndpoint>)> {
    let is_listed = |name: &String| listed.endpoints.iter().any(|endpoint| endpoint.name == *name);
    let gone = fleet.members.iter().filter(|(name, at)| at.source.as_deref() == Some(source) && !is_listed(name));
    let gone: Vec<_> = gone.map(|(name, at)| (name.as_str(), at.url.as_str(), Fate::Leaves, None)).collect();
    let mut room = MAX_REPLICAS.saturating_sub(fleet.members.len() - gone.len());
    let mut joining: Vec<&DiscoveredEndpoint> = Vec::new();
    let listed = listed.endpoints.iter().map(|endpoint| {
        let is_here = |url: &str| is_same_address(url, &endpoint.url);
        let same_place = || fleet.members.iter().find(|(_, member)| is_here(&member.url));
        let fate = match fleet.members.get(&endpoint.name) {
            Some(member) if is_here(&member.url) => Fate::Stays,
            Some(member) if member.source.as_deref() == Some(source) => Fate::Replaces(member.url.clone()),
            Some(member) => Fate::Refused(format!("the fleet has another replica of its name, at {}", member.url)),
            None if fleet.removed.contains(&endpoint.name) => Fate::Refused("an operator removed it".to_owned()),
            None => match (same_place(), joining.iter().find(|other| is_here(&other.url))) {
                (Some((name, _)), _) => Fate::Refused(format!("the fleet has its address as {name}")),
                (None, Some(other)) => Fate::Refused(format!("{} is listed with its address", other.name)),
                _ if room == 0 => Fate::Refused(format!("the fleet holds {MAX_REPLICAS} replicas")),
                _ => {
                    room -= 1;
                    joining.push(endpoint);
                    Fate::Joins
                }
            },
        };
        (endpoint.name.as_str(), endpoint.url.as_str(), fate, Some(endpoint))
    });
    listed.chain(gone).collect()
}

fn text(answer: &SourceAnswer, fleet: &Fleet) -> Vec<String> {
    let listed = match &answer.listed {
        Err(wrong) => return vec![format!("{}: {wrong}; a running router keeps its last set", answer.source)],
        Ok(listed) => listed,
    };
    let all = fates(&answer.source, listed, fleet);
    let count = |sign: char| all.iter().filter(|(_, _, fate, _)| fate.sign() == sign).count();
    let (joining, leaving, refused) = (count('+') + count('*'), count('-'), count('!'));
    let mut head = format!("{}: {} endpoints, {joining} would join", answer.source, listed.endpoints.len());
    for (number, what) in [(leaving, "would leave"), (refused, "would not join")] {
        if number > 0 {
            head.push_str(&format!(", {number} {what}"));
        }
    }
    if listed.beyond > 0 {
        head.push_str(&format!(", {} more are left out, since a fleet holds {MAX_REPLICAS}", listed.beyond));
    }
    let line = |(name, url, fate, endpoint): &(&str, &str, Fate, Option<&DiscoveredEndpoint>)| {
        let state = if endpoint.is_some_and(|endpoint| endpoint.draining) { "  draining" } else { "" };
        let region = endpoint.and_then(|endpoint| endpoint.region.as_ref());
        let region = region.map_or(String::new(), |region| format!("  {region}"));
        format!("  {} {name}  {url}{region}{state}{}", fate.sign(), fate.note())
    };
    std::iter::once(head).chain(all.iter().map(line)).collect()
}

fn json(answer: &SourceAnswer, fleet: &Fleet) -> Value {
    match &answer.listed {
        Err(wrong) => json!({"source": answer.source, "error": wrong.to_string()}),
        Ok(listed) => {
            let all = fates(&answer.source, listed, fleet);
            let row = |(name, url, fate, endpoint): &(&str, &str, Fate, Option<&DiscoveredEndpoint>)| {
                let change = match fate {
                    Fate::Stays => "none",
                    Fate::Joins => "joins",
                    Fate::Replaces(_) => "replaces",
                    Fate::Leaves => "leaves",
                    Fate::Refused(_) => "refused",
                };
                let why = if let Fate::Refused(why) = fate { Some(why) } else { None };
                json!({"name": name, "url": url, "region": endpoint.and_then(|endpoint| endpoint.region.as_ref()),
                    "draining": endpoint.map(|endpoint| endpoint.draining),
                    "in_fleet": fleet.members.contains_key(*name), "change": change, "why": why})
            };
            json!({"source": answer.source, "endpoints": all.iter().map(row).collect::<Vec<Value>>(),
                "left_out": listed.beyond})
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_leaves_and_what_never_joins_is_shown() {
        let member = |name: &str, url: &str, source: Option<&str>| {
            (name.to_owned(), Member { url: url.to_owned(), source: source.map(str::to_owned) })
        };
        let members = [
            member("conf", "http://c:1", None),
            member("gone", "http://g:1", Some("file")),
            member("moved", "http://m:1", Some("file")),
            member("other", "http://o:1", Some("dns")),
            member("same", "http://s:1", Some("file")),
        ];
        let fleet = Fleet { members: members.into(), removed: vec!["banned".to_owned()] };
        let endpoints = [
            ("banned", "http://b:1"),
            ("conf", "http://d:1"),
            ("moved", "http://m:2"),
            ("new", "http://n:1"),
            ("new-too", "http://n:1"),
            ("same", "http://S:1/"),
            ("twin", "http://c:1"),
        ];
        let endpoints = endpoints.map(|(name, url)| DiscoveredEndpoint::new(name, url)).to_vec();
        let answer = SourceAnswer { source: "file".to_owned(), listed: Ok(Listed { endpoints, beyond: 3 }) };
        assert_eq!(
            text(&answer, &fleet),
            [
                "file: 7 endpoints, 2 would join, 1 would leave, 4 would not join, 3 more are left out, since a fleet \
                 holds 256",
                "  ! banned  http://b:1  does not join: an operator removed it",
                "  ! conf  http://d:1  does not join: the fleet has another replica of its name, at http://c:1",
                "  * moved  http://m:2  in place of the engine at http://m:1",
                "  + new  http://n:1",
                "  ! new-too  http://n:1  does not join: new is listed with its address",
                "    same  http://S:1/",
                "  ! twin  http://c:1  does not join: the fleet has its address as conf",
                "  - gone  http://g:1  no longer listed",
            ]
        );
        assert_eq!(json(&answer, &fleet)["endpoints"][7]["change"], "leaves");
    }
}
