//! What all requests of one client connection share.

use crate::observe::changes::Change;
use crate::request::headers::ClientAddress;
use crate::server::activity::Activity;
use crate::state::AppState;
use http::{StatusCode, Uri};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Characters of a refused request's path that are logged.
const PATH: usize = 80;

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

    /// Logs that a client's request is refused, since its key is wrong or missing.
    pub(super) fn tell_client_refused(&self) {
        self.state.driver.observers().tell(Change::ClientRefused { from: self.client.to_string() });
    }

    /// Logs that an administrator's request is refused with this status.
    pub(crate) fn tell_admin_refused(&self, uri: &Uri, status: StatusCode) {
        let why = match status {
            StatusCode::UNAUTHORIZED => "its key is wrong or missing",
            StatusCode::FORBIDDEN => "its Host or Origin is not this router's",
            _ => return,
        };
        // Without the query, where some write their key.
        let path: String = uri.path().chars().take(PATH).flat_map(char::escape_debug).collect();
        self.state.driver.observers().tell(Change::AdminRefused { from: self.client.to_string(), path, why });
    }
}

impl Drop for ConnectionContext {
    fn drop(&mut self) {
        self.state.connections.fetch_sub(1, Ordering::Relaxed);
    }
}
