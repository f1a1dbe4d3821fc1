//! A child process carried to its end: input written, output collected, killed when silent or dropped.

use super::{Command, Output, Stream};
use crate::error::{Error, Kind, Result};
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command as Process};
use tokio::sync::watch;

const KEPT: usize = 1 << 20;

/// Runs `process`, which stands for `command`, to its end.
pub(super) async fn carry(mut process: Process, command: &Command, place: &str) -> Result<Output> {
    process.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = process.spawn().map_err(|why| {
        let program = process.as_std().get_program().to_string_lossy().into_owned();
        Error::new(Kind::Command, format!("`{program}`"), format!("cannot be started ({why})"), "install it")
    })?;
    // It has a process group of its own; what it started ends with it when it is dropped.
    let mut group = Group(child.id());
    let (beat, mut beats) = watch::channel(());
    let work = attend(&mut child, command, &beat);
    tokio::pin!(work);
    tokio::select! {
        ended = &mut work => {
            group.0 = None;
            ended.map_err(|why| Error::new(Kind::Unreachable, place, why.to_string(), "try again"))
        }
        () = silent(&mut beats, command.silence) => {
            Err(was_silent(command, place))
        }
    }
}

/// A process group that is killed when this value is dropped.
struct Group(Option<u32>);

impl Drop for Group {
    fn drop(&mut self) {
        let pid = self.0.and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw);
        if let Some(pid) = pid {
            // A process that leads no group has none to kill.
            let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
        }
    }
}

/// Returns once no byte has passed for `limit`.
pub(crate) async fn silent(beats: &mut watch::Receiver<()>, limit: std::time::Duration) {
    while let Ok(Ok(())) = tokio::time::timeout(limit, beats.changed()).await {}
}

async fn attend(child: &mut Child, command: &Command, beat: &watch::Sender<()>) -> std::io::Result<Output> {
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let write = async {
        if let Some(mut stdin) = stdin {
            for piece in command.stdin.chunks(1 << 16) {
                // A command that ends early closes its input; its status says why.
                if stdin.write_all(piece).await.is_err() {
                    return;
                }
                let _ = beat.send(());
            }
            let _ = stdin.shutdown().await;
        }
    };
    let ((), stdout, stderr, status) = tokio::join!(
        write,
        collect(stdout, beat, |bytes| command.pass(Stream::Out, bytes)),
        collect(stderr, beat, |bytes| command.pass(Stream::Err, bytes)),
        child.wait()
    );
    Ok(Output { code: code(status?), stdout: stdout?, stderr: stderr? })
}

async fn collect(
    from: Option<impl AsyncRead + Unpin>,
    beat: &watch::Sender<()>,
    pass: impl Fn(&[u8]),
) -> std::io::Result<Vec<u8>> {
    let mut kept = Vec::new();
    let Some(mut from) = from else { return Ok(kept) };
    let mut piece = vec![0; 1 << 16];
    loop {
        let count = from.read(&mut piece).await?;
        if count == 0 {
            return Ok(kept);
        }
        let _ = beat.send(());
        pass(&piece[..count]);
        keep(&mut kept, &piece[..count]);
    }
}

/// Appends a piece of output; what is more than a megabyte old is let go.
pub(crate) fn keep(kept: &mut Vec<u8>, piece: &[u8]) {
    kept.extend_from_slice(piece);
    if kept.len() > 2 * KEPT {
        kept.drain(..kept.len() - KEPT);
    }
}

/// The failure of a command that wrote nothing for its limit of silence.
pub(crate) fn was_silent(command: &Command, place: &str) -> Error {
    let shown = command.argv.join(" ");
    let shown: String = shown.chars().take(80).collect();
    let meaning = format!("`{shown}` wrote nothing for {} s", command.silence.as_secs());
    Error::new(Kind::Command, place, meaning, "look at the node; then run the command again")
}

fn code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}
