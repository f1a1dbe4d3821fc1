//! Pid files of routers.
//!
//! A router holds a lock on its pid file as long as it runs. The lock, not the process id in the file, shows whether
//! the router runs: the id may have passed to another program, but a lock ends with its process.

use anyhow::{Context, bail};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::Write;
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
    _locked: File,
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
            let mut file = open(path, OpenOptions::new().read(true).write(true).create(true).mode(0o644))
                .with_context(|| format!("cannot write the pid file `{shown}`; choose another with --pid-file"))?;
            match file.try_lock() {
                // Unless the router before removed the file between opening and locking.
                Ok(()) if is_at(&file, path) => {
                    file.set_len(0)?;
                    writeln!(file, "{}", std::process::id())?;
                    return Ok(Self { path: path.to_owned(), _locked: file });
                }
                Err(TryLockError::Error(error)) => bail!("cannot lock the pid file `{shown}`: {error}"),
                _ if Instant::now() < until => std::thread::sleep(POLL),
                _ => bail!(
                    "`{shown}` is the pid file of a running router; stop that router, or choose another with --pid-file"
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

/// Whether the router that locked `file` has ended.
pub(super) fn has_ended(file: &File) -> anyhow::Result<bool> {
    match file.try_lock_shared() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error).context("cannot find out whether the router runs"),
    }
}
