//! The command line of a sandbox.

use super::exec::{Input, Task};
use super::proto::router::TaskExecStdioFileDescriptor::{Stderr, Stdout};
use super::sandbox::HOME;
use crate::error::{Error, Kind, Result};
use crate::shell::carry::{keep, silent, was_silent};
use crate::shell::{Command, Output, Shell, Stream};
use async_trait::async_trait;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, watch};
use tokio::task::AbortHandle;

/// Carries one connection to a port of the sandbox's loopback; either side's end is the other's.
const FORWARD: &str = r#"exec 3<>"/dev/tcp/127.0.0.1/$1" 4<&0 || exit 7
cat <&3 & a=$!; cat <&4 >&3 & b=$!; wait -n; kill $a $b 2>/dev/null"#;

/// The most bytes that one carried connection sends: they are kept until it ends.
const LONGEST: usize = 64 << 20;

/// A sandbox that runs.
#[derive(Debug)]
pub(super) struct ModalShell {
    task: Arc<Task>,
    sandbox: String,
    forwards: Mutex<BTreeMap<u16, (SocketAddr, AbortHandle)>>,
}

impl Drop for ModalShell {
    fn drop(&mut self) {
        for (_, forward) in self.forwards.get_mut().values() {
            forward.abort();
        }
    }
}

impl ModalShell {
    pub(super) fn new(task: Task, sandbox: String) -> Self {
        Self { task: Arc::new(task), sandbox, forwards: Mutex::default() }
    }
}

async fn carry(task: &Task, command: &Command) -> Result<Output> {
    let (beat, mut beats) = watch::channel(());
    let work = async {
        let exec = task.start(&command.argv, HOME).await?;
        let input = watch::channel(Input { bytes: command.stdin.clone(), ended: true }).1;
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let take = |kept: &mut Vec<u8>, stream: Stream, piece: &[u8]| {
            command.pass(stream, piece);
            keep(kept, piece);
            let _ = beat.send(());
        };
        let told = beat.clone();
        let (_, (), (), code) = tokio::try_join!(
            task.write(&exec, &input, move || told.send_replace(())),
            task.read(&exec, Stdout, |piece| take(&mut stdout, Stream::Out, piece)),
            task.read(&exec, Stderr, |piece| take(&mut stderr, Stream::Err, piece)),
            task.wait(&exec),
        )?;
        Ok(Output { code, stdout, stderr })
    };
    tokio::select! {
        done = work => done,
        () = silent(&mut beats, command.silence) => Err(was_silent(command, "the sandbox")),
    }
}

/// Carries one connection of this machine to a port of the sandbox.
async fn forward(task: &Task, mut stream: TcpStream, port: u16) -> Result<()> {
    let words = ["bash", "-c", FORWARD, "bash", &port.to_string()].map(str::to_owned);
    let exec = task.start(&words, HOME).await?;
    let (sender, input) = watch::channel(Input::default());
    let (mut from, mut to) = stream.split();
    let (pass, mut passed) = tokio::sync::mpsc::unbounded_channel::<Vec<u8>>();
    let sent = async {
        let mut piece = vec![0; 1 << 16];
        loop {
            let count = from.read(&mut piece).await.unwrap_or(0);
            let more = count > 0 && sender.borrow().bytes.len() < LONGEST;
            sender.send_modify(|input| {
                input.bytes.extend_from_slice(&piece[..count]);
                input.ended = !more;
            });
            if !more {
                return;
            }
        }
    };
    let received = async {
        while let Some(piece) = passed.recv().await {
            if to.write_all(&piece).await.is_err() {
                break;
            }
        }
        let _ = to.shutdown().await;
    };
    let read = async {
        let done = task.read(&exec, Stdout, |piece| drop(pass.send(piece.to_vec()))).await;
        drop(pass);
        done
    };
    // The sandbox's end of output ends the connection; the client's end of input ends the command, and so the output.
    let carried = async { tokio::join!(read, received).0 };
    tokio::select! {
        done = carried => done,
        done = async { tokio::join!(sent, task.write(&exec, &input, || ())).1?; std::future::pending().await } => done,
    }
}

#[async_trait]
impl Shell for ModalShell {
    async fn run(&self, command: &Command) -> Result<Output> {
        carry(&self.task, command).await
    }

    async fn address(&self, port: u16) -> Result<SocketAddr> {
        let failed = |why: std::io::Error| {
            Error::new(Kind::Unreachable, "a port on 127.0.0.1", why.to_string(), "free local ports")
        };
        let mut forwards = self.forwards.lock().await;
        if let Some((address, _)) = forwards.get(&port) {
            return Ok(*address);
        }
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let task = Arc::downgrade(&self.task);
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let Some(task) = task.upgrade() else { return };
                tokio::spawn(async move {
                    if let Err(error) = forward(&task, stream, port).await {
                        tracing::debug!("port {port}: {error}");
                    }
                });
            }
        });
        forwards.insert(port, (address, accepting.abort_handle()));
        Ok(address)
    }

    fn login(&self) -> (Vec<String>, Option<PathBuf>) {
        // Modal's own program has the terminal.
        (["modal", "shell", &self.sandbox].map(str::to_owned).to_vec(), None)
    }
}
