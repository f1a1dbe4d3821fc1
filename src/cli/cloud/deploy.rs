//! `gorgo proxy deploy`: the central router on one of the machines.

use super::{CloudArgs, cluster};
use crate::cli::output::print_line;
use anyhow::{Context, bail};
use clap::Args as ClapArgs;
use gorgo_cloud::Node;
use gorgo_cloud::setup::router::deploy_proxy;

#[derive(Debug, ClapArgs)]
pub(crate) struct DeployArgs {
    #[command(flatten)]
    common: CloudArgs,
    /// Machine for the router, by name or id
    node: String,
}

pub(in crate::cli) fn run(args: &DeployArgs) -> anyhow::Result<()> {
    crate::cli::process::runtime()?.block_on(async {
        let (session, plan, members) = cluster::open(&args.common).await?;
        if !session.provider.capabilities().loopback {
            bail!(
                "engines listen on loopback, so a central router reaches them only with --cloud local; \
                 use the edge routers, which `gorgo cluster setup` starts"
            );
        }
        let node = session.node(&args.node).await?;
        let member = members.iter().find(|member| member.node.id == node.id).context("the machine has just ended")?;
        let mut engines = Vec::new();
        for other in &members {
            let from: &[Node] = if other.node.id == node.id { &[] } else { std::slice::from_ref(&node) };
            let urls = session.provider.open(&other.node, other.node.ports.engine, from).await?;
            let own = || format!("http://127.0.0.1:{}", other.node.ports.engine);
            let url = urls.into_iter().next().unwrap_or_else(own);
            engines.push((url, format!("{}-engine", other.node.name), other.node.region.clone()));
        }
        let show = |progress: &gorgo_cloud::setup::Progress| eprintln!("{}: {}", progress.node, progress.step);
        let changed = deploy_proxy(session.provider.as_ref(), member, &plan, &engines, &show).await?;
        let state = if changed { "started" } else { "runs as it should" };
        let address = node.address.as_deref().unwrap_or("127.0.0.1");
        print_line(format_args!("the central router on {} {state}: http://{address}:{}", node.name, node.ports.proxy))?;
        print_line(format_args!("clients send the key `api` of {} as a bearer token", session.keys_file().display()))?;
        Ok(())
    })
}
