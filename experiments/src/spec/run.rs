//! Everything one run needs, read strictly.

use super::WorkloadSpec;
use super::live::LiveSpec;
use gorgo_core::policy::PolicyConfig;
use gorgo_core::router::RouterConfig;
use gorgo_sim::network::NetworkConfig;
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

/// Where the routers are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TopologySpec {
    /// One beside each replica.
    #[default]
    Edge,
    /// One for all.
    Proxy,
}

impl TopologySpec {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Edge => "edge",
            Self::Proxy => "proxy",
        }
    }
}

/// One replica of the fleet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReplicaSpec {
    /// Shown in results.
    pub name: String,
    /// `provider:region`, a bare region name, or `lat,lon`.
    pub region: String,
    /// Engine preset; the fleet's when absent.
    pub engine: Option<String>,
    /// Prefill rate told to routers, ms a token; theirs when absent.
    pub ms_per_token: Option<f64>,
}

/// The replicas and their engines.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FleetSpec {
    /// Engine preset of replicas that name none.
    #[serde(default = "default_engine")]
    pub engine: String,
    /// Requests an engine runs at once, and what a router sends it at once unless `router.gates.max_running` says
    /// otherwise; the preset's when absent.
    pub max_running: Option<u32>,
    /// Tell routers each replica's own prefill rate, from its engine preset.
    #[serde(default)]
    pub own_rates: bool,
    /// Further engine settings, on top of the preset.
    #[serde(default)]
    pub settings: Table,
    /// The replicas.
    pub replicas: Vec<ReplicaSpec>,
}

fn default_engine() -> String {
    "mistral-7b-a100-80".to_owned()
}

/// Periods of what routers hear between requests, ms.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SignalsSpec {
    /// Metrics are scraped this often.
    pub scrape_ms: f64,
    /// Round trips are probed this often.
    pub probe_ms: f64,
    /// Edges tell each other their load this often.
    pub peer_ms: f64,
    /// Queues are sampled for plots this often; 0 never.
    pub sample_ms: f64,
    /// Time a router spends on a request before it decides.
    pub router_ms: f64,
}

impl Default for SignalsSpec {
    fn default() -> Self {
        Self { scrape_ms: 1_000.0, probe_ms: 1_000.0, peer_ms: 200.0, sample_ms: 1_000.0, router_ms: 0.2 }
    }
}

/// Who sends.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClientSpec {
    /// This many workers back to back; each request at its own time when absent.
    pub workers: Option<usize>,
    /// A user without a first token leaves after this long, ms.
    pub patience_ms: Option<f64>,
    /// A router gives a request up without a first token after this long, ms.
    pub deadline_ms: Option<f64>,
}

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FaultWord {
    /// The replica dies and is started again after `down_s`.
    Crash,
    /// Routers send it nothing new.
    Drain,
    /// Routers may send again.
    Undrain,
}

/// Something that goes wrong.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FaultSpec {
    /// When, s.
    pub at_s: f64,
    /// Name of the replica.
    pub replica: String,
    /// What.
    pub kind: FaultWord,
    /// How long until a crashed replica is started again (its cold start comes on top), s.
    #[serde(default)]
    pub down_s: f64,
}

/// One run but for its seed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RunSpec {
    /// Requests.
    pub workload: WorkloadSpec,
    /// Replicas.
    pub fleet: FleetSpec,
    /// Where routers are.
    pub topology: TopologySpec,
    /// Region of the proxy; the first replica's when absent.
    pub proxy_region: Option<String>,
    /// Who gets the request.
    pub policy: PolicyConfig,
    /// The router's other settings.
    pub router: RouterConfig,
    /// Links.
    pub network: NetworkConfig,
    /// Periods.
    pub signals: SignalsSpec,
    /// Who sends.
    pub client: ClientSpec,
    /// What goes wrong.
    pub faults: Vec<FaultSpec>,
    /// A run fails if requests are left this long after the last arrival, s.
    pub drain_limit_s: f64,
    /// Servers of live runs.
    pub live: LiveSpec,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rest {
    fleet: FleetSpec,
    #[serde(default)]
    topology: TopologySpec,
    proxy_region: Option<String>,
    #[serde(default)]
    policy: PolicyConfig,
    #[serde(default)]
    router: RouterConfig,
    #[serde(default)]
    network: NetworkConfig,
    #[serde(default)]
    signals: SignalsSpec,
    #[serde(default)]
    client: ClientSpec,
    #[serde(default)]
    faults: Vec<FaultSpec>,
    #[serde(default = "default_drain_limit")]
    drain_limit_s: f64,
    #[serde(default)]
    live: LiveSpec,
}

fn default_drain_limit() -> f64 {
    7_200.0
}

impl RunSpec {
    /// The settings of a run.
    pub const KEYS: [&'static str; 12] = [
        "workload",
        "fleet",
        "topology",
        "proxy_region",
        "policy",
        "router",
        "network",
        "signals",
        "client",
        "faults",
        "drain_limit_s",
        "live",
    ];

    /// Reads a merged table.
    ///
    /// # Errors
    /// One sentence that names the key.
    pub fn parse(mut table: Table) -> Result<Self, String> {
        let workload = match table.remove("workload") {
            Some(Value::Table(workload)) => WorkloadSpec::parse(workload)?,
            Some(other) => return Err(format!("workload is {other}; write a [workload] table")),
            None => return Err("there is no [workload]; name a trace, for example trace = \"wildchat-located\"".into()),
        };
        if !table.contains_key("fleet") {
            return Err("there is no [fleet]; list its replicas with name and region".into());
        }
        let gated = table.get("router").and_then(|r| r.get("gates")).and_then(|g| g.get("max_running")).is_some();
        // Table by table, so that a message can say in which one the key is.
        for (key, value) in &table {
            let only = Table::from_iter([(key.clone(), value.clone())]);
            check_table(key, only)?;
        }
        let rest: Rest = Value::Table(table).try_into().map_err(|e: toml::de::Error| explain(&e))?;
        let mut spec = Self {
            workload,
            fleet: rest.fleet,
            topology: rest.topology,
            proxy_region: rest.proxy_region,
            policy: rest.policy,
            router: rest.router,
            network: rest.network,
            signals: rest.signals,
            client: rest.client,
            faults: rest.faults,
            drain_limit_s: rest.drain_limit_s,
            live: rest.live,
        };
        if !gated {
            spec.router.gates.max_running = spec.fleet.max_running;
        }
        spec.check()?;
        Ok(spec)
    }

    fn check(&self) -> Result<(), String> {
        let names: Vec<&str> = self.fleet.replicas.iter().map(|r| r.name.as_str()).collect();
        if names.is_empty() {
            return Err("[fleet] lists no replicas".into());
        }
        if let Some((i, name)) = names.iter().enumerate().find(|(i, n)| names[..*i].contains(n)) {
            return Err(format!("[fleet] replica {i} is called `{name}` like one before it; give it another name"));
        }
        if self.fleet.max_running == Some(0) {
            return Err("[fleet] max_running = 0 would run nothing; give at least 1".into());
        }
        self.live.check(&names)?;
        for fault in &self.faults {
            if !names.contains(&fault.replica.as_str()) {
                let hint = gorgo_core::nearest::nearest(&fault.replica, names.iter().copied()).unwrap_or_default();
                return Err(format!(
                    "[[faults]] replica `{}` is not in the fleet; did you mean `{hint}`?",
                    fault.replica
                ));
            }
            if !(fault.at_s.is_finite() && fault.at_s >= 0.0 && fault.down_s.is_finite() && fault.down_s >= 0.0) {
                return Err(format!(
                    "[[faults]] at_s = {}, down_s = {}: give times of at least 0",
                    fault.at_s, fault.down_s
                ));
            }
        }
        for (key, value) in [("network.sigma", self.network.sigma), ("network.jitter", self.network.jitter)] {
            if !(0.0..=2.0).contains(&value) {
                return Err(format!("{key} = {value} must be from 0 to 2"));
            }
        }
        if !(0.0..1.0).contains(&self.network.rho) {
            return Err(format!("network.rho = {} must be from 0 to below 1", self.network.rho));
        }
        Ok(())
    }
}

/// The words of an error in one line, with the key they are about where the parser knows it.
pub(super) fn explain(error: &toml::de::Error) -> String {
    error.to_string().split('\n').map(str::trim).filter(|l| !l.is_empty()).collect::<Vec<_>>().join(" ")
}

/// Reads one top-level setting alone and names it in the error.
fn check_table(key: &str, only: Table) -> Result<(), String> {
    fn read<T: serde::de::DeserializeOwned>(key: &str, mut only: Table) -> Result<(), String> {
        let value = only.remove(key).unwrap_or(Value::Boolean(false));
        let shown = if value.is_table() { format!("[{key}]") } else { format!("{key}:") };
        value.try_into::<T>().map(|_| ()).map_err(|e| format!("{shown} {}", explain(&e)))
    }
    match key {
        "fleet" => read::<FleetSpec>(key, only),
        "topology" => read::<TopologySpec>(key, only),
        "policy" => read::<PolicyConfig>(key, only),
        "router" => read::<RouterConfig>(key, only),
        "network" => read::<NetworkConfig>(key, only),
        "signals" => read::<SignalsSpec>(key, only),
        "client" => read::<ClientSpec>(key, only),
        "faults" => read::<Vec<FaultSpec>>(key, only),
        "proxy_region" => read::<String>(key, only),
        "drain_limit_s" => read::<f64>(key, only),
        "live" => read::<LiveSpec>(key, only),
        _ => Ok(()),
    }
}

/// Whether a varied key is a setting of this arm: always, but for a policy's knob that its policy does not have.
pub(super) fn accepts(arm: &Table, key: &str, value: &Value) -> bool {
    if !key.starts_with("policy.") {
        return true;
    }
    let mut probe = arm.clone();
    if gorgo_core::settings::set_key(&mut probe, key, value.clone()).is_err() {
        return false;
    }
    let reads = |t: &Table| t.get("policy").cloned().is_none_or(|p| p.try_into::<PolicyConfig>().is_ok());
    reads(&probe) || !reads(arm)
}

/// Name of an arm that has none: its policy, and that its router is a proxy if that is what sets it apart.
pub(super) fn default_name(arm: &Table, own_topology: bool) -> String {
    let policy = match arm.get("policy") {
        Some(Value::String(name)) => name.clone(),
        Some(Value::Table(t)) => t.get("name").and_then(Value::as_str).unwrap_or("gorgo").to_owned(),
        _ => "gorgo".to_owned(),
    };
    match arm.get("topology").and_then(Value::as_str) {
        Some("proxy") if own_topology => format!("{policy}-proxy"),
        _ => policy,
    }
}
