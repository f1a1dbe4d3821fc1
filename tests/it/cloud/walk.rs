//! The walk from `available` to `kill` with the real program against stand-ins of Lambda Cloud and Modal.

use super::stand_ins::program;
use super::{Ran, changes, command, ran};
use crate::fake_lambda::{self, world::World};
use crate::fake_modal::{self, SECRET, processes_in};
use crate::loopback_sshd::{Sshd, free_port};
use gorgo_cloud::Time;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

/// Two machines of one provider, driven by the command.
struct Walk {
    state: PathBuf,
    cloud: &'static str,
    environment: Vec<(&'static str, String)>,
    program: PathBuf,
    ports: Vec<String>,
}

impl Walk {
    fn command(&self, args: &[&str]) -> Command {
        let mut command = command(&self.state, self.cloud, args);
        command.envs(self.environment.iter().map(|(name, value)| (*name, value.as_str())));
        command
    }

    fn ran(&self, args: &[&str]) -> Ran {
        ran(self.command(args))
    }

    fn go(&self, args: &[&str]) -> String {
        let ran = self.ran(args);
        assert!(ran.ok, "{args:?}: {}\n{}", ran.out, ran.err);
        ran.out
    }

    /// From `available` to `kill`; `machine` and `regions` are the provider's words.
    fn whole(&self, machine: &str, regions: [&str; 2]) {
        let (state, go) = (&self.state, |args: &[&str]| self.go(args));
        assert!(go(&["available"]).contains(machine));
        assert!(go(&["cloud", "check"]).contains("can be used"));
        assert!(
            self.ran(&["launch", "--type", machine, "--region", regions[0]]).err.contains("--yes"),
            "money is asked for"
        );
        for (i, region) in regions.iter().enumerate() {
            let name = format!("n-{i}");
            let words = ["launch", "--type", machine, "--region", region, "--name", &name, "--ports", &self.ports[i]];
            go(&[&words[..], &["--yes", "--no-watch", "--lease", "1h"]].concat());
        }
        let list: Vec<Value> = serde_json::from_str(&go(&["list", "--json"])).unwrap();
        assert_eq!(list.len(), 2);
        assert!(list.iter().all(|node| node["status"] == "ready" && node["ledger"] == "in the ledger"), "{list:?}");
        assert!(list.iter().all(|node| node["cents_per_hour"].as_u64() > Some(0)), "{list:?}");
        let binary = self.program.to_str().unwrap();
        let setup = ["cluster", "setup", "--engine", "emulated", "--binary", binary, "--json"];
        let first = go(&setup);
        assert_eq!(changes(&first).len(), 6, "program, router and engine on each: {first}");
        assert_eq!(first.matches("engine, router and 1 peer(s) answer").count(), 2, "{first}");
        assert_eq!(changes(&go(&setup)), []);
        assert_eq!(go(&["status"]).matches("healthy  predictive").count(), 2);
        assert_eq!(go(&["cluster", "flush-cache"]).matches("are empty").count(), 2);
        assert!(go(&["cluster", "logs", "n-0"]).contains("emulated SGLang"));
        assert_eq!(go(&["run-on", "--all", "--", "echo", "hi"]), "hi\nhi\n");
        assert_eq!(go(&["cluster", "start-trace"]).matches("timeline started").count(), 2);
        let traces = state.join("traces");
        go(&["cluster", "stop-trace", "--output-dir", traces.to_str().unwrap()]);
        assert!(traces.join("n-1_trace.json").exists());
        let restarted = go(&["cluster", "restart-lb", "--strategy", "prefix-tree", "--json"]);
        assert_eq!(changes(&restarted).iter().filter(|(_, step)| step == "router").count(), 2);

        let deployed = go(&["proxy", "deploy", "n-1"]);
        assert!(deployed.contains("n-1 started"), "{deployed}");
        let servers: Value = serde_json::from_str(&go(&["proxy", "--remote", "n-1", "servers", "--json"])).unwrap();
        let text = servers.to_string();
        assert!(text.contains("n-0-engine") && text.contains("n-1-engine"), "{text}");
        let status = go(&["proxy", "--remote", "n-1", "status"]);
        assert!(status.contains("n-0-engine") && !status.contains(" down "), "{status}");
        go(&["proxy", "--remote", "n-1", "clear-cache"]);

        assert!(go(&["price", "--running"]).contains("total"));
        assert_eq!(go(&["kill", "n-0"]).trim(), "gone: n-0");
        go(&["kill", "--all"]);
        assert_eq!(go(&["list"]).trim(), "no machines");
        assert_eq!(processes_in(state), Vec::<u32>::new());
    }

    /// Fails if a secret stands in a file of the state folder but the one that keeps the routers' keys, or was printed.
    fn keeps(&self, secret: &str) {
        let mut folders = vec![self.state.clone()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap().flatten() {
                let path = entry.path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    let bytes = std::fs::read(&path).unwrap_or_default();
                    let found = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
                    assert!(!found, "{} holds a secret", path.display());
                }
            }
        }
    }
}

fn three_ports() -> String {
    format!("{},{},{}", free_port(), free_port(), free_port())
}

#[test]
fn a_whole_session_in_sandboxes_of_modal() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let fake = runtime.block_on(fake_modal::Fake::start());
    let world = fake.account("ak-1", 1, false, &Time::real(), None, state.join("sandboxes"));
    world.lock().unwrap().boot_ms = 0;
    let environment = vec![
        ("MODAL_TOKEN_ID", "ak-1".to_owned()),
        ("MODAL_TOKEN_SECRET", SECRET.to_owned()),
        ("MODAL_SERVER_URL", fake.url.clone()),
    ];
    let ports = vec![three_ports(), three_ports()];
    let walk = Walk { state, cloud: "modal", environment, program: program(folder.path()), ports };
    let long =
        walk.ran(&["launch", "--type", "gpu_1x_a100", "--region", "us", "--lease", "25h", "--yes", "--no-watch"]);
    assert!(!long.ok && long.err.contains("24 h at the latest"), "{}", long.err);
    let docker = walk.ran(&["cluster", "setup", "--engine", "docker"]);
    assert!(!docker.ok && docker.err.contains("no Docker"), "{}", docker.err);
    walk.whole("gpu_1x_a100", ["us-west", "eu"]);
    walk.keeps(SECRET);
    let world = world.lock().unwrap();
    assert_eq!(world.violations, Vec::<String>::new());
    assert_eq!((world.machines.len(), world.running().count()), (2, 0));
}

/// Hosts that stand for Lambda's machines: an `sshd` each, at an address of its own, with the host key that cloud-init
/// was given.
struct Hosts {
    folder: PathBuf,
    port: u16,
    started: Vec<Sshd>,
}

impl Hosts {
    fn start(&mut self, launch: &Value, public: &str) -> Option<String> {
        let number = self.started.len() + 2;
        let (name, address) = (format!("host-{number}"), format!("127.0.0.{number}"));
        std::fs::create_dir_all(&self.folder).unwrap();
        let user_data = launch["user_data"].as_str().unwrap();
        let lines = user_data.lines().filter_map(|line| line.strip_prefix("    "));
        let private: String = lines.map(|line| format!("{line}\n")).collect();
        let key = self.folder.join(format!("{name}-host"));
        std::fs::write(&key, private).unwrap();
        std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        std::fs::write(self.folder.join(format!("{name}-authorized")), public).unwrap();
        self.started.push(Sshd::start_at(&self.folder, &name, &address, self.port)?);
        Some(address)
    }
}

#[test]
fn a_whole_session_on_machines_of_lambda_cloud() {
    if Sshd::start(tempfile::tempdir().unwrap().path(), "probe", "").is_none() {
        return;
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let fake = runtime.block_on(fake_lambda::Fake::start());
    let world: Arc<Mutex<World>> = fake.account("secret-key", 1, false, &Time::real(), None);
    let port = free_port();
    let hosts = Arc::new(Mutex::new(Hosts { folder: folder.path().join("hosts"), port, started: Vec::new() }));
    {
        let mut world = world.lock().unwrap();
        (world.boot_ms, world.ending_ms) = (0, 0);
        let hosts = hosts.clone();
        world.boot = Some(Box::new(move |launch, public| hosts.lock().unwrap().start(launch, public).unwrap()));
    }
    let user = Command::new("id").arg("-un").output().unwrap();
    let environment = vec![
        ("LAMBDA_API_KEY", "secret-key".to_owned()),
        ("LAMBDA_API_URL", fake.url.clone()),
        ("GORGO_LAMBDA_SSH_PORT", port.to_string()),
        ("GORGO_LAMBDA_SSH_USER", String::from_utf8(user.stdout).unwrap().trim().to_owned()),
    ];
    let ports = vec![three_ports(), three_ports()];
    let walk = Walk { state, cloud: "lambda", environment, program: program(folder.path()), ports };
    let clear = ran({
        let mut command = walk.command(&["available"]);
        command.env("LAMBDA_API_URL", "http://example.net/api/v1");
        command
    });
    assert!(!clear.ok && clear.err.contains("LAMBDA_API_URL"), "{}", clear.err);
    walk.whole("gpu_1x_a100", ["us-east-1", "us-south-1"]);
    walk.keeps("secret-key");
    for host in &hosts.lock().unwrap().started {
        let home: &Path = &host.home;
        processes_in(home).iter().for_each(|pid| drop(Command::new("kill").arg(pid.to_string()).status()));
    }
    let world = world.lock().unwrap();
    assert_eq!(world.violations, Vec::<String>::new());
    assert_eq!((world.machines.len(), world.running().count()), (2, 0));
    assert!(world.rulesets.is_empty() && world.ssh_keys.is_empty());
}
