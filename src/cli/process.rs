//! This process: its runtime, its limits and its signals.

use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// A runtime with one thread per core.
pub(super) fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.map_err(|e| anyhow::anyhow!("cannot start threads ({e}); the machine is out of resources"))
}

/// Time since 1970 by this machine's clock.
pub(super) fn since_1970() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// A salt of its own for every run. It fits a TOML integer, so that it can be given again.
pub(super) fn fresh_salt() -> u64 {
    (since_1970().as_nanos() as u64 ^ u64::from(std::process::id()).rotate_left(40)) & (u64::MAX >> 16)
}

/// Raises the limit of open files to the system's maximum, and returns it.
pub(super) fn raise_file_limit() -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let most = getrlimit(Resource::Nofile).maximum;
    let _ = setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most }); // without it the old limit stays
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Handlers of SIGINT and SIGTERM.
pub(super) struct StopSignal {
    interrupt: Signal,
    terminate: Signal,
}

impl StopSignal {
    /// Installs the handlers; call it in the runtime, before others can find this process.
    pub(super) fn install() -> std::io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    /// Waits for the next signal; one that arrived since the last call counts.
    pub(super) async fn recv(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
