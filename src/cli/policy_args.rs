//! Command-line arguments for a policy: its name, a file, settings.

use super::output::print_note;
use anyhow::{Context, bail};
use clap::Args as ClapArgs;
use gorgo_core::policy::PolicyConfig;
use gorgo_core::settings::{bad_duration, durations_in_table, parse_assignment, renamed_presets, set_key};
use gorgo_core::suggest::did_you_mean;
use std::path::PathBuf;

/// The policy where none is named.
const DEFAULT: &str = "gorgo";

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
            durations_in_table(&mut settings);
            if !settings.contains_key("policy") && self.policy.is_none() {
                let keys: Vec<&str> = settings.keys().map(String::as_str).collect();
                let there = if keys.is_empty() { "nothing".to_owned() } else { format!("`{}`", keys.join("`, `")) };
                print_note(format_args!("`{}` has no [policy], but {there}; {DEFAULT} decides", path.display()));
            }
        }
        if let Some(name) = &self.policy {
            let named = toml::Table::from_iter([("name".to_owned(), toml::Value::String(name.clone()))]);
            let named_there = |policy: &toml::Value| {
                let there = policy.as_str().or_else(|| policy.get("name")?.as_str()).unwrap_or(DEFAULT);
                there == name
            };
            let same = settings.get("policy").is_some_and(named_there);
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
        renamed_presets(&settings).iter().for_each(print_note);
        if let Some(toml::Value::Table(policy)) = settings.get_mut("policy") {
            policy.entry("name").or_insert_with(|| toml::Value::String(DEFAULT.to_owned()));
        }
        if let Some(message) = bad_duration(&settings).filter(|message| message.starts_with("policy.")) {
            bail!("{message}");
        }
        let policy = settings.get("policy");
        let named = policy.and_then(|policy| policy.as_str().or_else(|| policy.get("name")?.as_str()));
        if let Some(name) = named.filter(|name| PolicyConfig::canonical(name).is_err()) {
            // A recorded state holds no future, so that no oracle is offered.
            bail!("unknown policy `{name}`; {}", did_you_mean(name, PolicyConfig::live_names()));
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn read(policy: Option<&str>, config: Option<PathBuf>, sets: &[&str]) -> anyhow::Result<PolicyConfig> {
        let sets = sets.iter().map(|&set| set.to_owned()).collect();
        PolicyArgs { policy: policy.map(str::to_owned), config, sets }.read("decide")
    }

    #[test]
    fn an_unknown_policy_is_told_the_known_ones_without_oracles() {
        let message = read(Some("nope"), None, &[]).unwrap_err().to_string();
        assert!(message.contains("unknown policy `nope`; it must be one of") && message.contains("gorgo"), "{message}");
        assert!(!message.contains("oracle"), "{message}");
    }

    #[test]
    fn settings_without_a_policy_are_those_of_gorgo() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("router.toml");
        std::fs::write(&path, "[policy]\ntie_band = 3.0\n").unwrap();
        let tuned = read(Some("gorgo"), None, &["policy.tie_band=3.0"]).unwrap();
        assert_eq!(read(None, None, &["policy.tie_band=3.0"]).unwrap(), tuned);
        assert_eq!(read(None, Some(path), &[]).unwrap(), tuned);
        assert_eq!(read(None, None, &[]).unwrap(), PolicyConfig::default());
        assert!(read(None, None, &["tie_band=3"]).unwrap_err().to_string().contains("write policy.tie_band="));
    }
}
