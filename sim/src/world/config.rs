//! Configuration of a simulation run. `error` says why it cannot be used.

mod error;

use super::key::Key;
use super::proxies::ProxiesConfig;
use super::residency::ResidencyConfig;
use super::tuned::TuneConfig;
use crate::engine::EngineConfig;
use crate::network::{LinkConfig, LinkRule, NetworkConfig};
pub use error::WorldError;
use gorgo_core::range::{DURATION_MS, OutOfRange, PERIOD_MS, check_ranges};
use gorgo_core::request::Place;
use gorgo_core::router::RouterConfig;
use gorgo_core::{MAX_REPLICAS, Time};

/// A location of routers and replicas.
#[derive(Debug, Clone, PartialEq)]
pub struct Site {
    /// Shown in reports.
    pub name: String,
    /// Where it is.
    pub place: Place,
}

/// One replica.
#[derive(Debug, Clone, PartialEq)]
pub struct ReplicaConfig {
    /// Shown in reports.
    pub name: String,
    /// Index of its site.
    pub site: usize,
    /// The engine it runs.
    pub engine: EngineConfig,
    /// Prefill rate in the routers' replica spec, ms a token; `None` means the policy's.
    pub ms_per_token: Option<f64>,
    /// The replica closes idle connections after this long, ms; `None`: not before its link's `keep_alive_ms`.
    pub keep_alive_ms: Option<f64>,
}

/// Placement of the routers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Topology {
    /// One router beside each replica; users enter at the nearest; a request is forwarded at most once.
    Edge,
    /// Routers for all replicas, at a site: one, or as many as [`ProxiesConfig::count`].
    Proxy {
        /// Index of the site.
        site: usize,
    },
}

/// Model of the client that sends the requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Client {
    /// Open loop: each request is sent at its scheduled time.
    Open,
    /// Open loop with at most `workers` requests under way: a due request waits for a free worker, as in GORGO's recorded
    /// runs. (Their feeder queue of twice that length has no effect, because requests are taken in order.)
    Bounded {
        /// Requests in flight at most.
        workers: usize,
    },
}

/// A fault of a replica.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fault {
    /// Time of the fault.
    pub at: Time,
    /// Index of the replica.
    pub replica: u16,
    /// Kind of the fault.
    pub kind: FaultKind,
}

/// Kinds of faults.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum FaultKind {
    /// The engine's process dies and restarts with an empty cache.
    Crash {
        /// Time until the restart, ms.
        down_ms: f64,
    },
    /// Routers stop sending it new requests.
    Drain,
    /// Routers may send it new requests again.
    Undrain,
}

/// A measured round trip between two sites.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MeasuredRtt {
    /// Index of one site.
    pub from: usize,
    /// Index of the other.
    pub to: usize,
    /// Median round trip, ms.
    pub ms: f64,
}

/// The access network of a country's users.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Country {
    /// ISO 3166 two-letter code.
    pub code: [u8; 2],
    /// Access latency, ms.
    pub access_ms: f64,
}

/// Configuration of a run. Periods are in ms.
#[derive(Debug, Clone)]
pub struct WorldConfig {
    /// Seed of every stream.
    pub seed: u64,
    /// Parameters of the network model.
    pub network: NetworkConfig,
    /// Places of routers and replicas.
    pub sites: Vec<Site>,
    /// Measured round trips between sites.
    pub measured: Vec<MeasuredRtt>,
    /// Numbers of single links; their ends are names of sites.
    pub links: Vec<LinkConfig>,
    /// Access latency of a country, ms; others get the network's default. Sorted by code; the position is also the
    /// record's `origin`, and the number of entries stands for "unknown".
    pub countries: Vec<Country>,
    /// The replicas.
    pub replicas: Vec<ReplicaConfig>,
    /// Placement of the routers.
    pub topology: Topology,
    /// The proxies, if the topology has any.
    pub proxies: ProxiesConfig,
    /// Settings of the routers.
    pub router: RouterConfig,
    /// Tokens per block id of the trace.
    pub block_tokens: u32,
    /// Routers count prompts other than engines: rows have `router_tokens`. Their index then spreads the tokens of a
    /// prompt evenly over its blocks, as it does in production.
    pub routers_count: bool,
    /// Period of the scrapes of each replica.
    pub scrape_ms: f64,
    /// Period of the RTT probes.
    pub probe_ms: f64,
    /// Period of the load reports between edges.
    pub peer_ms: f64,
    /// Period of the edges' questions for each other's digest of prefixes; 0: they ask none.
    pub digest_ms: f64,
    /// Period of the queue samples for plots; 0 turns sampling off.
    pub sample_ms: f64,
    /// Processing time of a router per request, before its decision.
    pub router_ms: f64,
    /// The client model.
    pub client: Client,
    /// Time after which a user without a first token leaves; `None` for never.
    pub patience_ms: Option<f64>,
    /// Deadline at the router for the first token; `None` for none.
    pub deadline_ms: Option<f64>,
    /// Which users' requests must stay where; `None` for none.
    pub residency: Option<ResidencyConfig>,
    /// Faults.
    pub faults: Vec<Fault>,
    /// The run fails if requests remain this long after the last arrival, s.
    pub drain_limit_s: f64,
    /// No turn of a closed session is sent later; `None` means no limit.
    pub until: Option<Time>,
    /// The decisions of this many requests are kept, the first in order of the trace; 0 for none. Of a request that is
    /// retried after a later request was decided, its earlier decisions.
    pub decisions_of: usize,
    /// How routers tune their policies; `None` for not at all.
    pub tune: Option<TuneConfig>,
}

impl WorldConfig {
    pub(super) fn check(&self) -> Result<(), WorldError> {
        let (replicas, sites) = (self.replicas.len(), self.sites.len());
        if replicas == 0 || replicas > MAX_REPLICAS {
            return Err(WorldError::Replicas(replicas));
        }
        let mut used: Vec<(String, usize)> =
            self.replicas.iter().map(|r| (format!("replica {}", r.name), r.site)).collect();
        if let Topology::Proxy { site } = self.topology {
            used.push(("the proxy".to_owned(), site));
        }
        if let Some((what, site)) = used.into_iter().find(|&(_, site)| site >= sites) {
            return Err(WorldError::Site { what, site, sites });
        }
        self.check_ranges()?;
        let ends = self.links.iter().flat_map(|link| [&link.from, &link.to]);
        if let Some(end) = ends.into_iter().find(|end| self.site_called(end).is_none()) {
            return Err(WorldError::LinkEnd(end.clone()));
        }
        if let Some(residency) = &self.residency {
            residency.fences()?;
            let unknown = residency.groups.iter().flatten().find(|name| self.site_called(name).is_none());
            if let Some(name) = unknown {
                return Err(WorldError::ResidencySite(name.clone()));
            }
        }
        if self.block_tokens == 0 {
            return Err(WorldError::Value { key: "block_tokens", value: 0.0, must: "at least 1" });
        }
        if self.router.max_hops > 1 {
            let value = f64::from(self.router.max_hops);
            return Err(WorldError::Value { key: "router.max_hops", value, must: "0 or 1 in simulation" });
        }
        if self.router.max_attempts > Key::MAX_ATTEMPTS {
            let value = f64::from(self.router.max_attempts);
            return Err(WorldError::Value { key: "router.max_attempts", value, must: "at most 31 in simulation" });
        }
        if let Client::Bounded { workers: 0 } = self.client {
            return Err(WorldError::Value { key: "client.workers", value: 0.0, must: "at least 1" });
        }
        let missing = self.faults.iter().position(|f| usize::from(f.replica) >= replicas);
        if let Some(index) = missing {
            return Err(WorldError::Fault { index, replica: self.faults[index].replica, replicas });
        }
        Ok(())
    }

    fn check_ranges(&self) -> Result<(), OutOfRange> {
        self.network.check().map_err(|e| e.within("network"))?;
        self.links.iter().try_for_each(LinkConfig::check)?;
        let keep_alive = self.replicas.iter().filter_map(|replica| replica.keep_alive_ms);
        check_ranges(keep_alive.map(|ms| ("replicas.keep_alive_ms", ms, DURATION_MS)))?;
        self.proxies.check().map_err(|e| e.within("proxies"))?;
        self.router.check().map_err(|e| e.within("router"))?;
        check_ranges([
            ("scrape_ms", self.scrape_ms, PERIOD_MS),
            ("probe_ms", self.probe_ms, PERIOD_MS),
            ("peer_ms", self.peer_ms, PERIOD_MS),
            ("router_ms", self.router_ms, DURATION_MS),
            ("drain_limit_s", self.drain_limit_s, 0.0..=1e9),
            ("residency.share", self.residency.as_ref().map_or(0.0, |residency| residency.share), 0.0..=1.0),
        ])?;
        // 0 turns sampling off.
        let sample = Some(self.sample_ms).filter(|&ms| ms != 0.0).map(|ms| ("sample_ms", ms, PERIOD_MS));
        let digest = Some(self.digest_ms).filter(|&ms| ms != 0.0).map(|ms| ("digest_ms", ms, PERIOD_MS));
        let patience = self.patience_ms.map(|ms| ("patience_ms", ms, PERIOD_MS));
        let deadline = self.deadline_ms.map(|ms| ("deadline_ms", ms, PERIOD_MS));
        check_ranges([sample, digest, patience, deadline].into_iter().flatten())?;
        check_ranges(self.measured.iter().map(|rtt| ("measured.ms", rtt.ms, DURATION_MS)))?;
        check_ranges(self.countries.iter().map(|country| ("countries.access_ms", country.access_ms, DURATION_MS)))?;
        check_ranges(self.faults.iter().filter_map(|fault| match fault.kind {
            FaultKind::Crash { down_ms } => Some(("faults.down_ms", down_ms, DURATION_MS)),
            FaultKind::Drain | FaultKind::Undrain => None,
        }))
    }

    fn site_called(&self, name: &str) -> Option<usize> {
        self.sites.iter().position(|site| site.name == name)
    }

    /// The links with numbers of their own, by the indices of their sites.
    pub fn numbered_links(&self) -> impl Iterator<Item = (usize, usize, &LinkConfig)> {
        let site = |name: &str| self.site_called(name);
        self.links.iter().filter_map(move |link| Some((site(&link.from)?, site(&link.to)?, link)))
    }

    /// How requests travel between two sites.
    pub fn link_rule(&self, a: usize, b: usize) -> LinkRule {
        let own = self.numbered_links().find(|&(from, to, _)| (from, to) == (a, b) || (to, from) == (a, b));
        LinkRule::new(&self.network, own.map(|(_, _, link)| link))
    }

    pub(super) fn measured(&self, a: usize, b: usize) -> Option<f64> {
        self.measured.iter().find(|rtt| (rtt.from, rtt.to) == (a, b)).map(|rtt| rtt.ms)
    }

    fn country(&self, code: Option<[u8; 2]>) -> Option<usize> {
        self.countries.binary_search_by_key(&code?, |country| country.code).ok()
    }

    pub(super) fn access_ms(&self, code: Option<[u8; 2]>) -> f64 {
        self.country(code).map_or(self.network.access_ms, |i| self.countries[i].access_ms)
    }

    /// Index of a country in `countries`; the number of entries when it is unknown.
    pub(super) fn origin(&self, code: Option<[u8; 2]>) -> u16 {
        self.country(code).unwrap_or(self.countries.len()) as u16
    }
}
