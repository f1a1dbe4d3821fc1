//! The walk from `available` to `kill` with the real program against stand-ins of Lambda Cloud and Modal.

use super::accounts::{Account, three_ports};
use super::{changes, ran};
use crate::fake_modal::processes_in;
use serde_json::Value;

impl Account {
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
            let ports = three_ports();
            let words = ["launch", "--type", machine, "--region", region, "--name", &name, "--ports", &ports];
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
}

#[test]
fn a_whole_session_in_sandboxes_of_modal() {
    let account = Account::modal();
    let long =
        account.ran(&["launch", "--type", "gpu_1x_a100", "--region", "us", "--lease", "25h", "--yes", "--no-watch"]);
    assert!(!long.ok && long.err.contains("24 h at the latest"), "{}", long.err);
    let docker = account.ran(&["cluster", "setup", "--engine", "docker"]);
    assert!(!docker.ok && docker.err.contains("no Docker"), "{}", docker.err);
    account.whole("gpu_1x_a100", ["us-west", "eu"]);
    account.is_left_as_it_was(2);
}

#[test]
fn a_whole_session_on_machines_of_lambda_cloud() {
    let Some(account) = Account::lambda() else { return };
    let clear = ran({
        let mut command = account.command(&["available"]);
        command.env("LAMBDA_API_URL", "http://example.net/api/v1");
        command
    });
    assert!(!clear.ok && clear.err.contains("LAMBDA_API_URL"), "{}", clear.err);
    account.whole("gpu_1x_a100", ["us-east-1", "us-south-1"]);
    account.is_left_as_it_was(2);
}
