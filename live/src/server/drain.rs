//! Shutdown: unready first, then no new connections, then the open requests finish or are ended.

use crate::state::{AppState, Phase};
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Time for requests that are ended to send their last event.
const LAST_EVENT: Duration = Duration::from_secs(1);

/// What ends a router: `stop` lets open requests finish, and `hurry`, after it, ends them.
#[derive(Debug)]
pub(crate) struct Ending<S, H> {
    pub(crate) stop: S,
    pub(crate) hurry: H,
}

impl<S: Future<Output = ()>> Ending<S, std::future::Pending<()>> {
    /// An ending that nothing hurries.
    pub(super) fn unhurried(stop: S) -> Self {
        Self { stop, hurry: std::future::pending() }
    }
}

/// Waits for `stop`, then keeps the port open as "not ready" until load balancers have noticed, or `hurry` is ready.
/// Returns whether it was.
pub(super) async fn settle(
    state: &AppState,
    stop: impl Future<Output = ()>,
    hurry: Pin<&mut impl Future<Output = ()>>,
) -> bool {
    stop.await;
    state.set_phase(Phase::Settling);
    tracing::info!("stopping: not ready from now on; a second signal ends open requests at once");
    let settled = tokio::time::sleep(Duration::from_millis(state.config().timeouts.settle_ms));
    tokio::select! {
        () = settled => false,
        () = hurry => true,
    }
}

/// Closes connections as their requests finish; after `timeouts.drain_ms`, or when `hurry` is ready, ends the rest.
/// Returns the number of connections that did not finish in time. The listener must be closed before.
pub(super) async fn drain(
    state: &AppState,
    open: &mut JoinSet<()>,
    closing: &watch::Sender<bool>,
    hurry: impl Future<Output = ()>,
) -> usize {
    state.set_phase(Phase::Draining);
    closing.send_replace(true);
    let limit = tokio::time::sleep(Duration::from_millis(state.config().timeouts.drain_ms));
    let why = tokio::select! {
        biased;
        () = all_closed(open) => None,
        () = hurry => Some("a second signal came"),
        () = limit => Some("timeouts.drain_ms is over"),
    };
    let cut = if why.is_none() { 0 } else { open.len() };
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
