//! The running process of an upgrade: starts the next one, gives it all it needs, and stops when that one serves.

use super::control::{self, Answer, Ask, Control};
use super::frames::{self, Kind};
use super::{Presence, VARIABLE, systemd};
use crate::discovery::discovered::Sets;
use crate::server::kept_files::KeptFiles;
use crate::server::saved::Saved;
use crate::sharing::message::{Message, VERSION};
use crate::sharing::own_loads;
use crate::snapshot::{Kept, codec};
use crate::state::{AppState, Phase};
use crate::supervise;
use gorgo_core::Time;
use gorgo_core::sharing::{News, SentLoads, must_send};
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Mutex, Notify};

/// Between two messages to the next process.
const PERIOD: Duration = Duration::from_millis(50);
/// How long the next process has for its first and its last step.
const STEP: Duration = Duration::from_secs(10);

/// What belongs to the process and not to what it has learned.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Offer {
    /// Whether the pid file comes with the listening socket.
    pub(super) has_lock: bool,
    /// Replicas that could be used.
    pub(super) usable: usize,
    /// Their names; programs before told none.
    #[serde(default)]
    pub(super) usable_names: Vec<String>,
    /// The endpoints of each source of discovery; programs before told none.
    #[serde(default)]
    pub(super) discovered: Sets,
    /// Changes over the admin API, with keys of added replicas.
    pub(super) saved: Saved,
}

/// How this process was started.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    file: PathBuf,
    arguments: Vec<OsString>,
}

impl Program {
    /// This process's own; to be called before its file is replaced.
    pub(crate) fn own() -> Self {
        let mut arguments = std::env::args_os();
        let first = arguments.next().map(PathBuf::from).unwrap_or_default();
        Self { file: std::env::current_exe().unwrap_or(first), arguments: arguments.collect() }
    }

    /// Starts it as the next process; the socket is its standard input.
    fn start(&self, binary: Option<&Path>, socket: OwnedFd) -> Result<Child, String> {
        let file = binary.unwrap_or(&self.file);
        let mut command = Command::new(file);
        command.args(&self.arguments).env(VARIABLE, "stdin").stdin(Stdio::from(socket));
        for own in ["LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"] {
            command.env_remove(own); // the socket comes another way
        }
        command.spawn().map_err(|why| format!("cannot start `{}`: {why}", file.display()))
    }
}

/// What an upgrade needs of this process.
pub(crate) struct HandOver {
    pub(crate) state: Weak<AppState>,
    pub(crate) socket: OwnedFd,
    pub(crate) program: Program,
    pub(crate) presence: Arc<dyn Presence>,
    pub(crate) kept_files: Arc<KeptFiles>,
    /// Notified when the next process serves.
    pub(crate) done: Arc<Notify>,
}

/// Answers questions for upgrades until one has succeeded.
pub(crate) async fn run(control: Control, this: HandOver) {
    loop {
        let (ask, mut stream) = control.next().await;
        let Some(state) = this.state.upgrade() else { return };
        let answer = match upgrade(&this, &state, ask).await {
            Ok(pid) => Answer::Serving(pid),
            Err(why) => {
                tracing::warn!("the upgrade failed, and this process continues: {why}");
                Answer::Failed(why)
            }
        };
        control::answer(&mut stream, &answer).await;
        if matches!(answer, Answer::Serving(_)) {
            return;
        }
    }
}

async fn upgrade(this: &HandOver, state: &Arc<AppState>, ask: Ask) -> Result<u32, String> {
    if let Some(why) = systemd::forbids(|name| std::env::var(name).ok(), std::process::id()) {
        return Err(why.to_owned());
    }
    if state.phase() != Phase::Serving {
        return Err(control::STOPPING.to_owned());
    }
    let system = |error: std::io::Error| format!("no socket for the new process: {error}");
    let (here, there) = std::os::unix::net::UnixStream::pair().map_err(system)?;
    here.set_nonblocking(true).map_err(system)?;
    let here = UnixStream::from_std(here).map_err(system)?;
    let mut child = this.program.start(ask.binary.as_deref(), there.into())?;
    let pid = child.id();
    tracing::info!(pid, "an upgrade: the new process starts");
    let wait = Duration::from_millis(ask.wait_ms.clamp(1_000, 3_600_000));
    let passed = tokio::time::timeout(wait, pass(this, state, here)).await;
    match passed.unwrap_or_else(|_| Err(format!("the new process did not serve within {} s", wait.as_secs()))) {
        Ok(writer) => {
            systemd::tell(&format!("MAINPID={pid}"));
            this.presence.pass_on();
            tracing::info!(pid, "the new process serves; this one finishes its requests");
            tokio::spawn(supervise::logged("news for the next process", tell(Arc::downgrade(state), writer)));
            state.set_phase(Phase::Draining); // answers close their connections from now on
            this.done.notify_one();
            std::thread::spawn(move || child.wait()); // so that it is no zombie should it end first
            Ok(pid)
        }
        Err(why) => {
            let _ = child.kill();
            let ended = tokio::task::spawn_blocking(move || child.wait()).await;
            state.take_back();
            if let Err(why) = this.kept_files.lock() {
                tracing::warn!("{why}");
            }
            this.presence.take_back();
            state.driver.forget_heir();
            let status = ended.ok().and_then(Result::ok).filter(|status| status.code().is_some());
            Err(status.map_or_else(|| why.clone(), |status| format!("{why} ({status}; see its log)")))
        }
    }
}

type Writer = Arc<Mutex<OwnedWriteHalf>>;

/// Sends the next process all its state; returns the channel for what this process learns afterwards.
async fn pass(this: &HandOver, state: &Arc<AppState>, mut stream: UnixStream) -> Result<Writer, String> {
    let broke = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::UnexpectedEof => "the new process ended before it served".to_owned(),
        _ => format!("the new process cannot be reached: {error}"),
    };
    let (kind, version) = frames::read(&mut stream, 1_024).await.map_err(broke)?;
    match kind {
        Kind::Hello if version == [frames::PROTOCOL] => {}
        Kind::Failed => return Err(String::from_utf8_lossy(&version).into_owned()),
        _ => return Err("the new program upgrades in another way; stop this router and start that one".to_owned()),
    }
    // From here on no change is lost: learned prefixes are sent, and changes over the admin API are refused.
    state.begin_upgrade();
    state.driver.begin_heir();
    let lock = this.presence.lock();
    let descriptors: Vec<_> = std::iter::once(this.socket.as_fd()).chain(lock.iter().map(AsFd::as_fd)).collect();
    frames::send_descriptors(&stream, &descriptors).await.map_err(broke)?;
    let usable_names: Vec<String> =
        state.are_usable().into_iter().filter(|(_, usable)| *usable).map(|(name, _)| name).collect();
    let offer = Offer {
        has_lock: lock.is_some(),
        usable: usable_names.len(),
        usable_names,
        discovered: state.discovered.sets(),
        saved: Saved::of(state),
    };
    let offer = serde_json::to_vec(&offer).map_err(|error| error.to_string())?;
    let taken = Arc::clone(state);
    let snapshot = tokio::task::spawn_blocking(move || codec::encode(&Kept::of(&taken)));
    let snapshot = snapshot.await.map_err(|error| error.to_string())?;
    frames::write(&mut stream, Kind::Offer, &offer).await.map_err(broke)?;
    frames::write(&mut stream, Kind::Snapshot, &snapshot).await.map_err(broke)?;
    drop(snapshot);
    let (mut reader, writer) = stream.into_split();
    let writer = Arc::new(Mutex::new(writer));
    step(&mut reader, Kind::Ready).await?;
    state.hand_over();
    this.kept_files.release();
    frames::write(&mut *writer.lock().await, Kind::Go, &[]).await.map_err(broke)?;
    let serving = tokio::time::timeout(STEP, step(&mut reader, Kind::Serving)).await;
    serving.unwrap_or_else(|_| Err("the new process was ready and does not serve".to_owned()))?;
    Ok(writer)
}

async fn step(reader: &mut OwnedReadHalf, wanted: Kind) -> Result<(), String> {
    match frames::read(reader, 64 << 10).await {
        Ok((kind, _)) if kind == wanted => Ok(()),
        Ok((Kind::Failed, why)) => Err(String::from_utf8_lossy(&why).into_owned()),
        Ok(_) => Err("the new process sends what does not belong here".to_owned()),
        Err(_) => Err("the new process ended before it served".to_owned()),
    }
}

/// Sends the next process what this one learns while it drains, and its open requests, until either ends.
async fn tell(state: Weak<AppState>, writer: Writer) {
    let mut told: SentLoads = (Time::ZERO, Vec::new());
    loop {
        let Some(state) = state.upgrade() else { return };
        if let Some(message) = news(&state, &mut told) {
            let bytes = serde_json::to_vec(&message).unwrap_or_default();
            if frames::write(&mut *writer.lock().await, Kind::News, &bytes).await.is_err() {
                return;
            }
        }
        drop(state);
        tokio::time::sleep(PERIOD).await;
    }
}

fn news(state: &AppState, told: &mut SentLoads) -> Option<Message> {
    let (now, loads, names) = own_loads(state);
    let paths = state.driver.take_for_heir();
    if paths.is_empty() && !must_send(now, told, &loads) {
        return None;
    }
    let paths: Vec<News> = paths
        .into_iter()
        .map(|path| News { replica: path.replica, parent: None, tail: path.symbols.to_vec(), tokens: path.tokens })
        .collect();
    let message = Message {
        version: VERSION,
        replicas: names,
        paths: Message::path_rows(&paths),
        loads: loads.iter().map(|&(replica, load)| (replica.0, load)).collect(),
        ..Message::default()
    };
    *told = (now, loads);
    Some(message)
}
