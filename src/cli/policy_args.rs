//! The policy that a command is given: by name, in a file, with settings.

use anyhow::{Context, bail};
use clap::Args as ClapArgs;
use gorgo_core::policy::PolicyConfig;
use gorgo_core::settings::{parse_assignment, renamed_presets, set_key};
use std::path::PathBuf;

#[derive(Debug, ClapArgs)]
pub(super) struct PolicyArgs {
    /// Policy that decides; `gorgo` or the one of --config when absent
    #[arg(long)]
    policy: Option<String>,
    /// TOML file with a [policy] table
    #[arg(long)]
    config: Option<PathBuf>,
    /// Override a policy setting, for example policy.ms_per_token=0.094
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
}

impl PolicyArgs {
    /// The policy with its settings; `command` names the caller in errors.
    pub(super) fn read(&self, command: &str) -> anyhow::Result<PolicyConfig> {
        let mut settings = toml::Table::new();
        if let Some(path) = &self.config {
            let text = std::fs::read_to_string(path).with_context(|| format!("cannot read `{}`", path.display()))?;
            settings = text.parse().with_context(|| format!("`{}` is not TOML", path.display()))?;
        }
        if let Some(name) = &self.policy {
            let named = toml::Table::from_iter([("name".to_owned(), toml::Value::String(name.clone()))]);
            let same = settings.get("policy").and_then(|p| p.get("name")).and_then(toml::Value::as_str) == Some(name);
            if !same {
                settings.insert("policy".to_owned(), toml::Value::Table(named));
            }
        }
        for set in &self.sets {
            let (key, value) = parse_assignment(set)?;
            if !key.starts_with("policy.") {
                bail!("--set {set}: {command} has only policy settings; write policy.{key}=...");
            }
            set_key(&mut settings, &key, value)?;
        }
        renamed_presets(&settings).iter().for_each(|note| eprintln!("note: {note}"));
        let config: PolicyConfig = match settings.remove("policy") {
            Some(policy) => {
                policy.try_into().map_err(|e: toml::de::Error| anyhow::anyhow!("policy: {}", e.message()))?
            }
            None => PolicyConfig::default(),
        };
        // A recorded state holds no future.
        config.check_live()?;
        Ok(config)
    }
}
