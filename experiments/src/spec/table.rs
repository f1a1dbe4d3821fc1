//! Reading and changing nested TOML tables by dotted keys.

use toml::{Table, Value};

/// Splits `key=value`. The value is TOML if it parses as such, else a text.
pub fn assignment(text: &str) -> Result<(String, Value), String> {
    let (key, value) = text
        .split_once('=')
        .ok_or_else(|| format!("`{text}` sets nothing; write key=value, for example policy.running_cost_factor=0.5"))?;
    let key = key.trim();
    if key.is_empty() || key.split('.').any(str::is_empty) {
        return Err(format!("`{text}` has no key before `=`; write key=value"));
    }
    Ok((key.to_owned(), value_of(value)))
}

/// A bare value: TOML if it parses, else a text.
pub fn value_of(text: &str) -> Value {
    let text = text.trim();
    let parsed = format!("v = {text}").parse::<Table>().ok().and_then(|mut t| t.remove("v"));
    parsed.unwrap_or_else(|| Value::String(text.to_owned()))
}

/// Sets a dotted key, making tables on the way. `policy = "gorgo"` counts as `policy = { name = "gorgo" }`, and a
/// number in a key indexes a list.
pub fn set(table: &mut Table, key: &str, value: Value) -> Result<(), String> {
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
        Value::Table(inner) => set(inner, rest, value),
        Value::Array(list) => set_in_list(list, head, rest, value),
        other => Err(format!("`{head}` is {other}, so `{key}` cannot be set in it")),
    }
}

fn set_in_list(list: &mut [Value], head: &str, rest: &str, value: Value) -> Result<(), String> {
    let (index, rest) = rest.split_once('.').map_or((rest, None), |(h, r)| (h, Some(r)));
    let length = list.len();
    let slot = index.parse::<usize>().ok().and_then(|i| list.get_mut(i));
    let slot = slot.ok_or_else(|| format!("`{head}` is a list of {length}; `{index}` is no index of it"))?;
    match (slot, rest) {
        (slot, None) => *slot = value,
        (Value::Table(inner), Some(rest)) => return set(inner, rest, value),
        (other, Some(_)) => return Err(format!("`{head}.{index}` is {other}, nothing can be set in it")),
    }
    Ok(())
}

/// Lays `over` on `under`: tables are merged, everything else is replaced. A policy of another name replaces the
/// whole policy, since its keys mean nothing to another.
pub fn merge(under: &mut Table, over: &Table) {
    for (key, value) in over {
        match (under.get_mut(key), value) {
            (Some(Value::Table(a)), Value::Table(b)) if !(key == "policy" && b.get("name").is_some()) => merge(a, b),
            _ => {
                under.insert(key.clone(), value.clone());
            }
        }
    }
}
