//! Answers of the admin API as text.

use super::columns::{Column, fit};
use crate::cli::output::columns;
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
    let either = |key: &str, unit: &str| match &value[key] {
        Value::Null => "unknown".to_owned(),
        known => format!("{}{unit}", number(known)),
    };
    let attempts = value["attempts"].as_u64().unwrap_or(1);
    let mut out = format!(
        "request {}: {} at {} after {attempts} attempt{}",
        cell(&value["request_id"]),
        cell(&value["status"]),
        cell(&value["replica"]),
        if attempts == 1 { "" } else { "s" }
    );
    if let Some(reason) = value["reason"].as_str().filter(|reason| !reason.is_empty()) {
        out.push_str(&format!(" ({reason})"));
    }
    out.push_str(&format!(
        "\nfirst token: predicted {}, actual {}\ncached tokens: predicted {}, actual {}",
        either("predicted_ttft_ms", " ms"),
        either("actual_ttft_ms", " ms"),
        either("predicted_cached_tokens", ""),
        either("actual_cached_tokens", ""),
    ));
    for decision in value["decisions"].as_array().into_iter().flatten() {
        out.push_str(&format!("\n\n{}\n", choice(decision)));
        out.push_str(&table(&CANDIDATE, array(&decision["candidates"]), "  "));
        let left_out = decision["candidates_left_out"].as_u64().unwrap_or(0);
        if left_out > 0 {
            out.push_str(&format!("\n  {left_out} more candidates are not kept"));
        }
    }
    out
}

/// What a decision chose, and why.
fn choice(decision: &Value) -> String {
    let mut out = format!(
        "{} chose {} for {} prompt tokens",
        cell(&decision["policy"]),
        decision["chosen"].as_str().unwrap_or("no replica"),
        cell(&decision["prompt_tokens"])
    );
    if decision["tokens"] == "estimated" {
        out.push_str(" (estimated)");
    }
    let deciding = &decision["deciding"];
    if let (Some(term), Some(other)) = (deciding["deciding_term"].as_str(), deciding["runner_up"].as_str()) {
        out.push_str(&format!(", ahead of {other} by {} in {term}", number(&deciding["ahead_by"])));
    }
    if let Some(regret) = deciding["regret_ms"].as_f64().filter(|regret| *regret > 0.05) {
        out.push_str(&format!("; {} was expected {regret:.1} ms sooner", cell(&deciding["fastest"])));
    }
    if let Some(reason) = decision["reason"].as_str() {
        out.push_str(&format!(" (fallback: {reason})"));
    }
    out
}

const CANDIDATE: [Column; 11] = [
    ("replica", |row| cell(&row["id"])),
    ("cost", |row| number(&row["total_ms"])),
    ("network", |row| number(&row["network_ms"])),
    ("prefill", |row| number(&row["prefill_ms"])),
    ("waiting", |row| number(&row["waiting_ms"])),
    ("running", |row| number(&row["running_ms"])),
    ("cached", |row| number(&row["cached_tokens"])),
    ("excluded", |row| cell(&row["excluded"])),
    ("wait/run", |row| format!("{}/{}", number(&row["waiting_requests"]), number(&row["running_requests"]))),
    ("egress", |row| number(&row["egress_ms"])),
    ("RTT age, ms", |row| number(&row["rtt_age_ms"])),
];

const REPLICA: [Column; 10] = [
    ("replica", |row| cell(&row["id"])),
    ("state", |row| match (row["draining"].as_bool(), row["state"].as_str()) {
        (Some(true), _) => "draining".to_owned(),
        (_, Some(state)) => state.to_owned(),
        _ => cell(&row["health"]),
    }),
    ("region", |row| cell(&row["region"])),
    ("RTT, ms", |row| number(&row["latency_ms"])),
    ("ours", |row| number(&row["proxy_tracked_running"])),
    ("running", |row| number(&row["running_reqs"])),
    ("waiting", |row| number(&row["waiting_reqs"])),
    ("KV used", |row| row["gpu_cache"].as_f64().map_or("unknown".to_owned(), |share| format!("{:.0} %", share * 1e2))),
    ("dispatched", |row| number(&row["dispatched"])),
    ("index tokens", |row| number(&row["index_tokens"])),
];

const ROUND_TRIP: [Column; 8] = [
    ("replica", |row| cell(&row["id"])),
    ("RTT, ms", |row| number(&row["current_ms"])),
    ("mean", |row| number(&row["avg_ms"])),
    ("p95", |row| number(&row["p95_ms"])),
    ("min", |row| number(&row["min_ms"])),
    ("max", |row| number(&row["max_ms"])),
    ("age, ms", |row| number(&row["age_ms"])),
    ("available", |row| if row["healthy"] == true { "yes" } else { "no" }.to_owned()),
];

const SHADOW: [Column; 5] = [
    ("policy", |row| cell(&row["policy"])),
    ("decided", |row| number(&row["decided"])),
    ("hit rate", |row| row["hit_rate"].as_f64().map_or("unknown".to_owned(), |rate| format!("{:.1} %", rate * 1e2))),
    ("busiest", |row| number(&row["busiest"])),
    ("predicted TTFT, ms", |row| number(&row["mean_predicted_ttft_ms"])),
];

const WEIGHT: [Column; 5] = [
    ("setting", |row| cell(&row["setting"])),
    ("incumbent", |row| weight(&row["incumbent"])),
    ("candidate", |row| weight(&row["candidate"])),
    ("least", |row| weight(&row["low"])),
    ("most", |row| weight(&row["high"])),
];

/// A weight in four digits.
fn weight(value: &Value) -> String {
    value.as_f64().map_or_else(|| "-".to_owned(), |weight| format!("{weight:.4}"))
}

/// Replicas or peers of a router, one row each.
pub(in crate::cli) fn replicas_table(value: &Value) -> String {
    let rows = value.as_array().or(value["peers"].as_array()).map_or(&[][..], Vec::as_slice);
    if rows.is_empty() { "none".to_owned() } else { table(&REPLICA, rows, "") }
}

/// Round trips to the replicas, one row each.
pub(super) fn round_trips(value: &Value) -> String {
    let named = |(name, row): (&String, &Value)| {
        let mut row = row.clone();
        row["id"] = Value::from(name.as_str());
        row
    };
    let rows: Vec<Value> = value.as_object().into_iter().flatten().map(named).collect();
    if rows.is_empty() {
        "no replicas: add one with `gorgo proxy servers add URL`".to_owned()
    } else {
        table(&ROUND_TRIP, &rows, "")
    }
}

/// What each shadow policy would have done.
pub(super) fn shadows(value: &Value) -> String {
    let rows = array(&value["shadows"]);
    if rows.is_empty() {
        return "no policy runs in the shadow: name some with `shadow.policies` in the router's file".to_owned();
    }
    let mut out = table(&SHADOW, rows, "");
    let dropped = value["dropped_events"].as_u64().unwrap_or(0);
    if dropped > 0 {
        out.push_str(&format!("\n{dropped} events were dropped because the shadows fell behind"));
    }
    out
}

/// The policy in force, its settings, and the others.
pub(super) fn policy(value: &Value) -> String {
    let mut out = format!("policy {}", cell(&value["current"]));
    for (key, setting) in value["settings"].as_object().into_iter().flatten() {
        out.push_str(&format!("\n  {key} = {}", cell(setting)));
    }
    let current = &value["current"];
    let others: Vec<String> = array(&value["available"]).iter().filter(|one| *one != current).map(cell).collect();
    out.push_str("\nchange it with `gorgo proxy policy NAME`; NAME is one of\n");
    let (width, mut line) = (width().saturating_sub(2).clamp(20, 100), String::new());
    for name in others {
        if !line.is_empty() && line.len() + name.len() + 2 > width {
            out.push_str(&format!("  {line},\n"));
            line.clear();
        }
        line.push_str(if line.is_empty() { "" } else { ", " });
        line.push_str(&name);
    }
    out.push_str(&format!("  {line}"));
    out
}

/// What a change of policy did.
pub(super) fn policy_changed(value: &Value) -> String {
    let (old, new) = (cell(&value["old_policy"]), cell(&value["new_policy"]));
    let mut out = if old == new { format!("policy {new}, as before") } else { format!("policy {new}, was {old}") };
    for (key, setting) in value["settings"].as_object().into_iter().flatten() {
        out.push_str(&format!("\n  {key} = {}", cell(setting)));
    }
    out
}

/// What emptying the index, and the engines' caches if asked for, did.
pub(super) fn cleared(value: &Value) -> String {
    let mut out = format!("prefix index emptied: {} nodes", number(&value["nodes_cleared"]));
    for (engine, outcome) in value["engines"].as_object().into_iter().flatten() {
        out.push_str(&format!("\n  {engine}: {}", cell(outcome)));
    }
    out
}

/// The search for weights.
pub(super) fn tuner(value: &Value) -> String {
    if value["enabled"] != true {
        return "this router does not tune: set `tune.enabled = true` in its file".to_owned();
    }
    if let Some(why) = value["why"].as_str() {
        return format!("policy {}: nothing is searched, {why}", cell(&value["policy"]));
    }
    let state = match (value["frozen"] == true, value["converged"] == true) {
        (true, _) => "frozen",
        (false, true) => "converged, still comparing",
        (false, false) => "searching",
    };
    let mut out = format!(
        "policy {}: {state}, {} trials, {} taken, {} taken back early; the {} serves",
        cell(&value["policy"]),
        number(&value["trials"]),
        number(&value["taken"]),
        number(&value["guarded"]),
        cell(&value["stage"])
    );
    if let (Some(difference), Some(error)) = (value["last_loss_difference"].as_f64(), value["last_loss_error"].as_f64())
    {
        out.push_str(&format!("\nlast trial: loss {difference:+.3} ± {error:.3} (below 0 is better)"));
    }
    let names = value["bounds"].as_object().into_iter().flatten();
    let rows: Vec<Value> = names
        .map(|(key, bounds)| {
            serde_json::json!({"setting": key, "incumbent": value["incumbent"][key],
                "candidate": value["candidate"][key], "low": bounds[0], "high": bounds[1]})
        })
        .collect();
    format!("{out}\n\n{}", table(&WEIGHT, &rows, ""))
}

fn array(value: &Value) -> &[Value] {
    value.as_array().map_or(&[][..], Vec::as_slice)
}

/// Columns of the terminal.
fn width() -> usize {
    columns().unwrap_or(usize::MAX)
}

/// A number in as many digits as help; `-` for what is unknown.
fn number(value: &Value) -> String {
    match value.as_f64() {
        None => cell(value),
        Some(_) if value.is_u64() => value.to_string(),
        Some(number) if number.abs() < 10.0 => format!("{number:.2}"),
        Some(number) if number.abs() < 100.0 => format!("{number:.1}"),
        Some(number) => format!("{number:.0}"),
    }
}

/// The table of `rows` in the width of the terminal.
fn table(columns: &[Column], rows: &[Value], pad: &str) -> String {
    fit(columns, rows, pad, width())
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

    fn candidates() -> Vec<Value> {
        let one = |id: &str, total: f64, excluded: Value| {
            json!({"id": id, "total_ms": total, "network_ms": 0.38, "prefill_ms": 75.25, "waiting_ms": 0.0,
                "running_ms": 0.0, "egress_ms": 0.0, "cached_tokens": 1_024, "waiting_requests": 0,
                "running_requests": 3, "rtt_age_ms": 134.1, "excluded": excluded})
        };
        vec![one("10.0.0.1:8080", 1_234.5, Value::Null), one("10.0.0.2:8080", 9.0, json!("down"))]
    }

    #[test]
    fn a_table_fits_the_terminal_and_leaves_out_what_says_nothing() {
        for width in [40, 80, 120, usize::MAX] {
            let text = fit(&CANDIDATE, &candidates(), "  ", width);
            assert!(text.lines().all(|line| line.chars().count() <= width), "{width}:\n{text}");
            assert!(text.lines().nth(1).unwrap().contains("1234"), "{width}:\n{text}");
        }
        let free = fit(&CANDIDATE, &candidates()[..1], "", usize::MAX);
        assert!(!free.contains("excluded") && free.contains("RTT age"), "{free}");
    }

    #[test]
    fn an_explanation_says_what_decided() {
        let value = json!({"request_id": "r-1", "status": "finished", "replica": "a", "attempts": 2, "reason": "",
            "predicted_ttft_ms": 70.0, "actual_ttft_ms": 74.24, "predicted_cached_tokens": 8,
            "actual_cached_tokens": null, "decisions": [{"policy": "gorgo", "chosen": "a", "prompt_tokens": 9,
            "tokens": "estimated", "reason": null, "candidates_left_out": 3, "candidates": candidates(),
            "deciding": {"ahead_by": 0.752, "deciding_term": "prefill", "runner_up": "b", "fastest": "b",
            "regret_ms": 12.0}}]});
        let text = explanation(&value);
        assert!(text.starts_with(
            "request r-1: finished at a after 2 attempts\nfirst token: predicted 70.0 ms, actual 74.2 ms\n\
             cached tokens: predicted 8, actual unknown\n\n\
             gorgo chose a for 9 prompt tokens (estimated), ahead of b by 0.75 in prefill; b was expected 12.0 ms sooner\n"
        ), "{text}");
        assert!(text.ends_with("3 more candidates are not kept"), "{text}");
    }

    #[test]
    fn what_is_empty_is_said_in_a_sentence() {
        assert!(shadows(&json!({"shadows": [], "dropped_events": 0})).contains("shadow.policies"));
        assert!(round_trips(&json!({})).contains("gorgo proxy servers add"));
        assert_eq!(replicas_table(&json!([])), "none");
    }

    #[test]
    fn tables_are_aligned_and_nested_fields_left_out() {
        let value =
            json!({"queue": 0, "servers": [{"id": "a", "rtt": 1.5, "x": {}}, {"id": "long", "rtt": 20.25, "x": {}}]});
        assert_eq!(fields(&value), "queue: 0\nservers:\n  id    rtt\n  a     1.500\n  long  20.250");
    }
}
