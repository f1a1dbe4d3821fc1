//! `gorgo proxy upgrade`, `gorgo lb upgrade`.

use super::pid_file;
use crate::cli::output::print_line;
use anyhow::bail;
use clap::Args as ClapArgs;
use gorgo_live::UpgradeError;
use rustix::process::{Pid, test_kill_process};
use std::path::{Path, PathBuf};
use std::time::Duration;

#[derive(Debug, ClapArgs)]
pub(crate) struct UpgradeArgs {
    /// The new program; the file that the router was started from when absent
    #[arg(long, value_name = "PATH")]
    binary: Option<PathBuf>,
    /// Pid file of the router; by default that of the router on --port
    #[arg(long)]
    pid_file: Option<PathBuf>,
    /// Let the old process go on if the new one does not serve within this time, s
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3600))]
    wait: u64,
}

/// Replaces the program of a router on this machine; returns when the new process serves.
pub(super) fn run(args: &UpgradeArgs, port: u16, kind: &str) -> anyhow::Result<()> {
    let path = args.pid_file.clone().unwrap_or_else(|| pid_file::default_path(kind, port));
    let old = pid_file::running(&path, "upgrade")?.pid.as_raw_nonzero().get();
    // The router may run in another folder.
    let binary = args.binary.as_deref().map(std::path::absolute).transpose()?;
    let wait = Duration::from_secs(args.wait);
    match gorgo_live::ask_for_upgrade(&pid_file::control_path(&path), old.cast_unsigned(), binary, wait) {
        Ok(new) => Ok(print_line(format_args!("process {new} serves; {old} finishes its open requests"))?),
        Err(why) => bail!("process {old} {}: {why}", fate(&path, old, &why)),
    }
}

/// What became of the process that was asked.
fn fate(path: &Path, old: i32, why: &UpgradeError) -> String {
    let is_alive = Pid::from_raw(old).is_some_and(|pid| test_kill_process(pid).is_ok());
    match pid_file::running(path, "upgrade") {
        Ok(now) if now.pid.as_raw_nonzero().get() != old => {
            format!("was replaced by process {}", now.pid.as_raw_nonzero())
        }
        _ if !is_alive => "has ended".to_owned(),
        Ok(now) if !now.is_stopping && matches!(why, UpgradeError::Refused(_)) => "goes on".to_owned(),
        _ => "is stopping".to_owned(),
    }
}
