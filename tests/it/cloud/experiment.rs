//! `gorgo run --mode live --cloud local`: machines from launch to end, with the load sent from each of them.

use super::{command, command_line, must, processes, ran};
use crate::fake_modal::processes_in;
use serde_json::Value;
use std::path::Path;

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/machines.toml");

fn states(state: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(state.join("ledger.jsonl")).unwrap();
    let events = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    events.map(|event| event["event"].as_str().unwrap().to_owned()).collect()
}

/// The file that keeps the cluster's plan.
fn plan_file(state: &Path) -> std::path::PathBuf {
    let files = std::fs::read_dir(state).unwrap().map(|file| file.unwrap().path());
    let is_plan = |file: &std::path::PathBuf| file.extension().is_some_and(|end| end == "json");
    files.into_iter().find(is_plan).unwrap()
}

fn count(events: &[String], wanted: &str) -> usize {
    events.iter().filter(|event| *event == wanted).count()
}

#[test]
fn an_experiment_runs_on_machines_that_end_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let (state, out) = (folder.path().join("state"), folder.path().join("results"));
    must(&state, "local", &["launch", "--type", "gpu_1x_a100", "--region", "aws:us-west-2", "--name", "mine"]);
    must(&state, "local", &["cluster", "setup", "--strategy", "prefix-tree"]);
    let plan = || std::fs::read_to_string(plan_file(&state)).unwrap();
    let before = plan();
    let run = ran(command(&state, "local", &["run", FILE, "--mode", "live", "--out", out.to_str().unwrap(), "--json"]));
    assert!(run.ok, "{}\n{}", run.out, run.err);
    assert!(run.err.contains("still running for $0.00 an hour: mine"), "{}", run.err);
    let events = states(&state);
    assert_eq!((count(&events, "launched"), count(&events, "gone")), (3, 2));
    // The machine that was there keeps what it runs.
    assert_eq!(plan(), before);
    assert!(must(&state, "local", &["status"]).contains("healthy  prefix-tree"));
    must(&state, "local", &["kill", "--all"]);
    assert_eq!(processes(&state), Vec::<String>::new());

    // Every request of the trace once, in both arms, entered where its user is and answered by a machine.
    let rows = std::fs::read_to_string(out.join("requests.csv")).unwrap();
    let head: Vec<&str> = rows.lines().next().unwrap().split(',').collect();
    let at = |name: &str| head.iter().position(|column| *column == name).unwrap();
    let (arm, request, router, replica, status) = (at("arm"), at("request"), at("router"), at("replica"), at("status"));
    let cells: Vec<Vec<&str>> = rows.lines().skip(1).map(|line| line.split(',').collect()).collect();
    let per_arm = cells.iter().filter(|row| row[arm] == "gorgo").count();
    assert!(per_arm > 5 && cells.len() == 2 * per_arm, "{per_arm} of {}", cells.len());
    for name in ["gorgo", "least-load"] {
        let of: Vec<_> = cells.iter().filter(|row| row[arm] == name).collect();
        let numbers: std::collections::BTreeSet<u64> = of.iter().map(|row| row[request].parse().unwrap()).collect();
        assert_eq!(numbers, (0..per_arm as u64).collect());
        assert!(of.iter().all(|row| row[status] == "finished" && ["east", "eu"].contains(&row[replica])), "{of:?}");
    }
    assert!(["lb east", "lb eu"].iter().all(|name| cells.iter().any(|row| row[router] == *name)), "{rows}");
    for file in [
        "gorgo-1/machines.json",
        "gorgo-1/timeline.json.gz",
        "least-load-1/eu_trace.json",
        "eu-router.log",
        "east-engine.log",
    ] {
        assert!(out.join("machines").join(file).metadata().unwrap().len() > 50, "{file}");
    }
    // The same folder is complete: nothing is launched for it again.
    let again = must(&state, "local", &["plot", out.to_str().unwrap()]);
    assert!(!again.contains("missing"), "{again}");
}

#[test]
fn machines_that_run_are_taken_and_an_interrupt_ends_only_what_was_launched() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    must(&state, "local", &["launch", "--type", "gpu_1x_a100", "--region", "aws:us-east-1", "--name", "east"]);
    let out = folder.path().join("results");
    // The interrupt ends it: on a busy machine the commands below take longer than the first arm of a short load.
    let set = ["--set", "workload.duration_s=900"];
    let words = ["run", FILE, "--mode", "live", "--out", out.to_str().unwrap()];
    let mut child = command(&state, "local", &[&words[..], &set].concat());
    let child = child.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    while !runs(&state, "bench") {
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let pid = child.id().to_string();
    // No other command changes what these machines run, or launches more for another run.
    let plan = || std::fs::read_to_string(plan_file(&state)).unwrap();
    let (before, other) = (plan(), folder.path().join("other"));
    let second = ["run", FILE, "--mode", "live", "--out", other.to_str().unwrap()];
    for words in [&second[..], &["cluster", "setup"], &["cluster", "restart-lb"], &["proxy", "deploy", "east"]] {
        let refused = ran(command(&state, "local", words));
        let said = format!("`gorgo run` (process {pid}): uses this cluster");
        assert!(!refused.ok && refused.err.contains(&said), "{words:?}: {}", refused.err);
    }
    assert_eq!((plan(), count(&states(&state), "intended")), (before, 2));
    assert!(std::process::Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    let ended = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(!ended.status.success() && said.contains("east: taken") && said.contains("still running"), "{said}");
    assert!(!runs(&state, "bench"), "load generators end with the run");
    let list = must(&state, "local", &["list", "--json"]);
    let list: Vec<Value> = serde_json::from_str(&list).unwrap();
    assert_eq!(list.iter().map(|node| node["name"].as_str().unwrap()).collect::<Vec<_>>(), ["east"]);
    must(&state, "local", &["kill", "--all"]);
    assert_eq!(processes(&state), Vec::<String>::new());
}

/// Whether the command with this word runs in a folder below this one: command lines of machines name no folder.
pub(super) fn runs(folder: &Path, word: &str) -> bool {
    processes_in(folder).into_iter().any(|pid| command_line(pid).iter().any(|part| part == word))
}

#[test]
fn what_machines_cannot_carry_is_refused_before_anything_is_launched() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let live = ["--mode", "live"];
    for (words, said) in [
        (&["--cloud", "local"][..], "--cloud is for machines"),
        (&["--lease", "1h"], "--lease is for machines"),
        (
            &["--mode", "live", "--set", "topology=proxy", "--set", "proxy_region=aws:us-west-2"],
            "no replica is in `aws:us-west-2`, and a proxy runs on a replica's machine",
        ),
        (&["--mode", "live", "--set", "topology=proxy", "--set", "proxies.count=2"], "proxies.count = 2 has no effect"),
        (&["--mode", "live", "--engine", "docker", "--set", "fleet.settings.kind=vllm"], "machines run SGLang"),
        (&["--mode", "live", "--cloud", "lambda"], "LAMBDA_API_KEY is not set"),
        (&["--mode", "live", "--cloud", "modal"], "no token of Modal is known"),
        (&["--mode", "live", "--type", "gpu_9x"], "no type or host `gpu_9x`"),
    ] {
        let failed = ran(command(&state, "local", &[&["run", FILE][..], words].concat()));
        assert!(!failed.ok && failed.err.contains(said), "{words:?}: {}", failed.err);
    }
    let text = std::fs::read_to_string(FILE).unwrap();
    for (from, to, said) in [
        ("provider = \"local\"", "provider = \"moon\"", "provider = \"moon\" is none"),
        (
            "policy = \"least-load\"",
            "policy = \"least-load\"\nfleet.replicas = [{ name = \"eu\", region = \"aws:us-west-2\" }]",
            "replica `eu` in aws:us-west-2 and in aws:eu-central-1 cannot run on machines",
        ),
        ("lease = \"30m\"", "machines.west.type = \"gpu_1x_h100\"", "[cloud.machines.west] names no replica"),
        ("lease = \"30m\"", "machines.eu.ports = \"8000\"", "are not three ports"),
        ("lease = \"30m\"", "leese = \"30m\"", "leese"),
        ("lease = \"30m\"", "lease = \"forever\"", "[cloud] lease"),
    ] {
        let file = folder.path().join("wrong.toml");
        std::fs::write(&file, text.replace(from, to)).unwrap();
        let failed = ran(command(&state, "local", &[&["run", file.to_str().unwrap()], &live[..]].concat()));
        assert!(!failed.ok && failed.err.contains(said), "{to}: {}", failed.err);
    }
    assert!(!state.join("ledger.jsonl").exists());
}
