//! `gorgo proxy stop`, `gorgo lb stop`.

use super::admin::RouterAddress;
use super::pid_file;
use crate::cli::output::print_line;
use anyhow::{Context, bail};
use clap::Args as ClapArgs;
use rustix::process::{Signal, kill_process};
use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

#[derive(Debug, ClapArgs)]
pub(crate) struct StopArgs {
    /// Pid file of the router; by default that of the router on --port
    #[arg(long)]
    pid_file: Option<PathBuf>,
    /// Kill the process at once: open streams are cut
    #[arg(long, conflicts_with = "wait")]
    force: bool,
    /// Give up waiting after this long, s; the router goes on draining
    #[arg(long)]
    wait: Option<u64>,
}

/// Stops a router on this machine and returns when its process has ended.
pub(super) fn run(args: &StopArgs, address: &RouterAddress, kind: &str) -> anyhow::Result<()> {
    let path = args.pid_file.clone().unwrap_or_else(|| pid_file::default_path(kind, address.port()));
    let pid_file::Running { pid, file, is_stopping } = pid_file::running(&path, "stop")?;
    let number = pid.as_raw_nonzero();
    // A second SIGTERM would end the open requests that the first lets finish.
    if args.force || !is_stopping {
        let signal = if args.force { Signal::KILL } else { Signal::TERM };
        kill_process(pid, signal)
            .with_context(|| format!("cannot stop process {number}; run this command as the user who started it"))?;
        if let Ok(mut file) = pid_file::open(&path, OpenOptions::new().append(true)) {
            let _ = writeln!(file, "{}", pid_file::STOPPING); // without it the next `stop` signals again
        }
    }
    let began = Instant::now();
    let mut noted = false;
    while !pid_file::has_ended(&file)? {
        let waited = began.elapsed();
        if args.wait.is_some_and(|most| waited.as_secs() >= most) {
            bail!(
                "process {number} still finishes requests after {} s; wait longer, or cut them with --force",
                waited.as_secs()
            );
        }
        if !noted && waited > Duration::from_secs(3) {
            eprintln!("process {number} finishes its open requests");
            noted = true;
        }
        std::thread::sleep(pid_file::POLL);
    }
    if args.force {
        let _ = std::fs::remove_file(&path); // the killed process could not
    }
    Ok(print_line(format_args!("stopped {number}"))?)
}
