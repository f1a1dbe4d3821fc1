//! Reads which models a replica serves.

use crate::signals::pages::fetch;
use crate::state::AppState;
use crate::upstream::replica::Upstream;
use std::sync::Arc;

/// Asks a replica for its `/v1/models`. Without an answer its last list stays.
pub(crate) async fn read(node: &AppState, upstream: &Arc<Upstream>) {
    if let Ok((status, page)) = fetch(node, upstream, "/v1/models").await
        && status.is_success()
    {
        node.models.listed(upstream, &page);
    }
}
