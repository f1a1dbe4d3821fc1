//! Settings of one run, its `tables`, and the `places` that they name. Reading is strict: unknown keys are errors.

mod places;
mod tables;

use super::WorkloadSpec;
use super::live::LiveSpec;
use super::measure::MeasureSpec;
use gorgo_core::policy::PolicyConfig;
use gorgo_core::range::{DURATION_MS, OutOfRange, PERIOD_MS, check_ranges};
use gorgo_core::router::RouterConfig;
use gorgo_core::settings::{bad_duration, field_names};
use gorgo_sim::network::{LinkConfig, NetworkConfig};
use gorgo_sim::world::{ProxiesConfig, ResidencyConfig};
pub(super) use places::PROXY;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
pub use tables::{ClientSpec, FaultKindSpec, FaultSpec, FleetSpec, ReplicaSpec, SignalsSpec, TopologySpec};
use toml::{Table, Value};

/// The engine setting that `max_running` is short for.
pub(crate) const MAX_RUNNING: &str = "max_running_requests";

/// All settings of one run except its seed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RunSpec {
    /// Requests.
    #[serde(deserialize_with = "super::workload::deserialize")]
    pub workload: WorkloadSpec,
    /// Replicas.
    pub fleet: FleetSpec,
    /// Where the routers are.
    #[serde(default)]
    pub topology: TopologySpec,
    /// Region of the proxy; the first replica's when absent.
    pub proxy_region: Option<String>,
    /// How many proxies there are, and what they tell each other.
    #[serde(default)]
    pub proxies: ProxiesConfig,
    /// Routing policy.
    #[serde(default)]
    pub policy: PolicyConfig,
    /// The router's other settings.
    #[serde(default)]
    pub router: RouterConfig,
    /// Round trips.
    #[serde(default)]
    pub network: NetworkConfig,
    /// Numbers of single links, in place of measured round trips and `[network]`.
    #[serde(default)]
    pub links: Vec<LinkConfig>,
    /// Periods of scrapes, probes and peer reports.
    #[serde(default)]
    pub signals: SignalsSpec,
    /// How clients send.
    #[serde(default)]
    pub client: ClientSpec,
    /// Users whose requests must stay near them.
    #[serde(default)]
    pub residency: Option<ResidencyConfig>,
    /// Failures.
    #[serde(default)]
    pub faults: Vec<FaultSpec>,
    /// A run fails if requests are left this long after the last arrival, s.
    #[serde(default = "default_drain_limit")]
    pub drain_limit_s: f64,
    /// Which requests count, and the objective of goodput.
    #[serde(default)]
    pub measure: MeasureSpec,
    /// Servers of live runs.
    #[serde(default)]
    pub live: LiveSpec,
}

fn default_drain_limit() -> f64 {
    7_200.0
}

impl RunSpec {
    /// The top-level keys of a run's settings.
    pub(super) fn keys() -> &'static [&'static str] {
        field_names::<Self>()
    }

    /// Reads a merged table. An error is one sentence that names the key.
    pub(super) fn parse(table: Table) -> Result<Self, String> {
        match table.get("workload") {
            Some(Value::Table(_)) => {}
            Some(other) => return Err(format!("workload is {other}; write a [workload] table")),
            None => return Err("there is no [workload]; name a trace, for example trace = \"wildchat-located\"".into()),
        }
        if !table.contains_key("fleet") {
            return Err("there is no [fleet]; list its replicas with name and region".into());
        }
        let fleet = table.get("fleet").and_then(Value::as_table);
        let replicas = fleet.and_then(|f| f.get("replicas")).and_then(Value::as_array);
        if fleet.is_some_and(|f| f.contains_key("engine"))
            && replicas.is_some_and(|list| !list.is_empty() && list.iter().all(|r| r.get("engine").is_some()))
        {
            return Err(
                "[fleet] engine has no effect, because every replica names its own; drop it there or here".into()
            );
        }
        if let Some(message) = bad_duration(&table) {
            return Err(message);
        }
        every_fault_is_whole(table.get("faults"))?;
        let gated = table.get("router").and_then(|r| r.get("gates")).and_then(|g| g.get("max_running")).is_some();
        let tables: Vec<String> = table.iter().filter(|(_, v)| v.is_table()).map(|(key, _)| key.clone()).collect();
        let topology = table.get("topology").filter(|value| !value.is_str()).map(Value::to_string);
        if let Some(value) = topology {
            return Err(format!("topology is {value}; write \"edge\" or \"proxy\""));
        }
        let mut spec: Self = Value::Table(table).try_into().map_err(|e| explain_key(&e, &tables))?;
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
        self.check_names()?;
        self.check_one_limit()?;
        if self.fleet.max_running == Some(0) {
            return Err("[fleet] max_running = 0 would run nothing; give at least 1".into());
        }
        if let Some(replica) = self.fleet.replicas.iter().find(|r| r.max_running == Some(0)) {
            return Err(format!(
                "[fleet] replica `{}` has max_running = 0 and would run nothing; give at least 1",
                replica.name
            ));
        }
        self.live.check(&names)?;
        self.check_links()?;
        self.check_regions()?;
        self.faults.iter().try_for_each(|fault| self.check_fault(fault, &names))?;
        self.check_ranges().map_err(|error| error.to_string())
    }

    fn check_fault(&self, fault: &FaultSpec, names: &[&str]) -> Result<(), String> {
        let FaultSpec { at_s, replica, kind, down_s } = fault;
        if !names.contains(&replica.as_str()) {
            let hint = gorgo_core::suggest::did_you_mean(replica, names.iter().copied());
            return Err(format!("[[faults]] replica `{replica}` is not in the fleet; {hint}"));
        }
        if *kind != FaultKindSpec::Crash && *down_s != 0.0 {
            return Err(format!(
                "[[faults]] at {at_s} s for `{replica}`: down_s is a setting of a crash; end a drain with a fault of kind \
                 undrain"
            ));
        }
        let drains =
            |other: &&FaultSpec| other.kind == FaultKindSpec::Drain && other.replica == *replica && other.at_s <= *at_s;
        if *kind == FaultKindSpec::Undrain && !self.faults.iter().any(|other| drains(&other)) {
            return Err(format!("[[faults]] at {at_s} s: `{replica}` is undrained, and no fault drains it before"));
        }
        Ok(())
    }

    /// Refuses two keys for the requests that an engine runs at once, at the same level: one of them would have no effect.
    fn check_one_limit(&self) -> Result<(), String> {
        let fleet = ("[fleet]".to_owned(), self.fleet.max_running, &self.fleet.settings);
        let own =
            self.fleet.replicas.iter().map(|r| (format!("[fleet] replica `{}`", r.name), r.max_running, &r.settings));
        for (place, short, settings) in std::iter::once(fleet).chain(own) {
            if let (Some(most), Some(other)) = (short, settings.get(MAX_RUNNING)) {
                return Err(format!(
                    "{place} has both max_running = {most} and settings.{MAX_RUNNING} = {other}; keep one"
                ));
            }
        }
        Ok(())
    }

    /// Simulated and live runs use these settings: what one of them refuses, the other refuses, too.
    fn check_ranges(&self) -> Result<(), OutOfRange> {
        self.measure.check_ranges()?;
        self.network.check().map_err(|e| e.within("network"))?;
        self.proxies.check().map_err(|e| e.within("proxies"))?;
        self.router.check().map_err(|e| e.within("router"))?;
        let signals = &self.signals;
        check_ranges([
            ("signals.scrape_ms", signals.scrape_ms, PERIOD_MS),
            ("signals.probe_ms", signals.probe_ms, PERIOD_MS),
            ("signals.peer_ms", signals.peer_ms, PERIOD_MS),
            ("signals.router_ms", signals.router_ms, DURATION_MS),
            ("drain_limit_s", self.drain_limit_s, 0.0..=1e9),
            ("residency.share", self.residency.as_ref().map_or(0.0, |residency| residency.share), 0.0..=1.0),
        ])?;
        // 0 turns sampling off.
        let sample = Some(signals.sample_ms).filter(|&ms| ms != 0.0).map(|ms| ("signals.sample_ms", ms, PERIOD_MS));
        let digest = Some(signals.digest_ms).filter(|&ms| ms != 0.0).map(|ms| ("signals.digest_ms", ms, PERIOD_MS));
        let patience = self.client.patience_ms.map(|ms| ("client.patience_ms", ms, PERIOD_MS));
        let deadline = self.client.deadline_ms.map(|ms| ("client.deadline_ms", ms, PERIOD_MS));
        check_ranges([sample, digest, patience, deadline].into_iter().flatten())?;
        self.links.iter().try_for_each(LinkConfig::check)?;
        let keep_alive = self.fleet.replicas.iter().filter_map(|r| r.keep_alive_ms);
        check_ranges(keep_alive.map(|ms| ("fleet.replicas.keep_alive_ms", ms, DURATION_MS)))?;
        let rates = self.fleet.replicas.iter().filter_map(|r| r.ms_per_token);
        check_ranges(rates.map(|rate| ("fleet.replicas.ms_per_token", rate, 0.0..=1e9)))?;
        check_ranges(
            self.faults
                .iter()
                .flat_map(|fault| [("faults.at_s", fault.at_s, 0.0..=1e9), ("faults.down_s", fault.down_s, 0.0..=1e6)]),
        )
    }
}

/// Refuses a fault without one of the keys that each needs: the parser does not tell which entry it is.
fn every_fault_is_whole(faults: Option<&Value>) -> Result<(), String> {
    let entries = faults.and_then(Value::as_array).into_iter().flatten().enumerate();
    for (i, entry) in entries {
        let lacks = |key: &&str| entry.as_table().is_some_and(|entry| !entry.contains_key(*key));
        if let Some(key) = ["at_s", "replica", "kind"].iter().find(|key| lacks(key)) {
            return Err(format!("faults.{i} has no `{key}`; give each of [[faults]] at_s, replica and kind"));
        }
    }
    Ok(())
}

/// An error in one line, with the key where the parser knows it.
pub(crate) fn explain(error: &toml::de::Error) -> String {
    let lines = error.to_string();
    lines.split('\n').map(str::trim).filter(|l| !l.is_empty()).collect::<Vec<_>>().join(" ")
}

/// An error in one line that begins with the top-level setting it is in: `[network] ...`, `topology: ...`. `tables`
/// are the settings that are tables.
fn explain_key(error: &toml::de::Error, tables: &[String]) -> String {
    let text = explain(error);
    let (message, path) = match text.strip_suffix('`').and_then(|text| text.rsplit_once(" in `")) {
        Some((message, path)) => (message, path),
        None => return text,
    };
    let (key, inner) = path.split_once('.').unwrap_or((path, ""));
    let place = if tables.iter().any(|table| table == key) { format!("[{key}]") } else { format!("{key}:") };
    if message.starts_with(&place) {
        return message.to_owned(); // the setting's own parser has named it
    }
    format!("{place} {message}{}", if inner.is_empty() { String::new() } else { format!(" in `{inner}`") })
}

/// Whether a varied key is a setting of this arm: always, except a policy setting that its policy does not have.
pub(super) fn accepts(arm: &Table, key: &str) -> bool {
    let setting = key.strip_prefix("policy.");
    setting.is_none_or(|setting| super::policy::knows(super::policy::name(arm.get("policy")), setting))
}

/// Default name of an arm: its policy, with `-proxy` if the arm itself chooses that topology.
pub(super) fn default_name(arm: &Table, own_topology: bool) -> String {
    let policy = super::policy::name(arm.get("policy")).to_owned();
    match arm.get("topology").and_then(Value::as_str) {
        Some("proxy") if own_topology => format!("{policy}-proxy"),
        _ => policy,
    }
}
