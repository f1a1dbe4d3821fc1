//! Faults of an experiment on hosts over ssh whose engines run as real ones do: in Docker, and as units of the user's
//! systemd. Both are stand-ins that keep real processes.

use super::own_engines::{acts, rows};
use super::ssh::Field;
use super::{Ran, command, must, processes, ran};
use crate::user_systemd::UserSystemd;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// A drain from 0.5 s to 2.5 s, and a crash from 3 s to 4.5 s. `TRACE` stands for a trace.
const FILE: &str = r#"
title = "Faults"
seeds = [1]

[cloud]
provider = "ssh"

[workload]
trace = "TRACE"

[fleet]
max_running = 10
settings = { cold_start_s = 1.0, cold_start_sigma = 0.0 }
replicas = [
  { name = "east", region = "aws:us-east-1" },
  { name = "eu", region = "aws:eu-central-1" },
]

[[faults]]
at_s = 0.5
replica = "east"
kind = "drain"

[[faults]]
at_s = 2.5
replica = "east"
kind = "undrain"

[[faults]]
at_s = 3.0
replica = "eu"
kind = "crash"
down_s = 1.5

[[arms]]
policy = "least-load"
"#;

/// Streams of some 9 s, one every 500 ms from alternate countries: a crash of a replica in use breaks some of them, as
/// late as it may come on a busy machine.
const LONG: Load = Load { requests: 14, output_tokens: 600 };
/// Streams that end between the crash and the end of a stand-in's late kill.
const FEW: Load = Load { requests: 4, output_tokens: 400 };

struct Load {
    requests: usize,
    output_tokens: usize,
}

impl Load {
    /// The rows of a trace.
    fn rows(&self) -> String {
        let row = |i: usize| {
            let country = ["US", "DE"][i % 2];
            json!({
                "timestamp": i * 500, "session_id": format!("s-{i}"), "country": country,
                "input_length": 512, "output_length": self.output_tokens, "hash_ids": [i],
            })
        };
        (0..self.requests).map(|i| format!("{}\n", row(i))).collect()
    }
}

impl Field {
    /// Runs the experiment under this load; its result folder.
    fn experiment(&self, engine: &str, load: &Load) -> (Ran, PathBuf) {
        let [file, trace, out] = ["faults.toml", "trace.jsonl", "results"].map(|name| self.state().join(name));
        std::fs::write(&trace, load.rows()).unwrap();
        std::fs::write(&file, FILE.replace("TRACE", trace.to_str().unwrap())).unwrap();
        let words = ["run", file.to_str().unwrap(), "--mode", "live", "--engine", engine, "--disk-gib", "0"];
        let more = ["--binary", self.program.to_str().unwrap(), "--out", out.to_str().unwrap()];
        let mut command = command(self.state(), "ssh", &[&words[..], &more].concat());
        command.env("HF_ENDPOINT", &self.hub);
        (ran(command), out)
    }

    fn is_released(&self) {
        assert_eq!(must(self.state(), "ssh", &["list"]).trim(), "no machines");
        for host in &self.hosts {
            assert_eq!(processes(&host.home.join("")), Vec::<String>::new());
        }
    }
}

/// A clock beside which others are measured, ms: no two clocks of a run differ by more.
fn clock_error_ms(out: &Path) -> f64 {
    let text = std::fs::read_to_string(out.join("machines/least-load-1/machines.json")).unwrap();
    let machines: Vec<Value> = serde_json::from_str(&text).unwrap();
    machines.iter().map(|machine| machine["clock_error_ms"].as_f64().unwrap()).sum()
}

/// What the run's files say: what was done when, and which requests it broke. Returns when the engine was killed and
/// when it was started, each as the planned and the actual time, ms after the start of the load.
fn told_by_the_files(out: &Path) -> [(f64, f64); 2] {
    let mut done = acts(out, "least-load-1");
    done.sort_by(|a, b| a.at_s.total_cmp(&b.at_s));
    let seen: Vec<_> = done.iter().map(|act| (act.replica.as_str(), act.act.as_str(), act.at_s)).collect();
    assert_eq!(seen, [("east", "drain", 0.5), ("east", "undrain", 2.5), ("eu", "kill", 3.0), ("eu", "start", 4.5)]);
    let [drain, undrain, kill, start] = [0, 1, 2, 3].map(|i| (done[i].at_s * 1e3, done[i].done_s * 1e3));

    let (rows, error_ms) = (rows(out), clock_error_ms(out));
    let at = |row: &std::collections::BTreeMap<String, String>, column: &str| row[column].parse::<f64>().ok();
    // Streams that had begun at the engine that crashed are broken. Who had got nothing yet was sent elsewhere.
    let broken: Vec<_> = rows.iter().filter(|row| row["status"] != "finished").collect();
    assert!(!broken.is_empty(), "{rows:?}");
    for row in &broken {
        assert_eq!((row["status"].as_str(), row["replica"].as_str()), ("failed", "eu"), "{row:?}");
        assert!(at(row, "first_token_ms").is_some() && row["output_tokens"] != "0", "{row:?}");
        assert!(at(row, "done_ms").unwrap() > kill.0 - error_ms, "{row:?}");
    }
    // While the router knew that one drains, nothing new was sent there. What waited in its queue until the end of the drain
    // may have been.
    let in_drain = |row: &&std::collections::BTreeMap<String, String>| {
        at(row, "arrived_ms").is_some_and(|at| at > drain.1 + error_ms)
            && at(row, "first_token_ms").is_some_and(|at| at < undrain.0 - error_ms)
    };
    let elsewhere: Vec<_> = rows.iter().filter(in_drain).filter(|row| row["replica"] != "eu").collect();
    assert!(elsewhere.is_empty(), "{elsewhere:?}");
    assert!(rows.iter().any(|row| row["replica"] == "east"), "{rows:?}");
    [kill, start]
}

/// Both times are those that the file states: the host's log has them between the planned and the actual ones.
fn same_times([kill, start]: [(f64, f64); 2], killed_ms: u64, started_ms: u64) {
    let apart = started_ms as f64 - killed_ms as f64;
    // Times of the log are cut to ms.
    assert!(apart > start.0 - kill.1 - 2.0 && apart < start.1 - kill.0 + 2.0, "{apart} {kill:?} {start:?}");
}

#[test]
fn an_engine_in_docker_crashes_and_is_started_again() {
    let Some(field) = Field::free(&["east", "eu"]) else { return };
    let (run, out) = field.experiment("docker", &LONG);
    assert!(run.ok && run.err.contains("nothing runs any more"), "{}\n{}", run.out, run.err);
    let times = told_by_the_files(&out);
    let calls = |i: usize| -> Vec<(u64, String)> { field.hosts[i].calls() };
    let words = |i: usize| calls(i).into_iter().map(|(_, words)| words).collect::<Vec<_>>();
    let run = ["rm -f gorgo-engine", "run"];
    assert_eq!(words(0), [&run[..], &["rm -f gorgo-engine"]].concat());
    assert_eq!(words(1), [&run[..], &["kill gorgo-engine", "start gorgo-engine", "rm -f gorgo-engine"]].concat());
    // Once by `run`, once by `start`, and never by the restart policy.
    assert_eq!([0, 1].map(|i| field.hosts[i].lines("docker/starts")), [1, 2]);
    let at = |word: &str| calls(1).iter().find(|(_, words)| words.starts_with(word)).unwrap().0;
    same_times(times, at("kill"), at("start"));
    let log = std::fs::read_to_string(out.join("machines/eu-engine.log")).unwrap();
    assert_eq!(log.matches("emulated SGLang").count(), 2, "{log}");
    field.is_released();
}

#[test]
fn an_engine_that_is_a_unit_of_systemd_crashes_and_is_started_again() {
    let Some(field) = Field::free(&["east", "eu"]) else { return };
    let systemd: Vec<UserSystemd> = field.hosts.iter().map(|host| UserSystemd::install(&host.home)).collect();
    let (run, out) = field.experiment("emulated", &LONG);
    assert!(run.ok && run.err.contains("nothing runs any more"), "{}\n{}", run.out, run.err);
    let times = told_by_the_files(&out);
    let engine = "gorgo-engine";
    assert_eq!([0, 1].map(|i| systemd[i].starts(engine).len()), [1, 2]);
    // `Restart=always` has undone no fault, and no router has ended by itself.
    for (i, unit) in [(0, engine), (1, engine), (0, "gorgo-router"), (1, "gorgo-router")] {
        assert_eq!(systemd[i].restarts(unit), 0, "{unit}");
        assert!(!systemd[i].keeps(unit), "{unit}");
    }
    let killed: Vec<u64> =
        systemd.iter().flat_map(UserSystemd::calls).filter(|(_, w)| w.starts_with("kill")).map(|(at, _)| at).collect();
    assert_eq!(killed.len(), 1);
    same_times(times, killed[0], systemd[1].starts(engine)[1].0);
    for host in &field.hosts {
        assert_eq!(std::fs::read_dir(host.home.join(".config/systemd/user")).unwrap().count(), 0);
    }
    // Logs come from the journal.
    for log in ["eu-engine.log", "eu-router.log"] {
        assert!(out.join("machines").join(log).metadata().unwrap().len() > 50, "{log}");
    }
    field.is_released();
}

#[test]
fn a_crash_that_docker_refuses_ends_the_run_and_releases_the_hosts() {
    let Some(field) = Field::free(&["east", "eu"]) else { return };
    field.hosts[1].mark("deaf", "");
    let (run, _) = field.experiment("docker", &LONG);
    assert!(!run.ok && run.err.contains("did not receive an exit event"), "{}\n{}", run.out, run.err);
    assert!(
        run.err.contains("Docker cannot kill the engine") && run.err.contains("nothing runs any more"),
        "{}",
        run.err
    );
    field.hosts[1].unmark("deaf");
    field.is_released();
}

#[test]
fn a_crash_on_its_way_at_the_end_of_the_load_happens_before_it_is_undone() {
    let Some(field) = Field::free(&["east", "eu"]) else { return };
    field.hosts[1].mark("late-kill", "");
    let (run, out) = field.experiment("docker", &FEW);
    assert!(run.ok && run.err.contains("nothing runs any more"), "{}\n{}", run.out, run.err);
    // Where the run notices the end of the load late, the start is one of its acts, too.
    let done = acts(&out, "least-load-1");
    let done: Vec<&str> = done.iter().filter(|act| act.replica == "eu").map(|act| act.act.as_str()).collect();
    assert!(["kill", "start"].starts_with(&done) && !done.is_empty(), "{done:?}");
    let rows = rows(&out);
    assert!(rows.iter().all(|row| row["status"] == "finished"), "{rows:?}");
    // It was started after it, so the run has ended with an engine that is healthy.
    let words: Vec<String> = field.hosts[1].calls().into_iter().map(|(_, words)| words).collect();
    assert_eq!(words[2..], ["kill gorgo-engine", "start gorgo-engine", "rm -f gorgo-engine"]);
    assert_eq!(field.hosts[1].lines("docker/starts"), 2);
    field.is_released();
}
