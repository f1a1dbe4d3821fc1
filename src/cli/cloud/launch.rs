//! `gorgo launch`.

use super::interrupt::guarded;
use super::machines::node_table;
use super::{Cloud, CloudArgs, Session};
use crate::cli::duration::scaled;
use crate::cli::output::print_line;
use crate::cli::process::StopSignal;
use anyhow::{Context, bail};
use clap::Args as ClapArgs;
use gorgo_cloud::money::{Caps, Quote};
use gorgo_cloud::provider::{Offer, Ports, Spec, check_name, nonce};
use gorgo_cloud::{Fleet, Kind, Node};
use std::collections::BTreeSet;
use std::io::{BufRead, IsTerminal, Write};
use std::process::Stdio;

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
    /// Most dollars an hour of all machines together
    #[arg(long, default_value_t = Caps::default().cents_per_hour as f64 / 100.0)]
    max_dollars_per_hour: f64,
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
    let planned = plan(args, &session, &offers)?;
    let spec = |(name, offer, region): &(String, &Offer, String)| Spec {
        run: run.clone(),
        name: name.clone(),
        machine: offer.name.clone(),
        region: region.clone(),
        filesystem: args.filesystem.clone(),
        image: args.image.clone(),
        ports: args.ports.unwrap_or_default(),
        expires_ms,
    };
    let wanted: Vec<(Spec, u64)> =
        planned.iter().map(|row| (spec(row), session.provider.cents_per_hour(row.1, &row.2))).collect();
    let caps = Caps {
        nodes: args.max_nodes,
        cents_per_hour: (args.max_dollars_per_hour * 100.0).round() as u64,
        launches: args.max_launches,
    };
    let mut interrupts = StopSignal::install()?;
    tokio::select! {
        ready = ready_to_launch(&session, &wanted, args.lease, &caps, args.yes, !args.no_watch) => ready?,
        () = interrupts.recv() => bail!("interrupted; nothing was launched"),
    }
    let elsewhere = if args.any_region && !able.any_region { regions_with_capacity(&planned) } else { Vec::new() };
    let spare = std::sync::atomic::AtomicUsize::new(caps.launches - wanted.len());
    let work = async {
        let launches = wanted.iter().map(|(spec, cents)| one(&fleet, spec, *cents, &elsewhere, &spare));
        Ok(futures_util::future::join_all(launches).await)
    };
    let done = guarded(&fleet, &run, &mut interrupts, work).await?;
    let (mut nodes, mut failed) = (Vec::new(), Vec::new());
    for result in done {
        match result {
            Ok(node) => nodes.push(node),
            Err(error) => failed.push(error),
        }
    }
    if args.common.json {
        print_line(serde_json::to_string_pretty(&nodes)?)?;
    } else if !nodes.is_empty() {
        print_line(node_table(&nodes))?;
    }
    if failed.is_empty() {
        return Ok(());
    }
    let text: Vec<String> = failed.iter().map(|error| format!("{error:#}")).collect();
    bail!("{} of {} machines were not launched: {}", failed.len(), wanted.len(), text.join("\n"))
}

/// Machines to launch for another command, with their prices.
pub(super) struct LaunchPlan {
    pub(super) wanted: Vec<(Spec, u64)>,
    pub(super) lease_ms: u64,
    pub(super) caps: Caps,
    pub(super) yes: bool,
}

/// Launches all of them; when one fails, the caller ends the others.
pub(super) async fn launch_all(session: &Session, plan: LaunchPlan) -> anyhow::Result<Vec<Node>> {
    if plan.wanted.is_empty() {
        return Ok(Vec::new());
    }
    ready_to_launch(session, &plan.wanted, plan.lease_ms, &plan.caps, plan.yes, true).await?;
    let (fleet, spare) = (session.fleet(), std::sync::atomic::AtomicUsize::new(0));
    let launches = plan.wanted.iter().map(|(spec, cents)| one(&fleet, spec, *cents, &[], &spare));
    futures_util::future::join_all(launches).await.into_iter().collect()
}

/// Checks limits and lease, asks for the money, starts the watch, and makes what the launches need.
async fn ready_to_launch(
    session: &Session,
    wanted: &[(Spec, u64)],
    lease_ms: u64,
    caps: &Caps,
    yes: bool,
    watch: bool,
) -> anyhow::Result<()> {
    let (able, open) = (session.provider.capabilities(), session.fleet().open()?);
    if let Some(longest) = able.longest_lease_ms.filter(|longest| lease_ms > *longest) {
        let hours = longest / 3_600_000;
        bail!("{} ends machines after {hours} h at the latest; give a --lease within that", session.provider.name());
    }
    if let Some((spec, _)) = wanted.iter().find(|(spec, _)| open.iter().any(|entry| entry.intent.name == spec.name)) {
        bail!("`{}` runs already; choose another --name, or end it with `gorgo kill {}`", spec.name, spec.name);
    }
    let cents_per_hour = wanted.iter().map(|(_, cents)| cents).sum();
    let quote = Quote { nodes: wanted.len(), cents_per_hour, lease_ms };
    caps.check(&open, &quote)?;
    if wanted.len() > caps.launches {
        bail!("{} launches are more than --max-launches {}", wanted.len(), caps.launches);
    }
    if able.paid {
        confirm(&quote, yes)?;
        if watch {
            start_watch(session)?;
        }
    }
    let specs: Vec<&Spec> = wanted.iter().map(|(spec, _)| spec).collect();
    Ok(session.provider.prepare(&specs, &|line| eprintln!("{line}")).await?)
}

/// Launches one machine and waits until it is ready.
async fn one(
    fleet: &Fleet<'_>,
    spec: &Spec,
    cents: u64,
    elsewhere: &[String],
    spare: &std::sync::atomic::AtomicUsize,
) -> anyhow::Result<Node> {
    use std::sync::atomic::Ordering;
    let mut spec = spec.clone();
    let mut others = elsewhere.iter().filter(|region| **region != spec.region).cloned().collect::<Vec<_>>().into_iter();
    let id = loop {
        match fleet.launch(&spec, cents).await {
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

/// Name, type and region of each machine.
fn plan<'a>(
    args: &LaunchArgs,
    session: &Session,
    offers: &'a [Offer],
) -> anyhow::Result<Vec<(String, &'a Offer, String)>> {
    let rows: Vec<(String, &Offer, String)> = if session.cloud == Cloud::Ssh {
        if args.name.is_empty() {
            bail!("name the hosts to take with --name; `gorgo available --cloud ssh` lists them");
        }
        let host = |name: &String| {
            let offer = offers.iter().find(|offer| offer.name == *name);
            let offer = offer.with_context(|| format!("host `{name}` is not in hosts.toml or is taken already"))?;
            Ok((name.clone(), offer, offer.regions[0].name.clone()))
        };
        args.name.iter().map(host).collect::<anyhow::Result<_>>()?
    } else {
        let known: Vec<&str> = offers.iter().map(|offer| offer.name.as_str()).collect();
        let machine = args.machine.as_deref().context("name a type with --type; `gorgo available` lists them")?;
        let offer = offers.iter().find(|offer| offer.name == machine);
        let offer = offer.with_context(|| format!("no type `{machine}`; name one of: {}", known.join(", ")))?;
        let (names, regions) = (args.name.len(), args.region.len());
        if regions == 0 {
            let free: Vec<&str> = offer.regions.iter().map(|region| region.name.as_str()).take(20).collect();
            bail!("name regions with --region; {machine} is free in: {}", free.join(", "));
        }
        if names > 1 && regions > 1 && names != regions {
            bail!("{names} names and {regions} regions; give one region a name, or one for all");
        }
        let count = names.max(regions);
        let row = |i: usize| {
            let region = args.region[i.min(regions - 1)].clone();
            let name = match args.name.as_slice() {
                [] if count == 1 => short(&region),
                [] => format!("{}-{}", short(&region), i + 1),
                [one] if count > 1 => format!("{one}-{}", i + 1),
                names => names[i].clone(),
            };
            (name, offer, region)
        };
        (0..count).map(row).collect()
    };
    let mut seen = BTreeSet::new();
    for (name, offer, region) in &rows {
        check_name(name)?;
        if !seen.insert(name) {
            bail!("the name `{name}` is given twice");
        }
        let any = args.any_region || session.provider.capabilities().any_region;
        if !offer.regions.iter().any(|free| free.name == *region) && !any {
            let free: Vec<&str> = offer.regions.iter().map(|region| region.name.as_str()).take(20).collect();
            let free = if free.is_empty() { "no region".to_owned() } else { free.join(", ") };
            bail!("no {} is free in `{region}`; it is free in: {free}", offer.name);
        }
    }
    Ok(rows)
}

/// `aws:us-east-1` as a part of a name.
fn short(region: &str) -> String {
    region.rsplit(':').next().unwrap_or(region).replace(|c: char| !c.is_ascii_alphanumeric() && c != '-', "-")
}

fn regions_with_capacity(planned: &[(String, &Offer, String)]) -> Vec<String> {
    planned
        .first()
        .map(|(_, offer, _)| offer.regions.iter().map(|region| region.name.clone()).collect())
        .unwrap_or_default()
}

fn confirm(quote: &Quote, yes: bool) -> anyhow::Result<()> {
    eprintln!("{quote}");
    if yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        bail!("standard input is not a terminal, so the cost cannot be confirmed; repeat with --yes");
    }
    eprint!("launch? [y/N] ");
    std::io::stderr().flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    if !matches!(answer.trim(), "y" | "Y" | "yes") {
        bail!("nothing was launched");
    }
    Ok(())
}

/// Starts `gorgo watch` in a session of its own, so that it outlives this command and its terminal.
fn start_watch(session: &Session) -> anyhow::Result<()> {
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    let log = session.folder.join("watch.log");
    let file = std::fs::OpenOptions::new().append(true).create(true).open(&log);
    let file = file.with_context(|| format!("cannot write `{}`", log.display()))?;
    let mut command = std::process::Command::new("setsid");
    command.arg(program).args(["watch", "--cloud", session.provider.name(), "--state"]).arg(&session.folder);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file);
    let child = command.spawn().context("cannot start `gorgo watch`; start it yourself and repeat with --no-watch")?;
    eprintln!("process {} ends the machines when their lease is over; it logs to {}", child.id(), log.display());
    Ok(())
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
    fn a_region_makes_a_name() {
        assert_eq!(short("aws:us-east-1"), "us-east-1");
    }
}
