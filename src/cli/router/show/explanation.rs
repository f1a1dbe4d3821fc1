//! An explained request as text: its outcome, then each decision with one row per candidate.

use super::{array, cell, number, table};
use crate::cli::router::columns::Column;
use serde_json::Value;

/// Outcome of a request, then each decision with one row per candidate.
pub(in crate::cli::router) fn explanation(value: &Value) -> String {
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
        out.extend(fence(decision).map(|line| line + "\n"));
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

/// Most names of a list.
const NAMES: usize = 8;

/// Which replicas the request's residency leaves out; nothing without one.
fn fence(decision: &Value) -> Option<String> {
    let clauses = decision["residency"].as_str()?.split(';').map(|clause| clause.replace(',', " or "));
    let clauses: Vec<String> = clauses.collect();
    let outside = array(&decision["candidates"]).iter().filter(|one| one["excluded"] == "outside");
    let outside: Vec<String> = outside.map(|one| cell(&one["id"])).collect();
    let left_out = match outside.len() {
        0 => "leaves out no replica".to_owned(),
        all if all > NAMES => format!("leaves out {} and {} more", outside[..NAMES].join(", "), all - NAMES),
        _ => format!("leaves out {}", outside.join(", ")),
    };
    Some(format!("its residency, {}, {left_out}", clauses.join(" and ")))
}

pub(super) const CANDIDATE: [Column; 12] = [
    ("replica", |row| cell(&row["id"])),
    ("cost", |row| number(&row["total_ms"])),
    ("network", |row| number(&row["network_ms"])),
    ("prefill", |row| number(&row["prefill_ms"])),
    ("waiting", |row| number(&row["waiting_ms"])),
    ("running", |row| number(&row["running_ms"])),
    ("cached", |row| number(&row["cached_tokens"]) + if row["digest"].is_object() { " (digest)" } else { "" }),
    ("excluded", |row| cell(&row["excluded"])),
    ("wait/run", |row| format!("{}/{}", number(&row["waiting_requests"]), number(&row["running_requests"]))),
    ("egress", |row| number(&row["egress_ms"])),
    ("bytes", |row| number(&row["bytes"])),
    ("RTT age, ms", |row| number(&row["rtt_age_ms"])),
];
