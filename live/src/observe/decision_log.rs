//! The decision log: JSON lines that `gorgo decide` reads, rotated by size.

use crate::config::LogFile;
use crate::observe::explain;
use gorgo_core::router::DecisionRecord;
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::mpsc;

/// The log.
#[derive(Debug)]
pub(crate) struct Log {
    config: LogFile,
    file: BufWriter<File>,
    bytes: u64,
}

impl Log {
    /// Opens the file to append to it.
    ///
    /// # Errors
    /// Those of the file system.
    pub(crate) fn open(config: &LogFile) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(&config.path)?;
        let bytes = file.metadata()?.len();
        Ok(Self { config: config.clone(), file: BufWriter::new(file), bytes })
    }

    /// Writes a line.
    ///
    /// # Errors
    /// Those of the file system.
    pub(crate) fn line(&mut self, line: &str) -> io::Result<()> {
        let length = line.len() as u64 + 1;
        if self.bytes > 0 && self.bytes + length > self.config.max_bytes {
            self.rotate()?;
        }
        self.bytes += length;
        self.file.write_all(line.as_bytes())?;
        self.file.write_all(b"\n")
    }

    fn rotate(&mut self) -> io::Result<()> {
        self.file.flush()?;
        let path = &self.config.path;
        for n in (1..self.config.keep).rev() {
            let _ = std::fs::rename(numbered(path, n), numbered(path, n + 1)); // there may be none yet
        }
        if self.config.keep > 0 {
            std::fs::rename(path, numbered(path, 1))?;
        }
        let file = OpenOptions::new().create(true).write(true).truncate(true).open(path)?;
        (self.file, self.bytes) = (BufWriter::new(file), 0);
        Ok(())
    }

    /// Writes records until the channel closes. The task may block on the disk: lines are short and buffered, and records
    /// that a slow disk cannot take are dropped at the channel.
    pub(crate) async fn run(mut self, mut records: mpsc::Receiver<Arc<DecisionRecord>>) {
        let mut batch = Vec::new();
        while records.recv_many(&mut batch, 256).await > 0 {
            let mut wrote = Ok(());
            for record in batch.drain(..) {
                wrote = wrote.and_then(|()| self.line(&explain::state(&record).to_string()));
            }
            if let Err(error) = wrote.and_then(|()| self.file.flush()) {
                tracing::warn!(%error, path = %self.config.path.display(), "cannot write the decision log");
            }
        }
    }
}

fn numbered(path: &Path, n: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{n}"));
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_rotated_and_bounded_in_number() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d.jsonl");
        let mut log = Log::open(&LogFile { path: path.clone(), max_bytes: 30, keep: 2 }).unwrap();
        for n in 0..10 {
            log.line(&format!("line number {n}")).unwrap();
        }
        drop(log);
        let read = |p: &Path| std::fs::read_to_string(p).unwrap();
        assert_eq!(read(&path), "line number 8\nline number 9\n");
        assert_eq!(read(&numbered(&path, 1)), "line number 6\nline number 7\n");
        assert!(numbered(&path, 2).exists() && !numbered(&path, 3).exists());
    }
}
