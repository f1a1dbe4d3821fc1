//! What all requests of one client connection share.

use crate::request::headers::ClientAddress;
use crate::server::activity::Activity;
use crate::state::AppState;
use std::sync::Arc;

/// The context of a connection's requests. One a connection: a reference count shared by all connections would move
/// between cores with every request.
#[derive(Debug)]
pub(crate) struct ConnectionContext {
    pub(crate) state: Arc<AppState>,
    pub(crate) client: ClientAddress,
    pub(crate) activity: Activity,
}
