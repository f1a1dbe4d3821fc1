//! Configuration of a live run's parts: links with the round trips between regions, and each router's settings.

use crate::build::Built;
use crate::spec::PlannedArm;
use crate::spec::run::RunSpec;
use gorgo_benchmark::emulator::Emulator;
use gorgo_benchmark::relay::LinkConfig;
use gorgo_core::rng;
use gorgo_live::config::{Config, PeerConfig, Probes, ReplicaConfig, Role, Sharing, Upstreams};
use gorgo_sim::network::Network;
use gorgo_sim::world::Topology;
use rand::Rng;
use std::net::SocketAddr;

/// Any free port of this machine.
pub(super) const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

pub(super) fn link_name(router: usize, replica: usize) -> String {
    format!("{router} to {replica}")
}

/// A link for each router and replica (or peer) that are not at one site.
pub(super) fn links(built: &Built, sites: &[usize], engines: &[Emulator], doors: &[SocketAddr]) -> Vec<LinkConfig> {
    let world = &built.world;
    let places: Vec<_> = world.sites.iter().map(|s| s.place).collect();
    let measured =
        |a: usize, b: usize| world.measured.iter().find(|rtt| (rtt.from, rtt.to) == (a, b)).map(|rtt| rtt.ms);
    let mut network = Network::new(world.network.clone(), world.seed, &places, measured);
    world.numbered_links().for_each(|(a, b, link)| network.set_link(a, b, link));
    let mut links = Vec::new();
    for (r, &from) in sites.iter().enumerate() {
        for (u, replica) in world.replicas.iter().enumerate().filter(|(_, replica)| replica.site != from) {
            links.push(LinkConfig {
                name: link_name(r, u),
                listen: LOOPBACK,
                target: if sites.len() > 1 { doors[u] } else { engines[u].addr() },
                from: world.sites[from].name.clone(),
                to: world.sites[replica.site].name.clone(),
                // The relay's network applies the scale itself.
                rtt_ms: Some(network.base_ms(from, replica.site) / world.network.scale),
                mean_lifetime_s: None,
                numbers: world
                    .numbered_links()
                    .find(|&(a, b, _)| (a, b) == (from, replica.site) || (b, a) == (from, replica.site))
                    .map(|(_, _, numbers)| numbers.clone()),
            });
        }
    }
    links
}

/// What an arm sets on each of its routers, wherever they run: policy, gates, periods of signals, digests and links.
/// Edges that tell each other digests hash prompts with `hash_seed`.
pub fn router_settings(spec: &RunSpec, hash_seed: &str) -> Config {
    let signals = &spec.signals;
    Config {
        policy: spec.policy.clone(),
        router: spec.router.clone(),
        probes: Probes {
            period_ms: signals.probe_ms as u64,
            scrape_ms: signals.scrape_ms as u64,
            peer_ms: signals.peer_ms as u64,
            digest_ms: signals.digest_ms as u64,
            ..Probes::default()
        },
        sharing: Sharing {
            hash_seed: (signals.digest_ms > 0.0).then(|| hash_seed.to_owned().into()),
            ..Sharing::default()
        },
        // As simulated: a request has the same bytes on every link.
        upstream: Upstreams { compress_to_peers: false, ..Upstreams::default() },
        ..Config::default()
    }
}

/// The configuration of router `i`, as a user would write it.
pub(super) fn config(
    arm: &PlannedArm,
    seed: u64,
    built: &Built,
    i: usize,
    listen: SocketAddr,
    find: &dyn Fn(usize, usize) -> String,
) -> Config {
    let (world, names) = (&built.world, &built.names);
    let edge = matches!(world.topology, Topology::Edge);
    let replica = |u: usize| ReplicaConfig {
        url: find(i, u),
        name: Some(names.replicas[u].clone()),
        region: None,
        labels: Vec::new(),
        ms_per_token: world.replicas[u].ms_per_token,
        kv_tokens: Some(u64::from(world.replicas[u].engine.kv_tokens)),
        models: Vec::new(),
        api_key: None,
        api_key_file: None,
    };
    let all = 0..world.replicas.len();
    Config {
        role: if edge { Role::Edge } else { Role::Proxy },
        name: names.routers[i].clone(),
        listen,
        seed: rng::stream(seed, "policy", i as u64).next_u64(),
        replicas: all.clone().filter(|&u| !edge || u == i).map(replica).collect(),
        peers: all
            .filter(|&u| edge && u != i)
            .map(|u| PeerConfig {
                url: find(i, u),
                name: Some(names.replicas[u].clone()),
                region: None,
                labels: Vec::new(),
            })
            .collect(),
        ..router_settings(&arm.spec, "the edges of one live run")
    }
}
