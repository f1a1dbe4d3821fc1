//! Aborting a request at an SGLang engine by its id.

use crate::fleet::Upstream;
use crate::node::Node;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::uri::PathAndQuery;
use http::{HeaderValue, Request};
use http_body_util::Full;
use std::sync::Arc;
use std::time::Duration;

/// SGLang aborts every request whose id *begins* with the one given, so an id that a client could choose short
/// would abort strangers. Its own ids have 32 characters.
const LEAST_LENGTH: usize = 24;

/// Tells the engine, in the background. Only engines that showed themselves as SGLang are told.
pub(crate) fn abort(node: &Arc<Node>, upstream: &Arc<Upstream>, rid: &str) {
    if rid.len() < LEAST_LENGTH || !upstream.is_sglang() {
        return;
    }
    let body = Bytes::from(serde_json::json!({"rid": rid, "abort_all": false}).to_string());
    let mut request = Request::post(upstream.endpoint.uri(&PathAndQuery::from_static("/abort_request")));
    if let Some(key) = &upstream.authorization {
        request = request.header(AUTHORIZATION, key.clone());
    }
    let request = request.header(CONTENT_TYPE, HeaderValue::from_static("application/json")).body(Full::new(body));
    let (Ok(request), Ok(runtime)) = (request, tokio::runtime::Handle::try_current()) else { return };
    let sent = node.pool.request(request);
    runtime.spawn(async move {
        let _ = tokio::time::timeout(Duration::from_secs(2), sent).await;
    });
}
