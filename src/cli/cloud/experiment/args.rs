//! The machines that the command line or `[cloud]` of an experiment file asks for.

use super::super::cluster::{EngineKind, NeedsArgs, ProgramArgs};
use super::super::{Cloud, CloudArgs, launch};
use crate::cli::experiment::ExperimentArgs;
use anyhow::bail;
use clap::{Args as ClapArgs, ValueEnum};
use gorgo_cloud::money::Caps;
use gorgo_cloud::provider::Ports;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

const MODEL: &str = "mistralai/Mistral-7B-Instruct-v0.3";

/// Machines for `gorgo run --mode live`; `[cloud]` in the experiment file holds the same settings.
#[derive(Debug, Clone, ClapArgs)]
#[command(next_help_heading = "Machines of a live run")]
pub(crate) struct FleetArgs {
    /// Run on machines of this provider: those that bear the replicas' names, else new ones, which end with the run
    #[arg(long, value_enum)]
    cloud: Option<Cloud>,
    /// Type of machine to launch; `cloud.type` in the file
    #[arg(long = "type", value_name = "TYPE")]
    machine: Option<String>,
    /// Model; `cloud.model`
    #[arg(long)]
    model: Option<String>,
    /// Image, where machines are containers; `cloud.image`
    #[arg(long)]
    image: Option<String>,
    /// Engine; as for `gorgo cluster setup`; `cloud.engine`
    #[arg(long, value_enum)]
    engine: Option<EngineKind>,
    #[command(flatten)]
    program: ProgramArgs,
    #[command(flatten)]
    needs: NeedsArgs,
    /// Most machines at one time
    #[arg(long, default_value_t = Caps::default().nodes)]
    max_nodes: usize,
    /// Most dollars an hour of all machines together, or `none` for no limit
    #[arg(long, value_name = "DOLLARS", default_value = launch::DOLLARS, value_parser = launch::dollars)]
    max_dollars_per_hour: launch::Dollars,
    /// End launched machines after this time at the latest; `cloud.lease`; 4h when absent
    #[arg(long, value_parser = launch::lease)]
    lease: Option<u64>,
    /// Leave launched machines running; `cloud.keep`
    #[arg(long)]
    keep: bool,
    /// Do not ask before spending money
    #[arg(long)]
    yes: bool,
    /// Folder of ledger, keys and node state
    #[arg(long, value_name = "DIR", env = "GORGO_STATE")]
    state: Option<PathBuf>,
    /// File of your hosts
    #[arg(long, value_name = "FILE", env = "GORGO_HOSTS")]
    hosts: Option<PathBuf>,
}

/// `[cloud]` of an experiment file: the machines of a live run. Options of the command line come first.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::cli) struct FleetTable {
    /// `local`, `ssh`, `lambda` or `modal`.
    provider: Option<String>,
    /// Machine type.
    r#type: Option<String>,
    /// Model that the engines serve.
    model: Option<String>,
    /// Container image of the engine.
    image: Option<String>,
    /// Engine: `emulated`, `docker` or `sglang`.
    engine: Option<String>,
    /// Launched machines end after this time at the latest.
    lease: Option<String>,
    /// Leave launched machines running.
    keep: bool,
    /// Machines that differ from the others, by their replicas' names: `type`, and `ports` of engine, edge router and proxy.
    machines: BTreeMap<String, MachineTable>,
}

/// `[cloud.machines.NAME]`: what the machine of one replica has of its own.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(inline)]
pub(in crate::cli) struct MachineTable {
    /// Machine type.
    pub(super) r#type: Option<String>,
    /// Ports of engine, edge router and proxy, for example `8080,8000,9000`.
    ports: Option<String>,
}

impl FleetTable {
    /// Reads the `[cloud]` of a file, if it has one.
    pub(in crate::cli) fn read(table: Option<&toml::Table>) -> anyhow::Result<Self> {
        let Some(table) = table else { return Ok(Self::default()) };
        table.clone().try_into().map_err(|why: toml::de::Error| {
            anyhow::anyhow!(
                "[cloud]: {}; it takes provider, type, model, image, engine, lease, keep and machines",
                why.message()
            )
        })
    }

    /// Checks a table that the run does not use: a simulation must not accept what a live run of the file refuses.
    pub(in crate::cli) fn check(&self) -> anyhow::Result<()> {
        self.machines.values().try_for_each(|machine| machine.ports().map(|_| ()))?;
        self.named().map(|_| ())
    }

    /// The provider, the engine and the lease in ms.
    fn named(&self) -> anyhow::Result<(Option<Cloud>, Option<EngineKind>, Option<u64>)> {
        let bad =
            |key: &str, name: &str, known: &str| anyhow::anyhow!("[cloud] {key} = \"{name}\" is none; write {known}");
        let provider = self
            .provider
            .as_deref()
            .map(|name| Cloud::from_str(name, true).map_err(|_| bad("provider", name, "local, ssh, lambda or modal")));
        let engine = self.engine.as_deref().map(|name| {
            EngineKind::from_str(name, true).map_err(|_| bad("engine", name, "emulated, docker or sglang"))
        });
        let lease = self.lease.as_deref().map(launch::lease).transpose();
        let lease = lease.map_err(|why| anyhow::anyhow!("[cloud] lease: {why}"))?;
        Ok((provider.transpose()?, engine.transpose()?, lease))
    }
}

impl MachineTable {
    pub(super) fn ports(&self) -> anyhow::Result<Option<Ports>> {
        let ports = self.ports.as_deref().map(str::parse).transpose();
        ports.map_err(|why: String| anyhow::anyhow!("[cloud.machines] ports: {why}"))
    }
}

/// What a run on machines was asked for.
pub(in crate::cli) struct FleetPlan {
    pub(super) common: CloudArgs,
    pub(super) cloud: Cloud,
    pub(super) machine: Option<String>,
    pub(super) model: String,
    pub(super) machines: BTreeMap<String, MachineTable>,
    pub(super) program: ProgramArgs,
    pub(super) needs: NeedsArgs,
    pub(super) image: Option<String>,
    pub(super) engine: Option<EngineKind>,
    pub(super) caps: Caps,
    pub(super) lease_ms: u64,
    pub(super) keep: bool,
    pub(super) yes: bool,
}

impl FleetArgs {
    /// Refuses settings of machines in a run without any.
    pub(in crate::cli) fn refuse(&self) -> anyhow::Result<()> {
        let given = [
            ("--cloud", self.cloud.is_some()),
            ("--type", self.machine.is_some()),
            ("--model", self.model.is_some()),
            ("--image", self.image.is_some()),
            ("--engine", self.engine.is_some()),
            ("--lease", self.lease.is_some()),
            ("--keep", self.keep),
        ];
        match given.iter().find(|(_, given)| *given) {
            Some((option, _)) => bail!("{option} is for machines; give --mode live and --cloud PROVIDER with it"),
            None => Ok(()),
        }
    }

    /// The machines that the command line or the file names; none when neither does.
    pub(in crate::cli) fn choose(&self, experiment: &ExperimentArgs) -> anyhow::Result<Option<FleetPlan>> {
        let table = FleetTable::read(experiment.load(&[])?.cloud.as_ref())?;
        let (named, engine, lease) = table.named()?;
        let Some(cloud) = self.cloud.or(named) else { return Ok(None) };
        let common =
            CloudArgs { cloud: Some(cloud), state: self.state.clone(), hosts: self.hosts.clone(), json: false };
        Ok(Some(FleetPlan {
            common,
            cloud,
            machine: self.machine.clone().or(table.r#type),
            model: self.model.clone().or(table.model).unwrap_or_else(|| MODEL.to_owned()),
            machines: table.machines,
            program: self.program.clone(),
            needs: self.needs,
            image: self.image.clone().or(table.image),
            engine: self.engine.or(engine),
            caps: Caps { nodes: self.max_nodes, cents_per_hour: self.max_dollars_per_hour.0, ..Caps::default() },
            lease_ms: self.lease.or(lease).unwrap_or(4 * 3_600_000),
            keep: self.keep || table.keep,
            yes: self.yes,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_of_machines_is_checked_though_nothing_uses_it() {
        let check = |text: &str| FleetTable::read(Some(&text.parse().unwrap())).and_then(|table| table.check());
        check("provider = \"local\"\nlease = \"2h\"").unwrap();
        assert!(FleetTable::read(None).is_ok());
        for (text, told) in [
            ("provider = \"nope\"", "provider = \"nope\" is none; write local, ssh, lambda or modal"),
            ("engine = \"nope\"", "engine = \"nope\" is none; write emulated"),
            ("lease = \"5 bananas\"", "[cloud] lease: "),
            ("machines = { a = { ports = \"x\" } }", "[cloud.machines] ports: "),
            ("colour = 1", "it takes provider, type"),
        ] {
            let message = check(text).unwrap_err().to_string();
            assert!(message.contains(told), "{message}");
        }
    }
}
