//! What all requests of one client connection share.

use crate::observe::changes::Change;
use crate::request::headers::ClientAddress;
use crate::server::activity::Activity;
use crate::state::AppState;
use http::{StatusCode, Uri};
use parking_lot::Mutex;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::oneshot;

/// Characters of a refused request's path that are logged.
const PATH: usize = 80;

/// The work of a connection that has switched to another protocol.
pub(crate) struct Switched(pub(crate) Pin<Box<dyn Future<Output = ()> + Send>>);

impl fmt::Debug for Switched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Switched")
    }
}

/// The context of a connection's requests. One a connection: a reference count shared by all connections would move
/// between cores with every request.
#[derive(Debug)]
pub(crate) struct ConnectionContext {
    pub(crate) state: Arc<AppState>,
    pub(crate) client: ClientAddress,
    pub(crate) activity: Activity,
    switching: Mutex<Option<oneshot::Sender<Switched>>>,
}

impl ConnectionContext {
    /// The context of a connection that was just accepted.
    pub(crate) fn new(state: &Arc<AppState>, client: ClientAddress) -> Self {
        state.connections.fetch_add(1, Ordering::Relaxed);
        Self { state: Arc::clone(state), client, activity: Activity::new(), switching: Mutex::new(None) }
    }

    /// Where the connection's task receives its work after a switch.
    pub(crate) fn switches(&self) -> oneshot::Receiver<Switched> {
        let (sender, receiver) = oneshot::channel();
        *self.switching.lock() = Some(sender);
        receiver
    }

    /// Leaves the work after a switch to the connection's task, which holds the connection's place among
    /// `limits.connections` and is waited for when the router stops.
    pub(super) fn switch(&self, work: impl Future<Output = ()> + Send + 'static) {
        if let Some(sender) = self.switching.lock().take() {
            let _ = sender.send(Switched(Box::pin(work)));
        }
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
