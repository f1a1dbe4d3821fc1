//! A whole session on this machine.

use super::{changes, command, must, processes, ran};
use serde_json::Value;
use std::path::Path;

/// Ends what a failed test left.
struct Ending<'a>(&'a Path);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        let _ = command(self.0, "local", &["kill", "--all"]).output();
    }
}

#[test]
fn a_whole_session_on_this_machine_from_available_to_kill() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path();
    let _ending = Ending(state);
    let go = |args: &[&str]| must(state, "local", args);
    assert!(go(&["available"]).contains("gpu_1x_a100"));
    let regions = "aws:us-east-1,aws:us-west-2,aws:eu-central-1";
    let nodes: Vec<Value> =
        serde_json::from_str(&go(&["launch", "--type", "gpu_1x_a100", "--region", regions, "--name", "n", "--json"]))
            .unwrap();
    assert_eq!(nodes.len(), 3);
    let first = go(&["cluster", "setup", "--max-concurrent", "50", "--json"]);
    assert_eq!(changes(&first).len(), 6, "{first}"); // a router and an engine on each
    let reports: Vec<Value> = serde_json::from_str(&first).unwrap();
    for report in &reports {
        let verified = report["steps"].as_array().unwrap().last().unwrap();
        assert_eq!(verified["name"], "verified");
        assert!(verified["note"].as_str().unwrap().contains("2 peer(s) answer"), "{verified}");
        assert!(!verified["note"].as_str().unwrap().contains("; 0 tokens cached"), "{verified}");
    }
    // Another process finds all as it was.
    assert_eq!(changes(&go(&["cluster", "setup", "--json"])), []);
    let status = go(&["cluster", "status"]);
    assert_eq!(status.matches("healthy  predictive").count(), 3, "{status}");

    assert_eq!(go(&["cluster", "start-trace"]).matches("timeline started").count(), 3);
    let traces = state.join("traces");
    go(&["cluster", "stop-trace", "--output-dir", traces.to_str().unwrap()]);
    for name in ["n-1", "n-2", "n-3"] {
        let text = std::fs::read_to_string(traces.join(format!("{name}_trace.json"))).unwrap();
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap()["node"], name);
    }
    assert_eq!(go(&["cluster", "flush-cache"]).matches("cache and index are empty").count(), 3);
    let restarted = go(&["cluster", "restart-lb", "--strategy", "prefix-tree", "--json"]);
    let routers: Vec<_> = changes(&restarted).into_iter().filter(|(_, step)| step == "router").collect();
    assert_eq!(routers.len(), 3);
    assert_eq!(go(&["status"]).matches("healthy  prefix-tree").count(), 3);

    assert!(go(&["proxy", "deploy", "n-2"]).contains("n-2 started"));
    assert!(go(&["proxy", "deploy", "n-2"]).contains("n-2 runs as it should"));
    let plan: Value = serde_json::from_str(&std::fs::read_to_string(plan_file(state)).unwrap()).unwrap();
    let mut stats = command(state, "local", &["proxy", "prefix-stats", "--port", &proxy_port(&nodes, "n-2")]);
    stats.env("GORGO_ADMIN_KEY", plan["keys"]["admin"].as_str().unwrap());
    let stats = ran(stats);
    assert!(stats.ok && stats.out.contains("odes"), "{}{}", stats.out, stats.err);
    assert_eq!(go(&["run-on", "n-1,n-3", "--", "echo", "hi there"]), "hi there\nhi there\n");
    assert!(go(&["list"]).contains("in the ledger"));

    let gone = go(&["kill", "n-1"]);
    assert_eq!(gone.trim(), "gone: n-1");
    // The others learn that a peer is gone.
    let after = go(&["cluster", "setup", "--json"]);
    assert_eq!(changes(&after).iter().filter(|(_, step)| step == "router").count(), 2, "{after}");
    go(&["kill", "--all"]);
    assert_eq!(go(&["list"]).trim(), "no machines");
    assert_eq!(processes(state), Vec::<String>::new());
}

fn plan_file(state: &Path) -> std::path::PathBuf {
    let files = std::fs::read_dir(state).unwrap().flatten().map(|entry| entry.path());
    let mut plans = files.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("cluster-local"));
    plans.next().unwrap()
}

fn proxy_port(nodes: &[Value], name: &str) -> String {
    nodes.iter().find(|node| node["name"] == name).unwrap()["ports"]["proxy"].to_string()
}

#[test]
fn a_command_of_the_users_serves_in_place_of_the_engine_and_a_dead_one_is_explained() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path();
    let _ending = Ending(state);
    must(state, "local", &["launch", "--type", "gpu_1x_h100", "--region", "aws:us-east-1", "--name", "a"]);
    let broken = "echo 'RuntimeError: Not enough memory. Please try to increase --mem-fraction-static.'; exit 1";
    let failed = ran(command(state, "local", &["cluster", "setup", "--engine-command", broken]));
    assert!(!failed.ok);
    assert!(failed.out.contains("the weights leave too little GPU memory"), "{}", failed.out);
    let serve = format!("exec {} engine --listen 127.0.0.1:$PORT", env!("CARGO_BIN_EXE_gorgo"));
    let fine = must(state, "local", &["cluster", "setup", "--engine-command", &serve, "--json"]);
    assert!(fine.contains("engine, router and 0 peer(s) answer"), "{fine}");
}

#[test]
fn wrong_launches_are_refused_in_one_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path();
    for (args, words) in [
        (&["launch", "--region", "aws:us-east-1"][..], "name a type with --type"),
        (&["launch", "--type", "gpu_1x_a100"], "name regions with --region"),
        (&["launch", "--type", "gpu_9x", "--region", "aws:us-east-1"], "no type `gpu_9x`"),
        (&["launch", "--type", "gpu_1x_a100", "--region", "mars"], "no gpu_1x_a100 is free in `mars`"),
        (&["launch", "--type", "gpu_1x_a100", "--region", "aws:us-east-1", "--name", "a b"], "node name `a b`"),
        (&["launch", "--type", "gpu_1x_a100", "--region", "aws:us-east-1", "--max-nodes", "0"], "--max-nodes"),
        (&["cluster", "status"], "no cluster is set up"),
        (&["kill", "ghost"], "no machine `ghost`"),
        (&["ssh-keys", "list"], "`local` has no account"),
    ] {
        let failed = ran(command(state, "local", args));
        assert!(!failed.ok && failed.err.contains(words), "{args:?}: {}", failed.err);
    }
    assert!(ran(command(state, "lambda", &["list"])).err.contains("LAMBDA_API_KEY is not set"));
    assert!(ran(command(state, "ssh", &["list"])).err.contains("hosts.toml"));
}
