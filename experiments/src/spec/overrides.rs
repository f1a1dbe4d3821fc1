//! `--set`: the command line is stronger than the file, than arms and than `[vary]`.
//!
//! Each setting is written where it holds: into the settings of all arms, and into every arm or varied value that
//! would hide it there. So the resolved experiment says what ran, and running it again gives the same arms.

use super::policy;
use gorgo_core::policy::PolicyConfig;
use gorgo_core::settings::set_key as set_key_in;
use gorgo_core::suggest::did_you_mean;
use toml::{Table, Value};

/// The parts of an experiment that settings are written into.
pub(super) struct Parts<'a> {
    pub(super) base: &'a mut Table,
    pub(super) arms: &'a mut Vec<(Option<String>, Table)>,
    pub(super) vary: &'a mut Vec<(String, Vec<Value>)>,
}

impl Parts<'_> {
    /// Writes one setting of a run; `names` are the arms' names.
    ///
    /// # Errors
    /// One sentence when the key leads nowhere or reaches no arm.
    pub(super) fn set(&mut self, key: &str, value: &Value, names: &[String]) -> Result<(), String> {
        if let Some(rest) = key.strip_prefix("arms.") {
            return self.set_arm(rest, value, names);
        }
        if let Some(varied) = key.strip_prefix("vary.") {
            let values = super::vary::values_of(varied, value.clone())?;
            self.vary.retain(|(k, _)| k != varied);
            self.vary.push((varied.to_owned(), values));
            return Ok(());
        }
        // One value takes the place of all that vary.
        self.vary.retain(|(varied, _)| varied != key && !within(varied, key));
        if let Some(setting) = key.strip_prefix("policy.") {
            return self.set_policy(setting, value);
        }
        for (varied, values) in self.vary.iter_mut().filter(|(varied, _)| within(key, varied)) {
            let rest = &key[varied.len() + 1..];
            for slot in values {
                set_inside(slot, varied, rest, value)?;
            }
        }
        for (_, arm) in self.arms.iter_mut() {
            hide_nothing(arm, key, value)?;
        }
        // A list that only arms hold has no place in the settings of all arms.
        let in_list = key.split('.').any(|part| part.parse::<usize>().is_ok());
        if in_list && !holds(self.base, key) && self.arms.iter().any(|(_, arm)| holds(arm, key)) {
            return Ok(());
        }
        set_key(self.base, key, value.clone())
    }

    /// A policy's setting reaches every arm whose policy knows it.
    fn set_policy(&mut self, setting: &str, value: &Value) -> Result<(), String> {
        let mut reached = false;
        let mut policies: Vec<String> = Vec::new();
        for slot in self.vary.iter_mut().filter(|(varied, _)| varied == "policy").flat_map(|(_, values)| values) {
            let name = policy::name(Some(slot)).to_owned();
            if policy::knows(&name, setting) {
                set_inside(slot, "policy", setting, value)?;
                reached = true;
            }
            policies.push(name);
        }
        for (_, arm) in self.arms.iter_mut() {
            let effective = policy::merged(self.base.get("policy"), arm.get("policy"));
            let name = policy::name(effective.as_ref()).to_owned();
            if policy::knows(&name, setting) {
                set_key(arm, &format!("policy.{setting}"), value.clone())?;
                reached = true;
            }
            policies.push(name);
        }
        if reached { Ok(()) } else { Err(no_policy_knows(setting, &policies)) }
    }

    /// One arm by its name or its place in the file.
    fn set_arm(&mut self, rest: &str, value: &Value, names: &[String]) -> Result<(), String> {
        // A name may hold dots; the longest name that fits is meant.
        let named = names.iter().enumerate().filter(|(_, name)| within(rest, name)).max_by_key(|(_, name)| name.len());
        let (index, key) = match named {
            Some((index, name)) => (index, &rest[name.len() + 1..]),
            None => {
                let (head, key) = rest.split_once('.').ok_or_else(|| {
                    format!(
                        "`arms.{rest}` sets nothing; write arms.NAME.key=value, for example arms.{}.policy.tie_band=1",
                        names[0]
                    )
                })?;
                let index = head.parse::<usize>().ok().filter(|&i| i < names.len());
                (index.ok_or_else(|| unknown_arm(head, names))?, key)
            }
        };
        if let Some((varied, _)) = self.vary.iter().find(|(varied, _)| varied == key || within(varied, key)) {
            return Err(format!(
                "`{varied}` varies for all arms, so arms.{}.{key} would have no effect; give --set {key}=... for all arms, or drop it from [vary]",
                names[index]
            ));
        }
        if key == "name" {
            let Value::String(name) = value else { return Err(format!("arms.{rest} is {value}; it must be a name")) };
            self.arms[index].0 = Some(name.clone());
            return Ok(());
        }
        let arm = &mut self.arms[index].1;
        if let Some(setting) = key.strip_prefix("policy.") {
            let effective = policy::merged(self.base.get("policy"), arm.get("policy"));
            let name = policy::name(effective.as_ref()).to_owned();
            if !policy::knows(&name, setting) {
                return Err(no_policy_knows(setting, &[name]));
            }
        }
        set_key(arm, key, value.clone())
    }
}

/// Refuses a table of varied settings that follows `--set KEY=...` of one of them: the one value would win, though it
/// stands before.
pub(super) fn vary_is_not_lost(sets: &[(String, Value)]) -> Result<(), String> {
    for (i, (_, table)) in sets.iter().enumerate().filter(|(_, (key, _))| key == "vary") {
        let Ok(varied) = super::vary::from_table(Some(table.clone())) else { continue };
        let lost = |key: &str| varied.iter().any(|(varied, _)| varied == key || within(varied, key));
        if let Some((key, _)) = sets[..i].iter().find(|(key, _)| lost(key)) {
            return Err(format!(
                "--set vary=... varies `{key}`, which --set {key}=... before it sets to one value; keep one"
            ));
        }
    }
    Ok(())
}

/// Whether `key` lies inside the table `outer`.
fn within(key: &str, outer: &str) -> bool {
    key.strip_prefix(outer).is_some_and(|rest| rest.starts_with('.'))
}

/// The error for a setting that no policy of the experiment has.
pub(super) fn no_policy_knows(setting: &str, policies: &[String]) -> String {
    let mut names = policies.to_vec();
    names.sort();
    names.dedup();
    let known: Vec<String> =
        names.iter().flat_map(|name| PolicyConfig::keys(name)).map(|key| format!("policy.{key}")).collect();
    let hint = did_you_mean(&format!("policy.{setting}"), known.iter().map(String::as_str));
    format!("`policy.{setting}` is a setting of no arm's policy ({}); {hint}", names.join(", "))
}

fn unknown_arm(given: &str, names: &[String]) -> String {
    format!("no arm is called `{given}`; {}", did_you_mean(given, names.iter().map(String::as_str)))
}

/// Sets `rest` inside a varied value, which may be a policy's bare name.
fn set_inside(slot: &mut Value, key: &str, rest: &str, value: &Value) -> Result<(), String> {
    let mut table = Table::from_iter([(key.to_owned(), slot.clone())]);
    set_key(&mut table, &format!("{key}.{rest}"), value.clone())?;
    *slot = table.remove(key).unwrap_or(Value::Boolean(false));
    Ok(())
}

/// Removes what in an arm would hide the setting `key` of all arms; inside a list of the arm's own it is set there.
fn hide_nothing(arm: &mut Table, key: &str, value: &Value) -> Result<(), String> {
    let (head, rest) = key.split_once('.').map_or((key, None), |(head, rest)| (head, Some(rest)));
    let Some(rest) = rest else {
        arm.remove(head);
        return Ok(());
    };
    match arm.get_mut(head) {
        None => Ok(()),
        Some(Value::Table(inner)) => hide_nothing(inner, rest, value),
        Some(Value::Array(_)) => set_key(arm, key, value.clone()),
        Some(_) => {
            arm.remove(head);
            Ok(())
        }
    }
}

/// Whether the list that `key` leads into is there.
fn holds(table: &Table, key: &str) -> bool {
    match key.split_once('.') {
        None => table.contains_key(key),
        Some((head, rest)) => match table.get(head) {
            Some(Value::Table(inner)) => holds(inner, rest),
            Some(Value::Array(_)) => true,
            _ => false,
        },
    }
}

fn set_key(table: &mut Table, key: &str, value: Value) -> Result<(), String> {
    set_key_in(table, key, value).map_err(|error| error.to_string())
}
