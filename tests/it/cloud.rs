//! Machines from launch to kill, with the real program on both ends.

mod accounts;
mod experiment;
mod faults;
mod local;
mod own_engines;
mod page;
mod ssh;
mod stand_ins;
mod trouble;
mod walk;
mod whole;

use std::path::Path;
use std::process::{Command, Stdio};

/// What a command printed and how it ended.
pub(super) struct Ran {
    pub(super) out: String,
    pub(super) err: String,
    pub(super) ok: bool,
}

/// The command with these variables, as nothing else of this machine's environment decides.
pub(super) fn command(state: &Path, cloud: &str, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gorgo"));
    command.args(args).stdin(Stdio::null()).env("GORGO_STATE", state).env("GORGO_CLOUD", cloud);
    command.env("GORGO_HOSTS", state.join("hosts.toml"));
    for name in ["LAMBDA_API_KEY", "GORGO_API_KEY", "GORGO_ADMIN_KEY", "HF_TOKEN", "HF_ENDPOINT", "MODAL_TOKEN_ID"] {
        command.env_remove(name);
    }
    command.env("MODAL_CONFIG_PATH", state.join("modal.toml"));
    command
}

pub(super) fn ran(mut command: Command) -> Ran {
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ran { ok: output.status.success(), out: text(output.stdout), err: text(output.stderr) }
}

/// A command that must succeed; what it printed.
pub(super) fn must(state: &Path, cloud: &str, args: &[&str]) -> String {
    let ran = ran(command(state, cloud, args));
    assert!(ran.ok, "{args:?}: {}\n{}", ran.out, ran.err);
    ran.out
}

/// Steps of a set-up that changed something, as node and step.
pub(super) fn changes(summary: &str) -> Vec<(String, String)> {
    let reports: serde_json::Value = serde_json::from_str(summary).unwrap();
    let steps = |report: &serde_json::Value| {
        let node = report["node"].as_str().unwrap().to_owned();
        let changed = report["steps"].as_array().unwrap().iter().filter(|step| step["changed"] == true).cloned();
        changed.map(|step| (node.clone(), step["name"].as_str().unwrap().to_owned())).collect::<Vec<_>>()
    };
    reports.as_array().unwrap().iter().flat_map(steps).collect()
}

/// The words of a process's command line; none for one that has ended.
pub(super) fn command_line(process: impl std::fmt::Display) -> Vec<String> {
    let line = std::fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&line).split_terminator('\0').map(str::to_owned).collect()
}

/// Processes whose command line names this folder.
pub(super) fn processes(folder: &Path) -> Vec<String> {
    let folder = folder.display().to_string();
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let lines = all.map(|entry| command_line(entry.file_name().display()).join(" "));
    lines.filter(|line| line.contains(&folder)).collect()
}
