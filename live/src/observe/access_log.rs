//! The access log: one JSON line for each request that ended. Off unless `access_log` names a file.

use crate::observe::request_log::RequestEntry;
use serde_json::{Value, json};
use std::sync::Arc;

/// A request that ended, with what its row does not hold.
#[derive(Debug)]
pub(crate) struct AccessEntry {
    pub(crate) row: Arc<RequestEntry>,
    pub(crate) model: Option<String>,
    /// The policy that decided.
    pub(crate) policy: &'static str,
}

/// The line of a request; `stamp` writes its arrival.
pub(crate) fn line(entry: &AccessEntry, stamp: &str) -> String {
    let AccessEntry { row, model, policy } = entry;
    let ms = |ms: f64| (ms * 1e3).round() / 1e3;
    let value: Value = json!({
        "time": stamp, "id": row.id(), "model": model, "policy": policy,
        "replica": row.replica.as_ref().map(|replica| &*replica.name), "attempts": row.attempts, "hops": row.hops,
        "status": row.status_code, "end": row.end.status().as_str(), "reason": row.end.as_str(),
        "prompt_tokens": row.counted_tokens.unwrap_or(row.prompt_tokens), "counted": row.counted_tokens.is_some(),
        "cached_tokens": row.cached_tokens, "output_tokens": row.output_tokens,
        "queue_ms": row.dispatched.map(|at| ms((at - row.arrived).ms())), "ttft_ms": row.ttft_ms().map(ms),
        "e2e_ms": ms((row.done - row.arrived).ms()),
    });
    value.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::request_log::tests::row;

    #[test]
    fn a_line_is_json_with_all_that_is_asked_for() {
        let entry = AccessEntry { row: Arc::new(row("a\"b", 30.0)), model: Some("llama".into()), policy: "gorgo" };
        let line = line(&entry, "2024-02-29T12:34:56.789Z");
        let value: Value = serde_json::from_str(&line).unwrap();
        assert!(!line.contains('\n'));
        for (key, expected) in [
            ("id", json!("a\"b")),
            ("model", json!("llama")),
            ("replica", json!("a")),
            ("policy", json!("gorgo")),
            ("prompt_tokens", json!(110)),
            ("cached_tokens", json!(55)),
            ("output_tokens", json!(7)),
            ("ttft_ms", json!(30.0)),
            ("e2e_ms", json!(90.0)),
            ("status", json!(200)),
            ("end", json!("finished")),
            ("reason", json!("")),
        ] {
            assert_eq!(value[key], expected, "{key}");
        }
    }
}
