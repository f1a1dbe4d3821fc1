//! Answers of the admin API as text.

use serde_json::Value;

/// Shape of the prefix index, in the eight lines that gotoni prints.
pub(super) fn prefix_index_shape(value: &Value) -> String {
    let rows = [
        ("Nodes", "nodes"),
        ("Leaves", "leaves"),
        ("Max depth", "max_depth"),
        ("Avg depth", "avg_depth"),
        ("Avg branching", "avg_branching"),
        ("Avg prefix length", "avg_prefix_len"),
        ("Total server refs", "total_server_refs"),
        ("Unique servers", "unique_server_count"),
    ];
    let mut out = "Prefix Tree Stats:".to_owned();
    for (label, key) in rows {
        let shown = match &value[key] {
            Value::Number(n) if n.is_f64() => format!("{:.2}", n.as_f64().unwrap_or(0.0)),
            other => other.to_string(),
        };
        out.push_str(&format!("\n  {label}: {shown}"));
    }
    out
}

/// Outcome of a request, then each decision with one row per candidate.
pub(super) fn explanation(value: &Value) -> String {
    let mut value = value.clone();
    let decisions = value.as_object_mut().and_then(|map| map.remove("decisions")).unwrap_or_default();
    let mut out = fields(&value);
    for decision in decisions.as_array().into_iter().flatten() {
        let shown = |key: &str| cell(&decision[key]);
        out.push_str(&format!(
            "\n\n{} chose {} at {} ms for {} prompt tokens",
            shown("policy"),
            shown("chosen"),
            shown("at_ms"),
            shown("prompt_tokens")
        ));
        if let Some(reason) = decision["reason"].as_str() {
            out.push_str(&format!(" (fallback: {reason})"));
        }
        out.push('\n');
        let columns = [
            "id",
            "total_ms",
            "network_ms",
            "prefill_ms",
            "waiting_ms",
            "running_ms",
            "egress_ms",
            "cached_tokens",
            "waiting_requests",
            "running_requests",
            "rtt_age_ms",
            "excluded",
        ];
        let rows = decision["candidates"].as_array().map_or(&[][..], Vec::as_slice);
        write_columns(&mut out, rows, &columns, "  ");
    }
    out.trim_end().to_owned()
}

/// Replicas or peers of a router, one row each.
pub(in crate::cli) fn replicas_table(value: &Value) -> String {
    let rows = value.as_array().or(value["peers"].as_array()).map_or(&[][..], Vec::as_slice);
    let columns = [
        "id",
        "region",
        "health",
        "available",
        "draining",
        "latency_ms",
        "proxy_tracked_running",
        "running_reqs",
        "waiting_reqs",
        "gpu_cache",
        "dispatched",
        "index_tokens",
    ];
    let mut out = String::new();
    write_columns(&mut out, rows, &columns, "");
    out.trim_end().to_owned()
}

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
fn cell(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        Value::Number(n) if n.is_f64() => format!("{:.3}", n.as_f64().unwrap_or(0.0)),
        Value::Array(all) => all.iter().map(cell).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn tables_are_aligned_and_nested_fields_left_out() {
        let value =
            json!({"queue": 0, "servers": [{"id": "a", "rtt": 1.5, "x": {}}, {"id": "long", "rtt": 20.25, "x": {}}]});
        assert_eq!(fields(&value), "queue: 0\nservers:\n  id    rtt\n  a     1.500\n  long  20.250");
    }
}
