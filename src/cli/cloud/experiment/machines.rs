//! Which machines carry an arm: those that bear its replicas' names, what to launch for the others, and what they run.

use super::super::cluster::{EngineKind, Hub};
use super::super::{Cloud, Session};
use super::{FleetPlan, load};
use anyhow::{Context, bail};
use gorgo_cloud::provider::{Spec, check_name};
use gorgo_cloud::setup::{Engine, Keys, Plan};
use gorgo_cloud::{Node, Time};
use gorgo_experiments::spec::PlannedArm;
use gorgo_experiments::spec::run::{FleetSpec, TopologySpec};
use std::collections::BTreeMap;

/// Refuses what machines cannot carry.
pub(super) fn fits(arms: &[PlannedArm]) -> anyhow::Result<()> {
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
pub(super) async fn specs(
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
pub(super) fn plan_of(asked: &FleetPlan, session: &Session, arm: &PlannedArm) -> anyhow::Result<Plan> {
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
