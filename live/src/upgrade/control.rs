//! The control socket of `upgrade`: the command sends one line of JSON to the running router, and gets one back.

use rustix::net::sockopt::socket_peercred;
use rustix::process::geteuid;
use serde::{Deserialize, Serialize};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream as BlockingStream;
use std::path::{Path, PathBuf};
use std::time::Duration;
use thiserror::Error;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

/// Longest line.
const LINE: u64 = 64 << 10;

/// What is asked.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Ask {
    /// The new program; the file of the running one when absent.
    pub(super) binary: Option<PathBuf>,
    /// How long it may take until it serves, ms.
    pub(super) wait_ms: u64,
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Answer {
    /// The id of the new process, which serves.
    Serving(u32),
    /// Why the old process goes on.
    Failed(String),
}

/// The answer of a router that is stopping.
pub(super) const STOPPING: &str = "this router is stopping";

/// Why a router was not replaced.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum UpgradeError {
    /// The reason that the router gives, or that it cannot be asked.
    #[error("{0}")]
    Refused(String),
    /// It was stopping already.
    #[error("it no longer accepts upgrades")]
    Stopping,
    /// It stops, or has ended.
    #[error("it gave no answer; see its log")]
    NoAnswer,
}

/// The listening control socket.
#[derive(Debug)]
pub(crate) struct Control(UnixListener);

impl Control {
    /// Listens at `path`, in place of the process before; only this user and root may connect.
    ///
    /// # Errors
    /// Those of the system; a path of more than 107 bytes is too long.
    pub(crate) fn bind(path: &Path) -> io::Result<Self> {
        let mut beside = path.as_os_str().to_owned();
        beside.push(".new");
        let beside = PathBuf::from(beside);
        let _ = std::fs::remove_file(&beside); // of a process that was killed
        let listener = UnixListener::bind(&beside)?;
        std::fs::set_permissions(&beside, std::fs::Permissions::from_mode(0o600))?;
        std::fs::rename(&beside, path)?;
        Ok(Self(listener))
    }

    /// The next question of a user who may ask.
    pub(super) async fn next(&self) -> (Ask, UnixStream) {
        loop {
            let Ok((mut stream, _)) = self.0.accept().await else {
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            if !may_ask(&stream) {
                answer(&mut stream, &Answer::Failed("run this command as the user of the router".to_owned())).await;
                continue;
            }
            let mut line = String::new();
            let mut lines = tokio::io::BufReader::new((&mut stream).take(LINE));
            let read = tokio::time::timeout(Duration::from_secs(5), lines.read_line(&mut line)).await;
            if !matches!(read, Ok(Ok(1..))) {
                continue;
            }
            match serde_json::from_str(&line) {
                Ok(ask) => return (ask, stream),
                Err(error) => {
                    answer(&mut stream, &Answer::Failed(format!("the question cannot be read: {error}"))).await;
                }
            }
        }
    }
}

/// Whether the other side is this user or root.
fn may_ask(stream: &UnixStream) -> bool {
    socket_peercred(stream).is_ok_and(|peer| peer.uid == geteuid() || peer.uid.is_root())
}

/// Answers; a command that has gone does not matter.
pub(super) async fn answer(stream: &mut UnixStream, answer: &Answer) {
    let line = serde_json::to_string(answer).unwrap_or_default() + "\n";
    let _ = tokio::time::timeout(Duration::from_secs(5), stream.write_all(line.as_bytes())).await;
}

/// Asks the router with process id `pid`, whose control socket is at `path`, to let `binary` take over; it may take
/// `wait`. Returns the id of the new process.
///
/// # Errors
/// When the router was not replaced.
pub fn ask(path: &Path, pid: u32, binary: Option<PathBuf>, wait: Duration) -> Result<u32, UpgradeError> {
    let shown = path.display();
    let failed = |why: io::Error| UpgradeError::Refused(format!("cannot ask the router at `{shown}`: {why}"));
    let mut stream = BlockingStream::connect(path).map_err(|why| {
        let why = format!("it has no control socket at `{shown}` ({why}); stop it and start the new program");
        UpgradeError::Refused(why)
    })?;
    let other = socket_peercred(&stream).map_err(|why| failed(why.into()))?;
    if other.pid.as_raw_nonzero().get().cast_unsigned() != pid {
        let why = format!("`{shown}` is not the socket of process {pid}; restart that router");
        return Err(UpgradeError::Refused(why));
    }
    stream.set_read_timeout(Some(wait + Duration::from_secs(30))).map_err(failed)?;
    let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
    let line = serde_json::to_string(&Ask { binary, wait_ms }).unwrap_or_default() + "\n";
    stream.write_all(line.as_bytes()).map_err(failed)?;
    let mut line = String::new();
    BufReader::new(io::Read::take(stream, LINE)).read_line(&mut line).map_err(failed)?;
    match serde_json::from_str(&line) {
        Ok(Answer::Serving(pid)) => Ok(pid),
        Ok(Answer::Failed(why)) if why == STOPPING => Err(UpgradeError::Stopping),
        Ok(Answer::Failed(why)) => Err(UpgradeError::Refused(why)),
        Err(_) => Err(UpgradeError::NoAnswer),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_question_is_answered_and_the_socket_is_for_this_user() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.sock");
        drop(Control::bind(&path).unwrap());
        let control = Control::bind(&path).unwrap(); // the next process
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let own = std::process::id();
        let (there, wait) = (path.clone(), Duration::from_secs(1));
        let asked = std::thread::spawn(move || ask(&there, own, Some("b".into()), wait));
        let (question, mut stream) = control.next().await;
        assert_eq!((question.binary, question.wait_ms), (Some("b".into()), 1_000));
        answer(&mut stream, &Answer::Failed("no".to_owned())).await;
        assert_eq!(asked.join().unwrap(), Err(UpgradeError::Refused("no".to_owned())));
        let there = path.clone();
        let asked = std::thread::spawn(move || ask(&there, own, None, wait));
        drop(control.next().await); // as when the router stops
        assert_eq!(asked.join().unwrap(), Err(UpgradeError::NoAnswer));
        let why = ask(&path, own + 1, None, wait).unwrap_err().to_string();
        assert!(why.contains("is not the socket of process"), "{why}");
        let why = ask(&dir.path().join("none"), own, None, wait).unwrap_err().to_string();
        assert!(why.contains("has no control socket"), "{why}");
    }
}
