//! A log file of bounded size that rotates itself, and survives rotation by `logrotate` and a full disk.
//!
//! Beyond `max_bytes` the file becomes `.1`, `.1` becomes `.2`, and so on; the oldest is deleted. `logrotate` may
//! rename the file and send SIGHUP, or move it without a signal: the next line then starts a new file of the old name.
//! On a full disk the oldest file is deleted early; when there is none, lines are lost, with one warning a minute.

use crate::config::LogFile;
use crate::observe::seldom::Seldom;
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;

/// Most lines written at once.
const BATCH: usize = 256;

/// The log.
#[derive(Debug)]
pub(crate) struct LineLog {
    /// What is written, for warnings.
    what: &'static str,
    config: LogFile,
    file: BufWriter<File>,
    bytes: u64,
    /// Whether the file may end within a line.
    torn: bool,
    /// Set from outside to reopen the file.
    reopen: Arc<AtomicBool>,
    failures: Seldom,
}

impl LineLog {
    /// Opens the file to append to it. `reopen` is set when the file was moved away.
    ///
    /// # Errors
    /// Those of the file system.
    pub(crate) fn open(what: &'static str, config: &LogFile, reopen: Arc<AtomicBool>) -> io::Result<Self> {
        let (file, bytes) = append(&config.path)?;
        // A process that was killed while it wrote left half a line, to which the first one would be added.
        let torn = bytes > 0 && ends_within_a_line(&config.path);
        let failures = Seldom::new(Duration::from_secs(60));
        Ok(Self { what, config: config.clone(), file, bytes, torn, reopen, failures })
    }

    /// Writes lines until the channel closes. The task may block on the disk: lines are short and buffered, and what a
    /// slow disk cannot take is dropped at the channel.
    pub(crate) async fn run<T>(mut self, mut items: mpsc::Receiver<T>, line: impl Fn(&T) -> String) {
        let mut batch = Vec::new();
        while items.recv_many(&mut batch, BATCH).await > 0 {
            let mut lost = 0;
            let mut why = None;
            for item in batch.drain(..) {
                if let Err(error) = self.line(&line(&item)) {
                    lost += 1;
                    why = Some(error);
                }
            }
            if let Err(error) = self.flush() {
                why = Some(error);
            }
            if let Some(error) = why
                && let Some(before) = self.failures.take()
            {
                let path = self.config.path.display();
                tracing::warn!(%error, %path, lost, before, "cannot write the {}; lines are lost", self.what);
            }
        }
    }

    /// Writes a line.
    ///
    /// # Errors
    /// Those of the file system, once no older file is left to make room.
    pub(crate) fn line(&mut self, line: &str) -> io::Result<()> {
        if self.reopen.swap(false, Ordering::Relaxed) {
            self.begin_anew()?;
        }
        let length = line.len() as u64 + 1;
        if self.bytes > 0 && self.bytes + length > self.config.max_bytes {
            self.rotate()?;
        }
        let begin = if std::mem::take(&mut self.torn) { "\n" } else { "" };
        let text = format!("{begin}{line}\n");
        if self.file.write_all(text.as_bytes()).is_err() {
            self.flush()?; // makes room
            self.file.write_all(text.as_bytes())?;
        }
        self.bytes += text.len() as u64;
        Ok(())
    }

    /// Hands buffered lines to the system; frees older files for them when the disk is full.
    fn flush(&mut self) -> io::Result<()> {
        loop {
            match self.file.flush() {
                Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                    if !self.free_oldest() {
                        self.reopen_file()?;
                        self.torn = true;
                        return Err(error);
                    }
                }
                other => return other,
            }
        }
    }

    /// Removes the oldest of the older files; false if there is none.
    fn free_oldest(&self) -> bool {
        let path = &self.config.path;
        (1..=self.config.keep).rev().any(|n| std::fs::remove_file(numbered(path, n)).is_ok())
    }

    /// Gives up what is buffered, and opens the file under its name.
    fn reopen_file(&mut self) -> io::Result<()> {
        let (fresh, bytes) = append(&self.config.path)?;
        let old = std::mem::replace(&mut self.file, fresh);
        let _ = old.into_parts(); // without another try to write
        self.bytes = bytes;
        Ok(())
    }

    /// Reopens the file under its name, even if the old one was moved or deleted.
    fn begin_anew(&mut self) -> io::Result<()> {
        let _ = self.flush();
        self.reopen_file()
    }

    fn rotate(&mut self) -> io::Result<()> {
        self.flush()?;
        let path = &self.config.path;
        // Moved or removed by others, or even replaced: then the file under this name is not ours to rotate.
        if !is_at(self.file.get_ref(), path) {
            return self.reopen_file();
        }
        // Of a link (/dev/stdout) or a device the name would be renamed, for every process of the machine.
        if !std::fs::symlink_metadata(path).is_ok_and(|kind| kind.is_file()) {
            self.bytes = 0;
            return Ok(());
        }
        for n in (1..self.config.keep).rev() {
            let _ = std::fs::rename(numbered(path, n), numbered(path, n + 1)); // there may be none yet
        }
        if self.config.keep > 0 {
            let _ = std::fs::rename(path, numbered(path, 1));
        } else {
            let _ = std::fs::remove_file(path);
        }
        self.reopen_file()
    }
}

fn append(path: &Path) -> io::Result<(BufWriter<File>, u64)> {
    // Opening a pipe would wait for a reader. /dev/stdout is a link to one that is open.
    if std::fs::symlink_metadata(path).is_ok_and(|kind| kind.file_type().is_fifo()) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is a pipe; name a file"));
    }
    let file = OpenOptions::new().create(true).append(true).open(path)?;
    let bytes = file.metadata()?.len();
    Ok((BufWriter::new(file), bytes))
}

/// Whether the file's last byte ends no line; `false` where that cannot be read.
fn ends_within_a_line(path: &Path) -> bool {
    let last = || {
        let mut file = File::open(path).ok().filter(|file| file.metadata().is_ok_and(|kind| kind.is_file()))?;
        file.seek(SeekFrom::End(-1)).ok()?;
        let mut last = [0];
        file.read_exact(&mut last).ok()?;
        Some(last[0])
    };
    last().is_some_and(|last| last != b'\n')
}

fn is_at(file: &File, path: &Path) -> bool {
    let (here, there) = (file.metadata(), std::fs::metadata(path));
    matches!((here, there), (Ok(a), Ok(b)) if (a.dev(), a.ino()) == (b.dev(), b.ino()))
}

fn numbered(path: &Path, n: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{n}"));
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(path: &Path, max_bytes: u64, keep: u32) -> LineLog {
        LineLog::open("test", &LogFile { path: path.to_owned(), max_bytes, keep }, Arc::default()).unwrap()
    }

    fn read(path: &Path) -> String {
        std::fs::read_to_string(path).unwrap()
    }

    #[test]
    fn a_pipe_is_refused_and_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        let config = LogFile { path, max_bytes: 30, keep: 2 };
        let wrong = LineLog::open("test", &config, Arc::default()).map(drop).unwrap_err();
        assert_eq!(wrong.to_string(), "it is a pipe; name a file");
    }

    #[test]
    fn files_are_rotated_and_bounded_in_number() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d.jsonl");
        let mut log = log(&path, 30, 2);
        for n in 0..10 {
            log.line(&format!("line number {n}")).unwrap();
        }
        log.flush().unwrap();
        assert_eq!(read(&path), "line number 8\nline number 9\n");
        assert_eq!(read(&numbered(&path, 1)), "line number 6\nline number 7\n");
        assert!(numbered(&path, 2).exists() && !numbered(&path, 3).exists());
    }

    #[test]
    fn a_line_that_a_killed_process_began_is_ended_before_the_first_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d.jsonl");
        for (before, after) in [("whole\n{\"tor", "whole\n{\"tor\nfirst\n"), ("whole\n", "whole\nfirst\n")] {
            std::fs::write(&path, before).unwrap();
            let mut log = log(&path, 1_000, 2);
            log.line("first").unwrap();
            log.flush().unwrap();
            assert_eq!(read(&path), after);
        }
    }

    /// Rotating /dev/stdout renamed the link for every process of the machine.
    #[test]
    fn a_link_is_not_rotated() {
        let dir = tempfile::tempdir().unwrap();
        let (path, behind) = (dir.path().join("stdout"), dir.path().join("behind"));
        std::os::unix::fs::symlink(&behind, &path).unwrap();
        let mut log = log(&path, 30, 2);
        for n in 0..10 {
            log.line(&format!("line number {n}")).unwrap();
        }
        log.flush().unwrap();
        assert_eq!(read(&behind).lines().count(), 10);
        assert!(std::fs::symlink_metadata(&path).unwrap().is_symlink() && !numbered(&path, 1).exists());
    }

    #[test]
    fn a_file_that_others_moved_or_took_away_is_begun_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d.jsonl");
        let mut log = log(&path, 30, 2);
        log.line("line number 0").unwrap();
        log.flush().unwrap();
        std::fs::rename(&path, dir.path().join("moved")).unwrap();
        log.reopen.store(true, Ordering::Relaxed);
        log.line("line number 1").unwrap();
        log.flush().unwrap();
        assert_eq!(
            (read(&dir.path().join("moved")), read(&path)),
            ("line number 0\n".into(), "line number 1\n".into())
        );
        std::fs::remove_file(&path).unwrap();
        for n in 2..6 {
            log.line(&format!("line number {n}")).unwrap();
        }
        log.flush().unwrap();
        assert!(read(&path).ends_with("line number 5\n"), "its own rotation goes on");
    }

    #[test]
    fn room_is_made_by_the_oldest_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d.jsonl");
        let log = log(&path, 30, 3);
        for n in 1..=3 {
            std::fs::write(numbered(&path, n), "old").unwrap();
        }
        assert!(log.free_oldest() && !numbered(&path, 3).exists() && numbered(&path, 2).exists());
        assert!(log.free_oldest() && log.free_oldest() && !log.free_oldest());
        assert!(path.exists(), "the file in use stays");
    }
}
