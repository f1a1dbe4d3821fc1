//! Hosts reached over a real `sshd`: the whole set-up, and what can go wrong in it.

use super::stand_ins::{Host, hub, program};
use super::{Ran, changes, command, must, processes, ran};
use crate::loopback_sshd::script;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

pub(super) struct Field {
    pub(super) folder: tempfile::TempDir,
    pub(super) hosts: Vec<Host>,
    pub(super) program: PathBuf,
    pub(super) hub: String,
}

impl Field {
    /// Hosts of these names, taken.
    fn new(names: &[&str]) -> Option<Self> {
        let field = Self::free(names)?;
        must(field.state(), "ssh", &["launch", "--name", &names.join(",")]);
        Some(field)
    }

    /// Hosts of these names.
    pub(super) fn free(names: &[&str]) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let hosts: Option<Vec<Host>> = names.iter().map(|name| Host::start(folder.path(), name)).collect();
        let hosts = hosts?;
        let regions = ["aws:us-east-1", "aws:us-west-2", "aws:eu-central-1"];
        let entries: String = hosts.iter().zip(regions).map(|(host, region)| host.entry(region)).collect();
        std::fs::write(folder.path().join("hosts.toml"), entries).unwrap();
        let program = program(folder.path());
        Some(Self { program, hub: hub("200 OK"), hosts, folder })
    }

    pub(super) fn state(&self) -> &Path {
        self.folder.path()
    }

    fn setup_with(&self, hub: &str, more: &[&str]) -> Ran {
        let program = self.program.to_str().unwrap();
        let words = ["cluster", "setup", "--engine", "docker", "--json", "--binary", program];
        let disk: &[&str] = if more.is_empty() { &["--disk-gib", "0"] } else { more };
        let mut command = command(self.state(), "ssh", &[&words, disk].concat());
        command.env("HF_ENDPOINT", hub).env("HF_TOKEN", "hf_secret");
        ran(command)
    }

    fn setup(&self) -> String {
        let ran = self.setup_with(&self.hub, &[]);
        assert!(ran.ok, "{}\n{}", ran.out, ran.err);
        ran.out
    }
}

impl Drop for Field {
    fn drop(&mut self) {
        let _ = command(self.state(), "ssh", &["kill", "--all"]).output();
    }
}

#[test]
fn three_hosts_are_set_up_repaired_and_released() {
    let Some(field) = Field::new(&["a", "b", "c"]) else { return };
    // The tag moved while the hosts pulled: all must use the digest of the first.
    field.hosts[2].mark("tag-points-to", "bbbb\n");
    let first = field.setup();
    assert_eq!(first.matches("engine, router and 2 peer(s) answer").count(), 3, "{first}");
    assert_eq!(
        std::fs::read_to_string(field.hosts[2].home.join("docker/pulls")).unwrap().lines().last(),
        Some("Pulled lmsysorg/sglang@sha256:aaaa")
    );
    assert_eq!(changes(&field.setup()), []);
    // A daemon-reload took the GPUs of one container.
    field.hosts[1].mark("docker/lost", "");
    assert_eq!(changes(&field.setup()), [("b".to_owned(), "engine".to_owned())]);
    assert_eq!([1, 2, 1], [0, 1, 2].map(|i| field.hosts[i].lines("docker/runs")));
    // The token reaches the container in a file that its owner alone reads, and nothing else of ours.
    let secret = std::fs::read_to_string(field.hosts[0].home.join("docker/environment")).unwrap();
    assert!(secret.contains("HF_TOKEN=hf_secret"));
    for file in std::fs::read_dir(field.state())
        .unwrap()
        .flatten()
        .filter(|file| file.path().extension().is_some_and(|e| e == "json" || e == "jsonl"))
    {
        assert!(!std::fs::read_to_string(file.path()).unwrap().contains("hf_secret"), "{:?}", file.path());
    }
    assert_eq!(must(field.state(), "ssh", &["cluster", "status"]).matches("healthy  predictive").count(), 3);
    assert_eq!(must(field.state(), "ssh", &["cluster", "flush-cache"]).matches("are empty").count(), 3);
    assert!(must(field.state(), "ssh", &["run-on", "b", "--", "pwd"]).trim().ends_with("/b"));
    assert!(must(field.state(), "ssh", &["cluster", "logs", "a"]).contains("emulated SGLang"));
    must(field.state(), "ssh", &["kill", "--all"]);
    for host in &field.hosts {
        assert_eq!(processes(&host.home.join("")), Vec::<String>::new());
    }
    assert_eq!(must(field.state(), "ssh", &["list"]).trim(), "no machines");
    assert!(must(field.state(), "ssh", &["available"]).contains("aws:eu-central-1"));
}

#[test]
fn routers_on_hosts_with_docker_change_and_their_containers_run_on() {
    let Some(field) = Field::new(&["a", "b"]) else { return };
    field.setup();
    let on_both = |step: &str| ["a", "b"].map(|name| (name.to_owned(), step.to_owned()));
    let restarted = must(field.state(), "ssh", &["cluster", "restart-lb", "--strategy", "prefix-tree", "--json"]);
    assert_eq!(changes(&restarted), on_both("router"), "{restarted}");
    assert_eq!(must(field.state(), "ssh", &["status"]).matches("healthy  prefix-tree").count(), 2);
    // Another program with the same words: what follows its end is no part of it.
    let other = field.state().join("other");
    let mut bytes = std::fs::read(&field.program).unwrap();
    bytes.extend(b"other");
    script(&other, "");
    std::fs::write(&other, bytes).unwrap();
    let upload = ["cluster", "upload", "--json", "--binary", other.to_str().unwrap()];
    let uploaded = must(field.state(), "ssh", &upload);
    let mut changed = changes(&uploaded);
    changed.sort_by(|a, b| a.1.cmp(&b.1).then(a.0.cmp(&b.0)));
    assert_eq!(changed, [on_both("program"), on_both("router")].concat(), "{uploaded}");
    assert_eq!(changes(&must(field.state(), "ssh", &upload)), []);
    for (of, words) in [("engine", "emulated SGLang"), ("router", "listening")] {
        let log = must(field.state(), "ssh", &["cluster", "logs", "b", "--of", of]);
        assert!(log.contains(words), "{of}: {log}");
    }
    for host in &field.hosts {
        assert_eq!(host.lines("docker/starts"), 1);
    }
}

#[test]
fn a_host_gets_the_program_for_its_architecture() {
    let Some(field) = Field::new(&["a", "b"]) else { return };
    let says = |machine: &str| {
        let uname = format!("#!/bin/sh\n[ \"$*\" = -m ] && echo {machine} || exec /usr/bin/uname \"$@\"\n");
        script(&field.hosts[1].home.join("bin/uname"), &uname);
    };
    let setup = |words: &[&str]| {
        let program =
            ["cluster", "setup", "--engine", "emulated", "--json", "--binary", field.program.to_str().unwrap()];
        ran(command(field.state(), "ssh", &[&program[..], words].concat()))
    };
    says("riscv64");
    let refused = setup(&[]);
    assert!(!refused.ok && refused.out.contains("uname -m: riscv64"), "{}", refused.out);
    assert!(refused.out.contains("use x86-64 or arm64 nodes"), "{}", refused.out);
    says("aarch64");
    let refused = setup(&[]);
    assert!(!refused.ok && refused.out.contains("the node needs this program for arm64"), "{}", refused.out);
    assert!(
        refused.out.contains("--binary-arm64") && refused.err.contains("1 of 2 machines are not ready"),
        "{}",
        refused.err
    );
    // Nothing was uploaded to it. No program for arm64 runs here, so one that says what it is stands in for it.
    assert!(!field.hosts[1].home.join(".gorgo/bin").exists());
    let arm64 = field.state().join("arm64");
    script(
        &arm64,
        &format!(
            "#!/bin/sh\n[ \"$*\" = --version ] && echo gorgo for arm64 || exec {} \"$@\"\n",
            field.program.display()
        ),
    );
    let done = setup(&["--binary-arm64", arm64.to_str().unwrap()]);
    assert!(done.ok && done.out.contains("gorgo for arm64, uploaded"), "{}\n{}", done.out, done.err);
    assert_eq!(done.out.matches("engine, router and 1 peer(s) answer").count(), 2, "{}", done.out);
    assert_eq!(done.out.matches("gorgo for arm64").count(), 1, "{}", done.out);
}

#[test]
fn each_failure_is_explained_and_set_up_goes_on_once_its_cause_is_gone() {
    let Some(field) = Field::new(&["a"]) else { return };
    let host = &field.hosts[0];
    let fails =
        |ran: Ran, words: &str| assert!(!ran.ok && ran.out.contains(words), "{words}: {}\n{}", ran.out, ran.err);
    host.mark("no-docker", "");
    fails(field.setup_with(&field.hub, &[]), "passwordless sudo");
    host.unmark("no-docker");
    fails(field.setup_with(&hub("403 Forbidden"), &[]), "accept the model's terms");
    assert_eq!(host.lines("docker/pulls"), 0, "access is asked for before the pull");
    host.mark("full", "");
    fails(field.setup_with(&field.hub, &[]), "the disk is full");
    host.unmark("full");
    fails(field.setup_with(&field.hub, &["--disk-gib", "999999"]), "GiB of disk are free");
    let port = router_port(field.state());
    let squatter = std::net::TcpListener::bind(("0.0.0.0", port)).unwrap();
    let taken = field.setup_with(&field.hub, &[]);
    fails(taken, "another process has the port");
    drop(squatter);
    host.mark("docker/lost", ""); // so that the container is started anew
    host.mark("bad-flag", "");
    fails(field.setup_with(&field.hub, &[]), "times before it was ready, with status 1");
    host.unmark("bad-flag");
    assert!(field.setup().contains("engine, router and 0 peer(s) answer"));
}

#[test]
fn a_cluster_of_another_state_folder_is_neither_overwritten_nor_ended() {
    let Some(field) = Field::new(&["a"]) else { return };
    let setup = ["cluster", "setup", "--engine", "emulated", "--binary", field.program.to_str().unwrap()];
    must(field.state(), "ssh", &setup);
    let healthy = |ran: Ran| assert!(ran.ok && ran.out.contains("healthy  predictive"), "{}\n{}", ran.out, ran.err);
    let other = tempfile::tempdir().unwrap();
    std::fs::copy(field.state().join("hosts.toml"), other.path().join("hosts.toml")).unwrap();
    let go = |words: &[&str]| ran(command(other.path(), "ssh", words));
    assert!(go(&["launch", "--name", "a"]).ok);
    let refused = go(&setup);
    assert!(!refused.ok && refused.out.contains("a router of another state folder runs here"), "{}", refused.out);
    let killed = go(&["kill", "--all"]);
    assert!(killed.ok, "{}", killed.err);
    healthy(ran(command(field.state(), "ssh", &["status"])));
    // Its own folder changes it nevertheless, and another one does once it was let go of.
    must(field.state(), "ssh", &["cluster", "restart-lb", "--set", "probes.period_ms=700"]);
    assert!(go(&["launch", "--name", "a"]).ok);
    assert!(go(&["run-on", "a", "--", "rm", ".gorgo/owner"]).ok);
    let taken = go(&setup);
    assert!(taken.ok, "{}\n{}", taken.out, taken.err);
    healthy(go(&["status"]));
    assert!(go(&["kill", "--all"]).ok);
}

#[test]
fn a_connection_left_by_a_killed_command_is_ended_by_the_next_one() {
    let Some(field) = Field::new(&["a"]) else { return };
    let temp = field.state().join("t");
    std::fs::create_dir(&temp).unwrap();
    let on = |words: &[&str]| {
        let mut command = command(field.state(), "ssh", &[&["run-on", "a", "--"], words].concat());
        command.env("TMPDIR", &temp);
        command
    };
    let mut killed = on(&["sh", "-c", "echo runs; exec sleep 600"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(killed.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "runs\n");
    // The connection of a process that lives is left alone.
    assert!(ran(on(&["true"])).ok);
    assert_eq!(std::fs::read_dir(&temp).unwrap().count(), 1);
    killed.kill().unwrap();
    killed.wait().unwrap();
    assert!(processes(&temp).iter().any(|line| line.contains(" -M ")), "{:?}", processes(&temp));
    assert!(ran(on(&["true"])).ok);
    let until = Instant::now() + Duration::from_secs(20);
    while !processes(&temp).is_empty() {
        assert!(Instant::now() < until, "{:?}", processes(&temp));
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(std::fs::read_dir(&temp).unwrap().count(), 0);
}

fn router_port(state: &Path) -> u16 {
    let text = std::fs::read_to_string(state.join("hosts.toml")).unwrap();
    text.lines().find_map(|line| line.strip_prefix("router_port = ")).unwrap().parse().unwrap()
}

#[test]
fn a_connection_lost_at_any_command_leaves_nothing_that_the_next_run_does_not_finish() {
    let Some(field) = Field::new(&["a"]) else { return };
    let host = &field.hosts[0];
    let mut lost = 0;
    for at in (1..=24).step_by(2) {
        host.mark("cut", &at.to_string());
        let ran = field.setup_with(&field.hub, &[]);
        if host.home.join("cut").exists() {
            // Set-up ran fewer commands than that.
            host.unmark("cut");
            assert!(ran.ok, "{}", ran.out);
            break;
        }
        lost += 1;
        if !ran.ok {
            assert!(ran.out.contains("connection was lost"), "{at}: {}\n{}", ran.out, ran.err);
        }
    }
    assert!(lost >= 5, "{lost}");
    assert!(field.setup().contains("engine, router and 0 peer(s) answer"));
    assert_eq!(changes(&field.setup()), []);
}

#[test]
fn an_experiment_runs_on_hosts_that_are_released_after_it() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path();
    let Some(hosts) = ["east", "eu"].iter().map(|name| Host::start(state, name)).collect::<Option<Vec<Host>>>() else {
        return;
    };
    let regions = ["aws:us-east-1", "aws:eu-central-1"];
    let entries: String = hosts.iter().zip(regions).map(|(host, region)| host.entry(region)).collect();
    std::fs::write(state.join("hosts.toml"), entries).unwrap();
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/machines.toml");
    let out = state.join("results");
    let words = ["run", file, "--mode", "live", "--cloud", "ssh", "--engine", "emulated", "--out"];
    let run = ran(command(state, "ssh", &[&words[..], &[out.to_str().unwrap(), "--json"]].concat()));
    assert!(run.ok && run.err.contains("nothing runs any more"), "{}\n{}", run.out, run.err);
    let summary: serde_json::Value = serde_json::from_str(&run.out).unwrap();
    assert!(summary.to_string().contains("least-load"), "{summary}");
    let clocks = std::fs::read_to_string(out.join("machines/gorgo-1/machines.json")).unwrap();
    assert!(clocks.contains("clock_error_ms"), "{clocks}");
    assert_eq!(must(state, "ssh", &["list"]).trim(), "no machines");
    for host in &hosts {
        assert_eq!(processes(&host.home.join("")), Vec::<String>::new());
    }
}
