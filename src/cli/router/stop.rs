//! `gorgo proxy stop`, `gorgo lb stop`.

use super::admin::RouterAddress;
use super::pid_file;
use crate::cli::output::print_line;
use anyhow::{Context, bail};
use clap::Args as ClapArgs;
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
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

/// The pid file's second line once a router was told to stop.
const STOPPING: &str = "stopping";

/// The process behind a pid file.
pub(super) struct Running {
    pub(super) pid: Pid,
    /// Its pid file, which it has locked.
    pub(super) file: File,
    /// Whether it was told to stop.
    is_stopping: bool,
}

/// The router that runs behind the pid file at `path`; `what` was asked of it.
pub(super) fn running(path: &Path, what: &str) -> anyhow::Result<Running> {
    let shown = path.display();
    let mut file = match pid_file::open(path, OpenOptions::new().read(true)) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            bail!(
                "there is no pid file `{shown}`, so no router to {what}; name its port with --port or its file with --pid-file"
            )
        }
        opened => opened.with_context(|| format!("cannot read the pid file `{shown}`"))?,
    };
    let mut text = String::new();
    Read::by_ref(&mut file)
        .take(64)
        .read_to_string(&mut text)
        .with_context(|| format!("cannot read the pid file `{shown}`"))?;
    let (text, is_stopping) = match text.trim().split_once('\n') {
        Some((first, STOPPING)) => (first.to_owned(), true),
        _ => (text, false),
    };
    let pid = text.trim().parse().ok().filter(|&pid| pid > 1).and_then(Pid::from_raw);
    let Some(pid) = pid else {
        bail!("`{shown}` holds no process id (`{}`); name the right file with --pid-file", text.trim())
    };
    let number = pid.as_raw_nonzero();
    if pid_file::has_ended(&file)? {
        std::fs::remove_file(path).with_context(|| format!("cannot remove the stale pid file `{shown}`"))?;
        bail!(
            "no router runs behind `{shown}`: {number} has ended, or is another program now; the stale file is removed"
        );
    }
    Ok(Running { pid, file, is_stopping })
}

/// Stops a router on this machine and returns when its process has ended.
pub(super) fn run(args: &StopArgs, address: &RouterAddress, kind: &str) -> anyhow::Result<()> {
    let path = args.pid_file.clone().unwrap_or_else(|| pid_file::default_path(kind, address.port()));
    let Running { pid, file, is_stopping } = running(&path, "stop")?;
    let number = pid.as_raw_nonzero();
    // A second SIGTERM would end the open requests that the first lets finish.
    if args.force || !is_stopping {
        let signal = if args.force { Signal::KILL } else { Signal::TERM };
        kill_process(pid, signal)
            .with_context(|| format!("cannot stop process {number}; run this command as the user who started it"))?;
        if let Ok(mut file) = pid_file::open(&path, OpenOptions::new().append(true)) {
            let _ = writeln!(file, "{STOPPING}"); // without it the next `stop` signals again
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
