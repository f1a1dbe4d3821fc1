//! Answers of the admin API as text: `explanation` of a request, any other as plain `json`, the rest here.

mod explanation;
mod json;

use super::columns::{Column, fit};
use crate::cli::output::columns;
pub(super) use explanation::explanation;
use json::cell;
pub(in crate::cli) use json::fields;
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
    let rows = if value.is_array() { array(value) } else { array(&value["peers"]) };
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
    out.push_str(&format!("\n{}; NAME is one of\n", cell(&value["hint"])));
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

/// The elements of an array; none of what is no array.
pub(in crate::cli) fn array(value: &Value) -> &[Value] {
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

#[cfg(test)]
mod tests;
