//! Durations in files and on the command line: `5s` where a setting counts milliseconds.

use std::borrow::Cow;
use toml::{Table, Value};

const UNITS: [(&str, f64); 5] = [("ms", 1.0), ("s", 1e3), ("min", 6e4), ("m", 6e4), ("h", 3.6e6)];

/// The milliseconds of a number with a unit: `5s`, `1.5min`, `200ms`; `None` for any other text.
pub fn duration_ms(text: &str) -> Option<f64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let (_, factor) = UNITS.iter().find(|(unit, _)| *unit == &text[digits.len()..])?;
    let number = digits.trim_end().parse::<f64>().ok()?;
    (number.is_finite() && number >= 0.0).then_some(number * factor)
}

/// Writes milliseconds as TOML does: whole ones without a point, for settings that are whole numbers.
fn shown(ms: f64) -> String {
    if ms.fract() == 0.0 && ms < 9e15 { format!("{ms:.0}") } else { ms.to_string() }
}

/// TOML text in which the value of each key that ends with `_ms`, or is `down_timeout`, may be a duration: such values
/// are replaced by their milliseconds. Lines stay where they are.
pub fn durations_in_text(text: &str) -> Cow<'_, str> {
    const LONGEST: usize = 32;
    let mut out = String::new();
    let mut copied = 0;
    for (at, _) in text.match_indices('=') {
        if at < copied || !is_time(text[..at].trim_end_matches([' ', '\t'])) {
            continue;
        }
        let value = text[at + 1..].trim_start_matches([' ', '\t']);
        let Some(quote) = value.chars().next().filter(|c| ['"', '\''].contains(c)) else { continue };
        let Some(length) = value.bytes().skip(1).take(LONGEST).position(|byte| byte == quote as u8) else { continue };
        let Some(ms) = value.get(1..=length).and_then(duration_ms) else { continue };
        let from = text.len() - value.len();
        out.push_str(&text[copied..from]);
        out.push_str(&shown(ms));
        copied = from + length + 2;
    }
    if copied == 0 {
        return Cow::Borrowed(text);
    }
    out.push_str(&text[copied..]);
    Cow::Owned(out)
}

/// Whether a key counts milliseconds.
pub(super) fn is_time(key: &str) -> bool {
    key.ends_with("_ms") || key.ends_with("down_timeout")
}

/// As [`durations_in_text`], in a table.
pub fn durations_in_table(table: &mut Table) {
    for (key, value) in table.iter_mut() {
        convert(is_time(key), value);
    }
}

/// As [`durations_in_table`], in the value of one key, which may be dotted.
pub fn durations_in_value(key: &str, value: &mut Value) {
    convert(is_time(key), value);
}

/// One sentence on the first text in `table` that stands where milliseconds are counted; `None` without any.
pub fn bad_duration(table: &Table) -> Option<String> {
    table.iter().find_map(|(key, value)| bad_value(key, value))
}

fn bad_value(key: &str, value: &Value) -> Option<String> {
    match value {
        Value::String(text) if is_time(key) => Some(format!(
            "{key} is \"{text}\"; write milliseconds as a number, or a number with its unit: \"200ms\", \"5s\", \"2min\" or \"1h\""
        )),
        Value::Table(inner) => inner.iter().find_map(|(k, value)| bad_value(&format!("{key}.{k}"), value)),
        Value::Array(list) => list.iter().enumerate().find_map(|(i, value)| match value {
            Value::Table(_) => bad_value(&format!("{key}.{i}"), value),
            _ => bad_value(key, value),
        }),
        _ => None,
    }
}

fn convert(counts_ms: bool, value: &mut Value) {
    match value {
        Value::String(text) if counts_ms => {
            if let Some(ms) = duration_ms(text) {
                *value = if ms.fract() == 0.0 && ms < 9e15 { Value::Integer(ms as i64) } else { Value::Float(ms) };
            }
        }
        Value::Table(inner) => durations_in_table(inner),
        Value::Array(list) => list.iter_mut().for_each(|value| convert(counts_ms, value)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_a_number_and_a_unit() {
        for (text, ms) in [("5s", 5e3), ("1.5 min", 9e4), ("2m", 1.2e5), ("200ms", 200.0), ("1h", 3.6e6), ("0s", 0.0)] {
            assert_eq!(duration_ms(text), Some(ms), "{text}");
        }
        for text in ["", "5", "s", "5x", "-1s", "5 s s", "infs", "nans", "1d"] {
            assert_eq!(duration_ms(text), None, "{text}");
        }
    }

    #[test]
    fn a_text_that_is_no_duration_is_named_with_the_units() {
        let table: Table = "name = \"x\"\n[a]\nlist = [{ b_ms = 5 }, { b_ms = \"5x\" }]".parse().unwrap();
        let message = bad_duration(&table).unwrap();
        assert!(message.starts_with("a.list.1.b_ms is \"5x\"; ") && message.contains("\"2min\""), "{message}");
        assert_eq!(bad_duration(&"a_ms = 5\nb = \"x\"".parse().unwrap()), None);
    }

    #[test]
    fn files_may_hold_durations_where_milliseconds_are_counted() {
        let text = "[timeouts]\nheader_ms = \"5s\"\nidle_ms='2m' # idle_ms = \"x\"\nname = \"5s\"\nx = {a_ms = \"0.5ms\"}\n[router]\ndown_timeout = \"3s\"\n";
        let expected = "[timeouts]\nheader_ms = 5000\nidle_ms=120000 # idle_ms = \"x\"\nname = \"5s\"\nx = {a_ms = 0.5}\n[router]\ndown_timeout = 3000\n";
        assert_eq!(durations_in_text(text), expected);
        assert_eq!(durations_in_text("a_ms = 5\nb_ms"), "a_ms = 5\nb_ms");
        let mut table: Table = text.parse().unwrap();
        durations_in_table(&mut table);
        assert_eq!(table, expected.parse().unwrap());
    }
}
