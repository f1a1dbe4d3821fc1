//! Result folders: what they are results of, what is missing, and that nothing is lost unasked.

use super::text;
use std::path::Path;
use std::process::{Command, Output, Stdio};

const TRACE: &str = r#"{"timestamp":0,"input_length":900,"output_length":20}
{"timestamp":500,"input_length":300,"output_length":30}
{"timestamp":900,"input_length":100,"output_length":9}
"#;

const EXPERIMENT: &str = r#"
title = "two arms"
seeds = 2
[workload]
trace = "t.jsonl"
[fleet]
replicas = [{ name = "a", region = "aws:us-east-1" }, { name = "b", region = "aws:eu-central-1" }]
[[arms]]
policy = "random"
[[arms]]
policy = "gorgo"
"#;

fn gorgo(dir: &Path, args: &[&str]) -> (Output, String) {
    let out = Command::new(env!("CARGO_BIN_EXE_gorgo")).args(args).current_dir(dir).output().unwrap();
    let message = text(&out.stderr);
    (out, message)
}

/// A folder with an experiment and its trace one folder below.
fn workplace() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("e")).unwrap();
    std::fs::write(dir.path().join("e/x.toml"), EXPERIMENT).unwrap();
    std::fs::write(dir.path().join("e/t.jsonl"), TRACE).unwrap();
    dir
}

#[test]
fn other_results_in_the_default_folder_are_kept_aside_and_a_changed_trace_is_another_experiment() {
    let dir = workplace();
    let read = |path: &str| std::fs::read_to_string(dir.path().join(path)).unwrap();
    assert!(gorgo(dir.path(), &["run", "e/x.toml"]).0.status.success());
    let first = read("results/x/summary.csv");
    let (out, message) = gorgo(dir.path(), &["run", "e/x.toml", "--set", "policy.tie_band=3"]);
    assert!(out.status.success() && message.contains("they are in `results/x.1` now"), "{message}");
    assert_eq!(read("results/x.1/summary.csv"), first);
    let (out, message) = gorgo(dir.path(), &["run", "e/x.toml", "--out", "results/x.1"]);
    assert!(out.status.success() && message.contains("4 runs are in the folder already, 0 to go"), "{message}");
    std::fs::write(dir.path().join("e/t.jsonl"), TRACE.replace("900,", "901,")).unwrap();
    let (out, message) = gorgo(dir.path(), &["run", "e/x.toml", "--out", "results/x.1"]);
    assert!(!out.status.success() && message.contains("another trace") && message.contains("--fresh"), "{message}");
    let (out, message) = gorgo(dir.path(), &["run", "e/x.toml", "--out", "results/x.1", "--fresh"]);
    assert!(out.status.success(), "{message}");
    assert_ne!(read("results/x.1/summary.csv"), first);
}

#[test]
fn the_kept_experiment_runs_again_to_the_same_results() {
    let dir = workplace();
    let sets = [
        "--set",
        "policy.tie_band=3",
        "--set",
        "arms.gorgo.policy.ms_per_token=0.3",
        "--vary",
        "fleet.max_running=2..4:*2",
    ];
    let args = [&["sweep", "e/x.toml", "--rows", "--out", "one", "--seed", "18446744073709551615"], &sets[..]].concat();
    let (out, message) = gorgo(dir.path(), &args);
    assert!(out.status.success(), "{message}");
    let (out, message) = gorgo(dir.path(), &["run", "one/experiment.toml", "--out", "two"]);
    assert!(out.status.success(), "{message}");
    for file in ["experiment.toml", "summary.json", "summary.csv", "requests.csv", "report.html"] {
        let read = |folder: &str| std::fs::read(dir.path().join(folder).join(file)).unwrap();
        assert!(read("one") == read("two"), "{file} differs");
    }
}

#[test]
fn nothing_that_gorgo_did_not_write_is_deleted_or_replaced() {
    let dir = workplace();
    std::fs::write(dir.path().join("e/experiment.toml"), EXPERIMENT).unwrap();
    let place = dir.path().join("e");
    for args in [&["run", "experiment.toml", "--out", ".", "--fresh"][..], &["run", "experiment.toml", "--out", "."]] {
        let (out, message) = gorgo(&place, args);
        assert!(!out.status.success() && message.contains("did not write"), "{message}");
    }
    assert_eq!(std::fs::read_to_string(place.join("experiment.toml")).unwrap(), EXPERIMENT);
    assert_eq!(std::fs::read_dir(&place).unwrap().count(), 3);
}

#[test]
fn merge_and_report_name_missing_runs_and_an_empty_shard_is_no_failure() {
    let dir = workplace();
    for shard in ["0/3", "1/3", "8/9"] {
        let out = format!("s{}", &shard[..1]);
        let (out, message) = gorgo(dir.path(), &["sweep", "e/x.toml", "--shard", shard, "--out", &out]);
        assert!(out.status.success(), "{message}");
        assert_eq!(message.contains("shard 8/9 holds none of the 4 runs"), shard == "8/9", "{message}");
    }
    let (out, message) = gorgo(dir.path(), &["merge", "s0", "s1", "s8"]);
    assert!(out.status.success() && message.contains("1 of 4 runs are missing: gorgo seed 1"), "{message}");
    let (_, message) = gorgo(dir.path(), &["report", "s0"]);
    assert!(message.contains("1 of 4 runs are missing"), "{message}");
}

#[test]
fn a_closed_pipe_is_no_panic() {
    for args in [&["completions", "zsh"][..], &["workload", "stats", "wildchat-located"]] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_gorgo"))
            .args(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let out = child.wait_with_output().unwrap();
        assert!(out.status.success() && out.stderr.is_empty(), "{args:?}: {}", text(&out.stderr));
    }
}

#[test]
fn a_planned_sweep_survives_workers_killed_at_any_time() {
    let dir = workplace();
    let read = |path: &str| std::fs::read_to_string(dir.path().join(path)).unwrap();
    let vary = ["--vary", "router.queue_limit=1,2"];
    let whole = gorgo(dir.path(), &[&["sweep", "e/x.toml"][..], &vary].concat());
    assert!(whole.0.status.success(), "{}", whole.1);
    let planned = gorgo(dir.path(), &[&["sweep", "plan", "e/x.toml", "--out", "p"][..], &vary].concat());
    assert!(planned.0.status.success(), "{}", planned.1);
    assert_eq!(read("p/points.txt").lines().count(), 8);
    // Each point is killed twice, a little later each time, before it may run to its end.
    for index in 0..8u64 {
        for attempt in 0..3 {
            let index = index.to_string();
            let args = ["point", "run", "--plan", "p", "--index", &index];
            let mut worker = Command::new(env!("CARGO_BIN_EXE_gorgo"));
            worker.args(args).current_dir(dir.path()).stdout(Stdio::null()).stderr(Stdio::null());
            let mut worker = worker.spawn().unwrap();
            if attempt < 2 {
                std::thread::sleep(std::time::Duration::from_millis(3 * (1 + attempt)));
                let _ = worker.kill(); // SIGKILL
                worker.wait().unwrap();
            } else {
                assert!(worker.wait().unwrap().success());
            }
        }
        if index == 3 {
            let (out, message) = gorgo(dir.path(), &["sweep", "collect", "p"]);
            assert!(!out.status.success() && message.contains("4 points have not run"), "{message}");
            assert_eq!(read("p/missing.txt").lines().count(), 4);
        }
    }
    let (out, message) = gorgo(dir.path(), &["sweep", "collect", "p"]);
    assert!(out.status.success(), "{message}");
    assert_eq!(read("p/results/summary.csv"), read("results/x/summary.csv"));
}
