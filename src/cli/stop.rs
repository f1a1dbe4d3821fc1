//! Pid files, and `gorgo proxy stop`, `gorgo lb stop`.
//!
//! A router holds a lock on its pid file for as long as it lives. The lock, not the number in the file, tells whether
//! it does: a number may long be another program's, a lock ends with its process.

use super::live::Target;
use super::say;
use anyhow::{Context, bail};
use clap::Args as ClapArgs;
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const LOOK: Duration = Duration::from_millis(20);
/// A predecessor that just ends still holds its file for this long at most.
const PREDECESSOR: Duration = Duration::from_secs(1);

/// The file of this process, removed when dropped.
#[derive(Debug)]
pub(super) struct PidFile {
    path: PathBuf,
    _locked: File,
}

/// Where a router of this kind that listens on `port` has its file unless told otherwise.
pub(super) fn default_path(kind: &str, port: u16) -> PathBuf {
    let dir = std::env::var_os("XDG_RUNTIME_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    dir.join(format!("gorgo-{kind}-{port}.pid"))
}

fn open(path: &Path, options: &mut OpenOptions) -> std::io::Result<File> {
    // In a directory that all may write to, a link could lead to somebody's file.
    options.custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed()).open(path)
}

impl PidFile {
    pub(super) fn take(path: &Path) -> anyhow::Result<Self> {
        let shown = path.display();
        let until = Instant::now() + PREDECESSOR;
        loop {
            let mut file = open(path, OpenOptions::new().read(true).write(true).create(true).mode(0o644))
                .with_context(|| format!("cannot write the pid file `{shown}`; choose another with --pid-file"))?;
            match file.try_lock() {
                // Unless the predecessor removed it between opening and locking.
                Ok(()) if is_at(&file, path) => {
                    file.set_len(0)?;
                    writeln!(file, "{}", std::process::id())?;
                    return Ok(Self { path: path.to_owned(), _locked: file });
                }
                Err(TryLockError::Error(error)) => bail!("cannot lock the pid file `{shown}`: {error}"),
                _ if Instant::now() < until => std::thread::sleep(LOOK),
                _ => bail!(
                    "`{shown}` is the pid file of a router that runs; stop that, or choose another with --pid-file"
                ),
            }
        }
    }
}

fn is_at(file: &File, path: &Path) -> bool {
    let (here, there) = (file.metadata(), std::fs::symlink_metadata(path));
    matches!((here, there), (Ok(a), Ok(b)) if (a.dev(), a.ino()) == (b.dev(), b.ino()))
}

impl Drop for PidFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

#[derive(Debug, ClapArgs)]
pub(crate) struct StopArgs {
    /// Its pid file; the one of the router that listens on --port when absent
    #[arg(long)]
    pid_file: Option<PathBuf>,
    /// Kill it at once: open streams are cut
    #[arg(long, conflicts_with = "wait")]
    force: bool,
    /// Give up waiting after this long, s; the router goes on draining
    #[arg(long)]
    wait: Option<u64>,
}

/// Stops the router on this machine and returns when it has ended.
pub(super) fn stop(args: &StopArgs, target: &Target, kind: &str) -> anyhow::Result<()> {
    let path = args.pid_file.clone().unwrap_or_else(|| default_path(kind, target.port()));
    let shown = path.display();
    let mut file = match open(&path, OpenOptions::new().read(true)) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            bail!(
                "there is no pid file `{shown}`, so no router to stop; name its port with --port or its file with --pid-file"
            )
        }
        opened => opened.with_context(|| format!("cannot read the pid file `{shown}`"))?,
    };
    let mut text = String::new();
    Read::by_ref(&mut file)
        .take(64)
        .read_to_string(&mut text)
        .with_context(|| format!("cannot read the pid file `{shown}`"))?;
    let pid = text.trim().parse().ok().filter(|&pid| pid > 1).and_then(Pid::from_raw);
    let Some(pid) = pid else {
        bail!("`{shown}` holds no process id (`{}`); name the right file with --pid-file", text.trim())
    };
    let number = pid.as_raw_nonzero();
    if has_ended(&file)? {
        std::fs::remove_file(&path).with_context(|| format!("cannot remove the stale pid file `{shown}`"))?;
        bail!(
            "no router runs behind `{shown}`: {number} has ended, or is another program by now; the stale file is removed"
        );
    }
    let signal = if args.force { Signal::KILL } else { Signal::TERM };
    kill_process(pid, signal)
        .with_context(|| format!("cannot stop process {number}; ask as the user who started it"))?;
    let began = Instant::now();
    let mut told = false;
    while !has_ended(&file)? {
        let waited = began.elapsed();
        if args.wait.is_some_and(|most| waited.as_secs() >= most) {
            bail!(
                "process {number} still finishes requests after {} s; wait longer, or cut them with --force",
                waited.as_secs()
            );
        }
        if !told && waited > Duration::from_secs(3) {
            eprintln!("process {number} finishes its open requests");
            told = true;
        }
        std::thread::sleep(LOOK);
    }
    if args.force {
        let _ = std::fs::remove_file(&path); // it had no time to
    }
    Ok(say(format_args!("stopped {number}"))?)
}

fn has_ended(file: &File) -> anyhow::Result<bool> {
    match file.try_lock_shared() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error).context("cannot tell whether the router runs"),
    }
}
