//! Varied settings: lists and ranges of values, their combinations and labels.

use gorgo_core::settings::{durations_in_value, parse_value};
use toml::{Table, Value};

/// Most values of one range: a typo in the step must not start a million runs.
const MOST: usize = 1_000;

/// Reads `[vary]`: each key a list or a range text such as `"0..2:0.1"`.
pub(super) fn from_table(value: Option<Value>) -> Result<Vec<(String, Vec<Value>)>, String> {
    let Some(value) = value else { return Ok(Vec::new()) };
    let Value::Table(table) = value else {
        return Err(format!("is {value}; write \"policy.ms_per_token\" = [0.05, 0.1]"));
    };
    let mut found = Vec::new();
    flatten("", table, &mut found)?;
    Ok(found)
}

fn flatten(prefix: &str, table: Table, found: &mut Vec<(String, Vec<Value>)>) -> Result<(), String> {
    for (key, value) in table {
        let key = if prefix.is_empty() { key } else { format!("{prefix}.{key}") };
        match value {
            Value::Table(inner) => flatten(&key, inner, found)?,
            other => {
                let values = values_of(&key, other)?;
                if found.iter().any(|(k, _)| *k == key) {
                    return Err(format!("`{key}` stands twice; keep one"));
                }
                found.push((key, values));
            }
        }
    }
    Ok(())
}

/// The values that `key` takes: a list, or the text of a range.
pub(super) fn values_of(key: &str, value: Value) -> Result<Vec<Value>, String> {
    match value {
        Value::Array(list) if !list.is_empty() => no_value_twice(key, list),
        Value::String(text) => values(key, &text),
        other => Err(format!("`{key}` is {other}; give a list or a range such as \"0..2:0.1\"")),
    }
}

/// Refuses equal values: the same runs would stand side by side as two arms.
fn no_value_twice(key: &str, list: Vec<Value>) -> Result<Vec<Value>, String> {
    let number = |value: &Value| value.as_float().or_else(|| value.as_integer().map(|n| n as f64));
    let same = |a: &Value, b: &Value| a == b || number(a).is_some_and(|a| Some(a) == number(b));
    let twice = list.iter().enumerate().find(|(i, value)| list[..*i].iter().any(|before| same(before, value)));
    match twice {
        Some((_, value)) => Err(format!("`{key}` takes the value {} twice; keep one", show(value))),
        None => Ok(list),
    }
}

/// Reads `key=from..to:step` or `key=a,b,c`.
pub(super) fn parse(text: &str) -> Result<(String, Vec<Value>), String> {
    let (key, list) = text
        .split_once('=')
        .filter(|(k, v)| !k.trim().is_empty() && !v.trim().is_empty())
        .ok_or_else(|| format!("`{text}` varies nothing; write key=from..to:step or key=a,b,c"))?;
    let key = key.trim();
    Ok((key.to_owned(), values(key, list)?))
}

/// `from..to:step` (ends included), `from..to:*factor` (geometric), or a list with commas. Durations become milliseconds.
fn values(key: &str, text: &str) -> Result<Vec<Value>, String> {
    // `../a.jsonl` is a path.
    let range = text.split_once("..").filter(|_| !text.contains(['/', '\\', '"', '[', '{']));
    let Some((from, rest)) = range else {
        let mut list = listed(text)?;
        list.iter_mut().for_each(|value| durations_in_value(key, value));
        return no_value_twice(key, list);
    };
    let wrong = || format!("`{text}` is not a range; write from..to:step, or from..to:*factor for a geometric one");
    let (to, step) = rest.split_once(':').ok_or_else(wrong)?;
    let whole = [from, to, step.trim().trim_start_matches('*')].iter().all(|part| part.trim().parse::<i64>().is_ok());
    let number = |s: &str| s.trim().parse::<f64>().ok().filter(|x| x.is_finite()).ok_or_else(wrong);
    let (from, to) = (number(from)?, number(to)?);
    let factor = step.trim().strip_prefix('*').map(number).transpose()?;
    let step = if factor.is_some() { 0.0 } else { number(step)? };
    if from > to || factor.is_some_and(|f| f <= 1.0 || from <= 0.0) || (factor.is_none() && step <= 0.0) {
        return Err(format!(
            "`{text}` never ends or has no values: from must not exceed to, step must be above 0, a factor above 1"
        ));
    }
    let mut list = Vec::new();
    for i in 0..=MOST {
        // Multiplied, not summed, so that rounding errors do not add up.
        let value = factor.map_or(from + step * i as f64, |f| from * f.powi(i as i32));
        if value > to + 1e-9 * from.abs().max(to.abs()) {
            return Ok(list);
        }
        // 0.1 + 2 * 0.1 is written 0.3.
        let rounded = format!("{value:.11e}").parse().unwrap_or(value);
        list.push(if whole { Value::Integer(rounded as i64) } else { Value::Float(rounded) });
    }
    Err(format!("`{text}` has more than {MOST} values; take a larger step"))
}

/// The values between the commas of a list, those within brackets and quotes aside.
fn listed(text: &str) -> Result<Vec<Value>, String> {
    if text.contains(['[', '{', '"', '\'']) {
        let table: Table =
            format!("v = [{text}]").parse().map_err(|_| format!("`{text}` is no list of values in TOML"))?;
        if let Some(Value::Array(list)) = table.get("v") {
            return Ok(list.clone());
        }
    }
    let parts: Vec<&str> = text.split(',').map(str::trim).collect();
    if parts.iter().any(|part| part.is_empty()) {
        return Err(format!("`{text}` has a comma with no value beside it; remove the comma"));
    }
    Ok(parts.into_iter().map(parse_value).collect())
}

/// Whether a key is a setting of runs. Keys of the file as a whole cannot be crossed with its arms.
pub(super) fn is_setting(key: &str) -> bool {
    !super::FILE_KEYS.contains(&key.split('.').next().unwrap_or(key))
}

/// The error for a key that is none.
pub(super) fn not_a_setting(key: &str) -> String {
    let what =
        format!("`{key}` cannot be varied, which takes settings of runs such as policy.tie_band or workload.rate");
    match key.split('.').collect::<Vec<_>>()[..] {
        ["seeds", ..] => format!("{what}; give a list of seeds with --set seeds=[1, 2]"),
        ["arms", _, ref rest @ ..] if !rest.is_empty() => {
            let rest = rest.join(".");
            format!("{what}; vary {rest} of all arms, or give each value an arm of its own")
        }
        _ => what,
    }
}

/// All combinations of the varied settings `which`, the last changing fastest.
pub(super) fn combinations(vary: &[(String, Vec<Value>)], which: &[usize]) -> Vec<Vec<(String, Value)>> {
    let mut all = vec![Vec::new()];
    for &i in which {
        let (key, values) = &vary[i];
        let extend = |head: Vec<(String, Value)>| {
            values.iter().map(move |v| {
                let mut longer = head.clone();
                longer.push((key.clone(), v.clone()));
                longer
            })
        };
        all = all.into_iter().flat_map(extend).collect();
    }
    all
}

/// A value as shown in labels and tables.
pub(super) fn show(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// An arm's name with its varied settings, each under the last part of its key.
pub(super) fn label(name: &str, combination: &[(String, Value)]) -> String {
    let mut label = name.to_owned();
    for (key, value) in combination {
        let short = key.rsplit('.').next().unwrap_or(key);
        label += &format!(" {short}={}", show(value));
    }
    label
}
