//! Which machines carry an arm: those that bear its replicas' names, what to launch for the others, and what they run.

use super::super::cluster::{EngineKind, Hub};
use super::super::{Cloud, Session};
use super::args::{FleetPlan, MachineTable};
use anyhow::{Context, bail};
use gorgo_cloud::provider::{Spec, check_name};
use gorgo_cloud::setup::{Engine, Keys, OwnEngine, Plan};
use gorgo_cloud::{Node, Time};
use gorgo_core::settings::{merge_tables, set_key};
use gorgo_experiments::build::{Built, build};
use gorgo_experiments::live;
use gorgo_experiments::spec::run::{FleetSpec, ReplicaSpec, RunSpec, TopologySpec};
use gorgo_experiments::spec::{Experiment, PlannedArm};
use gorgo_sim::engine::EngineKind as Scheduler;
use std::collections::BTreeMap;
use toml::{Table, Value};

/// The replicas of all arms, each once, in the order in which arms name them: one machine each.
pub(super) fn replicas(arms: &[PlannedArm]) -> Vec<&ReplicaSpec> {
    let mut all: Vec<&ReplicaSpec> = Vec::new();
    for replica in arms.iter().flat_map(|arm| &arm.spec.fleet.replicas) {
        if !all.iter().any(|known| known.name == replica.name) {
            all.push(replica);
        }
    }
    all
}

/// Refuses what machines cannot carry.
pub(super) fn fits(arms: &[PlannedArm], asked: &FleetPlan) -> anyhow::Result<()> {
    let replicas = replicas(arms);
    for arm in arms {
        let refuse = |what: &str, remedy: &str| bail!("arm `{}`: {what} cannot run on machines; {remedy}", arm.label);
        if !arm.spec.live.nodes.is_empty() {
            return refuse("[live] nodes", "remove them: the machines take their place");
        }
        for replica in &arm.spec.fleet.replicas {
            let elsewhere = replicas.iter().find(|known| known.name == replica.name && known.region != replica.region);
            if let Some(known) = elsewhere {
                let what = format!("replica `{}` in {} and in {}", replica.name, known.region, replica.region);
                return refuse(&what, "give it another name there");
            }
        }
        proxy_machine(arm)?;
        live::check(arm).with_context(|| format!("arm `{}`", arm.label))?;
    }
    let names: Vec<&str> = replicas.iter().map(|replica| replica.name.as_str()).collect();
    if let Some(name) = asked.machines.keys().find(|name| !names.contains(&name.as_str())) {
        bail!("[cloud.machines.{name}] names no replica; there are: {}", names.join(", "));
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
    replicas: &[&ReplicaSpec],
    run: &str,
) -> anyhow::Result<(Vec<Node>, Vec<(Spec, Option<u64>)>)> {
    let running = session.nodes().await?;
    let (mut taken, mut missing) = (Vec::new(), Vec::new());
    let offers = session.provider.offers().await?;
    let expires_ms = Time::real().now_ms() + asked.lease_ms;
    for replica in replicas {
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

/// What the machines shall run before the first arm: each the engine of the first arm that has it.
pub(super) fn plan_of(
    asked: &FleetPlan,
    session: &Session,
    experiment: &Experiment,
    arms: &[PlannedArm],
) -> anyhow::Result<Plan> {
    let arm = arms.iter().find(|arm| arm.spec.topology == TopologySpec::Edge).unwrap_or(&arms[0]);
    let kind = EngineKind::choose(asked.engine, session)?;
    let (mut own, mut rates) = (BTreeMap::new(), BTreeMap::new());
    // The last one counts, so the first arm comes last.
    for arm in arms.iter().rev() {
        let built = build(&experiment.file, &arm.spec, 0, &[])?;
        let engines = own_engines(&arm.spec.fleet, &built, kind == EngineKind::Emulated);
        own.extend(engines.with_context(|| format!("arm `{}`", arm.label))?);
        rates.extend(rates_of(&built));
    }
    let engine = match kind {
        EngineKind::Emulated => Engine::Emulated { args: Vec::new() },
        EngineKind::Sglang => Engine::Sglang { args: Vec::new() },
        EngineKind::Docker => Engine::Docker { image: asked.image.clone(), args: Vec::new() },
    };
    let keys = session.plan().ok().map_or_else(Keys::random, |plan| plan.keys);
    let hub = Hub::from_environment()?;
    let mut plan = Plan {
        engine,
        model: asked.model.clone(),
        max_running: own.values().map(|own| own.max_running).next().context("no replica")?,
        own,
        rates,
        owner: session.owner()?,
        router: router_table(&arm.spec, &keys)?,
        keys,
        binary: std::env::current_exe().context("cannot find this program's own file")?,
        binary_arm64: None,
        disk_gib: asked.needs.disk_gib,
        healthy_within_min: asked.needs.healthy_within,
        hub_token: hub.token.map(Into::into),
        hub: hub.url,
    };
    asked.program.choose(&mut plan)?;
    Ok(plan)
}

/// `plan` with an arm's engines, rates and routers.
pub(super) fn plan_for(plan: &Plan, arm: &PlannedArm, built: &Built) -> anyhow::Result<Plan> {
    let mut plan = plan.clone();
    let emulated = matches!(plan.engine, Engine::Emulated { .. });
    plan.own.extend(own_engines(&arm.spec.fleet, built, emulated)?);
    plan.rates.retain(|name, _| !built.names.replicas.contains(name));
    plan.rates.extend(rates_of(built));
    plan.router = router_table(&arm.spec, &plan.keys)?;
    Ok(plan)
}

/// The routers' settings of an arm, the same that routers of a live run on one machine get.
pub(super) fn router_table(spec: &RunSpec, keys: &Keys) -> anyhow::Result<Table> {
    // Whoever reads a digest and knows the seed can guess prompts, so the seed is as secret as the key it comes from.
    let seed = gorgo_cloud::digest::of(format!("hash seed {}", keys.admin).as_bytes());
    let settings = live::router_settings(spec, &seed);
    let mut table = Table::try_from(&settings)?;
    table.retain(|section, _| ["policy", "router", "probes", "sharing", "upstream"].contains(&section));
    if let Some(seed) = &settings.sharing.hash_seed {
        // A secret serializes as a mark that one is set.
        set_key(&mut table, "sharing.hash_seed", seed.expose().into())?;
    }
    Ok(table)
}

/// Each machine's engine as the experiment describes it. A real engine is told how many requests it may run; the other
/// settings describe it to the simulation beside.
fn own_engines(fleet: &FleetSpec, built: &Built, emulated: bool) -> anyhow::Result<BTreeMap<String, OwnEngine>> {
    let own = |(replica, config): (&ReplicaSpec, &gorgo_sim::world::ReplicaConfig)| {
        let preset = replica.engine.as_ref().unwrap_or(&fleet.engine);
        if !emulated && config.engine.kind != Scheduler::Sglang {
            bail!(
                "replica `{}`: preset `{preset}` is {}, and machines run SGLang; give --engine emulated, or a preset of \
                 SGLang",
                replica.name,
                config.engine.kind.as_str()
            );
        }
        let mut args = Vec::new();
        if emulated {
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

/// Prefill rates that routers are configured with.
fn rates_of(built: &Built) -> BTreeMap<String, f64> {
    let replicas = built.world.replicas.iter();
    replicas.filter_map(|replica| Some((replica.name.clone(), replica.ms_per_token?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use gorgo_live::config::Config;

    #[test]
    fn routers_of_machines_get_what_routers_of_a_run_on_one_machine_get() {
        let text = r#"workload = { trace = "wildchat-located" }
            policy = "prefix-tree"
            fleet.replicas = [{ name = "a", region = "aws:us-east-1" }]
            [signals]
            probe_ms = 700
            "#;
        let (keys, other) = (Keys::random(), Keys::random());
        for digests in ["", "digest_ms = 2000\n"] {
            let spec: RunSpec = toml::from_str(&format!("{text}{digests}")).unwrap();
            let table = router_table(&spec, &keys).unwrap();
            let read = Config::from_table(table.clone()).unwrap();
            let seed = read.sharing.hash_seed.as_ref().map(|seed| seed.expose().to_owned());
            assert_eq!(read, live::router_settings(&spec, seed.as_deref().unwrap_or_default()));
            assert_eq!((read.probes.period_ms, read.upstream.compress_to_peers), (700, false));
            // Digests are on exactly when the experiment asks for them, under a seed of this cluster's own.
            assert_eq!((read.probes.digest_ms > 0, seed.is_some()), (!digests.is_empty(), !digests.is_empty()));
            assert_eq!(router_table(&spec, &other).unwrap() != table, seed.is_some());
            assert!(seed.is_none_or(|seed| seed.len() >= 16 && !seed.contains(&keys.admin)));
        }
    }

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
        let own = own_engines(fleet, &built, true).unwrap();
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
        let real = own_engines(fleet, &built, false).unwrap_err().to_string();
        assert!(real.contains("replica `b`") && real.contains("is vllm"), "{real}");
    }
}
