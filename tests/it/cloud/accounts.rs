//! A user with an account at a stand-in of Lambda Cloud or of Modal.
//!
//! A machine of Lambda is an `sshd` at a loopback address of its own, with the host key that cloud-init was given; a
//! sandbox of Modal is a folder whose commands run here. Both end with the provider's answer to `terminate`.

use super::stand_ins::program;
use super::{Ran, command, ran};
use crate::fake_lambda::{self, world as lambda};
use crate::fake_modal::{self, SECRET, processes_in, world as modal};
use crate::loopback_sshd::{Sshd, free_port};
use gorgo_cloud::Time;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};

const KEY: &str = "secret-key";

enum Provider {
    Lambda { world: Arc<Mutex<lambda::World>>, _fake: fake_lambda::Fake },
    Modal { world: Arc<Mutex<modal::World>>, _fake: fake_modal::Fake },
}

pub(super) struct Account {
    pub(super) state: PathBuf,
    pub(super) cloud: &'static str,
    pub(super) regions: [&'static str; 3],
    environment: Vec<(&'static str, String)>,
    secret: &'static str,
    pub(super) program: PathBuf,
    provider: Provider,
    hosts: Arc<Mutex<Hosts>>,
    pub(super) folder: tempfile::TempDir,
    _runtime: tokio::runtime::Runtime,
}

impl Account {
    /// None where no sshd is installed.
    pub(super) fn lambda() -> Option<Self> {
        Sshd::start(tempfile::tempdir().unwrap().path(), "probe", "")?;
        let (runtime, folder) = (tokio::runtime::Runtime::new().unwrap(), tempfile::tempdir().unwrap());
        let fake = runtime.block_on(fake_lambda::Fake::start());
        let world = fake.account(KEY, 1, false, &Time::real(), None);
        let port = free_port();
        let hosts = Hosts { folder: folder.path().join("hosts"), port, started: BTreeMap::new(), ever: 0 };
        let hosts = Arc::new(Mutex::new(hosts));
        {
            let (mut world, boots, ends) = (world.lock().unwrap(), hosts.clone(), hosts.clone());
            (world.boot_ms, world.ending_ms) = (0, 0);
            world.boot = Some(Box::new(move |launch, public| boots.lock().unwrap().start(launch, public)));
            world.halt = Some(Box::new(move |address| ends.lock().unwrap().end(address)));
        }
        let user = Command::new("id").arg("-un").output().unwrap();
        let environment = vec![
            ("LAMBDA_API_KEY", KEY.to_owned()),
            ("LAMBDA_API_URL", fake.url.clone()),
            ("GORGO_LAMBDA_SSH_PORT", port.to_string()),
            ("GORGO_LAMBDA_SSH_USER", String::from_utf8(user.stdout).unwrap().trim().to_owned()),
        ];
        Some(Self {
            state: folder.path().join("state"),
            cloud: "lambda",
            regions: ["us-east-1", "us-west-1", "europe-central-1"],
            environment,
            secret: KEY,
            program: program(folder.path()),
            provider: Provider::Lambda { world, _fake: fake },
            hosts,
            folder,
            _runtime: runtime,
        })
    }

    pub(super) fn modal() -> Self {
        let (runtime, folder) = (tokio::runtime::Runtime::new().unwrap(), tempfile::tempdir().unwrap());
        let state = folder.path().join("state");
        let fake = runtime.block_on(fake_modal::Fake::start());
        let world = fake.account("ak-1", 1, false, &Time::real(), None, state.join("sandboxes"));
        world.lock().unwrap().boot_ms = 0;
        let environment = vec![
            ("MODAL_TOKEN_ID", "ak-1".to_owned()),
            ("MODAL_TOKEN_SECRET", SECRET.to_owned()),
            ("MODAL_SERVER_URL", fake.url.clone()),
        ];
        Self {
            state,
            cloud: "modal",
            regions: ["us-ashburn-1", "us-west4", "eu-frankfurt-1"],
            environment,
            secret: SECRET,
            program: program(folder.path()),
            provider: Provider::Modal { world, _fake: fake },
            hosts: Arc::default(),
            folder,
            _runtime: runtime,
        }
    }

    pub(super) fn command(&self, args: &[&str]) -> Command {
        let mut command = command(&self.state, self.cloud, args);
        command.envs(self.environment.iter().map(|(name, value)| (*name, value.as_str())));
        command.current_dir(self.folder.path());
        command
    }

    pub(super) fn ran(&self, args: &[&str]) -> Ran {
        ran(self.command(args))
    }

    /// A command that must succeed; what it printed.
    pub(super) fn go(&self, args: &[&str]) -> String {
        let ran = self.ran(args);
        assert!(ran.ok, "{args:?}: {}\n{}", ran.out, ran.err);
        ran.out
    }

    /// Machines that were launched so far, those that run, and what the provider objected to.
    fn seen(&self) -> (usize, usize, Vec<String>) {
        match &self.provider {
            Provider::Lambda { world, .. } => {
                let world = world.lock().unwrap();
                (world.machines.len(), world.running().count(), world.violations.clone())
            }
            Provider::Modal { world, .. } => {
                let world = world.lock().unwrap();
                (world.machines.len(), world.running().count(), world.violations.clone())
            }
        }
    }

    /// Fails unless `launched` machines were launched, none runs, and nothing else is left: at the provider, in the
    /// ledger, of processes, and of the secret in files.
    pub(super) fn is_left_as_it_was(&self, launched: usize) {
        assert_eq!(self.seen(), (launched, 0, Vec::new()));
        if let Provider::Lambda { world, .. } = &self.provider {
            let world = world.lock().unwrap();
            assert!(world.rulesets.is_empty() && world.ssh_keys.is_empty());
        }
        let ledger = std::fs::read_to_string(self.state.join("ledger.jsonl")).unwrap_or_default();
        let events = ledger.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        // A run and its watch may both note an event.
        let events: BTreeSet<(String, String)> =
            events.map(|event| (event["event"].to_string(), event["key"].to_string())).collect();
        let count = |word: &str| events.iter().filter(|(event, _)| event.trim_matches('"') == word).count();
        assert_eq!((count("launched"), count("gone")), (launched, launched), "{ledger}");
        assert_eq!(self.go(&["list"]).trim(), "no machines");
        assert_eq!(processes_in(self.folder.path()), Vec::<u32>::new());
        self.keeps_its_secret();
    }

    /// Fails if the secret stands in a file of the state folder.
    fn keeps_its_secret(&self) {
        let mut folders = vec![self.state.clone()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap().flatten() {
                let path = entry.path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    let bytes = std::fs::read(&path).unwrap_or_default();
                    let found = bytes.windows(self.secret.len()).any(|window| window == self.secret.as_bytes());
                    assert!(!found, "{} holds a secret", path.display());
                }
            }
        }
    }
}

/// Ports of engine, edge router and central router.
pub(super) fn three_ports() -> String {
    format!("{},{},{}", free_port(), free_port(), free_port())
}

/// Hosts that stand for Lambda's machines, by their addresses.
#[derive(Default)]
struct Hosts {
    folder: PathBuf,
    port: u16,
    started: BTreeMap<String, Sshd>,
    ever: usize,
}

impl Hosts {
    fn start(&mut self, launch: &Value, public: &str) -> String {
        self.ever += 1;
        let (name, address) = (format!("host-{}", self.ever), format!("127.0.0.{}", self.ever + 1));
        std::fs::create_dir_all(&self.folder).unwrap();
        let user_data = launch["user_data"].as_str().unwrap();
        let lines = user_data.lines().filter_map(|line| line.strip_prefix("    "));
        let private: String = lines.map(|line| format!("{line}\n")).collect();
        let key = self.folder.join(format!("{name}-host"));
        std::fs::write(&key, private).unwrap();
        std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        std::fs::write(self.folder.join(format!("{name}-authorized")), public).unwrap();
        let sshd = Sshd::start_at(&self.folder, &name, &address, self.port).unwrap();
        self.started.insert(address.clone(), sshd);
        address
    }

    /// Ends a host with all that runs on it.
    fn end(&mut self, address: &str) {
        let Some(sshd) = self.started.remove(address) else { return };
        let home = sshd.home.clone();
        drop(sshd);
        for _ in 0..100 {
            let left = processes_in(&home);
            if left.is_empty() {
                return;
            }
            left.iter().for_each(|pid| drop(Command::new("kill").args(["-9", &pid.to_string()]).status()));
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        // A failed test may have left a lock poisoned, and machines.
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        let addresses: Vec<String> = hosts.started.keys().cloned().collect();
        addresses.iter().for_each(|address| hosts.end(address));
    }
}
