//! Every panel of the Grafana dashboard, asked of a real Prometheus that scrapes a router; and the alert rules, loaded by
//! it. Skipped where there is no Prometheus.

use crate::client::send;
use crate::processes::{Process, ports};
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long figures may take to appear.
const LIMIT: Duration = Duration::from_secs(120);

fn has_prometheus() -> bool {
    let found = Command::new("prometheus").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    found.is_ok_and(|status| status.success())
}

fn deployed(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(name)
}

/// A Prometheus that scrapes this router each second, as job `gorgo`.
fn prometheus(dir: &Path, at: SocketAddr, router: SocketAddr) -> Process {
    let config = format!(
        "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: [{:?}]\n\
         scrape_configs: [{{job_name: gorgo, static_configs: [{{targets: [\"{router}\"]}}]}}]\n",
        deployed("alerts.yml")
    );
    let file = dir.join("prometheus.yml");
    std::fs::write(&file, config).unwrap();
    let mut command = Command::new("prometheus");
    command.arg(format!("--config.file={}", file.display()));
    command.arg(format!("--storage.tsdb.path={}", dir.join("data").display()));
    command.args([&format!("--web.listen-address={at}"), "--log.level=warn"]).stderr(Stdio::null());
    Process::of(&mut command)
}

/// `data` of an answer of Prometheus' API; `None` while it does not answer, an error as text.
async fn api(at: SocketAddr, path: &str) -> Option<Result<Value, String>> {
    let answer = send(at, "GET", path, "", Duration::from_secs(10)).await;
    let mut said: Value = serde_json::from_str(&answer.body).ok()?;
    Some(if said["status"] == "success" { Ok(said["data"].take()) } else { Err(said["error"].to_string()) })
}

async fn query(at: SocketAddr, expr: &str) -> Option<Result<Value, String>> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric();
    let encoded: String =
        expr.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect();
    api(at, &format!("/api/v1/query?query={encoded}")).await
}

/// A replica that looks alive: every other request is cut before its answer, the others after their first token.
fn breaking_replica() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    let mut posts = 0;
    std::thread::spawn(move || {
        for io in listener.incoming() {
            let Ok(mut io) = io else { return };
            let mut head = [0; 16 << 10];
            let read = io.read(&mut head).unwrap_or(0);
            let answer = if head[..read].starts_with(b"POST ") {
                posts += 1;
                let begun = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: {\"choices\":[{\"text\":\"a\"}]}\n\n";
                if posts % 2 == 0 { begun } else { "" }
            } else {
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 11\r\nconnection: close\r\n\r\n\
                 {\"data\":[]}"
            };
            let _ = io.write_all(answer.as_bytes());
        }
    });
    at
}

/// Streams of a few families of prompts, so that some of them are cached, until the task is dropped.
async fn traffic(router: SocketAddr) {
    for n in 0_u64.. {
        let prompt = format!("family {} ", n % 3) + &"the same long beginning ".repeat(40) + &n.to_string();
        let body = serde_json::json!({"prompt": prompt, "stream": true, "max_tokens": 5, "model": "m"});
        send(router, "POST", "/v1/completions", &body.to_string(), Duration::from_secs(30)).await;
    }
}

/// Each expression of the dashboard with its variables filled in as Grafana does, and the labels that its legend names.
fn questions(dashboard: &Value) -> BTreeMap<(String, String), Vec<String>> {
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    let mut all = BTreeMap::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        let targets = panel["targets"].as_array().unwrap();
        assert!(!targets.is_empty(), "{} asks for nothing", panel["title"]);
        for target in targets {
            // Four scrapes are the least that Grafana takes.
            let mut expr = target["expr"].as_str().unwrap().replace("$__rate_interval", "4s");
            for variable in variables.iter().filter(|variable| variable["type"] == "query") {
                let all_of_it = variable["allValue"].as_str().unwrap();
                expr = expr.replace(&format!("${}", variable["name"].as_str().unwrap()), all_of_it);
            }
            assert!(!expr.contains('$'), "a variable that is not declared: {expr}");
            let legend = target["legendFormat"].as_str().unwrap_or_default();
            let labels = legend.split("{{").skip(1).filter_map(|rest| Some(rest.split_once("}}")?.0.trim().to_owned()));
            all.insert((panel["title"].to_string(), expr), labels.collect());
        }
    }
    all
}

/// What is wrong with an answer: no row with a number and all labels that the legend shows.
fn fault(answer: Option<Result<Value, String>>, labels: &[String]) -> Option<String> {
    let rows = match answer {
        None => return Some("no answer".to_owned()),
        Some(Err(error)) => panic!("Prometheus refuses it: {error}"),
        Some(Ok(data)) => data["result"].as_array().unwrap().clone(),
    };
    let is_number = |row: &&Value| row["value"][1].as_str().is_some_and(|text| text != "NaN");
    let is_named = |row: &&Value| labels.iter().all(|label| row["metric"].get(label).is_some());
    if rows.iter().filter(is_number).any(|row| is_named(&row)) {
        return None;
    }
    Some(format!("no number with the labels {labels:?} in {rows:?}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_prometheus_has_figures_for_every_panel_and_loads_the_alerts() {
    if !has_prometheus() {
        eprintln!("skipped: there is no prometheus here (apt-get install prometheus)");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let addrs = ports(3);
    let _engines = [Process::engine(addrs[0], &["--model", "m"]), Process::engine(addrs[1], &["--model", "m"])];
    let replicas = [addrs[0], addrs[1], breaking_replica()];
    let more =
        ["--set", "router.explore=0.3", "--set", "router.breaker.failures=1000", "--set", "probes.scrape_ms=200"];
    let (_router, router) = Process::proxy(&replicas, &more);
    let at = addrs[2];
    let _prometheus = prometheus(dir.path(), at, router);
    let mut asking = tokio::task::JoinSet::new();
    (0..2).for_each(|_| drop(asking.spawn(traffic(router))));
    let until = Instant::now() + LIMIT;

    let dashboard = serde_json::from_slice(&std::fs::read(deployed("grafana.json")).unwrap()).unwrap();
    let questions = questions(&dashboard);
    assert!(questions.len() > 30, "{questions:?}");
    let mut faults: BTreeMap<_, String> = questions.keys().map(|question| (question, "not asked".to_owned())).collect();
    while !faults.is_empty() {
        assert!(Instant::now() < until, "panels without figures: {faults:#?}");
        tokio::time::sleep(Duration::from_millis(500)).await;
        let mut left = BTreeMap::new();
        for question in faults.into_keys() {
            fault(query(at, &question.1).await, &questions[question]).map(|fault| left.insert(question, fault));
        }
        faults = left;
    }
    for variable in dashboard["templating"]["list"].as_array().unwrap().iter().filter(|v| v["type"] == "query") {
        let asked = variable["query"]["query"].as_str().or(variable["query"].as_str()).unwrap();
        let (metric, label) =
            asked.strip_prefix("label_values(").unwrap().trim_end_matches(')').split_once(", ").unwrap();
        let values = api(at, &format!("/api/v1/label/{label}/values?match[]={metric}")).await.unwrap().unwrap();
        assert!(!values.as_array().unwrap().is_empty(), "{asked}");
    }

    let rules = loop {
        assert!(Instant::now() < until, "the rules are not evaluated");
        let groups = api(at, "/api/v1/rules").await.unwrap().unwrap()["groups"].take();
        let rules: Vec<Value> =
            groups.as_array().unwrap().iter().flat_map(|group| group["rules"].as_array().unwrap()).cloned().collect();
        if rules.iter().all(|rule| rule["health"] != "unknown") {
            break rules;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    let written = std::fs::read_to_string(deployed("alerts.yml")).unwrap().matches("- alert:").count();
    assert_eq!(rules.len(), written);
    let wrong: Vec<&Value> = rules.iter().filter(|rule| rule["health"] != "ok").collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}
