//! Replacing the running program by another, without losing a request or what the router has learned.
//!
//! ```text
//! gorgo proxy upgrade ─► running process (control) ── starts the new program, one end of a socket pair as its stdin
//!                        new: hello                 ─► old: listening socket, lock of the pid file (SCM_RIGHTS),
//!                                                           changes over the admin API, snapshot
//!                        new: probed all, ready     ─► old: writes no file any more; go
//!                        new: pid file, accepts     ─► old: accepts no more, drains, tells what it learns, ends
//! ```
//!
//! Both accept from one socket for a moment, so no connection meets a closed port. Whatever fails before the new
//! process serves leaves the old one as it was. Only the child that the router itself started is given anything: the
//! socket pair has no name. Reading order: [`control`] (the command), [`hand_over`] (the running process),
//! [`take_over`] (the new one), [`frames`] between them, [`systemd`] (which process is the unit's).

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

pub(crate) mod control;
pub(crate) mod frames;
pub(crate) mod hand_over;
pub(crate) mod systemd;
pub(crate) mod take_over;
pub use control::{UpgradeError, ask};
pub use take_over::{failed, is_successor};

/// The environment variable that marks a process whose standard input is the socket to the old process.
const VARIABLE: &str = "GORGO_UPGRADE";

/// How other programs find this process. The lock of the pid file passes to the next process of an upgrade, so that the
/// file is never without an owner.
pub trait Presence: Send + Sync + 'static {
    /// The router listens on `at`; `lock` is the locked pid file of the process before, in an upgrade. Returns where the
    /// socket for `gorgo proxy upgrade` belongs; `None` for a process that cannot be upgraded.
    ///
    /// # Errors
    /// In one sentence, when the process cannot be found by others and must not run.
    fn appear(&self, at: SocketAddr, lock: Option<OwnedFd>) -> Result<Option<PathBuf>, String>;

    /// A further descriptor of the locked pid file, if there is one.
    fn lock(&self) -> Option<OwnedFd>;

    /// The next process has the pid file now.
    fn pass_on(&self);

    /// The upgrade failed: the pid file names this process again.
    fn take_back(&self);
}

/// A process that nothing finds and that cannot be upgraded.
#[derive(Debug, Clone, Copy)]
pub struct Hidden;

impl Presence for Hidden {
    fn appear(&self, _: SocketAddr, _: Option<OwnedFd>) -> Result<Option<PathBuf>, String> {
        Ok(None)
    }

    fn lock(&self) -> Option<OwnedFd> {
        None
    }

    fn pass_on(&self) {}

    fn take_back(&self) {}
}
