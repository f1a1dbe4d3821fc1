//! `promtool` reads what routers and engines export.

use crate::client::send;
use crate::processes::{Process, ports};
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

/// What `promtool check metrics` complains of; `None` where there is no promtool.
fn complaints(page: &str) -> Option<String> {
    let mut promtool = Command::new("promtool");
    promtool.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = match promtool.spawn() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
        started => started.unwrap(),
    };
    child.stdin.take().unwrap().write_all(page.as_bytes()).unwrap();
    let out = child.wait_with_output().unwrap();
    Some(String::from_utf8_lossy(&out.stderr).into_owned())
}

/// A file of `deploy/`.
fn deployed(name: &str) -> String {
    std::fs::read_to_string(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(name)).unwrap()
}

/// The names of metrics in a text.
fn names(text: &str) -> std::collections::BTreeSet<&str> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words.filter(|word| word.starts_with("gorgo_") || word.starts_with("process_")).collect()
}

#[tokio::test]
async fn the_dashboard_and_the_alerts_ask_for_metrics_that_a_router_has() {
    let addrs = ports(1);
    let _engine = Process::engine(addrs[0], &[]);
    let settings = [
        "probes.scrape_ms=100",
        "kv_events.enabled=true",
        "discovery.file=\"/nowhere/engines.yaml\"",
        "sharing.peers=[\"http://127.0.0.1:9\"]",
        "sharing.hash_seed=\"0123456789abcdef\"",
        "sharing.snapshot_ms=0",
    ];
    let (_proxy, router) = Process::proxy(&addrs, &settings.map(|setting| ["--set", setting]).concat());
    let body = r#"{"prompt": "hello", "stream": true, "max_tokens": 5}"#;
    assert!(send(router, "POST", "/v1/completions", body, Duration::from_secs(30)).await.whole);
    tokio::time::sleep(Duration::from_millis(500)).await; // a scrape
    let page = send(router, "GET", "/metrics", "", Duration::from_secs(10)).await.body;
    let here = names(&page);
    for file in ["grafana.json", "alerts.yml"] {
        let text = deployed(file);
        let asked: Vec<&str> = names(&text).into_iter().filter(|name| name.len() > "process_".len()).collect();
        assert!(asked.len() >= 8, "{file}: {asked:?}");
        let missing: Vec<&&str> = asked.iter().filter(|name| !here.contains(**name)).collect();
        assert!(missing.is_empty(), "{file} asks for {missing:?}, which are not in\n{page}");
    }
    let dashboard: serde_json::Value = serde_json::from_str(&deployed("grafana.json")).unwrap();
    assert!(dashboard["panels"].as_array().unwrap().len() >= 15);
}

#[test]
fn promtool_accepts_the_alert_rules_and_their_tests() {
    let rules = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/alerts_test.yml");
    match Command::new("promtool").args(["test", "rules"]).arg(rules).output() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            eprintln!("skipped: there is no promtool here (apt-get install prometheus)");
        }
        out => {
            let out = out.unwrap();
            assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        }
    }
}

#[tokio::test]
async fn promtool_accepts_the_metrics_of_routers_and_engines() {
    let Some(nonsense) = complaints("up{ 1\n") else {
        eprintln!("skipped: there is no promtool here (apt-get install prometheus)");
        return;
    };
    assert!(nonsense.contains("parsing"), "{nonsense}");
    let addrs = ports(2);
    let _engines = [Process::engine(addrs[0], &[]), Process::engine(addrs[1], &[])];
    let (_proxy, router) = Process::proxy(&addrs, &["--set", "shadow.policies=[{name=\"random\"}]"]);
    let body = r#"{"prompt": "hello", "stream": true, "max_tokens": 5}"#;
    for _ in 0..3 {
        assert!(send(router, "POST", "/v1/completions", body, Duration::from_secs(30)).await.whole);
    }
    let page = send(router, "GET", "/metrics", "", Duration::from_secs(10)).await.body;
    assert!(page.contains("gorgo_requests_total{"), "{page}");
    assert_eq!(complaints(&page).unwrap(), "");
    for engine in addrs {
        let page = send(engine, "GET", "/metrics", "", Duration::from_secs(10)).await.body;
        assert!(page.contains("sglang:max_total_num_tokens"), "{page}");
        // SGLang's own names have the colon that promtool would keep for recording rules, and counters without help.
        let other: Vec<String> =
            complaints(&page).unwrap().lines().filter(|line| !line.contains("sglang:")).map(str::to_owned).collect();
        assert!(other.is_empty(), "{other:?}");
    }
}
