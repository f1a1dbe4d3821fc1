//! Pid files of routers.
//!
//! A router holds a lock on its pid file as long as it runs. The lock, not the process id in the file, shows whether
//! the router runs: the id may have passed to another program, but a lock ends with its process.

use anyhow::{Context, bail};
use rustix::process::Pid;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Between two looks at a lock.
pub(super) const POLL: Duration = Duration::from_millis(20);
/// A router that is just ending may hold the lock for this long.
const HANDOVER: Duration = Duration::from_secs(1);

/// The pid file of this process, removed when dropped.
#[derive(Debug)]
pub(super) struct PidFile {
    path: PathBuf,
    locked: File,
    /// Whether another process has it by now.
    passed_on: bool,
}

/// The default pid file of a router of this kind (`proxy`, `lb`) on `port`.
pub(super) fn default_path(kind: &str, port: u16) -> PathBuf {
    let dir = std::env::var_os("XDG_RUNTIME_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    dir.join(format!("gorgo-{kind}-{port}.pid"))
}

/// Opens a pid file without following links: in a directory that all users may write to, a link could lead to
/// another user's file.
pub(super) fn open(path: &Path, options: &mut OpenOptions) -> std::io::Result<File> {
    options.custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed()).open(path)
}

impl PidFile {
    /// Locks the file at `path` and writes this process's id into it.
    pub(super) fn take(path: &Path) -> anyhow::Result<Self> {
        let shown = path.display();
        let until = Instant::now() + HANDOVER;
        loop {
            let file = open(path, OpenOptions::new().read(true).write(true).create(true).mode(0o644))
                .with_context(|| format!("cannot write the pid file `{shown}`; choose another with --pid-file"))?;
            match file.try_lock() {
                // Unless the router before removed the file between opening and locking.
                Ok(()) if is_at(&file, path) => {
                    let mut taken = Self { path: path.to_owned(), locked: file, passed_on: false };
                    taken.write()?;
                    return Ok(taken);
                }
                Err(TryLockError::Error(error)) => bail!("cannot lock the pid file `{shown}`: {error}"),
                _ if Instant::now() < until => std::thread::sleep(POLL),
                _ => bail!(
                    "`{shown}` is the pid file of a running router; stop that router, or choose another with --pid-file"
                ),
            }
        }
    }

    /// Takes over the locked file at `path` from the process before.
    pub(super) fn take_over(path: &Path, lock: OwnedFd) -> anyhow::Result<Self> {
        let file = File::from(lock);
        if !is_at(&file, path) {
            bail!("the process before has another pid file than `{}`; keep --pid-file in an upgrade", path.display());
        }
        let mut taken = Self { path: path.to_owned(), locked: file, passed_on: false };
        taken.write()?;
        Ok(taken)
    }

    /// Writes this process's id again, after the next process of an upgrade has failed; that may have removed the file.
    pub(super) fn take_back(mut self) -> anyhow::Result<Self> {
        if is_at(&self.locked, &self.path) {
            self.write()?;
            return Ok(self);
        }
        self.passed_on = true;
        Self::take(&self.path)
    }

    fn write(&mut self) -> std::io::Result<()> {
        self.locked.set_len(0)?;
        self.locked.rewind()?;
        writeln!(self.locked, "{}", std::process::id())
    }

    /// A further descriptor of the locked file, for the next process.
    pub(super) fn lock(&self) -> Option<OwnedFd> {
        self.locked.try_clone().ok().map(OwnedFd::from)
    }

    /// Leaves the file and its lock to the next process.
    pub(super) fn pass_on(mut self) {
        self.passed_on = true;
    }

    /// Where the socket for upgrades belongs.
    pub(super) fn control_path(&self) -> PathBuf {
        control_path(&self.path)
    }
}

/// The socket for upgrades of the router with this pid file.
pub(super) fn control_path(pid_file: &Path) -> PathBuf {
    let mut beside = pid_file.as_os_str().to_owned();
    beside.push(".sock");
    beside.into()
}

fn is_at(file: &File, path: &Path) -> bool {
    let (here, there) = (file.metadata(), std::fs::symlink_metadata(path));
    matches!((here, there), (Ok(a), Ok(b)) if (a.dev(), a.ino()) == (b.dev(), b.ino()))
}

impl Drop for PidFile {
    fn drop(&mut self) {
        if !self.passed_on {
            let _ = std::fs::remove_file(control_path(&self.path));
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// The pid file's second line once a router is stopping.
pub(super) const STOPPING: &str = "stopping";

/// The process behind a pid file.
pub(super) struct Running {
    pub(super) pid: Pid,
    /// Its pid file, which it has locked.
    pub(super) file: File,
    /// Whether it was told to stop.
    pub(super) is_stopping: bool,
}

/// The router that runs behind the pid file at `path`; `what` was asked of it.
pub(super) fn running(path: &Path, what: &str) -> anyhow::Result<Running> {
    let shown = path.display();
    let mut file = match open(path, OpenOptions::new().read(true)) {
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
    if has_ended(&file)? {
        std::fs::remove_file(path).with_context(|| format!("cannot remove the stale pid file `{shown}`"))?;
        bail!(
            "no router runs behind `{shown}`: {number} has ended, or is another program now; the stale file is removed"
        );
    }
    Ok(Running { pid, file, is_stopping })
}

/// Whether the router that locked `file` has ended.
pub(super) fn has_ended(file: &File) -> anyhow::Result<bool> {
    match file.try_lock_shared() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error).context("cannot find out whether the router runs"),
    }
}
