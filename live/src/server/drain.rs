//! Shutdown: unready first, then no new connections, then the open requests finish or are ended.

use crate::state::{AppState, Phase};
use std::future::Future;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Time for requests that are ended to send their last event.
const LAST_EVENT: Duration = Duration::from_secs(1);

/// Waits for `stop`, then keeps the port open as "not ready" until load balancers have noticed.
pub(super) async fn settle(state: &AppState, stop: impl Future<Output = ()>) {
    stop.await;
    state.set_phase(Phase::Settling);
    tracing::info!("stopping: not ready from now on");
    tokio::time::sleep(Duration::from_millis(state.config().timeouts.settle_ms)).await;
}

/// Closes connections as their requests finish; after `timeouts.drain_ms` ends the rest. Returns the number of
/// connections that did not finish in time. The listener must be closed before.
pub(super) async fn drain(state: &AppState, open: &mut JoinSet<()>, closing: &watch::Sender<bool>) -> usize {
    state.set_phase(Phase::Draining);
    closing.send_replace(true);
    let limit = Duration::from_millis(state.config().timeouts.drain_ms);
    let drained = tokio::time::timeout(limit, all_closed(open)).await;
    let cut = if drained.is_ok() { 0 } else { open.len() };
    if cut > 0 {
        tracing::warn!(cut, "timeouts.drain_ms is over; ending the requests that are still open");
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
