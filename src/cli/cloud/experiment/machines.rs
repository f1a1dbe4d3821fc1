//! Which machines carry an arm: those that bear its replicas' names, what to launch for the others, and what they run.

use super::super::cluster::{EngineKind, Hub};
use super::super::{Cloud, Session};
use super::args::{FleetPlan, MachineTable};
use anyhow::{Context, bail};
use gorgo_cloud::provider::{Spec, check_name};
use gorgo_cloud::setup::{Engine, Keys, OwnEngine, Plan};
use gorgo_cloud::{Node, Time};
use gorgo_core::settings::merge_tables;
use gorgo_experiments::build::{Built, build};
use gorgo_experiments::live;
use gorgo_experiments::spec::run::{FleetSpec, ReplicaSpec, TopologySpec};
use gorgo_experiments::spec::{Experiment, PlannedArm};
use gorgo_sim::engine::EngineKind as Scheduler;
use std::collections::BTreeMap;
use toml::{Table, Value};

/// Refuses what machines cannot carry.
pub(super) fn fits(arms: &[PlannedArm], asked: &FleetPlan) -> anyhow::Result<()> {
    let first = &arms[0].spec.fleet;
    for arm in arms {
        let refuse = |what: &str, remedy: &str| bail!("arm `{}`: {what} cannot run on machines; {remedy}", arm.label);
        if !arm.spec.live.nodes.is_empty() {
            return refuse("[live] nodes", "remove them: the machines take their place");
        }
        if arm.spec.fleet != *first {
            return refuse("a fleet of its own", "give all arms one [fleet]");
        }
        proxy_machine(arm)?;
        live::check(arm).with_context(|| format!("arm `{}`", arm.label))?;
    }
    let names: Vec<&str> = first.replicas.iter().map(|replica| replica.name.as_str()).collect();
    if let Some(name) = asked.machines.keys().find(|name| !names.contains(&name.as_str())) {
        bail!("[cloud.machines.{name}] names no replica of the fleet; it has: {}", names.join(", "));
    }
    names.iter().try_for_each(|name| Ok(check_name(name)?))
}

/// The machine on which an arm's proxy runs: that of the first replica in the region that the experiment gives the
/// proxy. None for an arm with edges.
pub(super) fn proxy_machine(arm: &PlannedArm) -> anyhow::Result<Option<usize>> {
    if arm.spec.topology == TopologySpec::Edge {
        return Ok(None);
    }
    let replicas = &arm.spec.fleet.replicas;
    let region = arm.spec.proxy_region.as_ref().unwrap_or(&replicas[0].region);
    let at = replicas.iter().position(|replica| replica.region == *region);
    let known: Vec<&str> = replicas.iter().map(|replica| replica.region.as_str()).collect();
    at.map(Some).with_context(|| {
        let (label, known) = (&arm.label, known.join(", "));
        format!(
            "arm `{label}`: no replica is in `{region}`, and a proxy runs on a replica's machine; set proxy_region to one \
             of: {known}"
        )
    })
}

/// Machines that bear the replicas' names, and what to launch for the others.
pub(super) async fn specs(
    asked: &FleetPlan,
    session: &Session,
    fleet: &FleetSpec,
    run: &str,
) -> anyhow::Result<(Vec<Node>, Vec<(Spec, Option<u64>)>)> {
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
        let own = asked.machines.get(&replica.name);
        let machine = own.and_then(|own| own.r#type.clone()).or_else(|| asked.machine.clone());
        let machine = machine.filter(|_| asked.cloud != Cloud::Ssh).or(usual);
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
            ports: own.map(MachineTable::ports).transpose()?.flatten().unwrap_or_default(),
            expires_ms,
        };
        missing.push((spec, cents));
    }
    Ok((taken, missing))
}

/// What the machines shall run.
pub(super) fn plan_of(
    asked: &FleetPlan,
    session: &Session,
    experiment: &Experiment,
    arms: &[PlannedArm],
) -> anyhow::Result<Plan> {
    // All arms have one fleet.
    let arm = arms.iter().find(|arm| arm.spec.topology == TopologySpec::Edge).unwrap_or(&arms[0]);
    let fleet = &arm.spec.fleet;
    let built = build(&experiment.file, &arm.spec, 0, &[])?;
    let kind = EngineKind::choose(asked.engine, session)?;
    let engine = match kind {
        EngineKind::Emulated => Engine::Emulated { args: Vec::new() },
        EngineKind::Sglang => Engine::Sglang { args: Vec::new() },
        EngineKind::Docker => Engine::Docker { image: asked.image.clone(), args: Vec::new() },
    };
    let earlier = session.plan().ok();
    let hub = Hub::from_environment()?;
    let mut plan = Plan {
        engine,
        model: asked.model.clone(),
        max_running: built.world.replicas[0].engine.max_running_requests,
        own: own_engines(fleet, &built, kind)?,
        rates: rates(&built),
        router: router_table(arm)?,
        keys: earlier.map_or_else(Keys::random, |plan| plan.keys),
        binary: std::env::current_exe().context("cannot find this program's own file")?,
        binary_arm64: None,
        disk_gib: 60,
        healthy_within_min: 60,
        hub_token: hub.token.map(Into::into),
        hub: hub.url,
    };
    asked.program.choose(&mut plan)?;
    Ok(plan)
}

/// The routers' settings of an arm.
pub(super) fn router_table(arm: &PlannedArm) -> anyhow::Result<Table> {
    let mut table = Table::new();
    table.insert("policy".to_owned(), Value::try_from(&arm.spec.policy)?);
    table.insert("router".to_owned(), Value::try_from(&arm.spec.router)?);
    let signals = &arm.spec.signals;
    let period = |ms: f64| Value::Integer(ms as i64);
    let periods = [
        ("period_ms", period(signals.probe_ms)),
        ("scrape_ms", period(signals.scrape_ms)),
        ("peer_ms", period(signals.peer_ms)),
    ];
    table.insert(
        "probes".to_owned(),
        Value::Table(periods.map(|(key, value)| (key.to_owned(), value)).into_iter().collect()),
    );
    Ok(table)
}

/// Each machine's engine as the experiment describes it. A real engine is told how many requests it may run; the other
/// settings describe it to the simulation beside.
fn own_engines(fleet: &FleetSpec, built: &Built, kind: EngineKind) -> anyhow::Result<BTreeMap<String, OwnEngine>> {
    let own = |(replica, config): (&ReplicaSpec, &gorgo_sim::world::ReplicaConfig)| {
        let preset = replica.engine.as_ref().unwrap_or(&fleet.engine);
        if kind != EngineKind::Emulated && config.engine.kind != Scheduler::Sglang {
            bail!(
                "replica `{}`: preset `{preset}` is {}, and machines run SGLang; give --engine emulated, or a preset of \
                 SGLang",
                replica.name,
                config.engine.kind.as_str()
            );
        }
        let mut args = Vec::new();
        if kind == EngineKind::Emulated {
            args.extend(["--preset".to_owned(), preset.clone()]);
            let mut settings = fleet.settings.clone();
            // The fleet's settings serve all its engines: each gets those that its kind reads.
            settings.retain(|key, _| config.engine.kind.check_read(std::iter::once(key)).is_ok());
            merge_tables(&mut settings, &replica.settings);
            settings.remove("max_running_requests");
            args.extend(assignments("", &settings).into_iter().flat_map(|set| ["--set".to_owned(), set]));
        }
        Ok((replica.name.clone(), OwnEngine { max_running: config.engine.max_running_requests, args }))
    };
    fleet.replicas.iter().zip(&built.world.replicas).map(own).collect()
}

/// `key=value` of each value in a table, with dotted keys.
fn assignments(above: &str, table: &Table) -> Vec<String> {
    let of = |(key, value): (&String, &Value)| match value {
        Value::Table(inner) => assignments(&format!("{above}{key}."), inner),
        value => vec![format!("{above}{key}={value}")],
    };
    table.iter().flat_map(of).collect()
}

fn rates(built: &Built) -> BTreeMap<String, f64> {
    let replicas = built.world.replicas.iter();
    replicas.filter_map(|replica| Some((replica.name.clone(), replica.ms_per_token?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use gorgo_experiments::spec::run::RunSpec;

    #[test]
    fn each_engine_gets_the_settings_that_its_kind_reads() {
        let spec: RunSpec = toml::from_str(
            r#"workload = { trace = "wildchat-located" }
            [fleet]
            max_running = 7
            settings = { kv_tokens = 9000, chunked_prefill_size = 512, decode = { fixed_ms = 3.0 } }
            replicas = [
                { name = "a", region = "aws:us-east-1", settings = { kv_tokens = 8000 } },
                { name = "b", region = "aws:us-east-1", max_running = 3, settings = { kind = "vllm" } },
            ]"#,
        )
        .unwrap();
        let fleet = &spec.fleet;
        let built = build("here", &spec, 0, &[]).unwrap();
        let own = own_engines(fleet, &built, EngineKind::Emulated).unwrap();
        let words = |name: &str| own[name].args.join(" ");
        assert_eq!(
            words("a"),
            "--preset mistral-7b-a100-80 --set chunked_prefill_size=512 --set decode.fixed_ms=3.0 --set kv_tokens=8000"
        );
        assert_eq!(
            words("b"),
            "--preset mistral-7b-a100-80 --set decode.fixed_ms=3.0 --set kind=\"vllm\" --set kv_tokens=9000"
        );
        assert_eq!((own["a"].max_running, own["b"].max_running), (7, 3));
        let real = own_engines(fleet, &built, EngineKind::Docker).unwrap_err().to_string();
        assert!(real.contains("replica `b`") && real.contains("is vllm"), "{real}");
    }
}
