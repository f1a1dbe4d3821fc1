//! Whole experiments on machines of stand-ins: launched, set up, measured, compared with the simulation, ended. An
//! interrupt at any point ends them too.

use super::accounts::{Account, three_ports};
use super::experiment::runs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

impl Account {
    /// Two arms on a machine in each of two regions.
    fn experiment(&self, duration_s: f64) -> PathBuf {
        let machine = |name: &str, at: usize| {
            let region = self.regions[at];
            format!("  {{ name = \"{name}\", region = \"{}:{region}\" }},\n", self.cloud)
        };
        let text = format!(
            "title = \"Two machines\"\nseeds = [1]\n\n[cloud]\nprovider = \"{}\"\ntype = \"gpu_1x_a100\"\n\
             engine = \"emulated\"\nlease = \"30m\"\nmachines.first.ports = \"{}\"\nmachines.second.ports = \"{}\"\n\n\
             [workload]\ntrace = \"wildchat-located\"\nrate = 4.0\nduration_s = {duration_s:?}\n\n[fleet]\n\
             max_running = 10\nreplicas = [\n{}{}]\n\n[[arms]]\npolicy = \"least-load\"\n\n\
             [[arms]]\npolicy = \"gorgo\"\ntopology = \"proxy\"\n",
            self.cloud,
            three_ports(),
            three_ports(),
            machine("first", 0),
            machine("second", 2),
        );
        let file = self.folder.path().join("experiment.toml");
        std::fs::write(&file, text).unwrap();
        file
    }

    fn run(&self, duration_s: f64) -> Command {
        let (file, program) = (self.experiment(duration_s), self.program.display().to_string());
        self.command(&[
            "run",
            file.to_str().unwrap(),
            "--mode",
            "live",
            "--yes",
            "--binary",
            &program,
            "--out",
            "results",
        ])
    }

    /// Ends the watch that a run has started, which would look at its machines for some time yet.
    fn ends_its_watch(&self, said: &str) {
        let line = said.lines().find(|line| line.contains("ends the machines when their lease is over"));
        if let Some(pid) = line.and_then(|line| line.split_whitespace().nth(1)) {
            let _ = Command::new("kill").args(["-INT", pid]).status();
        }
        let watches = || runs(self.folder.path(), "watch");
        // A watch in the middle of a request ends with it.
        for _ in 0..600 {
            if !watches() {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        panic!("the watch runs on");
    }

    fn carries_a_whole_experiment(&self) {
        let run = super::ran(self.run(5.0));
        self.ends_its_watch(&run.err);
        assert!(run.ok, "{}\n{}", run.out, run.err);
        assert!(run.err.contains("2 node(s)") && run.err.contains("nothing runs any more"), "{}", run.err);
        let out = self.folder.path().join("results");
        let rows = std::fs::read_to_string(out.join("requests.csv")).unwrap();
        assert!(rows.lines().count() > 20 && !rows.contains("failed"), "{rows}");
        for file in ["validation.json", "machines/least-load-1/machines.json", "machines/first-proxy.log"] {
            assert!(out.join(file).metadata().is_ok_and(|file| file.len() > 50), "{file}");
        }
        self.is_left_as_it_was(2);
    }

    /// Interrupts a run once `reached` holds.
    fn is_left_at_an_interrupt(&self, reached: impl Fn() -> bool) {
        let mut child = self.run(120.0).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        while !reached() {
            assert!(child.try_wait().unwrap().is_none(), "the run ended before it was interrupted");
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
        let ended = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        self.ends_its_watch(&said);
        assert!(!ended.status.success() && said.contains("interrupted"), "{said}");
        assert!(said.contains("nothing runs any more"), "{said}");
        self.is_left_as_it_was(2);
    }
}

#[test]
fn an_experiment_runs_on_machines_of_lambda_cloud_that_end_with_it() {
    let Some(account) = Account::lambda() else { return };
    account.carries_a_whole_experiment();
}

#[test]
fn an_experiment_runs_in_sandboxes_of_modal_that_end_with_it() {
    Account::modal().carries_a_whole_experiment();
}

#[test]
fn an_interrupt_in_the_load_ends_the_machines_of_lambda_cloud() {
    let Some(account) = Account::lambda() else { return };
    account.is_left_at_an_interrupt(|| runs(account.folder.path(), "bench"));
}

#[test]
fn an_interrupt_in_the_load_ends_the_sandboxes_of_modal() {
    let account = Account::modal();
    account.is_left_at_an_interrupt(|| runs(account.folder.path(), "bench"));
}

#[test]
fn an_interrupt_while_routers_start_ends_the_sandboxes_of_modal() {
    let account = Account::modal();
    account.is_left_at_an_interrupt(|| runs(account.folder.path(), "lb"));
}
