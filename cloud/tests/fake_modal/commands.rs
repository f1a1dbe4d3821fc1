//! The commands of one sandbox: processes of this machine in a folder that stands for its login directory.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;

/// Output so far, and whether it is all.
#[derive(Debug, Default)]
pub(super) struct Written {
    pub(super) bytes: Vec<u8>,
    pub(super) ended: bool,
}

pub(super) struct Exec {
    pub(super) outputs: [watch::Receiver<Written>; 2],
    pub(super) exit: watch::Receiver<Option<(bool, i32)>>,
    pub(super) input: tokio::sync::Mutex<Option<tokio::process::ChildStdin>>,
    pub(super) taken: AtomicU64,
    pub(super) closed: std::sync::atomic::AtomicBool,
}

impl Exec {
    /// Closes the input for good.
    pub(super) async fn close(&self) {
        drop(self.input.lock().await.take());
        self.closed.store(true, Ordering::SeqCst);
    }

    /// Writes at an offset; what was taken before is passed over.
    pub(super) async fn write(&self, offset: u64, bytes: &[u8]) -> bool {
        let mut input = self.input.lock().await;
        let taken = self.taken.load(Ordering::SeqCst);
        let Some(skip) = taken.checked_sub(offset) else { return false };
        let fresh = bytes.get(skip as usize..).unwrap_or_default();
        let Some(pipe) = input.as_mut() else { return false };
        if pipe.write_all(fresh).await.is_err() || pipe.flush().await.is_err() {
            return false;
        }
        self.taken.fetch_add(fresh.len() as u64, Ordering::SeqCst);
        true
    }
}

pub(crate) struct Commands {
    pub(super) folder: PathBuf,
    execs: Mutex<BTreeMap<String, Arc<Exec>>>,
    accesses: AtomicU64,
    pub(crate) started: AtomicU64,
}

impl Commands {
    pub(super) fn new(folder: PathBuf) -> Self {
        Self { folder, execs: Mutex::default(), accesses: AtomicU64::new(0), started: AtomicU64::new(0) }
    }

    /// A new access; the ones before end.
    pub(super) fn access(&self) -> String {
        format!("jwt-{}", self.accesses.fetch_add(1, Ordering::SeqCst) + 1)
    }

    pub(super) fn is_access(&self, jwt: &str) -> bool {
        jwt == format!("jwt-{}", self.accesses.load(Ordering::SeqCst))
    }

    pub(super) fn end_accesses(&self) {
        self.accesses.fetch_add(1, Ordering::SeqCst);
    }

    pub(super) fn get(&self, exec: &str) -> Option<Arc<Exec>> {
        self.execs.lock().unwrap().get(exec).cloned()
    }

    /// Ends all that runs in the folder.
    pub(super) fn end(&self) {
        if self.folder.exists() {
            for pid in super::processes_in(&self.folder) {
                let _ =
                    std::process::Command::new("kill").args(["-9", &pid.to_string()]).stderr(Stdio::null()).status();
            }
        }
    }

    /// Starts a command, once an id.
    pub(super) fn start(&self, exec: &str, argv: &[String]) -> std::io::Result<()> {
        let mut execs = self.execs.lock().unwrap();
        if execs.contains_key(exec) {
            return Ok(());
        }
        self.started.fetch_add(1, Ordering::SeqCst);
        std::fs::create_dir_all(&self.folder)?;
        let mut command = tokio::process::Command::new(&argv[0]);
        command.args(&argv[1..]).current_dir(&self.folder).env("HOME", &self.folder).process_group(0);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let outputs = [collect(child.stdout.take().unwrap()), collect(child.stderr.take().unwrap())];
        let input = tokio::sync::Mutex::new(child.stdin.take());
        let (tell, exit) = watch::channel(None);
        tokio::spawn(async move {
            let status = child.wait().await.unwrap();
            let end = status.code().map_or_else(|| (false, status.signal().unwrap_or(9)), |code| (true, code));
            let _ = tell.send(Some(end));
        });
        let taken = AtomicU64::new(0);
        execs.insert(exec.to_owned(), Arc::new(Exec { outputs, exit, input, taken, closed: false.into() }));
        Ok(())
    }
}

fn collect(mut from: impl AsyncRead + Unpin + Send + 'static) -> watch::Receiver<Written> {
    let (tell, written) = watch::channel(Written::default());
    tokio::spawn(async move {
        let mut piece = vec![0; 1 << 16];
        loop {
            let count = from.read(&mut piece).await.unwrap_or(0);
            tell.send_modify(|written| {
                written.bytes.extend_from_slice(&piece[..count]);
                written.ended = count == 0;
            });
            if count == 0 {
                return;
            }
        }
    });
    written
}
