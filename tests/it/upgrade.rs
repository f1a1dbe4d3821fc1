//! `gorgo proxy upgrade` on real processes.

use crate::client::{Answer, metric, send};
use crate::processes::{Process, ports};
use crate::{gorgo, text};
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const LIMIT: Duration = Duration::from_secs(120);

fn upgrade(pid_file: &Path, more: &[&str]) -> Output {
    gorgo(&[&["proxy", "upgrade", "--pid-file", pid_file.to_str().unwrap()], more].concat(), "")
}

fn pid(pid_file: &Path) -> String {
    std::fs::read_to_string(pid_file).unwrap().lines().next().unwrap_or_default().to_owned()
}

/// Ends the last process of the upgrades, which no other handle knows.
pub(crate) struct Last(pub(crate) PathBuf);

impl Drop for Last {
    fn drop(&mut self) {
        gorgo(&["proxy", "stop", "--force", "--pid-file", self.0.to_str().unwrap()], "");
    }
}

fn body(prompt: &str, tokens: u32) -> String {
    serde_json::json!({"prompt": prompt, "stream": true, "max_tokens": tokens, "ignore_eos": true}).to_string()
}

async fn ask(router: SocketAddr, prompt: &str, tokens: u32) -> Answer {
    send(router, "POST", "/v1/completions", &body(prompt, tokens), LIMIT).await
}

fn is_whole(answer: &Answer) -> bool {
    answer.status == 200 && answer.whole && answer.events().last() == Some("[DONE]") && !answer.tells_error()
}

/// A connection that stays open between requests.
struct Kept(TcpStream);

impl Kept {
    async fn open(router: SocketAddr) -> Self {
        Self(TcpStream::connect(router).await.unwrap())
    }

    /// The answer to one more request, in lower case.
    async fn health(&mut self) -> String {
        self.0.write_all(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b" servers available\n") {
            assert!(self.0.read_buf(&mut answer).await.unwrap() > 0, "closed without an answer");
        }
        String::from_utf8(answer).unwrap().to_ascii_lowercase()
    }

    async fn is_closed(&mut self) -> bool {
        let mut rest = Vec::new();
        self.0.read_to_end(&mut rest).await.is_ok()
    }
}

#[test]
fn streams_and_kept_connections_survive_two_upgrades_and_nothing_is_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let pid_file = dir.path().join("proxy.pid");
    let engines = ports(2);
    let _engines: Vec<Process> =
        engines.iter().map(|&addr| Process::engine(addr, &["--set", "decode.fixed_ms=100"])).collect();
    let (mut first, router) = Process::proxy(&engines, &["--pid-file", pid_file.to_str().unwrap()]);
    let _last = Last(pid_file.clone());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let prompts: Vec<String> = (0..6).map(|i| format!("{i} {}", "a prompt of many words ".repeat(120))).collect();
    let mut replicas = Vec::new();
    for prompt in &prompts {
        let answer = runtime.block_on(ask(router, prompt, 2));
        assert!(is_whole(&answer), "{answer:?}");
        replicas.push(answer.header("x-gorgo-replica").unwrap().to_owned());
    }
    // A change over the admin API, without a file that keeps it.
    let change = runtime.block_on(send(router, "POST", "/proxy/policy", r#"{"policy": "prefix-tree"}"#, LIMIT));
    assert_eq!(change.status, 200, "{change:?}");
    let mut streams: Vec<_> =
        (0..20).map(|i| runtime.spawn(async move { ask(router, &format!("a stream {i}"), 60).await })).collect();
    let mut before = pid(&pid_file);
    assert_eq!(before, first.id().to_string());
    for round in 0..2 {
        let mut kept = runtime.block_on(Kept::open(router));
        assert!(!runtime.block_on(kept.health()).contains("connection: close"));
        let out = upgrade(&pid_file, &[]);
        assert!(out.status.success(), "{}", text(&out.stderr));
        let now = pid(&pid_file);
        assert!(
            now != before && text(&out.stdout).starts_with(&format!("process {now} serves")),
            "{}",
            text(&out.stdout)
        );
        let last = runtime.block_on(kept.health());
        assert!(last.starts_with("http/1.1 200") && last.contains("connection: close"), "round {round}: {last}");
        assert!(runtime.block_on(kept.is_closed()));
        let page = runtime.block_on(send(router, "GET", "/proxy/status", "", LIMIT)).body;
        let status: serde_json::Value = serde_json::from_str(&page).unwrap();
        assert_eq!(status["routing_policy"], "prefix-tree");
        for (prompt, replica) in prompts.iter().zip(&replicas) {
            let answer = runtime.block_on(ask(router, prompt, 2));
            assert!(is_whole(&answer) && answer.header("x-gorgo-replica") == Some(replica), "{prompt:.9}: {answer:?}");
            let decision = answer.header("x-gorgo-decision").unwrap_or_default();
            assert!(!decision.contains(" cached=0/"), "{decision}");
        }
        streams.extend((0..5).map(|i| runtime.spawn(async move { ask(router, &format!("later {i}"), 30).await })));
        before = now;
    }
    for stream in streams {
        let answer = runtime.block_on(stream).unwrap();
        assert!(is_whole(&answer), "{answer:?}");
    }
    assert!(first.ended().success(), "the first process ends when its streams have");
    let out = gorgo(&["proxy", "stop", "--pid-file", pid_file.to_str().unwrap()], "");
    assert_eq!(text(&out.stdout).trim(), format!("stopped {before}"));
    assert!(!pid_file.exists() && !dir.path().join("proxy.pid.sock").exists());
}

#[test]
fn a_new_program_that_does_not_start_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let pid_file = dir.path().join("proxy.pid");
    let engines = ports(1);
    let _engine = Process::engine(engines[0], &[]);
    let state = dir.path().join("state.toml");
    let more = ["--pid-file", pid_file.to_str().unwrap(), "--state", state.to_str().unwrap()];
    let (mut first, router) = Process::proxy(&engines, &[&more[..], &["--set", "timeouts.settle_ms=0"]].concat());
    let _last = Last(pid_file.clone());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    // One that ends, one that is no program, and one that says nothing.
    let mute = dir.path().join("mute");
    std::fs::write(&mute, "#!/bin/sh\nexec sleep 30\n").unwrap();
    std::fs::set_permissions(&mute, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    for (binary, says) in [
        ("/bin/false", "ended before it served (exit status: 1"),
        ("/nowhere/gorgo", "cannot start `/nowhere/gorgo`"),
        (mute.to_str().unwrap(), "did not serve within 1 s"),
    ] {
        let out = upgrade(&pid_file, &["--binary", binary, "--wait", "1"]);
        let message = text(&out.stderr);
        assert_eq!(out.status.code(), Some(1), "{message}");
        assert!(message.starts_with(&format!("error: process {} goes on: ", first.id())), "{message}");
        assert!(message.contains(says), "{message}");
        assert_eq!(pid(&pid_file), first.id().to_string());
        let change = runtime.block_on(send(router, "POST", "/proxy/policy", r#"{"policy": "random"}"#, LIMIT));
        assert_eq!(change.status, 200, "changes are taken again: {change:?}");
        assert!(is_whole(&runtime.block_on(ask(router, "still there", 2))));
    }
    assert_eq!(runtime.block_on(metric(router, "gorgo_replica_running_requests")), 0.0);
    assert!(first.is_running());
    let out = gorgo(&["proxy", "stop", "--pid-file", pid_file.to_str().unwrap()], "");
    assert!(out.status.success() && first.ended().success(), "{}", text(&out.stderr));
    assert!(std::fs::read_to_string(&state).unwrap().contains("random"), "and are kept");
    let none = upgrade(&pid_file, &[]);
    assert!(text(&none.stderr).contains("no router to upgrade"), "{}", text(&none.stderr));
}

#[test]
fn a_restart_begins_with_what_the_process_before_had_learned() {
    let dir = tempfile::tempdir().unwrap();
    let (pid_file, state) = (dir.path().join("proxy.pid"), dir.path().join("state.toml"));
    let engines = ports(2);
    let _engines: Vec<Process> = engines.iter().map(|&addr| Process::engine(addr, &[])).collect();
    let more = ["--pid-file", pid_file.to_str().unwrap(), "--state", state.to_str().unwrap()];
    let more = [&more[..], &["--set", "timeouts.settle_ms=0", "--policy", "prefix-tree"]].concat();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let prompts: Vec<String> = (0..6).map(|i| format!("{i} {}", "words that repeat ".repeat(120))).collect();
    let mut before: Option<Vec<String>> = None;
    for _ in 0..2 {
        let (mut proxy, router) = Process::proxy(&engines, &more);
        let nodes = runtime.block_on(metric(router, "gorgo_index_nodes"));
        assert_eq!(nodes > 0.0, before.is_some(), "{nodes} nodes");
        // On a busy machine one of the engines answers its first probe late, and the other one gets the requests until then.
        let until = Instant::now() + LIMIT;
        while !runtime.block_on(send(router, "GET", "/health", "", LIMIT)).body.contains("2/2") {
            assert!(Instant::now() < until, "both engines are probed");
            std::thread::sleep(Duration::from_millis(20));
        }
        let mut replicas = Vec::new();
        for prompt in &prompts {
            let answer = runtime.block_on(ask(router, prompt, 2));
            assert!(is_whole(&answer), "{answer:?}");
            replicas.push(answer.header("x-gorgo-replica").unwrap().to_owned());
        }
        if let Some(before) = before.replace(replicas.clone()) {
            assert_eq!(replicas, before);
        }
        let out = gorgo(&["proxy", "stop", "--pid-file", pid_file.to_str().unwrap()], "");
        assert!(out.status.success() && proxy.ended().success(), "{}", text(&out.stderr));
    }
    let kept = dir.path().join("state.toml.snapshot");
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&kept).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    std::fs::write(&kept, b"gorgosnp and no more").unwrap();
    let (_proxy, router) = Process::proxy(&engines, &more);
    assert_eq!(runtime.block_on(metric(router, "gorgo_index_nodes")), 0.0, "a damaged one is not used");
}

/// systemd kills what is left of a unit when its main process ends, which is the new one.
#[test]
fn a_process_that_took_over_and_is_stopped_ends_after_the_one_before() {
    let dir = tempfile::tempdir().unwrap();
    let pid_file = dir.path().join("proxy.pid");
    let engines = ports(1);
    let _engine = Process::engine(engines[0], &["--set", "decode.fixed_ms=100"]);
    let more = ["--pid-file", pid_file.to_str().unwrap(), "--set", "timeouts.settle_ms=0"];
    let (mut first, router) = Process::proxy(&engines, &more);
    let _last = Last(pid_file.clone());
    let body = body("a stream of the first process", 60);
    let mut client = std::net::TcpStream::connect(router).unwrap();
    let head = "POST /v1/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json";
    write!(client, "{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).unwrap();
    let mut answer = vec![0; 16];
    client.read_exact(&mut answer).unwrap();
    let out = upgrade(&pid_file, &[]);
    assert!(out.status.success(), "{}", text(&out.stderr));
    let out = gorgo(&["proxy", "stop", "--pid-file", pid_file.to_str().unwrap()], "");
    assert!(text(&out.stdout).starts_with("stopped "), "{}", text(&out.stderr));
    // All of the stream is here by now, without waiting for more.
    client.set_nonblocking(true).unwrap();
    client.read_to_end(&mut answer).unwrap();
    assert!(text(&answer).contains("data: [DONE]"), "{}", text(&answer));
    assert!(first.ended().success());
}

#[test]
fn discovered_replicas_and_what_operators_said_of_them_pass_to_the_next_process() {
    let dir = tempfile::tempdir().unwrap();
    let (pid_file, listed) = (dir.path().join("proxy.pid"), dir.path().join("endpoints.json"));
    let engines = ports(3);
    let _engines: Vec<Process> = engines.iter().map(|&addr| Process::engine(addr, &[])).collect();
    let endpoints: Vec<serde_json::Value> = engines
        .iter()
        .zip(["a", "b", "c"])
        .map(|(addr, name)| serde_json::json!({"name": name, "address": addr.ip(), "port": addr.port()}))
        .collect();
    std::fs::write(&listed, serde_json::json!({"endpoints": endpoints}).to_string()).unwrap();
    let config = dir.path().join("router.toml");
    std::fs::write(&config, format!("discovery = {{file = {listed:?}, poll_ms = 200}}\nprobes.period_ms = 200\n"))
        .unwrap();
    let args = ["proxy", "start", "--config", config.to_str().unwrap(), "--listen", "127.0.0.1:0", "--pid-file"];
    let (_first, router) = Process::spawn(&[&args[..], &[pid_file.to_str().unwrap()]].concat()).serving();
    let _last = Last(pid_file.clone());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let call = |method: &str, path: &str, body: &str| runtime.block_on(send(router, method, path, body, LIMIT));
    let servers = || -> Vec<(String, bool, bool)> {
        let all: serde_json::Value = serde_json::from_str(&call("GET", "/proxy/servers", "").body).unwrap();
        let row = |row: &serde_json::Value| {
            (row["id"].as_str().unwrap().to_owned(), row["health"] == "up", row["draining"] == true)
        };
        all.as_array().unwrap().iter().map(row).collect()
    };
    let up = |names: &[&str]| servers().iter().filter(|(name, up, _)| *up && names.contains(&name.as_str())).count();
    while up(&["a", "b", "c"]) < 3 {
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(call("POST", "/proxy/servers/drain", r#"{"id": "a"}"#).status, 200);
    assert_eq!(call("DELETE", "/proxy/servers?id=b", "").status, 200);
    // The source is away while the next process starts.
    let kept = std::fs::read(&listed).unwrap();
    std::fs::remove_file(&listed).unwrap();
    let out = upgrade(&pid_file, &[]);
    assert!(out.status.success(), "{}", text(&out.stderr));
    let after = servers();
    assert_eq!(after, [("a".to_owned(), true, true), ("c".to_owned(), true, false)]);
    std::fs::write(&listed, kept).unwrap();
    while metric_of(&runtime, router, "gorgo_discovery_stale") > 0.0 {
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(servers(), after, "the source lists all three");
}

fn metric_of(runtime: &tokio::runtime::Runtime, router: SocketAddr, name: &str) -> f64 {
    runtime.block_on(metric(router, name))
}
