//! Settings as TOML tables: `--set key=value`, merging of tables, values that have been renamed, `duration` (`5s` in
//! place of milliseconds), `either` (a number or text), `field_names`: the keys that a struct reads, and `schema`: the
//! JSON schema of a file.

mod duration;
mod either;
mod field_names;
mod schema;

pub use duration::{bad_duration, duration_ms, durations_in_table, durations_in_text, durations_in_value};
pub use either::{NumberOrText, number_or_text};
pub use field_names::field_names;
pub use schema::schema_of;

use thiserror::Error;
use toml::{Table, Value};

/// Why a setting cannot be set.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SettingsError {
    /// There is no `=`.
    #[error("`{text}` sets nothing; write key=value, for example policy.running_cost_factor=0.5")]
    NoAssignment {
        /// The text given.
        text: String,
    },
    /// The key, or a part of it, is empty.
    #[error("`{text}` has no key before `=`; write key=value")]
    NoKey {
        /// The text given.
        text: String,
    },
    /// The key leads through a value that is neither a table nor a list.
    #[error("`{parent}` is {value}, so `{key}` cannot be set in it")]
    NotATable {
        /// The part of the key that names the value.
        parent: String,
        /// The value, as TOML.
        value: String,
        /// The rest of the key.
        key: String,
    },
    /// The key has no valid index where it leads into a list.
    #[error("`{list}` is a list of {length}; `{index}` is not an index of it")]
    NoSuchIndex {
        /// The part of the key that names the list.
        list: String,
        /// Number of entries.
        length: usize,
        /// The part of the key in place of an index.
        index: String,
    },
}

/// Splits `key=value`. The value is read as TOML if it is valid TOML, else as a string; durations become milliseconds as
/// in files.
///
/// # Errors
/// There is no `=`, or a part of the key is empty.
pub fn parse_assignment(text: &str) -> Result<(String, Value), SettingsError> {
    let (key, value) = text.split_once('=').ok_or_else(|| SettingsError::NoAssignment { text: text.to_owned() })?;
    // Quotes around a part, as TOML has them, name the same key: no key of a file holds a dot.
    let key = key.trim().replace('"', "");
    if key.is_empty() || key.split('.').any(str::is_empty) {
        return Err(SettingsError::NoKey { text: text.to_owned() });
    }
    let mut value = parse_value(value);
    durations_in_value(&key, &mut value);
    Ok((key, value))
}

/// Reads a value as TOML if it is valid TOML, else as a string.
pub fn parse_value(text: &str) -> Value {
    let text = text.trim();
    let parsed = format!("v = {text}").parse::<Table>().ok().and_then(|mut t| t.remove("v"));
    parsed.unwrap_or_else(|| Value::String(text.to_owned()))
}

/// Sets a dotted key and creates missing tables. `policy = "gorgo"` counts as `policy = { name = "gorgo" }`, and a
/// number in a key is an index into a list.
///
/// # Errors
/// The key leads through a value that is neither a table nor a list, or past the end of a list.
pub fn set_key(table: &mut Table, key: &str, value: Value) -> Result<(), SettingsError> {
    let (head, rest) = key.split_once('.').map_or((key, None), |(h, r)| (h, Some(r)));
    let Some(rest) = rest else {
        table.insert(head.to_owned(), value);
        return Ok(());
    };
    let inner = table.entry(head.to_owned()).or_insert_with(|| Value::Table(Table::new()));
    if let Value::String(name) = inner {
        *inner = Value::Table(Table::from_iter([("name".to_owned(), Value::String(std::mem::take(name)))]));
    }
    match inner {
        Value::Table(inner) => set_key(inner, rest, value),
        Value::Array(list) => set_in_list(list, head, rest, value),
        other => {
            Err(SettingsError::NotATable { parent: head.to_owned(), value: other.to_string(), key: key.to_owned() })
        }
    }
}

fn set_in_list(list: &mut [Value], head: &str, rest: &str, value: Value) -> Result<(), SettingsError> {
    let (index, rest) = rest.split_once('.').map_or((rest, None), |(h, r)| (h, Some(r)));
    let length = list.len();
    let slot = index.parse::<usize>().ok().and_then(|i| list.get_mut(i));
    let wrong = || SettingsError::NoSuchIndex { list: head.to_owned(), length, index: index.to_owned() };
    match (slot.ok_or_else(wrong)?, rest) {
        (slot, None) => *slot = value,
        (Value::Table(inner), Some(rest)) => return set_key(inner, rest, value),
        (other, Some(rest)) => {
            let (parent, key) = (format!("{head}.{index}"), rest.to_owned());
            return Err(SettingsError::NotATable { parent, value: other.to_string(), key });
        }
    }
    Ok(())
}

/// Merges `over` into `under`: tables are merged key for key, every other value is replaced. A policy with another
/// name replaces the whole policy, because its keys have no meaning for another policy.
pub fn merge_tables(under: &mut Table, over: &Table) {
    for (key, value) in over {
        match (under.get_mut(key), value) {
            (Some(Value::Table(a)), Value::Table(b)) if !(key == "policy" && b.get("name").is_some()) => {
                merge_tables(a, b);
            }
            _ => {
                under.insert(key.clone(), value.clone());
            }
        }
    }
}

/// Old names of presets that are still read, with the names that replaced them.
const RENAMED_PRESETS: [(&str, &str); 1] = [("seed", "gotoni")];

/// The present name of a policy's or an engine's preset that may be written under its old name.
pub fn current_preset_name(name: &str) -> &str {
    RENAMED_PRESETS.iter().find(|(old, _)| *old == name).map_or(name, |(_, new)| new)
}

/// One sentence for each preset in `table` that is written under its old name.
pub fn renamed_presets(table: &Table) -> Vec<String> {
    let mut notes = Vec::new();
    table.iter().for_each(|(key, value)| note_renamed(key, value, &mut notes));
    notes
}

fn note_renamed(key: &str, value: &Value, notes: &mut Vec<String>) {
    match value {
        Value::Table(inner) => {
            inner.iter().for_each(|(k, value)| note_renamed(&format!("{key}.{k}"), value, notes));
        }
        Value::Array(list) => list.iter().for_each(|value| note_renamed(key, value, notes)),
        Value::String(name) if ["preset", "engine"].contains(&key.rsplit('.').next().unwrap_or(key)) => {
            let new = current_preset_name(name);
            if new != name {
                notes.push(format!("{key} = \"{name}\" is called \"{new}\" now; the old name is still read"));
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(text: &str) -> Table {
        text.parse().unwrap()
    }

    #[test]
    fn an_assignment_is_a_dotted_key_and_a_toml_value_or_a_string() {
        assert_eq!(parse_assignment("a.b = 0.5"), Ok(("a.b".to_owned(), Value::Float(0.5))));
        assert_eq!(parse_assignment("a.b_ms=5s"), Ok(("a.b_ms".to_owned(), Value::Integer(5_000))));
        let inline = parse_assignment("a={ b_ms = \"1.5s\" }").unwrap().1;
        assert_eq!(inline, Value::Table(table("b_ms = 1500")), "as in files");
        assert_eq!(parse_assignment("vary.\"a.b\"=1"), Ok(("vary.a.b".to_owned(), Value::Integer(1))));
        assert_eq!(parse_assignment("a=gorgo"), Ok(("a".to_owned(), Value::String("gorgo".to_owned()))));
        for bad in ["a", "=1", "a..b=1"] {
            assert!(parse_assignment(bad).unwrap_err().to_string().contains("write key=value"), "{bad}");
        }
    }

    #[test]
    fn a_dotted_key_creates_tables_opens_a_policy_name_and_indexes_lists() {
        let mut settings = table("policy = \"gorgo\"\narms = [{ a = 1 }]\nrate = 2");
        set_key(&mut settings, "policy.tie_band", Value::Integer(3)).unwrap();
        set_key(&mut settings, "arms.0.a", Value::Integer(4)).unwrap();
        set_key(&mut settings, "new.inner", Value::Integer(5)).unwrap();
        assert_eq!(
            settings,
            table("policy = { name = \"gorgo\", tie_band = 3 }\narms = [{ a = 4 }]\nrate = 2\nnew = { inner = 5 }")
        );
        let mut error = |key| set_key(&mut settings, key, Value::Integer(1)).unwrap_err().to_string();
        assert_eq!(error("rate.x"), "`rate` is 2, so `rate.x` cannot be set in it");
        assert_eq!(error("arms.7.x"), "`arms` is a list of 1; `7` is not an index of it");
        assert_eq!(error("arms.0.a.x"), "`a` is 4, so `a.x` cannot be set in it");
    }

    #[test]
    fn a_policy_of_another_name_replaces_the_whole_policy() {
        let mut under = table("policy = { name = \"gorgo\", tie_band = 3 }\nfleet = { a = 1, b = 2 }");
        merge_tables(&mut under, &table("policy = { name = \"random\" }\nfleet = { b = 3 }"));
        assert_eq!(under, table("policy = { name = \"random\" }\nfleet = { a = 1, b = 3 }"));
        merge_tables(&mut under, &table("policy = { x = 1 }"));
        assert_eq!(under["policy"], Value::Table(table("name = \"random\"\nx = 1")));
    }

    #[test]
    fn presets_under_their_old_name_are_noted_wherever_they_stand() {
        let text = "policy.preset = \"seed\"\nseeds = 1\n[vary]\n\"policy.preset\" = [\"seed\", \"physical\"]\n\
                    [[arms]]\nfleet.replicas = [{ engine = \"seed\", name = \"seed\" }]";
        let notes = renamed_presets(&table(text));
        assert_eq!(notes.len(), 3, "{notes:?}");
        assert!(
            notes.contains(&"policy.preset = \"seed\" is called \"gotoni\" now; the old name is still read".to_owned())
        );
        assert_eq!((current_preset_name("seed"), current_preset_name("physical")), ("gotoni", "physical"));
    }
}
