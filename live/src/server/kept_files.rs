//! The files that this process keeps for its next start (`state`, `snapshot.file`), each locked against other routers:
//! two routers with one file would silently overwrite each other's changes.
//!
//! The lock is held on a separate file beside the kept file, since the kept file is replaced with each change. If the
//! lock file cannot be created, the kept file could not be written either, and the start fails with that error. In an
//! upgrade the old process releases the locks when it stops writing the files.

use crate::config::Config;
use crate::server::start::StartError;
use parking_lot::Mutex;
use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A router that is just ending may hold a lock for this long.
const ENDING: Duration = Duration::from_secs(1);
/// Between two looks at a lock.
const LOOK: Duration = Duration::from_millis(20);

/// The locks of this process's files.
#[derive(Debug)]
pub(crate) struct KeptFiles {
    /// The setting and the file.
    paths: Vec<(&'static str, PathBuf)>,
    locked: Mutex<Vec<File>>,
}

impl KeptFiles {
    /// The files of a configuration, not locked yet.
    pub(crate) fn of(config: &Config) -> Self {
        let state = config.state.iter().map(|path| ("state", path.clone()));
        let snapshot = config.snapshot.file.iter().map(|path| ("snapshot.file", path.clone()));
        Self { paths: state.chain(snapshot).collect(), locked: Mutex::default() }
    }

    /// Locks them.
    ///
    /// # Errors
    /// When another router has one of them, or none can be written there.
    pub(crate) fn lock(&self) -> Result<(), StartError> {
        let files = self.paths.iter().map(|(key, path)| lock(key, path));
        *self.locked.lock() = files.collect::<Result<_, _>>()?;
        Ok(())
    }

    /// Gives the locks up.
    pub(crate) fn release(&self) {
        self.locked.lock().clear();
    }
}

fn lock(key: &str, path: &Path) -> Result<File, StartError> {
    let wrong = |why: String| StartError::Kept(format!("`{key}` is `{}`, {why}", path.display()));
    let mut beside = path.as_os_str().to_owned();
    beside.push(".lock");
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&beside);
    let file = file.map_err(|error| wrong(format!("where nothing can be written ({error}); choose another file")))?;
    let until = Instant::now() + ENDING;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::Error(error)) => return Err(wrong(format!("which cannot be locked: {error}"))),
            Err(TryLockError::WouldBlock) if Instant::now() < until => std::thread::sleep(LOOK),
            Err(TryLockError::WouldBlock) => {
                let why = "which another running router keeps; give each router a file of its own";
                return Err(wrong(why.to_owned()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_kept_by_one_router_and_must_be_writable() {
        let dir = tempfile::tempdir().unwrap();
        let config = |path: &Path| Config { state: Some(path.to_owned()), ..Config::default() };
        let path = dir.path().join("state.toml");
        let (first, second) = (KeptFiles::of(&config(&path)), KeptFiles::of(&config(&path)));
        first.lock().unwrap();
        let why = second.lock().unwrap_err().to_string();
        assert!(why.contains("state.toml") && why.contains("another running router"), "{why}");
        first.release();
        second.lock().unwrap();
        let why = KeptFiles::of(&config(Path::new("/proc/none/state"))).lock().unwrap_err().to_string();
        assert!(why.starts_with("`state` is `/proc/none/state`, where nothing can be written"), "{why}");
        KeptFiles::of(&Config::default()).lock().unwrap();
    }
}
