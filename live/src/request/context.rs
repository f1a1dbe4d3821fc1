//! What all requests of one client connection share.

use crate::request::headers::ClientAddress;
use crate::server::activity::Activity;
use crate::state::AppState;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// The context of a connection's requests. One a connection: a reference count shared by all connections would move
/// between cores with every request.
#[derive(Debug)]
pub(crate) struct ConnectionContext {
    pub(crate) state: Arc<AppState>,
    pub(crate) client: ClientAddress,
    pub(crate) activity: Activity,
}

impl ConnectionContext {
    /// The context of a connection that was just accepted.
    pub(crate) fn new(state: &Arc<AppState>, client: ClientAddress) -> Self {
        state.connections.fetch_add(1, Ordering::Relaxed);
        Self { state: Arc::clone(state), client, activity: Activity::new() }
    }
}

impl Drop for ConnectionContext {
    fn drop(&mut self) {
        self.state.connections.fetch_sub(1, Ordering::Relaxed);
    }
}
