//! Settings that act in no arm. An arm may switch a mechanism off that another one uses, so all arms are looked at.

use super::plan::PlannedArm;
use super::run::{RunSpec, TopologySpec};
use gorgo_core::router::{Admission, RouterConfig};
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

const RULES: [Rule; 6] = [
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
        is_set: |spec| spec.router.digest_half_life_ms != RouterConfig::default().digest_half_life_ms,
        acts: |spec| spec.signals.digest_ms > 0.0 && !is_proxy(spec),
        message: "router.digest_half_life_ms has no effect, because no arm with edges has signals.digest_ms above 0; \
                  drop it or switch digests on",
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
