//! A live run with all that machines carry beside the usual: a proxy, engines that differ, and faults.

use super::{command, command_line, must, processes, ran};
use crate::fake_modal::processes_in;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

const FILE: &str = r#"
title = "A crash"
seeds = [1]

[cloud]
provider = "local"
machines.eu.type = "gpu_1x_l40s"

[workload]
trace = "wildchat-located"
rate = 4.0
duration_s = 7.0

[fleet]
max_running = 10
settings = { cold_start_s = 1.0, cold_start_sigma = 0.0 }
replicas = [
  { name = "east", region = "aws:us-east-1" },
  { name = "eu", region = "aws:eu-central-1", engine = "mistral-7b-l40s", max_running = 4, settings = { kv_tokens = 40000 } },
]

[[faults]]
at_s = 0.5
replica = "east"
kind = "drain"

[[faults]]
at_s = 2.0
replica = "east"
kind = "undrain"

[[faults]]
at_s = 3.0
replica = "eu"
kind = "crash"
down_s = 1.0

[[arms]]
policy = "least-load"

[[arms]]
policy = "least-load"
topology = "proxy"
proxy_region = "aws:eu-central-1"
"#;

/// An arm with one of two machines and another engine there, between two with both.
const FLEETS: &str = r#"
title = "Fleets"
seeds = [1]

[cloud]
provider = "local"

[workload]
trace = "wildchat-located"
rate = 4.0
duration_s = 4.0

[fleet]
max_running = 10
replicas = [{ name = "east", region = "aws:us-east-1" }, { name = "eu", region = "aws:eu-central-1" }]

[[arms]]
name = "both"
policy = "least-load"

[[arms]]
name = "alone"
policy = "least-load"
fleet.replicas = [{ name = "eu", region = "aws:eu-central-1", max_running = 3 }]

[[arms]]
name = "again"
policy = "gorgo"
"#;

#[test]
fn arms_with_a_fleet_of_their_own_run_on_their_machines() {
    let folder = tempfile::tempdir().unwrap();
    let (state, out, file) =
        (folder.path().join("state"), folder.path().join("results"), folder.path().join("fleets.toml"));
    std::fs::write(&file, FLEETS).unwrap();
    let words = ["run", file.to_str().unwrap(), "--mode", "live", "--keep", "--out", out.to_str().unwrap()];
    let run = ran(command(&state, "local", &words));
    let (left, status) = (engines(&state), ran(command(&state, "local", &["status"])).out);
    must(&state, "local", &["kill", "--all"]);
    assert!(run.ok, "{}\n{}", run.out, run.err);
    assert_eq!(processes(&state), Vec::<String>::new());
    let rows = rows(&out);
    for (arm, replicas) in [("both", &["east", "eu"][..]), ("alone", &["eu"]), ("again", &["east", "eu"])] {
        let of: Vec<_> = rows.iter().filter(|row| row["arm"] == arm).collect();
        let of_all: std::collections::BTreeSet<&str> = of.iter().map(|row| row["replica"].as_str()).collect();
        assert!(of.len() > 5 && of.iter().all(|row| row["status"] == "finished"), "{arm}: {of:?}");
        assert_eq!(of_all, replicas.iter().copied().collect(), "{arm}");
        let text = std::fs::read_to_string(out.join(format!("machines/{arm}-1/machines.json"))).unwrap();
        assert_eq!(serde_json::from_str::<Vec<Value>>(&text).unwrap().len(), replicas.len(), "{arm}");
    }
    // The last arm has the first one's fleet again: its engines, and edges that know each other.
    assert_eq!(left.iter().filter(|line| line.contains("max_running_requests=10")).count(), 2, "{left:?}");
    assert_eq!(status.matches("1/1").count(), 2, "{status}");
}

/// Rows of `requests.csv`, by the names of their columns.
pub(super) fn rows(out: &Path) -> Vec<BTreeMap<String, String>> {
    let text = std::fs::read_to_string(out.join("requests.csv")).unwrap();
    let mut lines = text.lines().map(|line| line.split(',').map(str::to_owned).collect::<Vec<_>>());
    let head = lines.next().unwrap();
    lines.map(|cells| head.iter().cloned().zip(cells).collect()).collect()
}

/// What was done to a replica, and when, s after the start of the load: as planned, and in truth.
pub(super) struct Act {
    pub(super) replica: String,
    pub(super) act: String,
    pub(super) at_s: f64,
    pub(super) done_s: f64,
}

/// What the fault file of an arm says was done.
pub(super) fn acts(out: &Path, arm: &str) -> Vec<Act> {
    let text = std::fs::read_to_string(out.join("machines").join(arm).join("faults.json")).unwrap();
    let rows: Vec<Value> = serde_json::from_str(&text).unwrap();
    let act = |row: &Value| {
        let (word, number) =
            (|key: &str| row[key].as_str().unwrap().to_owned(), |key: &str| row[key].as_f64().unwrap());
        Act { replica: word("replica"), act: word("act"), at_s: number("at_s"), done_s: number("done_s") }
    };
    let acts: Vec<Act> = rows.iter().map(act).collect();
    assert!(acts.iter().all(|act| act.done_s >= act.at_s), "{text}");
    acts
}

/// The command lines of engines that run in folders below this one.
fn engines(state: &Path) -> Vec<String> {
    let lines = processes_in(state).into_iter().map(|pid| command_line(pid).join(" "));
    lines.filter(|line| line.contains(" engine ")).collect()
}

#[test]
fn a_proxy_engines_of_their_own_and_faults_run_on_machines() {
    let folder = tempfile::tempdir().unwrap();
    let (state, out, file) =
        (folder.path().join("state"), folder.path().join("results"), folder.path().join("crash.toml"));
    std::fs::write(&file, FILE).unwrap();
    let words = ["run", file.to_str().unwrap(), "--mode", "live", "--keep", "--out", out.to_str().unwrap()];
    let run = ran(command(&state, "local", &words));
    let left = engines(&state);
    let list = must(&state, "local", &["list"]);
    let status = must(&state, "local", &["status"]);
    must(&state, "local", &["kill", "--all"]);
    assert!(run.ok, "{}\n{}", run.out, run.err);
    assert_eq!(processes(&state), Vec::<String>::new());

    // Each machine runs the engine of its replica; the one that crashed was started anew and is cold.
    let of = |word: &str| left.iter().find(|line| line.contains(word)).unwrap_or_else(|| panic!("{word}: {left:?}"));
    let (east, eu) = (of("--preset mistral-7b-a100-80"), of("--preset mistral-7b-l40s"));
    assert!(east.contains("max_running_requests=10") && !east.contains("--cold"), "{east}");
    assert!(eu.contains("max_running_requests=4") && eu.contains("kv_tokens=40000") && eu.contains("--cold"), "{eu}");
    assert!(list.contains("gpu_1x_l40s") && list.contains("gpu_1x_a100"), "{list}");
    // After the run the edges remember no fault, and no proxy is left.
    assert_eq!(status.matches("healthy  least-load").count(), 2, "{status}");

    let rows = rows(&out);
    for (arm, routers) in
        [("least-load", &["lb east", "lb eu"][..]), ("least-load-proxy", &["proxy aws:eu-central-1"][..])]
    {
        let of: Vec<_> = rows.iter().filter(|row| row["arm"] == arm).collect();
        assert!(of.len() > 10, "{arm}: {}", of.len());
        assert!(of.iter().all(|row| routers.contains(&row["router"].as_str())), "{arm}: {of:?}");
        assert!(routers.iter().all(|router| of.iter().any(|row| row["router"] == *router)), "{arm}");
        for replica in ["east", "eu"] {
            assert!(of.iter().any(|row| row["replica"] == replica && row["status"] == "finished"), "{arm}: {replica}");
        }
        let mut done = acts(&out, &format!("{arm}-1"));
        done.sort_by(|a, b| a.at_s.total_cmp(&b.at_s));
        let done: Vec<_> = done.iter().map(|act| (act.replica.as_str(), act.act.as_str(), act.at_s)).collect();
        assert_eq!(done, [("east", "drain", 0.5), ("east", "undrain", 2.0), ("eu", "kill", 3.0), ("eu", "start", 4.0)]);
    }
    let timeline = out.join("machines/least-load-proxy-1/eu-proxy_trace.json");
    assert!(timeline.metadata().unwrap().len() > 50);
    // The simulation beside has the same arms, so both can be compared.
    let validation: Value =
        serde_json::from_str(&std::fs::read_to_string(out.join("validation.json")).unwrap()).unwrap();
    assert!(validation.to_string().contains("least-load-proxy"), "{validation}");
}
