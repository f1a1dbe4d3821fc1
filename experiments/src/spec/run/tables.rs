//! The tables of a run: topology, fleet, signals, clients and faults.

use gorgo_sim::engine::EngineConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use toml::Table;

/// Where the routers are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TopologySpec {
    /// One beside each replica.
    #[default]
    Edge,
    /// One for all.
    Proxy,
}

impl TopologySpec {
    /// Its name in files.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Edge => "edge",
            Self::Proxy => "proxy",
        }
    }
}

/// One replica of the fleet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReplicaSpec {
    /// Name in results.
    pub name: String,
    /// `provider:region`, a bare region name, or `lat,lon`.
    pub region: String,
    /// Engine preset; the fleet's when absent.
    pub engine: Option<String>,
    /// Prefill rate that routers are configured with, ms per token; the policy's when absent.
    pub ms_per_token: Option<f64>,
    /// The replica closes idle connections after this long, ms; the link's when absent. Simulation only.
    pub keep_alive_ms: Option<f64>,
    /// Requests this engine runs at once, in place of `max_running_requests` in its settings; the fleet's when both are absent.
    pub max_running: Option<u32>,
    /// Further settings of this engine, on top of the fleet's.
    #[serde(default)]
    #[schemars(with = "EngineConfig")]
    pub settings: Table,
}

/// The replicas and their engines.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FleetSpec {
    /// Engine preset of replicas that name none.
    #[serde(default = "default_engine")]
    pub engine: String,
    /// Requests an engine runs at once, in place of `max_running_requests` in the fleet's settings; the preset's when both are
    /// absent. Also the default of `router.gates.max_running`.
    pub max_running: Option<u32>,
    /// Configure routers with each replica's own prefill rate, from its engine preset.
    #[serde(default)]
    pub own_rates: bool,
    /// Further engine settings, on top of the preset.
    #[serde(default)]
    #[schemars(with = "EngineConfig")]
    pub settings: Table,
    /// The replicas.
    pub replicas: Vec<ReplicaSpec>,
}

fn default_engine() -> String {
    "mistral-7b-a100-80".to_owned()
}

/// Periods of scrapes, probes and reports, ms.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SignalsSpec {
    /// Period of metric scrapes.
    pub scrape_ms: f64,
    /// Period of round-trip probes.
    pub probe_ms: f64,
    /// Period of load reports between edges.
    pub peer_ms: f64,
    /// Period at which an edge asks each peer for a digest of its cached prefixes; 0 switches digests off. See
    /// `digest_half_life_ms` in `[router]`.
    pub digest_ms: f64,
    /// Period of queue samples for plots; 0 is off.
    pub sample_ms: f64,
    /// Processing time of a router before it decides.
    pub router_ms: f64,
}

impl Default for SignalsSpec {
    fn default() -> Self {
        Self {
            scrape_ms: 1_000.0,
            probe_ms: 1_000.0,
            peer_ms: 200.0,
            digest_ms: 0.0,
            sample_ms: 1_000.0,
            router_ms: 0.2,
        }
    }
}

/// How clients send.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ClientSpec {
    /// Most requests under way at once: each is sent at its own time, or later, when one of so many workers is free. Without
    /// it, each is sent at its own time.
    pub workers: Option<usize>,
    /// A user cancels a request without a first token after this long, ms.
    pub patience_ms: Option<f64>,
    /// A router fails a request without a first token after this long, ms.
    pub deadline_ms: Option<f64>,
}

/// Kinds of faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum FaultKindSpec {
    /// The replica crashes and is started again after `down_s`.
    Crash,
    /// Routers send it no new requests.
    Drain,
    /// Routers may send again.
    Undrain,
}

/// A fault of one replica.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FaultSpec {
    /// Time, s.
    pub at_s: f64,
    /// Name of the replica.
    pub replica: String,
    /// Kind.
    pub kind: FaultKindSpec,
    /// Time until a crashed replica is started again, without its cold start, s.
    #[serde(default)]
    pub down_s: f64,
}
