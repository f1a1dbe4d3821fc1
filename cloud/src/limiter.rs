//! One request a second for the whole account, whatever the number of processes.
//!
//! A locked file holds the time of the next free slot. A process takes the slot, writes the following one and waits for
//! its own without the lock.

use crate::time::Time;
use std::fs::OpenOptions;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A slot farther ahead than this is left over from a clock that was wrong.
const FARTHEST_MS: u64 = 10 * 60_000;

/// Slots of one kind of request.
#[derive(Debug, Clone)]
pub(crate) struct Limiter {
    path: PathBuf,
    interval: Duration,
    time: Time,
}

impl Limiter {
    /// Slots `interval` apart, kept in the file `path`.
    pub(crate) fn new(path: &Path, interval: Duration, time: Time) -> Self {
        Self { path: path.to_owned(), interval, time }
    }

    /// Waits for the next free slot. Where the file cannot be used (a full disk), this process keeps the interval alone:
    /// a machine must end nevertheless.
    pub(crate) async fn slot(&self) {
        let limiter = self.clone();
        let taken = tokio::task::spawn_blocking(move || limiter.take()).await;
        let taken = taken.unwrap_or_else(|why| Err(std::io::Error::other(why)));
        let now_ms = self.time.now_ms();
        let at_ms = taken.unwrap_or_else(|why| {
            tracing::debug!("`{}`: {why}", self.path.display());
            now_ms + self.interval.as_millis() as u64
        });
        if at_ms > now_ms {
            self.time.sleep(Duration::from_millis(at_ms - now_ms)).await;
        }
    }

    fn take(&self) -> std::io::Result<u64> {
        if let Some(folder) = self.path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let mut options = OpenOptions::new();
        let mut file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(&self.path)?;
        file.lock()?;
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        let now_ms = self.time.now_ms();
        let next_ms = text.trim().parse().unwrap_or(0);
        let at_ms = if next_ms > now_ms + FARTHEST_MS { now_ms } else { now_ms.max(next_ms) };
        file.set_len(0)?;
        file.seek(SeekFrom::Start(0))?;
        write!(file, "{}", at_ms + self.interval.as_millis() as u64)?;
        Ok(at_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_that_cannot_be_used_slows_calls_and_stops_none() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("slots")).unwrap();
        let time = Time::stepped();
        let before = time.now_ms();
        Limiter::new(&folder.path().join("slots"), Duration::from_secs(12), time.clone()).slot().await;
        assert_eq!(time.now_ms() - before, 12_000);
    }

    #[test]
    fn slots_of_several_processes_are_an_interval_apart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("slots");
        let (a, b) = (
            Limiter::new(&path, Duration::from_secs(12), Time::real()),
            Limiter::new(&path, Duration::from_secs(12), Time::real()),
        );
        let slots = [a.take().unwrap(), b.take().unwrap(), a.take().unwrap()];
        assert_eq!([slots[1] - slots[0], slots[2] - slots[1]], [12_000, 12_000]);
        std::fs::write(&path, "99999999999999").unwrap();
        assert!(b.take().unwrap() < slots[2] + FARTHEST_MS);
    }
}
