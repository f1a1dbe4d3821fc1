//! `gorgo ssh-keys`, `filesystems`, `firewall` and `cloud check`.

use super::table::columns;
use super::{Cloud, CloudArgs};
use crate::cli::output::print_line;
use anyhow::Context;
use clap::{Args as ClapArgs, Subcommand};
use gorgo_cloud::lambda::Rule;
use gorgo_cloud::money;
use std::path::PathBuf;
use std::time::Instant;

#[derive(Debug, ClapArgs)]
pub(crate) struct SshKeysArgs {
    #[command(flatten)]
    common: CloudArgs,
    #[command(subcommand)]
    command: SshKeysCommand,
}

#[derive(Debug, Subcommand)]
enum SshKeysCommand {
    /// List the account's keys
    #[command(after_help = "Example:\n  gorgo ssh-keys list")]
    List,
    /// Add a public key; the same one under this name is left as it is
    #[command(after_help = "Example:\n  gorgo ssh-keys add laptop ~/.ssh/id_ed25519.pub")]
    Add {
        /// Name
        name: String,
        /// File of the public key
        file: PathBuf,
    },
    /// Delete a key
    #[command(after_help = "Example:\n  gorgo ssh-keys delete laptop")]
    Delete {
        /// Name or id
        name: String,
    },
}

#[derive(Debug, ClapArgs)]
pub(crate) struct FilesystemsArgs {
    #[command(flatten)]
    common: CloudArgs,
    #[command(subcommand)]
    command: FilesystemsCommand,
}

#[derive(Debug, Subcommand)]
enum FilesystemsCommand {
    /// List file systems; they cost money until they are deleted
    #[command(after_help = "Example:\n  gorgo filesystems list")]
    List,
    /// Create a file system; one of this name in the region is left as it is
    #[command(after_help = "Example:\n  gorgo filesystems create models --region us-east-1")]
    Create {
        /// Name
        name: String,
        /// Region
        #[arg(long)]
        region: String,
    },
    /// Delete a file system and all that it holds
    #[command(after_help = "Example:\n  gorgo filesystems delete models")]
    Delete {
        /// Name or id
        name: String,
    },
}

#[derive(Debug, ClapArgs)]
pub(crate) struct FirewallArgs {
    #[command(flatten)]
    common: CloudArgs,
    #[command(subcommand)]
    command: FirewallCommand,
}

#[derive(Debug, Subcommand)]
enum FirewallCommand {
    /// List the account's rules and rulesets; the account's own rules are never changed
    #[command(after_help = "Example:\n  gorgo firewall list")]
    List,
    /// Open a port of a machine that `gorgo launch` launched
    #[command(after_help = "Example:\n  gorgo firewall open my-node --port 8000 --from 203.0.113.7/32")]
    Open {
        /// Name or id
        node: String,
        /// Port
        #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
        port: u16,
        /// Networks, as 203.0.113.7/32
        #[arg(long, required = true, value_delimiter = ',')]
        from: Vec<String>,
    },
}

#[derive(Debug, ClapArgs)]
pub(crate) struct CheckArgs {
    #[command(subcommand)]
    command: CloudVerb,
}

#[derive(Debug, Subcommand)]
enum CloudVerb {
    /// Read the account's types, keys, machines and rules; nothing is changed
    #[command(after_help = "Example:\n  gorgo cloud check --cloud lambda")]
    Check(CloudArgs),
}

pub(super) async fn ssh_keys(args: &SshKeysArgs) -> anyhow::Result<()> {
    let session = args.common.session()?;
    let lambda = session.lambda()?;
    match &args.command {
        SshKeysCommand::List => {
            let keys = lambda.ssh_keys().await?;
            if args.common.json {
                return Ok(print_line(serde_json::to_string_pretty(&keys)?)?);
            }
            let rows: Vec<Vec<String>> = keys.into_iter().map(|key| vec![key.name, key.id]).collect();
            Ok(print_line(columns(&["NAME", "ID"], &rows))?)
        }
        SshKeysCommand::Add { name, file } => {
            let public = std::fs::read_to_string(file).with_context(|| format!("cannot read `{}`", file.display()))?;
            lambda.add_ssh_key(name, public.trim()).await?;
            Ok(print_line(format_args!("`{name}` is in the account"))?)
        }
        SshKeysCommand::Delete { name } => {
            let keys = lambda.ssh_keys().await?;
            let id = the_one("SSH key", name, keys.iter().map(|key| (key.id.as_str(), key.name.as_str())))?;
            lambda.delete_ssh_key(id).await?;
            Ok(print_line(format_args!("deleted {name}"))?)
        }
    }
}

/// The id of the one object with this id or name.
fn the_one<'a>(
    what: &str,
    asked: &str,
    known: impl Iterator<Item = (&'a str, &'a str)> + Clone,
) -> anyhow::Result<&'a str> {
    let named: Vec<&str> =
        known.clone().filter(|(id, name)| *id == asked || *name == asked).map(|(id, _)| id).collect();
    match named[..] {
        [id] => Ok(id),
        [] => {
            let all: Vec<&str> = known.map(|(_, name)| name).collect();
            let all = if all.is_empty() { "nothing".to_owned() } else { all.join(", ") };
            anyhow::bail!("no such {what}: `{asked}`; the account has {all}")
        }
        _ => anyhow::bail!("several have the name `{asked}`; name one of the ids {}", named.join(", ")),
    }
}

pub(super) async fn filesystems(args: &FilesystemsArgs) -> anyhow::Result<()> {
    let session = args.common.session()?;
    let lambda = session.lambda()?;
    match &args.command {
        FilesystemsCommand::List => {
            let list = lambda.filesystems().await?;
            if args.common.json {
                return Ok(print_line(serde_json::to_string_pretty(&list)?)?);
            }
            let row = |fs: gorgo_cloud::lambda::Filesystem| {
                let used = format!("{:.1} GB", fs.bytes_used as f64 / 1e9);
                vec![fs.name, fs.id, fs.region.name, used, if fs.is_in_use { "yes" } else { "no" }.to_owned()]
            };
            let rows: Vec<Vec<String>> = list.into_iter().map(row).collect();
            Ok(print_line(columns(&["NAME", "ID", "REGION", "USED", "MOUNTED"], &rows))?)
        }
        FilesystemsCommand::Create { name, region } => {
            lambda.create_filesystem(name, region).await?;
            Ok(print_line(format_args!("`{name}` is in {region}; it costs money until it is deleted"))?)
        }
        FilesystemsCommand::Delete { name } => {
            let list = lambda.filesystems().await?;
            let id = the_one("file system", name, list.iter().map(|fs| (fs.id.as_str(), fs.name.as_str())))?;
            lambda.delete_filesystem(id).await?;
            Ok(print_line(format_args!("deleted {name}"))?)
        }
    }
}

pub(super) async fn firewall(args: &FirewallArgs) -> anyhow::Result<()> {
    let session = args.common.session()?;
    let lambda = session.lambda()?;
    match &args.command {
        FirewallCommand::List => {
            let (global, sets) = (lambda.global_rules().await?, lambda.rulesets().await?);
            if args.common.json {
                return Ok(print_line(serde_json::to_string_pretty(
                    &serde_json::json!({"global": global, "rulesets": sets}),
                )?)?);
            }
            let mut rows: Vec<Vec<String>> = global.iter().map(|rule| row("all machines", "-", rule)).collect();
            for set in &sets {
                let region = set.region.as_ref().map_or("-", |region| region.name.as_str());
                rows.extend(set.rules.iter().map(|rule| row(&set.name, region, rule)));
            }
            print_line(columns(&["RULESET", "REGION", "PROTOCOL", "PORTS", "FROM", "DESCRIPTION"], &rows))?;
            Ok(print_line("no rule applies in us-south-1: every port is open there")?)
        }
        FirewallCommand::Open { node, port, from } => {
            let node = session.node(node).await?;
            let text = match lambda.open_to(&node, *port, from).await? {
                true => format!("port {port} of {} is open to {}", node.name, from.join(", ")),
                false => {
                    format!("no rule applies in {}: every port of {} is open to all", node.region, node.name)
                }
            };
            Ok(print_line(text)?)
        }
    }
}

fn row(set: &str, region: &str, rule: &Rule) -> Vec<String> {
    let ports = rule.port_range.map_or_else(|| "-".to_owned(), |[first, last]| format!("{first}-{last}"));
    let cells = [set, region, &rule.protocol, &ports, &rule.source_network, &rule.description];
    cells.map(str::to_owned).to_vec()
}

pub(super) async fn check(args: &CheckArgs) -> anyhow::Result<()> {
    let CloudVerb::Check(common) = &args.command;
    let session = common.session()?;
    let began = Instant::now();
    let mut lines: Vec<(&str, String)> = Vec::new();
    let offers = session.provider.offers().await?;
    let free = offers.iter().filter(|offer| !offer.regions.is_empty()).count();
    lines.push(("types", format!("{free} of {} have a free machine", offers.len())));
    let nodes = session.provider.list().await?;
    let ours = nodes.iter().filter(|node| node.key.is_some()).count();
    lines.push(("machines", format!("{} run, {ours} of them launched by gorgo", nodes.len())));
    if session.cloud == Cloud::Lambda {
        let lambda = session.lambda()?;
        lines.push(("ssh keys", lambda.ssh_keys().await?.len().to_string()));
        lines.push(("file systems", lambda.filesystems().await?.len().to_string()));
        let rules = (lambda.global_rules().await?.len(), lambda.rulesets().await?.len());
        lines.push(("firewall", format!("{} rules for all machines, {} rulesets", rules.0, rules.1)));
        lines.push(("images", lambda.images().await?.len().to_string()));
        let seconds = began.elapsed().as_secs_f64();
        let rates = format!("7 calls in {seconds:.1} s; gorgo sends one a second, and one launch in 12 s");
        lines.push(("rates", rates));
    }
    if session.cloud == Cloud::Modal {
        for offer in offers.iter().filter(|offer| offer.gpus == 1) {
            let price = money::price(offer.cents_per_hour);
            lines.push((&offer.name, format!("{price} an hour, {}", offer.description)));
        }
        lines.push(("capacity", "Modal tells none: a launch waits until a machine is free".to_owned()));
    }
    if session.cloud == Cloud::Ssh {
        let all: Vec<String> = offers.iter().map(|offer| offer.name.clone()).collect();
        lines.push(("free hosts", all.join(", ")));
    }
    if common.json {
        let object: serde_json::Map<String, serde_json::Value> =
            lines.into_iter().map(|(name, text)| (name.to_owned(), text.into())).collect();
        return Ok(print_line(serde_json::to_string_pretty(&object)?)?);
    }
    for (name, text) in lines {
        print_line(format_args!("{name}: {text}"))?;
    }
    Ok(print_line(format_args!("`{}` can be used", session.provider.name()))?)
}
