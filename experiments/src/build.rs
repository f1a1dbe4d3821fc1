//! Builds a simulated world from a spec: regions become places and round trips, presets become engines.

use crate::results::Names;
use crate::spec::SpecError;
use crate::spec::run::{FaultKindSpec, MAX_RUNNING, ReplicaSpec, RunSpec, TopologySpec, explain};
use gorgo_core::request::TraceRequest;
use gorgo_core::settings::merge_tables;
use gorgo_core::suggest::{did_you_mean, in_words};
use gorgo_core::{Span, Time};
use gorgo_sim::engine::EngineConfig;
use gorgo_sim::network::LinkConfig;
use gorgo_sim::world::{Client, Country, Fault, FaultKind, MeasuredRtt, ReplicaConfig, Site, Topology, WorldConfig};
use gorgo_traces::geo;
use std::collections::BTreeSet;
use toml::{Table, Value};

/// A world, and the names that its indices stand for.
#[derive(Debug, Clone)]
pub struct Built {
    /// What to run.
    pub world: WorldConfig,
    /// Names that the indices in records stand for.
    pub names: Names,
}

/// Builds the world of `spec` for one seed and its workload.
///
/// # Errors
/// When a region or engine preset is not known, or engine settings are wrong.
pub fn build(file: &str, spec: &RunSpec, seed: u64, workload: &[TraceRequest]) -> Result<Built, SpecError> {
    let mut sites = Sites { file, keys: Vec::new(), sites: Vec::new() };
    let mut replicas = Vec::new();
    for replica in &spec.fleet.replicas {
        let preset = replica.engine.as_deref().unwrap_or(&spec.fleet.engine);
        let engine = engine(file, preset, spec, replica)?;
        let own = spec.fleet.own_rates.then(|| engine.ms_per_token());
        replicas.push(ReplicaConfig {
            name: replica.name.clone(),
            site: sites.site(&replica.name, &replica.region)?,
            ms_per_token: replica.ms_per_token.or(own),
            keep_alive_ms: replica.keep_alive_ms,
            engine,
        });
    }
    let topology = match spec.topology {
        TopologySpec::Edge => Topology::Edge,
        TopologySpec::Proxy => {
            let region = spec.proxy_region.as_ref().unwrap_or(&spec.fleet.replicas[0].region);
            Topology::Proxy { site: sites.site("proxy", region)? }
        }
    };
    let measured = sites.measured();
    // An edge fleet has no site for the proxy that other arms have, nor for its region.
    let links = spec.links.iter().filter_map(|link| {
        let end = |name| spec.region_of(name).ok().filter(|region| sites.keys.iter().any(|k| k == region));
        let (from, to) = (end(link.from.as_str())?.to_owned(), end(link.to.as_str())?.to_owned());
        Some(LinkConfig { from, to, ..link.clone() })
    });
    let links = links.collect();
    let countries: BTreeSet<[u8; 2]> = workload.iter().filter_map(|r| r.country).collect();
    let mut origins: Vec<String> = countries.iter().map(|&c| geo::country_name(c)).collect();
    origins.push("unknown".to_owned());
    let routers = match topology {
        Topology::Edge => replicas.iter().map(|r| format!("lb {}", r.name)).collect(),
        Topology::Proxy { site } => {
            let region = &sites.sites[site].name;
            let number = |i: u16| if spec.proxies.count == 1 { String::new() } else { format!(" {}", i + 1) };
            (0..spec.proxies.count).map(|i| format!("proxy {region}{}", number(i))).collect()
        }
    };
    let names = Names { origins, routers, replicas: replicas.iter().map(|r| r.name.clone()).collect() };
    let faults = spec.faults.iter().map(|fault| Fault {
        at: Time::ZERO + Span::from_secs(fault.at_s),
        replica: spec.fleet.replicas.iter().position(|r| r.name == fault.replica).unwrap_or_default() as u16,
        kind: match fault.kind {
            FaultKindSpec::Crash => FaultKind::Crash { down_ms: fault.down_s * 1e3 },
            FaultKindSpec::Drain => FaultKind::Drain,
            FaultKindSpec::Undrain => FaultKind::Undrain,
        },
    });
    let world = WorldConfig {
        seed,
        network: spec.network.clone(),
        measured,
        links,
        countries: countries.iter().map(|&code| Country { code, access_ms: geo::access_ms(Some(code)) }).collect(),
        replicas,
        topology,
        proxies: spec.proxies,
        router: spec.router.clone(),
        block_tokens: workload.first().map_or(16, |r| r.block_tokens),
        routers_count: workload.iter().any(|r| r.router_tokens.is_some()),
        scrape_ms: spec.signals.scrape_ms,
        probe_ms: spec.signals.probe_ms,
        peer_ms: spec.signals.peer_ms,
        digest_ms: spec.signals.digest_ms,
        sample_ms: spec.signals.sample_ms,
        router_ms: spec.signals.router_ms,
        client: spec.client.workers.map_or(Client::Open, |workers| Client::Bounded { workers }),
        patience_ms: spec.client.patience_ms,
        deadline_ms: spec.client.deadline_ms,
        residency: spec.residency.clone(),
        faults: faults.collect(),
        drain_limit_s: spec.drain_limit_s,
        decisions_of: 0,
        tune: None,
        until: spec.workload.duration_s.map(|s| Time::ZERO + Span::from_secs(s)),
        sites: sites.sites,
    };
    Ok(Built { world, names })
}

/// The engine of a preset with the fleet's settings on top, and the replica's own on top of those.
fn engine(file: &str, preset: &str, spec: &RunSpec, replica: &ReplicaSpec) -> Result<EngineConfig, SpecError> {
    let fail = |message: String| {
        let message = format!("replica `{}`: {message}", replica.name);
        SpecError::Engine { file: file.to_owned(), message }
    };
    let base = EngineConfig::preset(preset).map_err(|e| fail(e.to_string()))?;
    let mut settings = Table::try_from(&base).map_err(|e| fail(e.to_string()))?;
    merge_tables(&mut settings, &spec.fleet.settings);
    merge_tables(&mut settings, &replica.settings);
    let mut engine: EngineConfig = Value::Table(settings)
        .try_into()
        .map_err(|e: toml::de::Error| fail(format!("settings: {}", in_words(&explain(&e)))))?;
    // The nearest setting wins: the replica's own settings are over the fleet's `max_running`.
    let fleets = spec.fleet.max_running.filter(|_| !replica.settings.contains_key(MAX_RUNNING));
    if let Some(most) = replica.max_running.or(fleets) {
        engine.max_running_requests = most;
    }
    let set = spec.fleet.settings.keys().chain(replica.settings.keys());
    // The fleet's settings serve all its engines, so that only its replicas' own must fit each.
    let mixed = spec.fleet.replicas.iter().any(|r| r.engine.is_some() || r.settings.contains_key("kind"));
    let own = replica.settings.keys();
    let read = if mixed {
        engine.kind.check_read(own.map(String::as_str))
    } else {
        engine.kind.check_read(set.map(String::as_str))
    };
    read.map_err(|e| fail(e.to_string()))?;
    engine.validate().map_err(|e| fail(e.to_string()))?;
    Ok(engine)
}

struct Sites<'a> {
    file: &'a str,
    keys: Vec<String>,
    sites: Vec<Site>,
}

impl Sites<'_> {
    fn site(&mut self, replica: &str, key: &str) -> Result<usize, SpecError> {
        if let Some(known) = self.keys.iter().position(|k| k == key) {
            return Ok(known);
        }
        let Some(place) = geo::place_of(key) else {
            let all: Vec<String> = geo::regions().iter().map(|r| format!("{}:{}", r.provider, r.name)).collect();
            return Err(SpecError::Region {
                file: self.file.to_owned(),
                replica: replica.to_owned(),
                region: key.to_owned(),
                hint: did_you_mean(key, all.iter().map(String::as_str)),
            });
        };
        self.keys.push(key.to_owned());
        self.sites.push(Site { name: key.to_owned(), place });
        Ok(self.sites.len() - 1)
    }

    /// Round trips measured between these regions, or between nearby ones.
    fn measured(&self) -> Vec<MeasuredRtt> {
        let mut found = Vec::new();
        for a in 0..self.sites.len() {
            for b in a + 1..self.sites.len() {
                if let Some(ms) = geo::measured_ms(&self.keys[a], &self.keys[b]) {
                    found.push(MeasuredRtt { from: a, to: b, ms });
                }
            }
        }
        found
    }
}
