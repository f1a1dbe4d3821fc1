//! `gorgo run --mode live --cloud`: an experiment on machines, from launch to the last cent.
//!
//! Machines that bear the replicas' names are taken, the others are launched; what was launched ends with the run, at
//! an interrupt and after a failure too. Reading order: here → `load` (one run: settings, clocks, load of each region).

mod load;

use super::cluster::{EngineKind, Hub};
use super::interrupt::guarded;
use super::launch::{LaunchPlan, launch_all};
use super::{Cloud, CloudArgs, Session};
use crate::cli::experiment::{ExperimentArgs, Plan as RunPlan, RealTime, execute};
use crate::cli::process::StopSignal;
use anyhow::{Context, bail};
use clap::{Args as ClapArgs, ValueEnum};
use gorgo_cloud::money::{Caps, dollars};
use gorgo_cloud::provider::{Spec, check_name, nonce};
use gorgo_cloud::setup::{Engine, Keys, Plan};
use gorgo_cloud::{Node, Time};
use gorgo_experiments::results::Rows;
use gorgo_experiments::spec::PlannedArm;
use gorgo_experiments::spec::run::{FleetSpec, TopologySpec};
use load::Carrier;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

const MODEL: &str = "mistralai/Mistral-7B-Instruct-v0.3";

/// Machines for `gorgo run --mode live`; `[cloud]` in the experiment file holds the same settings.
#[derive(Debug, Clone, ClapArgs)]
#[command(next_help_heading = "Machines of a live run")]
pub(crate) struct FleetArgs {
    /// Run on machines of this provider: those that bear the replicas' names, else new ones, which end with the run
    #[arg(long, value_enum)]
    cloud: Option<Cloud>,
    /// Type of machine to launch; `cloud.type` in the file
    #[arg(long = "type", value_name = "TYPE")]
    machine: Option<String>,
    /// Model; `cloud.model`
    #[arg(long)]
    model: Option<String>,
    /// Image, where machines are containers; `cloud.image`
    #[arg(long)]
    image: Option<String>,
    /// Engine; as for `gorgo cluster setup`; `cloud.engine`
    #[arg(long, value_enum)]
    engine: Option<EngineKind>,
    /// Most machines at one time
    #[arg(long, default_value_t = Caps::default().nodes)]
    max_nodes: usize,
    /// Most dollars an hour of all machines together
    #[arg(long, default_value_t = Caps::default().cents_per_hour as f64 / 100.0)]
    max_dollars_per_hour: f64,
    /// End launched machines after this time at the latest; `cloud.lease`; 4h when absent
    #[arg(long, value_parser = super::launch::lease)]
    lease: Option<u64>,
    /// Leave launched machines running; `cloud.keep`
    #[arg(long)]
    keep: bool,
    /// Do not ask before spending money
    #[arg(long)]
    yes: bool,
    /// Folder of ledger, keys and node state
    #[arg(long, value_name = "DIR", env = "GORGO_STATE")]
    state: Option<PathBuf>,
    /// File of your hosts
    #[arg(long, value_name = "FILE", env = "GORGO_HOSTS")]
    hosts: Option<PathBuf>,
}

/// `[cloud]` of an experiment file: the machines of a live run. Options of the command line come first.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::cli) struct FleetTable {
    /// `local`, `ssh`, `lambda` or `modal`.
    provider: Option<String>,
    /// Machine type.
    r#type: Option<String>,
    /// Model that the engines serve.
    model: Option<String>,
    /// Container image of the engine.
    image: Option<String>,
    /// Engine: `sglang` or `vllm`.
    engine: Option<String>,
    /// Launched machines end after this time at the latest.
    lease: Option<String>,
    /// Leave launched machines running.
    keep: bool,
}

/// What a run on machines was asked for.
pub(in crate::cli) struct FleetPlan {
    common: CloudArgs,
    cloud: Cloud,
    machine: Option<String>,
    model: String,
    image: Option<String>,
    engine: Option<EngineKind>,
    caps: Caps,
    lease_ms: u64,
    keep: bool,
    yes: bool,
}

impl FleetArgs {
    /// Refuses settings of machines in a run without any.
    pub(in crate::cli) fn refuse(&self) -> anyhow::Result<()> {
        let given = [
            ("--cloud", self.cloud.is_some()),
            ("--type", self.machine.is_some()),
            ("--model", self.model.is_some()),
            ("--image", self.image.is_some()),
            ("--engine", self.engine.is_some()),
            ("--lease", self.lease.is_some()),
            ("--keep", self.keep),
        ];
        match given.iter().find(|(_, given)| *given) {
            Some((option, _)) => bail!("{option} is for machines; give --mode live and --cloud PROVIDER with it"),
            None => Ok(()),
        }
    }

    /// The machines that the command line or the file names; none when neither does.
    pub(in crate::cli) fn choose(&self, experiment: &ExperimentArgs) -> anyhow::Result<Option<FleetPlan>> {
        let table = experiment.load(&[])?.cloud;
        let table: FleetTable = match table {
            Some(table) => table.try_into().map_err(|why: toml::de::Error| {
                anyhow::anyhow!(
                    "[cloud]: {}; it takes provider, type, model, image, engine, lease and keep",
                    why.message()
                )
            })?,
            None => FleetTable::default(),
        };
        let named = table.provider.as_deref().map(|name| Cloud::from_str(name, true));
        let named = named.transpose().map_err(|_| {
            let name = table.provider.clone().unwrap_or_default();
            anyhow::anyhow!("[cloud] provider = \"{name}\" is none; write local, ssh, lambda or modal")
        })?;
        let Some(cloud) = self.cloud.or(named) else { return Ok(None) };
        let engine = table.engine.as_deref().map(|name| EngineKind::from_str(name, true));
        let engine = engine.transpose().map_err(|_| {
            let name = table.engine.clone().unwrap_or_default();
            anyhow::anyhow!("[cloud] engine = \"{name}\" is none; write emulated, docker or sglang")
        })?;
        let lease = table.lease.as_deref().map(super::launch::lease).transpose();
        let lease = lease.map_err(|why| anyhow::anyhow!("[cloud] lease: {why}"))?;
        let common =
            CloudArgs { cloud: Some(cloud), state: self.state.clone(), hosts: self.hosts.clone(), json: false };
        Ok(Some(FleetPlan {
            common,
            cloud,
            machine: self.machine.clone().or(table.r#type),
            model: self.model.clone().or(table.model).unwrap_or_else(|| MODEL.to_owned()),
            image: self.image.clone().or(table.image),
            engine: self.engine.or(engine),
            caps: Caps {
                nodes: self.max_nodes,
                cents_per_hour: (self.max_dollars_per_hour * 100.0).round() as u64,
                ..Caps::default()
            },
            lease_ms: self.lease.or(lease).unwrap_or(4 * 3_600_000),
            keep: self.keep || table.keep,
            yes: self.yes,
        }))
    }
}

/// Runs the experiment on machines.
pub(in crate::cli) fn run_on_machines(args: &ExperimentArgs, fleet: &FleetPlan) -> anyhow::Result<()> {
    let arms = args.load(&[])?.plan()?;
    fits(&arms)?;
    let runtime = Arc::new(crate::cli::process::runtime()?);
    runtime.block_on(on_machines(args, fleet, &arms, &runtime))
}

async fn on_machines(
    args: &ExperimentArgs,
    asked: &FleetPlan,
    arms: &[PlannedArm],
    runtime: &Arc<tokio::runtime::Runtime>,
) -> anyhow::Result<()> {
    let session = Arc::new(asked.common.session()?);
    let mut interrupts = StopSignal::install()?;
    let run = nonce()[..12].to_owned();
    let fleet = session.fleet();
    let (taken, missing) = specs(asked, &session, &arms[0].spec.fleet, &run).await?;
    taken.iter().for_each(|node| eprintln!("{}: taken, and left running after the run", node.name));
    let work = async {
        let plan = LaunchPlan { wanted: missing, lease_ms: asked.lease_ms, caps: asked.caps, yes: asked.yes };
        let launched = launch_all(&session, plan).await?;
        let mut nodes = [taken, launched].concat();
        let order = |node: &Node| arms[0].spec.fleet.replicas.iter().position(|replica| replica.name == node.name);
        nodes.sort_by_key(order);
        let carrier =
            Arc::new(Carrier::new(session.clone(), nodes, plan_of(asked, &session, &arms[0])?, runtime.clone()));
        carrier.set_up().await?;
        Ok(carrier)
    };
    let done = guarded(&fleet, &run, &mut interrupts, work).await;
    let carrier = match done {
        Ok(carrier) => carrier,
        Err(error) => return finish(&session, &run, asked.keep, Err(error), &mut interrupts).await,
    };
    let done = carry(args, asked.cloud, &carrier, &mut interrupts).await;
    finish(&session, &run, asked.keep, done, &mut interrupts).await
}

/// Runs all arms and seeds; an interrupt ends the one that runs.
async fn carry(
    args: &ExperimentArgs,
    cloud: Cloud,
    carrier: &Arc<Carrier>,
    interrupts: &mut StopSignal,
) -> anyhow::Result<()> {
    let work = std::thread::scope(|scope| {
        // The runs have threads of their own and call back into the runtime.
        let place = cloud.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
        let runs = scope.spawn(move || {
            let carried = |arm: &PlannedArm, seed, requests: &[_], built| carrier.carry(arm, seed, requests, built);
            let folder = |dir: &std::path::Path| carrier.collect_in(&dir.join("machines"));
            let real = RealTime { place: format!("machines of {place}"), carrier: &carried, folder: &folder };
            execute(args, &RunPlan { real_time: Some(real), vary: &[], shard: None, rows: Rows::Keep })
        });
        tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(async {
                while !runs.is_finished() {
                    tokio::select! {
                        () = tokio::time::sleep(std::time::Duration::from_millis(50)) => {}
                        () = interrupts.recv() => {
                            eprintln!("interrupted: ending this run and the machines that were launched for it");
                            carrier.stop();
                        }
                    }
                }
            });
        });
        runs.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a run panicked")))
    });
    let logs = carrier.logs().await;
    work.and(logs)
}

/// Ends what was launched for this run and says what costs still.
async fn finish(
    session: &Session,
    run: &str,
    keep: bool,
    done: anyhow::Result<()>,
    interrupts: &mut StopSignal,
) -> anyhow::Result<()> {
    let fleet = session.fleet();
    let mine = |entry: &gorgo_cloud::ledger::Entry| entry.intent.run == run;
    let entries: Vec<_> = fleet.open()?.into_iter().filter(mine).collect();
    let ended = match (keep, entries.is_empty()) {
        (false, false) => {
            eprintln!("ending {} machine(s) of this run; interrupt to leave them", entries.len());
            tokio::select! {
                ended = fleet.kill_all(&entries) => ended,
                () = interrupts.recv() => {
                    let names: Vec<&str> = entries.iter().map(|entry| entry.intent.name.as_str()).collect();
                    bail!("{} may still cost money; end them with `gorgo kill --all`", names.join(", "));
                }
            }
        }
        _ => Ok(()),
    };
    let now_ms = Time::real().now_ms();
    let spent: u64 = session.ledger.entries()?.iter().filter(|entry| mine(entry)).map(|e| e.cents(now_ms)).sum();
    let open = fleet.open()?;
    let hourly: u64 = open.iter().map(|entry| entry.intent.cents_per_hour).sum();
    let names: Vec<&str> = open.iter().map(|entry| entry.intent.name.as_str()).collect();
    eprintln!("cost of this run so far: {}", dollars(spent));
    match names.is_empty() {
        true => eprintln!("nothing runs any more"),
        false => eprintln!("still running for {} an hour: {}", dollars(hourly), names.join(", ")),
    }
    let failures: Vec<String> = ended.err().unwrap_or_default().iter().map(ToString::to_string).collect();
    match (done, failures.is_empty()) {
        (done, true) => done,
        (Ok(()), false) => bail!("{}", failures.join("\n")),
        (Err(error), false) => Err(error.context(failures.join("\n"))),
    }
}

/// Refuses what machines cannot carry.
fn fits(arms: &[PlannedArm]) -> anyhow::Result<()> {
    let first = &arms[0].spec.fleet;
    for arm in arms {
        let refuse = |what: &str, remedy: &str| bail!("arm `{}`: {what} cannot run on machines; {remedy}", arm.label);
        if arm.spec.topology != TopologySpec::Edge {
            return refuse("topology = \"proxy\"", "leave the arm out, or run without --cloud");
        }
        if !arm.spec.faults.is_empty() {
            return refuse("a fault", "remove [[faults]], or run without --cloud");
        }
        if !arm.spec.live.nodes.is_empty() {
            return refuse("[live] nodes", "remove them: the machines take their place");
        }
        if arm.spec.fleet != *first {
            return refuse("a fleet of its own", "give all arms one [fleet]");
        }
    }
    let own = first.replicas.iter().find(|replica| {
        let engine = replica.engine.as_ref().is_some_and(|engine| *engine != first.engine);
        engine || replica.max_running.is_some() || !replica.settings.is_empty()
    });
    if let Some(replica) = own {
        bail!("replica `{}` has engine settings of its own; machines run one engine on all", replica.name);
    }
    first.replicas.iter().try_for_each(|replica| Ok(check_name(&replica.name)?))
}

/// Machines that bear the replicas' names, and what to launch for the others.
async fn specs(
    asked: &FleetPlan,
    session: &Session,
    fleet: &FleetSpec,
    run: &str,
) -> anyhow::Result<(Vec<Node>, Vec<(Spec, u64)>)> {
    let running = session.nodes().await?;
    let (mut taken, mut missing) = (Vec::new(), Vec::new());
    let offers = session.provider.offers().await?;
    let expires_ms = Time::real().now_ms() + asked.lease_ms;
    for replica in &fleet.replicas {
        if let Some(node) = running.iter().find(|node| node.name == replica.name) {
            taken.push(node.clone());
            continue;
        }
        let usual = match asked.cloud {
            Cloud::Local => Some("gpu_1x_a100".to_owned()),
            Cloud::Ssh => Some(replica.name.clone()),
            Cloud::Lambda | Cloud::Modal => None,
        };
        let machine = asked.machine.clone().filter(|_| asked.cloud != Cloud::Ssh).or(usual);
        let machine = machine.context("name the type of machine to launch with --type or [cloud] type")?;
        let offer = offers.iter().find(|offer| offer.name == machine);
        let offer = offer.with_context(|| format!("no type or host `{machine}`; look at `gorgo available`"))?;
        let able = session.provider.capabilities();
        // A place in an experiment names its provider; a provider's own regions do not.
        let bare =
            if able.loopback { replica.region.as_str() } else { replica.region.rsplit(':').next().unwrap_or_default() };
        let free =
            offer.regions.iter().find(|region| region.name == bare || region.name.ends_with(&format!(":{bare}")));
        let region = match (free, asked.cloud) {
            (Some(region), _) => region.name.clone(),
            (None, Cloud::Ssh) => offer.regions.first().map(|region| region.name.clone()).unwrap_or_default(),
            (None, _) if able.any_region => bare.to_owned(),
            (None, _) => bail!("no {machine} is free in `{bare}`, where replica `{}` is", replica.name),
        };
        let cents = session.provider.cents_per_hour(offer, &region);
        let spec = Spec {
            run: run.to_owned(),
            name: replica.name.clone(),
            machine,
            region,
            filesystem: None,
            image: asked.image.clone(),
            ports: gorgo_cloud::provider::Ports::default(),
            expires_ms,
        };
        missing.push((spec, cents));
    }
    Ok((taken, missing))
}

/// What the machines shall run.
fn plan_of(asked: &FleetPlan, session: &Session, arm: &PlannedArm) -> anyhow::Result<Plan> {
    let fleet = &arm.spec.fleet;
    let engine = match EngineKind::choose(asked.engine, session)? {
        EngineKind::Emulated => {
            let mut words = vec!["--preset".to_owned(), fleet.engine.clone()];
            let settings = fleet.settings.iter().map(|(key, value)| format!("{key}={value}"));
            words.extend(settings.flat_map(|set| ["--set".to_owned(), set]));
            Engine::Emulated { args: words }
        }
        EngineKind::Sglang => Engine::Sglang { args: Vec::new() },
        EngineKind::Docker => Engine::Docker { image: asked.image.clone(), args: Vec::new() },
    };
    let earlier = session.plan().ok();
    let hub = Hub::from_environment()?;
    Ok(Plan {
        engine,
        model: asked.model.clone(),
        max_running: fleet.max_running.unwrap_or(10),
        rates: rates(arm),
        router: load::router_table(arm)?,
        keys: earlier.map_or_else(Keys::random, |plan| plan.keys),
        binary: std::env::current_exe().context("cannot find this program's own file")?,
        binary_arm64: None,
        disk_gib: 60,
        hub_token: hub.token.map(Into::into),
        hub: hub.url,
    })
}

fn rates(arm: &PlannedArm) -> BTreeMap<String, f64> {
    let replicas = arm.spec.fleet.replicas.iter();
    replicas.filter_map(|replica| Some((replica.name.clone(), replica.ms_per_token?))).collect()
}
