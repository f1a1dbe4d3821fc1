//! `gorgo launch`: `names` (what was asked for) → `ready` (limits, money, watch, ledger) → here.

use super::interrupt::guarded;
use super::machines::node_table;
use super::{CloudArgs, Session};
use crate::cli::duration::scaled;
use crate::cli::output::print_line;
use crate::cli::process::StopSignal;
use anyhow::{Context, bail};
use clap::Args as ClapArgs;
use gorgo_cloud::fleet::Reserved;
use gorgo_cloud::money::Caps;
use gorgo_cloud::provider::{Ports, Spec, nonce};
use gorgo_cloud::{Fleet, Kind, Node};
use names::{plan, regions_with_capacity};
use ready::ready_to_launch;
use std::sync::atomic::{AtomicUsize, Ordering};

mod names;
mod ready;

#[derive(Debug, ClapArgs)]
pub(crate) struct LaunchArgs {
    #[command(flatten)]
    common: CloudArgs,
    /// Type of machine, as `gorgo available` lists it; not for hosts of yours
    #[arg(long = "type", value_name = "TYPE")]
    machine: Option<String>,
    /// Names, one a machine; made from the regions when absent
    #[arg(long, value_delimiter = ',')]
    name: Vec<String>,
    /// Regions, one a machine, or one for all
    #[arg(long, value_delimiter = ',')]
    region: Vec<String>,
    /// Where a region has no machine free, take any other that has
    #[arg(long)]
    any_region: bool,
    /// End the machines after this time, for example 90m or 4h
    #[arg(long, default_value = "4h", value_parser = lease)]
    lease: u64,
    /// File system to attach; it must lie in the region
    #[arg(long)]
    filesystem: Option<String>,
    /// Image of the machines, where they are containers (modal); one of SGLang when absent
    #[arg(long)]
    image: Option<String>,
    /// Ports on the machines: engine, edge router, central router
    #[arg(long, value_name = "ENGINE,ROUTER,PROXY", value_parser = str::parse::<Ports>)]
    ports: Option<Ports>,
    /// Most machines at one time
    #[arg(long, default_value_t = Caps::default().nodes)]
    max_nodes: usize,
    /// Most dollars an hour of all machines together, or `none` for no limit
    #[arg(long, value_name = "DOLLARS", default_value = DOLLARS, value_parser = dollars)]
    max_dollars_per_hour: Dollars,
    /// Most launches of this command
    #[arg(long, default_value_t = Caps::default().launches)]
    max_launches: usize,
    /// Do not ask before spending money
    #[arg(long)]
    yes: bool,
    /// Do not start `gorgo watch`, which ends the machines when their lease is over
    #[arg(long)]
    no_watch: bool,
}

/// Milliseconds of `90m`, `4h` or `2d`.
pub(super) fn lease(text: &str) -> Result<u64, String> {
    let units = [("m", 60_000.0), ("h", 3_600_000.0), ("d", 86_400_000.0)];
    let ms = scaled(text, &units).ok_or("write a number and m, h or d")?;
    if !(60_000.0..=30.0 * 86_400_000.0).contains(&ms) {
        return Err("a lease lasts one minute to 30 days".to_owned());
    }
    Ok(ms as u64)
}

/// US cents an hour; no limit when absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Dollars(pub(super) Option<u64>);

/// The default of [`Caps`].
pub(super) const DOLLARS: &str = "50";

/// `2.5`, or `none`.
pub(super) fn dollars(text: &str) -> Result<Dollars, String> {
    if text == "none" {
        return Ok(Dollars(None));
    }
    let dollars = text.parse::<f64>().ok().filter(|dollars| (0.0..=1e9).contains(dollars));
    let cents = dollars.map(|dollars| (dollars * 100.0).round() as u64);
    cents.map(|cents| Dollars(Some(cents))).ok_or_else(|| "write dollars, for example 2.50, or `none`".to_owned())
}

pub(super) async fn run(args: &LaunchArgs) -> anyhow::Result<()> {
    let session = args.common.session()?;
    let fleet = session.fleet();
    let offers = session.provider.offers().await?;
    let run = nonce()[..12].to_owned();
    let expires_ms = fleet.time.now_ms() + args.lease;
    let able = session.provider.capabilities();
    if args.image.is_some() && !able.containers {
        bail!(
            "--image is for machines that are containers; `gorgo cluster setup --image` chooses the engine's image here"
        );
    }
    if args.ports.is_some() && !able.paid {
        bail!("--ports is for clouds; local nodes get free ports, and hosts.toml names those of hosts");
    }
    if args.filesystem.is_some() && !able.filesystems && !able.containers {
        bail!("--filesystem is for clouds; `{}` has no file systems", session.provider.name());
    }
    let planned = plan(args, &session, &offers)?;
    let spec = |(name, offer, region): &(String, &gorgo_cloud::provider::Offer, String)| Spec {
        run: run.clone(),
        name: name.clone(),
        machine: offer.name.clone(),
        region: region.clone(),
        filesystem: args.filesystem.clone(),
        image: args.image.clone(),
        ports: args.ports.unwrap_or_default(),
        expires_ms,
    };
    let wanted: Vec<(Spec, Option<u64>)> =
        planned.iter().map(|row| (spec(row), session.provider.cents_per_hour(row.1, &row.2))).collect();
    let caps = Caps { nodes: args.max_nodes, cents_per_hour: args.max_dollars_per_hour.0, launches: args.max_launches };
    let elsewhere = if args.any_region && !able.any_region { regions_with_capacity(&planned) } else { Vec::new() };
    let launch = LaunchPlan { wanted, lease_ms: args.lease, caps, yes: args.yes, watch: !args.no_watch, elsewhere };
    let mut interrupts = StopSignal::install()?;
    let reserved = tokio::select! {
        reserved = ready_to_launch(&session, &launch) => reserved?,
        () = interrupts.recv() => bail!("interrupted; nothing was launched"),
    };
    let work = async { Ok(launch.send(&fleet, reserved).await) };
    let (nodes, failed) = guarded(&fleet, &run, &mut interrupts, work).await?;
    if args.common.json {
        print_line(serde_json::to_string_pretty(&nodes)?)?;
    } else if !nodes.is_empty() {
        print_line(node_table(&nodes))?;
    }
    if failed.is_empty() {
        return Ok(());
    }
    let text: Vec<String> = failed.iter().map(|error| format!("{error:#}")).collect();
    bail!("{} of {} machines were not launched: {}", failed.len(), launch.wanted.len(), text.join("\n"))
}

/// Machines to launch.
pub(super) struct LaunchPlan {
    /// What to launch, each with its price an hour.
    pub(super) wanted: Vec<(Spec, Option<u64>)>,
    pub(super) lease_ms: u64,
    pub(super) caps: Caps,
    /// Whether the money was agreed to.
    pub(super) yes: bool,
    /// Whether a watch is started.
    pub(super) watch: bool,
    /// Regions to try where the wanted one has no machine free.
    pub(super) elsewhere: Vec<String>,
}

impl LaunchPlan {
    /// Sends the launches at the same time and waits until the machines are ready. Where one fails, what no machine
    /// needs any more is removed.
    async fn send(&self, fleet: &Fleet<'_>, reserved: Vec<Reserved<'_>>) -> (Vec<Node>, Vec<anyhow::Error>) {
        let spare = AtomicUsize::new(self.caps.launches - reserved.len());
        let launches = reserved.into_iter().zip(&self.wanted);
        let launches = launches.map(|(reserved, wanted)| one(fleet, reserved, wanted, &self.elsewhere, &spare));
        let (mut nodes, mut failed) = (Vec::new(), Vec::new());
        for done in futures_util::future::join_all(launches).await {
            match done {
                Ok(node) => nodes.push(node),
                Err(error) => failed.push(error),
            }
        }
        if !failed.is_empty() {
            fleet.tidy(&[]).await.iter().for_each(|error| eprintln!("{error}"));
        }
        (nodes, failed)
    }
}

/// Launches all machines for another command; when one fails, the caller ends the others.
pub(super) async fn launch_all(session: &Session, plan: LaunchPlan) -> anyhow::Result<Vec<Node>> {
    if plan.wanted.is_empty() {
        return Ok(Vec::new());
    }
    let reserved = ready_to_launch(session, &plan).await?;
    let (nodes, failed) = plan.send(&session.fleet(), reserved).await;
    failed.into_iter().next().map_or(Ok(nodes), Err)
}

/// Launches one machine and waits until it is ready.
async fn one(
    fleet: &Fleet<'_>,
    reserved: Reserved<'_>,
    (spec, cents): &(Spec, Option<u64>),
    elsewhere: &[String],
    spare: &AtomicUsize,
) -> anyhow::Result<Node> {
    let mut spec = spec.clone();
    let mut others = elsewhere.iter().filter(|region| **region != spec.region).cloned().collect::<Vec<_>>().into_iter();
    let mut launched = fleet.send(reserved).await;
    let id = loop {
        match launched {
            Ok(id) => break id,
            // Refused for lack of capacity means that nothing runs, so another region may be tried.
            Err(error) if error.kind == Kind::Capacity => {
                let allowed =
                    spare.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
                let Some(region) = others.next().filter(|_| allowed) else {
                    return Err(error).with_context(|| spec.name.clone());
                };
                eprintln!("{}: no machine is free in {}, trying {region}", spec.name, spec.region);
                spec.region = region;
                launched = fleet.launch(&spec, *cents).await;
            }
            Err(error) => return Err(error).with_context(|| spec.name.clone()),
        }
    };
    eprintln!("{}: launched {id} in {}", spec.name, spec.region);
    let mut shown = String::new();
    let seen = |status: &gorgo_cloud::provider::Status| {
        let status = status.to_string();
        if status != shown {
            eprintln!("{}: {status}", spec.name);
            shown = status;
        }
    };
    fleet.ready(&id, seen).await.with_context(|| spec.name.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leases_have_a_unit_and_a_limit() {
        assert_eq!(lease("90m"), Ok(5_400_000));
        assert_eq!(lease("1.5h"), Ok(5_400_000));
        for wrong in ["4", "h", "-1h", "31d", "10s", "nanh"] {
            assert!(lease(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_limit_is_a_number_of_dollars_or_none() {
        assert_eq!(dollars("2.5"), Ok(Dollars(Some(250))));
        assert_eq!(dollars("none"), Ok(Dollars(None)));
        assert_eq!(dollars(DOLLARS), Ok(Dollars(Caps::default().cents_per_hour)));
        for wrong in ["nan", "-1", "inf", "1e300", ""] {
            assert!(dollars(wrong).is_err(), "{wrong}");
        }
    }
}
