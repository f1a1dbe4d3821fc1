//! The folder of an ssh connection, and the end of connections whose process was killed.
//!
//! A process keeps a file in the folder of each of its connections locked, and no child inherits the lock. A folder
//! whose lock is free is left of a process that was killed before it could end its ssh master.

use crate::error::{Error, Result};
use std::fs::File;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;
use tokio::sync::OnceCell;

const PREFIX: &str = "gorgo-";
const LOCK: &str = "lock";
/// An ssh master answers within this time.
const ANSWER: Duration = Duration::from_secs(5);

/// A folder for a connection's socket and log. It is removed with this value.
#[derive(Debug)]
pub(super) struct Place {
    folder: PathBuf,
    _lock: File,
}

impl Place {
    pub(super) fn make() -> Result<Self> {
        // Short: the path of a socket has at most 104 bytes.
        let folder = std::env::temp_dir().join(format!("{PREFIX}{}", &crate::provider::nonce()[..12]));
        let made = std::fs::DirBuilder::new().mode(0o700).create(&folder);
        made.map_err(|why| Error::file(&folder, &why))?;
        // Locked before it has its name, so that no other process takes it for one left over.
        let part = folder.join("part");
        let lock = File::create(&part).and_then(|file| {
            file.lock()?;
            std::fs::rename(&part, folder.join(LOCK))?;
            Ok(file)
        });
        Ok(Self { _lock: lock.map_err(|why| Error::file(&folder, &why))?, folder })
    }

    pub(super) fn socket(&self) -> PathBuf {
        socket(&self.folder)
    }

    pub(super) fn log(&self) -> PathBuf {
        self.folder.join("log")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn socket(folder: &Path) -> PathBuf {
    folder.join("s")
}

/// Ends what killed processes of this user left, once in the life of this process.
pub(super) async fn end_left_over() {
    static DONE: OnceCell<()> = OnceCell::const_new();
    DONE.get_or_init(|| end_left_over_in(std::env::temp_dir())).await;
}

async fn end_left_over_in(folder: PathBuf) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with(PREFIX)) {
        let folder = entry.path();
        let user = rustix::process::getuid().as_raw();
        let is_ours = folder.symlink_metadata().is_ok_and(|folder| folder.is_dir() && folder.uid() == user);
        let Some(lock) = is_ours.then(|| File::open(folder.join(LOCK)).ok()).flatten() else { continue };
        if lock.try_lock().is_err() {
            continue;
        }
        let mut exit = Command::new("ssh");
        exit.args(["-F", "none", "-O", "exit", "-o", &format!("ControlPath={}", socket(&folder).display())]);
        // The master knows its host; ssh asks for a name.
        exit.args(["--", "left-over"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let ended = tokio::time::timeout(ANSWER, exit.kill_on_drop(true).status()).await;
        tracing::debug!("ended the connection left in {}: {ended:?}", folder.display());
        let _ = std::fs::remove_dir_all(&folder);
    }
}
