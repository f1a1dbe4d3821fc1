//! `gorgo decide`: decisions for recorded fleet states, as JSON lines.

use super::output::print_line;
use anyhow::{Context, bail};
use clap::Args as ClapArgs;
use gorgo_core::decide::decide_line;
use gorgo_core::policy::PolicyConfig;
use gorgo_core::rng;
use gorgo_core::settings::{parse_assignment, renamed_presets, set_key};
use std::io::BufRead;
use std::path::PathBuf;

#[derive(Debug, ClapArgs)]
pub(crate) struct DecideArgs {
    /// Policy that decides; `gorgo` or the one of --config when absent
    #[arg(long)]
    policy: Option<String>,
    /// TOML file with a [policy] table
    #[arg(long)]
    config: Option<PathBuf>,
    /// Override a policy setting, for example policy.ms_per_token=0.094
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    /// Seed of random ties
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

pub(super) fn run(args: &DecideArgs) -> anyhow::Result<()> {
    let mut settings = toml::Table::new();
    if let Some(path) = &args.config {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read `{}`", path.display()))?;
        settings = text.parse().with_context(|| format!("`{}` is not TOML", path.display()))?;
    }
    if let Some(name) = &args.policy {
        let named = toml::Table::from_iter([("name".to_owned(), toml::Value::String(name.clone()))]);
        let same = settings.get("policy").and_then(|p| p.get("name")).and_then(toml::Value::as_str) == Some(name);
        if !same {
            settings.insert("policy".to_owned(), toml::Value::Table(named));
        }
    }
    for set in &args.sets {
        let (key, value) = parse_assignment(set)?;
        if !key.starts_with("policy.") {
            bail!("--set {set}: decide has only policy settings; write policy.{key}=...");
        }
        set_key(&mut settings, &key, value)?;
    }
    renamed_presets(&settings).iter().for_each(|note| eprintln!("note: {note}"));
    let config: PolicyConfig = match settings.remove("policy") {
        Some(policy) => policy.try_into().map_err(|e: toml::de::Error| anyhow::anyhow!("policy: {}", e.message()))?,
        None => PolicyConfig::default(),
    };
    let mut policy = config.build();
    let mut rng = rng::stream(args.seed, "policy", 0);
    let mut bad = 0;
    for (number, line) in std::io::stdin().lock().lines().enumerate() {
        let line = line.with_context(|| format!("line {} of standard input cannot be read", number + 1))?;
        if line.trim().is_empty() {
            continue;
        }
        match decide_line(&mut *policy, &mut rng, &line) {
            Ok(decision) => print_line(serde_json::to_string(&decision)?)?,
            Err(error) => {
                bad += 1;
                eprintln!("line {}: {error}", number + 1);
            }
        }
    }
    if bad > 0 {
        bail!("{bad} of the lines could not be decided; the good ones were");
    }
    Ok(())
}
