//! Shutdown: unready first, then no new connections, then the open requests finish or are ended.

use crate::state::{AppState, Phase};
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Time for connections without a request to close.
const IDLE_CLOSED: Duration = Duration::from_millis(50);
/// Time for requests that are ended to send their last event.
const LAST_EVENT: Duration = Duration::from_secs(1);

/// What happens to connections when the router stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Closing {
    /// Nothing: it serves.
    #[default]
    No,
    /// Those without a request wait for their client's next one, which is answered with `Connection: close`: a request
    /// may be on its way, and a client that sees its connection closed then does not know whether it was answered.
    AfterAnswer,
    /// Those without a request are closed at once.
    Now,
}

/// Why a router stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// By a signal or a command.
    Requested,
    /// Another process has its port and serves.
    Replaced,
}

/// What ends a router: `stop` lets open requests finish, and `hurry`, after it, ends them.
#[derive(Debug)]
pub(crate) struct Ending<S, H> {
    pub(crate) stop: S,
    pub(crate) hurry: H,
}

impl<S: Future<Output = Stop>> Ending<S, std::future::Pending<()>> {
    /// An ending that nothing hurries.
    pub(super) fn unhurried(stop: S) -> Self {
        Self { stop, hurry: std::future::pending() }
    }
}

/// Waits for `stop`, then keeps the port open as "not ready" until load balancers have noticed, or `hurry` is ready.
/// Returns why it stops, and whether it is hurried.
pub(super) async fn settle(
    state: &AppState,
    stop: impl Future<Output = Stop>,
    hurry: Pin<&mut impl Future<Output = ()>>,
) -> (Stop, bool) {
    if stop.await == Stop::Replaced {
        return (Stop::Replaced, false);
    }
    crate::upgrade::systemd::tell("STOPPING=1");
    state.set_phase(Phase::Settling);
    tracing::info!("stopping: not ready from now on; a second signal ends open requests at once");
    let settled = tokio::time::sleep(Duration::from_millis(state.config().timeouts.settle_ms));
    tokio::select! {
        () = settled => (Stop::Requested, false),
        () = hurry => (Stop::Requested, true),
    }
}

/// Closes connections as their requests finish; after `timeouts.drain_ms`, or when `hurry` is ready, ends the rest.
/// Returns the number of connections that did not finish in time. The listener must be closed before.
pub(super) async fn drain(
    state: &AppState,
    open: &mut JoinSet<()>,
    closing: &watch::Sender<Closing>,
    why: Stop,
    hurry: impl Future<Output = ()>,
) -> usize {
    state.set_phase(Phase::Draining);
    closing.send_replace(if why == Stop::Replaced { Closing::AfterAnswer } else { Closing::Now });
    let limit = tokio::time::sleep(Duration::from_millis(state.config().timeouts.drain_ms));
    let why = tokio::select! {
        biased;
        () = all_closed(open) => None,
        () = hurry => Some("a second signal came"),
        () = limit => Some("timeouts.drain_ms is over"),
    };
    if why.is_some() {
        closing.send_replace(Closing::Now);
        let _ = tokio::time::timeout(IDLE_CLOSED, all_closed(open)).await; // of those without a request
    }
    let cut = open.len();
    if cut > 0 {
        tracing::warn!(cut, "{}; ending the requests that are still open", why.unwrap_or_default());
        state.set_phase(Phase::Ending);
        state.driver.stop_requests();
        let _ = tokio::time::timeout(LAST_EVENT, all_closed(open)).await;
    }
    open.shutdown().await;
    cut
}

async fn all_closed(open: &mut JoinSet<()>) {
    while open.join_next().await.is_some() {}
}
