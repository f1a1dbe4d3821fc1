//! Any JSON as indented lines and aligned tables, for answers that have no text of their own.

use serde_json::Value;

/// Any JSON as indented lines; lists of objects as aligned tables of their plain fields.
pub(in crate::cli) fn fields(value: &Value) -> String {
    let mut out = String::new();
    write_value(&mut out, value, 0);
    out.trim_end().to_owned()
}

fn write_value(out: &mut String, value: &Value, indent: usize) {
    let pad = "  ".repeat(indent);
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                match value {
                    Value::Object(inner) if !inner.is_empty() => {
                        out.push_str(&format!("{pad}{key}:\n"));
                        write_value(out, value, indent + 1);
                    }
                    Value::Array(rows) if rows.iter().any(Value::is_object) => {
                        out.push_str(&format!("{pad}{key}:\n"));
                        write_value(out, value, indent + 1);
                    }
                    _ => out.push_str(&format!("{pad}{key}: {}\n", cell(value))),
                }
            }
        }
        Value::Array(rows) if rows.iter().any(Value::is_object) => write_rows(out, rows, &pad),
        other => out.push_str(&format!("{pad}{}\n", cell(other))),
    }
}

/// Objects as a table of the fields that are neither objects, arrays nor null.
fn write_rows(out: &mut String, rows: &[Value], pad: &str) {
    let mut keys: Vec<&String> = Vec::new();
    for row in rows.iter().filter_map(Value::as_object) {
        for (key, value) in row {
            let simple = !value.is_object() && !value.is_array() && !value.is_null();
            if simple && !keys.contains(&key) {
                keys.push(key);
            }
        }
    }
    let keys: Vec<&str> = keys.iter().map(|key| key.as_str()).collect();
    write_columns(out, rows, &keys, pad);
}

/// Objects as an aligned table of the fields `keys`.
fn write_columns(out: &mut String, rows: &[Value], keys: &[&str], pad: &str) {
    let mut cells: Vec<Vec<String>> = vec![keys.iter().map(ToString::to_string).collect()];
    cells.extend(rows.iter().map(|row| keys.iter().map(|key| cell(&row[*key])).collect()));
    let widths: Vec<usize> =
        (0..keys.len()).map(|i| cells.iter().map(|row| row[i].chars().count()).max().unwrap_or(0)).collect();
    for row in cells {
        let line: Vec<String> = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:<width$}")).collect();
        out.push_str(&format!("{pad}{}\n", line.join("  ").trim_end()));
    }
}

/// A JSON value on one line; `-` for null.
pub(super) fn cell(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        Value::Number(n) if n.is_f64() => format!("{:.3}", n.as_f64().unwrap_or(0.0)),
        Value::Array(all) => all.iter().map(cell).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}
