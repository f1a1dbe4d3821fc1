//! `gorgo proxy status`, `gorgo lb status`: the state of a router as text.

use super::admin::{RouterAddress, block_on};
use super::columns::{Column, fit};
use super::show::array;
use crate::cli::output::{columns, cut, print_line};
use gorgo_live::{AdminClient, CallError};
use http::Method;
use serde_json::Value;
use std::io::IsTerminal;
use std::time::Duration;

/// Prints the state of every router that `address` names, once or every `watch` seconds.
pub(super) fn run(address: &RouterAddress, prefix: &str, watch: Option<f64>) -> anyhow::Result<()> {
    let pause = watch.map(|seconds| Duration::from_secs_f64(seconds.clamp(0.1, 86_400.0)));
    let clients = address.clients()?;
    let is_terminal = std::io::stdout().is_terminal();
    block_on(async {
        loop {
            let mut page = String::new();
            for client in &clients {
                let (status, rows) = match fetch(client, prefix).await {
                    Ok(fetched) => fetched,
                    // A watch outlives a restart of the router.
                    Err(error) if pause.is_some() && is_silence(&error) => {
                        page.push_str(&format!("{error}; it is asked again\n"));
                        continue;
                    }
                    Err(error) => return Err(error),
                };
                if address.json {
                    page.push_str(&serde_json::to_string_pretty(&status)?);
                } else {
                    page.push_str(&view(&client.name(), &status, &rows, columns().unwrap_or(usize::MAX)));
                }
                page.push('\n');
            }
            let clear = if pause.is_some() && is_terminal { "\x1b[H\x1b[2J" } else { "" };
            print_line(format_args!("{clear}{}", page.trim_end()))?;
            let Some(pause) = pause else { return Ok(()) };
            tokio::time::sleep(pause).await;
        }
    })
}

/// Whether no router answers.
fn is_silence(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(CallError::Silent { .. }))
}

/// The status of a router, and one row for each of its replicas and peers.
async fn fetch(client: &AdminClient, prefix: &str) -> anyhow::Result<(Value, Vec<Value>)> {
    let status = client.call(Method::GET, &format!("{prefix}/status"), None).await?;
    if let Some(rows) = status["servers"].as_array() {
        let rows = rows.clone();
        return Ok((status, rows));
    }
    let all = client.call(Method::GET, &format!("{prefix}/metrics"), None).await?;
    let own = all["local"].as_object().filter(|own| !own.is_empty()).map(|own| Value::Object(own.clone()));
    let peers = all["peers"].as_object().into_iter().flat_map(|peers| peers.values().cloned());
    Ok((status, own.into_iter().chain(peers).collect()))
}

/// A time in its natural unit.
fn time(ms: &Value) -> String {
    match ms.as_f64() {
        None => "unknown".to_owned(),
        Some(ms) if ms < 10.0 => format!("{ms:.1} ms"),
        Some(ms) if ms < 1_000.0 => format!("{ms:.0} ms"),
        Some(ms) if ms < 100_000.0 => format!("{:.1} s", ms / 1e3),
        Some(ms) if ms < 6_000_000.0 => format!("{:.0} min", ms / 6e4),
        Some(ms) => format!("{:.0} h", ms / 3.6e6),
    }
}

fn count(value: &Value) -> String {
    value.as_u64().map_or_else(|| "?".to_owned(), |count| count.to_string())
}

/// What a replica is doing, in a word or two.
fn state(row: &Value) -> &str {
    row["state"].as_str().unwrap_or("?")
}

/// The last error of a replica and its age in ms, if it explains the state or is recent.
pub(in crate::cli) fn telling_error(row: &Value) -> Option<(&str, f64)> {
    let age_ms = row["last_error_age_ms"].as_f64().unwrap_or(f64::MAX);
    row["last_error"].as_str().filter(|_| state(row) != "up" || age_ms < 60_000.0).map(|why| (why, age_ms))
}

fn note(row: &Value) -> String {
    match telling_error(row) {
        Some((why, _)) => format!("{why} ({} ago)", time(&row["last_error_age_ms"])),
        None => match silent_events(row) {
            Some(why) => format!("its KV events are not read: {why}"),
            None if row["cache_report"] == false => "reports no cached tokens (--enable-cache-report)".to_owned(),
            None => to_peer(row).unwrap_or_default(),
        },
    }
}

/// How requests travel to a peer.
fn to_peer(row: &Value) -> Option<String> {
    let packs = if row["zstd"].as_bool()? { "long prompts packed with zstd" } else { "prompts unpacked" };
    Some(format!("gets {packs}, over {}", row["protocol"].as_str().unwrap_or("HTTP/1.1")))
}

/// Why a replica's KV events are not read, if they should be.
fn silent_events(row: &Value) -> Option<&str> {
    let streams = row["kv_events"].as_array()?;
    streams.iter().find(|stream| stream["state"] == "down")?["error"].as_str()
}

/// The columns of the table of replicas, the ones left out first on narrow terminals last.
const COLUMNS: [Column; 7] = [
    ("replica", |row| {
        let (id, region) = (row["id"].as_str().unwrap_or("?"), row["region"].as_str());
        region.map_or_else(|| id.to_owned(), |region| format!("{id} ({region})"))
    }),
    ("state", |row| state(row).to_owned()),
    ("round trip", |row| time(&row["latency_ms"])),
    ("ours waiting/running", |row| {
        format!("{}/{}", count(&row["load"]["waiting_requests"]), count(&row["load"]["running_requests"]))
    }),
    ("engine queued/running", |row| format!("{}/{}", count(&row["waiting_reqs"]), count(&row["running_reqs"]))),
    ("KV used", |row| {
        row["gpu_cache_usage"].as_f64().map_or("unknown".to_owned(), |share| format!("{:.0} %", share * 1e2))
    }),
    ("reported", |row| match &row["metrics"]["age_ms"] {
        Value::Null => "never".to_owned(),
        age => format!("{} ago", time(age)),
    }),
];
fn view(name: &str, status: &Value, rows: &[Value], width: usize) -> String {
    let text = |key: &str| status[key].as_str().unwrap_or_default();
    let policy = if text("routing_policy").is_empty() { text("policy") } else { text("routing_policy") };
    let sums = if status["aggregate"].is_object() { &status["aggregate"] } else { status };
    let either =
        |keys: [&str; 2]| keys.iter().map(|key| count(&sums[*key])).find(|count| count != "?").unwrap_or("?".into());
    let up = sums["uptime_seconds"].as_f64().map_or(Value::Null, |seconds| Value::from(seconds * 1e3));
    let mut out = format!("{name}: policy {policy}, up for {}", time(&up));
    if !text("phase").is_empty() && text("phase") != "serving" {
        out.push_str(&format!(", {}", text("phase")));
    }
    out.push_str(&format!(
        "\nrequests: {} since the start, {} queued, {} failed, {} timed out\n\n",
        either(["total_handled", "total_requests"]),
        count(&status["queue_size"]),
        either(["total_failed", "requests_failed"]),
        either(["total_timed_out", "requests_timed_out"]),
    ));
    for line in sources(status).chain(sharing(status)) {
        out.push_str(&cut(&line, width));
        out.push('\n');
    }
    if !out.ends_with("\n\n") {
        out.push('\n');
    }
    match rows.is_empty() {
        true => out.push_str(&cut(&empty(status), width)),
        false => out.push_str(&table(rows, width)),
    }
    out
}

/// One line a source of discovery.
fn sources(status: &Value) -> impl Iterator<Item = String> {
    array(&status["discovery"]).iter().map(|source| {
        let name = source["source"].as_str().unwrap_or("?");
        let left_out = source["left_out"].as_u64().filter(|&count| count > 0);
        let left_out = left_out.map_or(String::new(), |count| format!(", {count} listed ones are left out"));
        let endpoints = count(&source["endpoints"]);
        match source["error"].as_str() {
            Some(why) => format!("discovery from {name} is STALE: {why}; {endpoints} endpoints stay{left_out}"),
            None => {
                let age = source["age_s"].as_f64().map_or(Value::Null, |seconds| Value::from(seconds * 1e3));
                format!("discovery from {name}: {endpoints} endpoints, answered {} ago{left_out}", time(&age))
            }
        }
    })
}

/// One line a router that shares what it learns.
fn sharing(status: &Value) -> impl Iterator<Item = String> {
    array(&status["sharing"]["peers"]).iter().map(|peer| {
        let why = peer["why"].as_str().map_or(String::new(), |why| format!(": {why}"));
        let (url, state) = (peer["url"].as_str().unwrap_or("?"), peer["state"].as_str().unwrap_or("?"));
        let age = peer["age_ms"].as_f64().map_or(String::new(), |_| format!(" {} ago", time(&peer["age_ms"])));
        format!("sharing with {url}: {state}{age}{why}{}", unshared(&peer["replicas"]))
    })
}

/// Which replicas of a peer this router lacks, so that what the peer learns of them is lost here.
fn unshared(replicas: &Value) -> String {
    let unknown: Vec<&str> = array(&replicas["unknown"]).iter().filter_map(Value::as_str).collect();
    match (replicas["named"].as_u64(), replicas["known"].as_u64()) {
        (Some(named), Some(known)) if known < named => format!(
            ", but {known} of its {named} replicas are known here by name: names must agree (unknown: {})",
            unknown.join(", ")
        ),
        _ => String::new(),
    }
}

/// Why there is no replica.
fn empty(status: &Value) -> String {
    match array(&status["discovery"]).is_empty() {
        true => "no replicas: add one with `gorgo proxy servers add URL`".to_owned(),
        false => "no replicas: discovery has found none so far".to_owned(),
    }
}

/// The table of replicas, in `width` columns: the note is cut, then columns are left out from the end.
fn table(rows: &[Value], width: usize) -> String {
    let notes: Vec<String> = rows.iter().map(note).collect();
    let has_notes = notes.iter().any(|note| !note.is_empty());
    let room_for_note = if has_notes { 20 } else { 0 };
    let left = fit(&COLUMNS, rows, "", width.saturating_sub(room_for_note + 2));
    let wide = left.lines().map(|line| line.chars().count()).max().unwrap_or(0);
    let with_note = |(line, note): (&str, &str)| match has_notes {
        true => cut(format!("{line:<wide$}  {note}").trim_end(), width),
        false => cut(line, width),
    };
    let notes = std::iter::once("note").chain(notes.iter().map(String::as_str));
    left.lines().zip(notes).map(with_note).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rows() -> Vec<Value> {
        vec![
            json!({"id": "a", "region": "us", "state": "up", "latency_ms": 25.04,
                "load": {"waiting_requests": 1, "running_requests": 3}, "waiting_reqs": 0, "running_reqs": 4,
                "gpu_cache_usage": 0.4, "metrics": {"age_ms": 310.0}, "last_error": "old", "last_error_age_ms": 1e7}),
            json!({"id": "10.0.0.2:8080", "state": "down", "latency_ms": null,
                "load": {"waiting_requests": 0, "running_requests": 0}, "waiting_reqs": null, "running_reqs": null,
                "gpu_cache_usage": null, "metrics": {"age_ms": null},
                "last_error": "cannot connect: Connection refused (os error 111)", "last_error_age_ms": 12_000.0}),
        ]
    }

    #[test]
    fn a_dead_replica_says_why_and_what_is_unknown_is_no_zero() {
        let status = json!({"routing_policy": "gorgo", "uptime_seconds": 754.0, "phase": "serving", "queue_size": 0,
            "total_handled": 100, "total_failed": 3, "total_timed_out": 0});
        let text = view("localhost:8000", &status, &rows(), usize::MAX);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "localhost:8000: policy gorgo, up for 13 min");
        assert_eq!(lines[1], "requests: 100 since the start, 0 queued, 3 failed, 0 timed out");
        assert!(lines[4].starts_with("a (us)") && lines[4].contains("25 ms") && !lines[4].contains("old"), "{text}");
        assert!(lines[5].contains("down") && lines[5].contains("unknown") && lines[5].contains("never"), "{text}");
        assert!(lines[5].ends_with("cannot connect: Connection refused (os error 111) (12.0 s ago)"), "{text}");
        assert!(lines[5].contains("?/?") && !lines[5].contains("0.000"), "{text}");
    }

    #[test]
    fn a_silent_stream_of_kv_events_is_noted() {
        let mut rows = rows();
        rows[0]["kv_events"] = json!([{"state": "up", "error": null}, {"state": "down", "error": "refused"}]);
        let text = table(&rows, usize::MAX);
        assert!(text.lines().nth(1).unwrap().ends_with("its KV events are not read: refused"), "{text}");
    }

    #[test]
    fn the_table_fits_the_terminal() {
        for width in [30, 60, 80, 100, 120, 200] {
            let text = table(&rows(), width);
            assert!(text.lines().all(|line| line.chars().count() <= width), "{width}:\n{text}");
            assert!(text.contains("down"), "{width}:\n{text}");
        }
        assert!(view("x", &json!({}), &[], 80).contains("gorgo proxy servers add"));
    }

    #[test]
    fn a_stale_source_of_discovery_is_named_with_its_error() {
        let status = json!({"discovery": [
            {"source": "/etc/engines.yaml", "endpoints": 0, "left_out": 0, "error": "it cannot be read"},
            {"source": "e:1", "endpoints": 2, "left_out": 3, "age_s": 1.0, "error": null}],
            "sharing": {"peers": [{"url": "http://b:8000", "state": "down", "age_ms": 9_000.0, "why": "refused"},
                {"url": "http://c:8000", "state": "up", "age_ms": 1_000.0,
                    "replicas": {"named": 3, "known": 0, "unknown": ["x", "y", "z"]}},
                {"url": "http://d:8000", "state": "up", "age_ms": 1_000.0,
                    "replicas": {"named": 3, "known": 3, "unknown": []}}]}});
        let text = view("x", &status, &[], usize::MAX);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[3..],
            [
                "discovery from /etc/engines.yaml is STALE: it cannot be read; 0 endpoints stay",
                "discovery from e:1: 2 endpoints, answered 1.0 s ago, 3 listed ones are left out",
                "sharing with http://b:8000: down 9.0 s ago: refused",
                "sharing with http://c:8000: up 1.0 s ago, but 0 of its 3 replicas are known here by name: names must agree \
                 (unknown: x, y, z)",
                "sharing with http://d:8000: up 1.0 s ago",
                "",
                "no replicas: discovery has found none so far",
            ]
        );
    }
}
