//! The policy of an arm: what the arm writes laid over what the file's `[policy]` holds for all arms.

use gorgo_core::policy::PolicyConfig;
use toml::{Table, Value};

/// The policy of an arm that names none.
pub(super) const DEFAULT: &str = "gorgo";

/// A policy as written: its name, if any, and its settings.
fn parts(value: &Value) -> Option<(Option<&str>, Table)> {
    match value {
        Value::String(name) => Some((Some(name), Table::new())),
        Value::Table(table) => {
            let mut settings = table.clone();
            settings.remove("name");
            Some((table.get("name").and_then(Value::as_str), settings))
        }
        _ => None,
    }
}

/// The name under which settings with `policy = value` are read.
pub(super) fn name(value: Option<&Value>) -> &str {
    match value {
        Some(Value::String(name)) => name,
        Some(Value::Table(table)) => table.get("name").and_then(Value::as_str).unwrap_or(DEFAULT),
        _ => DEFAULT,
    }
}

/// Whether the policy `name` reads the setting `key`, which may lead into a table of it.
pub(super) fn knows(name: &str, key: &str) -> bool {
    let key = key.split('.').next().unwrap_or(key);
    key == "name" || PolicyConfig::keys(name).contains(&key)
}

fn same(a: &str, b: &str) -> bool {
    match (PolicyConfig::canonical(a), PolicyConfig::canonical(b)) {
        (Ok(a), Ok(b)) => a == b,
        _ => a == b,
    }
}

/// The policy of an arm that writes `over`, in a file whose settings of all arms hold `under`. Settings of the file
/// reach every arm whose policy knows them, also one that names its policy by a word; settings of a policy that the
/// file names reach the arms with that policy only.
pub(super) fn merged(under: Option<&Value>, over: Option<&Value>) -> Option<Value> {
    let (Some(under), Some(over)) = (under, over) else {
        let only = over.or(under)?;
        return Some(match parts(only) {
            Some((None, settings)) => named(DEFAULT, settings),
            _ => only.clone(),
        });
    };
    let (Some((file, mut settings)), Some((arm, own))) = (parts(under), parts(over)) else { return Some(over.clone()) };
    match (file, arm) {
        (Some(file), Some(arm)) if !same(file, arm) => return Some(over.clone()),
        (None, Some(arm)) => settings.retain(|key, _| knows(arm, key)),
        _ => {}
    }
    gorgo_core::settings::merge_tables(&mut settings, &own);
    Some(named(arm.or(file).unwrap_or(DEFAULT), settings))
}

/// Settings of the file's `[policy]` that reach none of the arms, by the policies' names.
pub(super) fn unused<'a>(under: Option<&'a Value>, arms: &[&str]) -> Option<&'a str> {
    let Value::Table(table) = under? else { return None };
    let file = table.get("name").and_then(Value::as_str);
    let reaches = |key: &str| match file {
        Some(file) => arms.iter().any(|arm| same(file, arm)),
        None => arms.iter().any(|arm| knows(arm, key)),
    };
    table.keys().map(String::as_str).find(|key| *key != "name" && !reaches(key))
}

fn named(name: &str, mut settings: Table) -> Value {
    settings.insert("name".to_owned(), Value::String(name.to_owned()));
    Value::Table(settings)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> Option<Value> {
        format!("policy = {text}").parse::<Table>().unwrap().remove("policy")
    }

    #[test]
    fn settings_of_the_file_reach_every_arm_whose_policy_knows_them() {
        let merge = |under: &str, over: &str| merged(value(under).as_ref(), value(over).as_ref());
        let tuned = value("{ name = \"gorgo\", tie_band = 3 }");
        assert_eq!(merge("{ tie_band = 3 }", "\"gorgo\""), tuned);
        assert_eq!(merge("{ tie_band = 3 }", "\"random\""), value("{ name = \"random\" }"));
        assert_eq!(merge("{ name = \"gorgo\", tie_band = 2 }", "{ tie_band = 3 }"), tuned);
        assert_eq!(
            merge("{ name = \"gorgo\", tie_band = 2 }", "{ name = \"GORGO\", tie_band = 3 }"),
            value("{ name = \"GORGO\", tie_band = 3 }")
        );
        assert_eq!(merge("{ name = \"gorgo\", tie_band = 3 }", "\"random\""), value("\"random\""));
        assert_eq!(merged(value("{ tie_band = 3 }").as_ref(), None), tuned);
        assert_eq!(merged(None, None), None);
    }

    #[test]
    fn a_setting_that_reaches_no_arm_is_found() {
        let found = |under: &str, arms: &[&str]| unused(value(under).as_ref(), arms).map(str::to_owned);
        assert_eq!(found("{ tie_band = 3 }", &["random", "gorgo"]), None);
        assert_eq!(found("{ tie_band = 3 }", &["random"]), Some("tie_band".to_owned()));
        assert_eq!(found("{ name = \"gorgo\", tie_band = 3 }", &["random"]), Some("tie_band".to_owned()));
        assert_eq!(found("\"gorgo\"", &["random"]), None);
    }
}
