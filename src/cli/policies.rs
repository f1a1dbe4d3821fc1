//! `gorgo policies`: every policy, what it does, its settings and their defaults.

use super::output::{print_line, print_named};
use clap::Args as ClapArgs;
use gorgo_core::policy::PolicyConfig;
use serde_json::{Map, Value, json};

#[derive(Debug, ClapArgs)]
pub(crate) struct PoliciesArgs {
    /// Show only this policy
    name: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &PoliciesArgs) -> anyhow::Result<()> {
    let names = match &args.name {
        Some(name) => vec![PolicyConfig::canonical(name)?],
        None => PolicyConfig::names().to_vec(),
    };
    let settings = |name: &str| -> anyhow::Result<Map<String, Value>> {
        let defaults = PolicyConfig::parse(name, Map::new())?.settings();
        // A key without a default is learned or off.
        Ok(PolicyConfig::keys(name)
            .iter()
            .map(|key| ((*key).to_owned(), defaults.get(*key).cloned().unwrap_or(Value::Null)))
            .collect())
    };
    if args.json {
        let rows = names
            .iter()
            .map(|name| Ok(json!({"name": name, "summary": PolicyConfig::summary(name), "settings": settings(name)?})));
        return Ok(print_line(serde_json::to_string_pretty(&rows.collect::<anyhow::Result<Vec<_>>>()?)?)?);
    }
    let width = names.iter().map(|name| name.len()).max().unwrap_or(0);
    for name in names {
        print_named(name, width, PolicyConfig::summary(name))?;
        for (key, default) in settings(name)? {
            let default = if default.is_null() { "not set".to_owned() } else { default.to_string() };
            print_line(format!("{:<width$}    {key} = {default}", ""))?;
        }
    }
    Ok(())
}
