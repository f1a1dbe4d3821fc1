//! Settings that act in no arm. An arm may switch a mechanism off that another one uses, so all arms are looked at.

use super::plan::PlannedArm;
use super::run::{PROXY, ReplicaSpec, RunSpec, SignalsSpec, TopologySpec};
use gorgo_core::router::{Admission, RouterConfig};
use gorgo_sim::engine::EngineConfig;
use gorgo_sim::network::NetworkConfig;
use gorgo_sim::world::ProxiesConfig;

/// A setting that acts only together with another one.
struct Rule {
    is_set: fn(&RunSpec) -> bool,
    acts: fn(&RunSpec) -> bool,
    /// What is wrong when it is set and acts nowhere.
    message: &'static str,
}

fn is_proxy(spec: &RunSpec) -> bool {
    spec.topology == TopologySpec::Proxy
}

/// Whether a router sends requests to another one.
fn has_peers(spec: &RunSpec) -> bool {
    !is_proxy(spec) && spec.fleet.replicas.len() > 1
}

/// The number that the engine's settings of one replica hold.
fn engine_number(spec: &RunSpec, replica: &ReplicaSpec, key: &str) -> Option<f64> {
    let value = replica.settings.get(key).or_else(|| spec.fleet.settings.get(key))?;
    value.as_float().or_else(|| value.as_integer().map(|n| n as f64))
}

/// Whether any engine takes longer at its first steps.
fn warms_up(spec: &RunSpec) -> bool {
    spec.fleet.replicas.iter().any(|replica| {
        let preset = replica.engine.as_deref().unwrap_or(&spec.fleet.engine);
        let preset = || EngineConfig::preset(preset).map_or(0.0, |engine| engine.warm_up_s);
        engine_number(spec, replica, "warm_up_s").unwrap_or_else(preset) > 0.0
    })
}

const RULES: [Rule; 14] = [
    Rule {
        is_set: |spec| spec.proxy_region.is_some(),
        acts: is_proxy,
        message: "proxy_region has no effect, because no arm has topology = \"proxy\"; drop it or add such an arm",
    },
    Rule {
        is_set: |spec| spec.proxies != ProxiesConfig::default(),
        acts: is_proxy,
        message: "proxies has no effect, because no arm has topology = \"proxy\"; drop it or add such an arm",
    },
    Rule {
        is_set: |spec| {
            let (own, default) = (spec.proxies, ProxiesConfig::default());
            let of = |proxies: ProxiesConfig| (proxies.share_ms, proxies.share_loss, proxies.share_late_ms);
            of(own) != of(default)
        },
        acts: |spec| spec.proxies.share(),
        message: "proxies.share_ms, share_loss and share_late_ms have no effect, because no arm has several proxies with \
                  proxies.prefixes = \"shared\"; drop them or add such an arm",
    },
    Rule {
        is_set: |spec| spec.links.iter().any(|link| link.from == PROXY || link.to == PROXY),
        acts: is_proxy,
        message: "the end `proxy` of [[links]] has no effect, because no arm has topology = \"proxy\"; drop that link or add such \
                  an arm",
    },
    Rule {
        is_set: |spec| spec.router.admission != Admission::Off,
        acts: |spec| spec.client.deadline_ms.is_some(),
        message: "router.admission has no effect without a deadline; give client.deadline_ms or drop it",
    },
    Rule {
        is_set: |spec| spec.router.egress.ms_per_unit > 0.0,
        acts: |spec| !spec.router.egress.prices.is_empty(),
        message: "router.egress.ms_per_unit has no effect without prices; list router.egress.prices or drop it",
    },
    Rule {
        is_set: |spec| !spec.router.egress.prices.is_empty(),
        acts: |spec| spec.router.egress.ms_per_unit > 0.0,
        message: "router.egress.prices has no effect without router.egress.ms_per_unit, the worth of a unit of money in ms; give \
                  it or drop the prices",
    },
    Rule {
        is_set: |spec| spec.router.digest_half_life_ms != RouterConfig::default().digest_half_life_ms,
        acts: |spec| spec.signals.digest_ms > 0.0 && !is_proxy(spec),
        message: "router.digest_half_life_ms has no effect, because no arm with edges has signals.digest_ms above 0; \
                  drop it or switch digests on",
    },
    Rule {
        is_set: |spec| {
            let default = ProxiesConfig::default();
            spec.proxies.front != default.front || spec.proxies.prefixes != default.prefixes
        },
        acts: |spec| is_proxy(spec) && spec.proxies.count > 1,
        message: "proxies.front and proxies.prefixes have no effect, because no arm has several proxies; drop them or give \
                  proxies.count",
    },
    Rule {
        is_set: |spec| spec.signals.peer_ms != SignalsSpec::default().peer_ms,
        acts: has_peers,
        message: "signals.peer_ms has no effect, because no arm has several edges; drop it or add such an arm",
    },
    Rule {
        is_set: |spec| spec.signals.digest_ms > 0.0,
        acts: has_peers,
        message: "signals.digest_ms has no effect, because no arm has several edges; drop it or add such an arm",
    },
    Rule {
        is_set: |spec| {
            spec.network.compression != NetworkConfig::default().compression
                || spec.links.iter().any(|link| link.compression.is_some())
        },
        acts: has_peers,
        message: "compression in [network] and [[links]] has no effect, because no arm has several edges that send requests \
                  to each other; drop it or add such an arm",
    },
    Rule {
        is_set: |spec| {
            let extra = |replica: &ReplicaSpec| {
                engine_number(spec, replica, "warm_up_extra_ms").is_some_and(|extra| extra > 0.0)
            };
            spec.fleet.replicas.iter().any(extra)
        },
        acts: warms_up,
        message: "fleet.settings.warm_up_extra_ms has no effect without warm_up_s, the time that it lasts; give both or drop it",
    },
    Rule {
        is_set: |spec| spec.residency.is_some(),
        acts: |spec| spec.residency.as_ref().is_some_and(|residency| !residency.groups.is_empty()),
        message: "residency has no effect without groups of regions; list residency.groups or drop it",
    },
];

/// The first setting that acts in no arm: the arm that has it, and what is wrong.
pub(super) fn unused(planned: &[PlannedArm]) -> Option<(&str, &'static str)> {
    RULES.iter().find_map(|rule| {
        let mut with = planned.iter().filter(|arm| (rule.is_set)(&arm.spec)).peekable();
        let label = with.peek()?.label.as_str();
        (!with.any(|arm| (rule.acts)(&arm.spec))).then_some((label, rule.message))
    })
}
