//! Existing servers from `[live] nodes`: their addresses, and preparing them for an arm.

use super::{LiveError, start};
use crate::build::Built;
use crate::spec::PlannedArm;
use crate::spec::live::LiveNode;
use crate::spec::run::{FaultKindSpec, TopologySpec};
use gorgo_benchmark::load::target::Target;
use gorgo_live::AdminClient;
use gorgo_live::config::Tls;
use gorgo_sim::network::NetworkConfig;
use serde_json::{Value, json};
use std::sync::Arc;

/// The node of each replica in order of the fleet, none for an emulated fleet.
fn of(arm: &PlannedArm) -> impl Iterator<Item = &LiveNode> {
    let nodes = &arm.spec.live.nodes;
    arm.spec.fleet.replicas.iter().filter_map(|replica| nodes.iter().find(|node| node.name == replica.name))
}

/// Whether users enter at existing routers. These are edges, so only an arm with edges can use them.
fn has_routers(arm: &PlannedArm) -> bool {
    let edge = arm.spec.topology == TopologySpec::Edge;
    edge && !arm.spec.live.nodes.is_empty() && of(arm).all(|node| node.router.is_some())
}

/// Refuses what has no effect in a live run, and faults that cannot be injected into existing servers.
///
/// # Errors
/// The first such setting.
pub fn check(arm: &PlannedArm) -> Result<(), LiveError> {
    let wrong = |message: String| Err(LiveError::Setting(message));
    if let Some(factor) = arm.spec.workload.router_token_factor {
        return wrong(format!(
            "routers count tokens by themselves, so workload.router_token_factor = {factor} has no effect; drop it"
        ));
    }
    if arm.spec.topology == TopologySpec::Proxy && arm.spec.proxies.count > 1 {
        let count = arm.spec.proxies.count;
        return wrong(format!("a live run has one proxy, so proxies.count = {count} has no effect; drop it"));
    }
    if let Some(residency) = arm.spec.residency.as_ref().filter(|residency| residency.share > 0.0) {
        let share = residency.share;
        return wrong(format!(
            "users of a live run have no fences, so residency.share = {share} has no effect; drop it"
        ));
    }
    let (network, usual) = (&arm.spec.network, NetworkConfig::default());
    let advice = |key: &str| match key {
        "network.probe_scale" => format!("--set {key}={} for live runs", usual.probe_scale),
        "network.keep_alive_ms" => format!("--set {key}={} for live runs", usual.keep_alive_ms),
        "network.compression" => format!("--set {key}={} for live runs", usual.compression),
        _ => "drop it".to_owned(),
    };
    let simulated = [
        ("network.probe_scale", Some(network.probe_scale).filter(|&scale| scale != usual.probe_scale)),
        ("network.keep_alive_ms", Some(network.keep_alive_ms).filter(|&ms| ms != usual.keep_alive_ms)),
        ("network.compression", Some(network.compression).filter(|&share| share != usual.compression)),
        ("links.probe_scale", arm.spec.links.iter().find_map(|link| link.probe_scale)),
        ("links.keep_alive_ms", arm.spec.links.iter().find_map(|link| link.keep_alive_ms)),
        ("links.compression", arm.spec.links.iter().find_map(|link| link.compression)),
        ("fleet.replicas.keep_alive_ms", arm.spec.fleet.replicas.iter().find_map(|replica| replica.keep_alive_ms)),
    ];
    if let Some((key, value)) = simulated.into_iter().find_map(|(key, value)| Some((key, value?))) {
        return wrong(format!(
            "probes, idle connections and bytes of a live run are those of real routers and servers, so {key} = {value} \
             has no effect; {}, or run the arm with --mode sim",
            advice(key)
        ));
    }
    if arm.spec.live.nodes.is_empty() {
        return Ok(());
    }
    for fault in &arm.spec.faults {
        if fault.kind == FaultKindSpec::Crash || has_routers(arm) {
            return wrong(format!(
                "nodes are existing servers, so the fault of replica `{}` at {} s cannot be injected; remove the fault or \
                 the nodes",
                fault.replica, fault.at_s
            ));
        }
    }
    Ok(())
}

/// The secret in an environment variable.
pub(super) fn key(variable: Option<&str>) -> Result<Option<String>, LiveError> {
    let Some(variable) = variable else { return Ok(None) };
    match std::env::var(variable) {
        Ok(key) if !key.is_empty() => Ok(Some(key)),
        _ => Err(LiveError::Setting(format!(
            "names the environment variable {variable}, which is not set; export the key in it"
        ))),
    }
}

/// The TLS configuration for https targets, with the system's root certificates.
pub(super) fn trust(targets: &[Target]) -> Result<Option<Arc<rustls::ClientConfig>>, LiveError> {
    if !targets.iter().any(Target::is_https) {
        return Ok(None);
    }
    gorgo_live::tls_client_config(&Tls::default()).map_err(|e| start("TLS")(&e))
}

/// The engines' addresses in order of the fleet; `None` for an emulated fleet.
pub(super) fn engines(arm: &PlannedArm) -> Result<Option<Vec<String>>, LiveError> {
    if arm.spec.live.nodes.is_empty() {
        return Ok(None);
    }
    let address = |node: &LiveNode| {
        node.engine.clone().ok_or_else(|| {
            LiveError::Setting(format!(
                "node `{}` has no engine, and this arm starts its router here; add it",
                node.name
            ))
        })
    };
    of(arm).map(address).collect::<Result<_, _>>().map(Some)
}

/// Existing edges, as the users' targets.
pub(super) fn routers(arm: &PlannedArm, built: &Built) -> Option<Vec<Target>> {
    let world = &built.world;
    let target = |(node, replica): (&LiveNode, &gorgo_sim::world::ReplicaConfig)| {
        let site = &world.sites[replica.site];
        let url = node.router.as_deref()?.trim_end_matches('/').to_owned();
        Some(Target { url, name: site.name.clone(), place: Some(site.place) })
    };
    has_routers(arm).then(|| of(arm).zip(&world.replicas).filter_map(target).collect())
}

/// Sets the arm's policy on a router, and empties its index and its engines' caches.
pub(super) async fn prepare(target: &Target, arm: &PlannedArm) -> Result<(), LiveError> {
    let live = &arm.spec.live;
    let part = || start(format!("router {}", target.url));
    let admin = AdminClient::new(&target.url, key(live.admin_key_env.as_deref())?.as_deref(), &Tls::default());
    let admin = admin.map_err(|e| part()(&e))?;
    let policy = json!({"policy": arm.spec.policy});
    admin.call(http::Method::POST, "/lb/policy", Some(&policy)).await.map_err(|e| part()(&e))?;
    if live.flush {
        let all = json!({"engines": true});
        let told = admin.call(http::Method::POST, "/lb/cache/clear", Some(&all)).await.map_err(|e| part()(&e))?;
        if told["success"] != Value::Bool(true) {
            let why = format!(
                "not every cache was emptied ({}); set live.flush = false to run on warm ones",
                told["engines"]
            );
            return Err(part()(&why));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Experiment;
    use std::path::PathBuf;

    const FILE: &str = r#"
        workload = { generate = "wildchat-like", requests = 5 }
        links = [{ from = "a", to = "b", rtt_ms = 20.0 }]
        residency = { share = 0.0, groups = [["aws:us-east-1"]] }
        [fleet]
        replicas = [{ name = "a", region = "aws:us-east-1" }, { name = "b", region = "aws:us-west-2" }]
    "#;

    fn checked(set: &str) -> Result<(), String> {
        let sets: Vec<String> = (!set.is_empty()).then(|| set.to_owned()).into_iter().collect();
        let plan = Experiment::parse("x.toml", PathBuf::new(), FILE, &sets, &[]).unwrap().plan().unwrap();
        check(&plan[0]).map_err(|error| error.to_string())
    }

    #[test]
    fn settings_that_only_the_simulator_reads_are_refused() {
        assert_eq!(checked(""), Ok(()));
        for set in [
            "network.probe_scale=2.5",
            "network.keep_alive_ms=900",
            "network.compression=0.5",
            "links.0.compression=0.5",
            "links.0.probe_scale=1.5",
            "links.0.keep_alive_ms=900",
            "fleet.replicas.1.keep_alive_ms=900",
            "workload.router_token_factor=1.1",
            "residency.share=0.5",
        ] {
            let (key, value) = set.split_once('=').unwrap();
            let key: String =
                key.split('.').filter(|part| part.parse::<usize>().is_err()).collect::<Vec<_>>().join(".");
            let error = checked(set).unwrap_err();
            assert!(error.contains(&format!("{key} = {value}")) && error.contains("no effect"), "{set}: {error}");
        }
    }
}
