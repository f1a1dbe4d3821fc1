//! `gorgo proxy deploy`: the central router on one of the machines, and `gorgo proxy --remote`, which calls it.

use super::{CloudArgs, Session, cluster};
use crate::cli::output::print_line;
use crate::cli::router::RouterAddress;
use anyhow::{Context, bail};
use clap::Args as ClapArgs;
use gorgo_cloud::Shell;
use gorgo_cloud::setup::router::{Reached, deploy_proxy, gate, proxy_runs};
use gorgo_cloud::setup::{Member, Plan};

#[derive(Debug, ClapArgs)]
pub(crate) struct DeployArgs {
    #[command(flatten)]
    common: CloudArgs,
    /// Machine for the router, by name or id
    node: String,
    /// End the central router of another machine, where this one takes its port for a gate
    #[arg(long)]
    replace: bool,
    /// Port of the router there; the machine's own for it when absent, which alone has a tunnel on modal
    #[arg(long)]
    listen_port: Option<u16>,
}

pub(in crate::cli) fn run(args: &DeployArgs) -> anyhow::Result<()> {
    crate::cli::process::runtime()?.block_on(super::interruptible(async {
        let (session, plan, members) = cluster::open_for(&args.common, "gorgo proxy deploy").await?;
        let node = session.node(&args.node).await?;
        let at = members.iter().position(|member| member.node.id == node.id).context("the machine has just ended")?;
        if !session.provider.capabilities().loopback && !args.replace {
            // A gate takes the port of a central router, which would end with it.
            for other in members.iter().filter(|other| other.node.id != node.id) {
                if proxy_runs(other).await.with_context(|| other.node.name.clone())? {
                    let name = &other.node.name;
                    bail!(
                        "the central router on {name} would end: a gate takes its port; repeat with --replace, or deploy on {name} again"
                    );
                }
            }
        }
        let port = args.listen_port.unwrap_or(node.ports.proxy);
        let changed = central(&session, &plan, &members, at, port).await?;
        let state = if changed { "started" } else { "runs as it should" };
        let url = session.provider.url(&node, port).await?;
        print_line(format_args!("the central router on {} {state}: {url}", node.name))?;
        print_line(format_args!("clients send the key `api` of {} as a bearer token", session.keys_file().display()))?;
        Ok(())
    }))
}

/// Starts the central router on the member `at`, before the engines of all members.
pub(super) async fn central(
    session: &Session,
    plan: &Plan,
    members: &[Member],
    at: usize,
    port: u16,
) -> anyhow::Result<bool> {
    let (provider, node) = (session.provider.as_ref(), &members[at].node);
    let loopback = provider.capabilities().loopback;
    let mut engines = Vec::new();
    for other in members {
        let own = other.node.id == node.id;
        // Engines listen on loopback: elsewhere a gate with the clients' key stands before each.
        let gated = !own && !loopback;
        let url = if own {
            format!("http://127.0.0.1:{}", node.ports.engine)
        } else {
            let port = if gated { other.node.ports.proxy } else { other.node.ports.engine };
            if gated {
                gate(provider, other, plan, &cluster::show).await.with_context(|| other.node.name.clone())?;
            }
            let urls = provider.open(&other.node, port, std::slice::from_ref(node)).await?;
            urls.into_iter().next().context("the port was not opened")?
        };
        let (name, region) = (format!("{}-engine", other.node.name), other.node.region.clone());
        engines.push(Reached { url, name, region, gated, ms_per_token: plan.rates.get(&other.node.name).copied() });
    }
    Ok(deploy_proxy(provider, &members[at], plan, port, &engines, &cluster::show).await?)
}

/// A way to a router of a machine; it ends with this value.
pub(in crate::cli) struct Remote {
    _runtime: tokio::runtime::Runtime,
    _shell: Box<dyn Shell>,
}

/// Leads `address` to the central router on the machine `name` of the provider that the environment names, with the
/// operators' key of its cluster.
pub(in crate::cli) fn reach(name: &str, address: &mut RouterAddress) -> anyhow::Result<Remote> {
    let runtime = crate::cli::process::runtime()?;
    let (shell, local, key) = runtime.block_on(async {
        let session = CloudArgs::of_environment()?.session()?;
        let (node, plan) = (session.node(name).await?, session.plan()?);
        let shell = session.provider.reach(&node).await?;
        let local = shell.address(address.port.unwrap_or(node.ports.proxy)).await?;
        anyhow::Ok((shell, local, plan.keys.admin))
    })?;
    address.host = vec![local.to_string()];
    address.key = Some(key.into());
    Ok(Remote { _runtime: runtime, _shell: shell })
}
