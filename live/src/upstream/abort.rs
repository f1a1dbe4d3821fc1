//! Aborts a request at an SGLang engine by its id.

use crate::supervise;
use crate::upstream::connect::Connector;
use crate::upstream::connection;
use crate::upstream::replica::Upstream;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap};
use http::uri::PathAndQuery;
use http::{HeaderValue, Method};
use http_body_util::Full;
use std::sync::Arc;
use std::time::Duration;

/// SGLang aborts every request whose id *begins* with the one given, so an id that a client could choose short
/// would abort strangers. Its own ids have 32 characters.
const LEAST_LENGTH: usize = 24;

/// Sends the abort in the background, to engines known to be SGLang only.
pub(crate) fn abort(connector: &Connector, keep_alive: Duration, upstream: &Arc<Upstream>, rid: &str) {
    if rid.len() < LEAST_LENGTH || !upstream.is_sglang() {
        return;
    }
    let body = Bytes::from(serde_json::json!({"rid": rid, "abort_all": false}).to_string());
    let path = PathAndQuery::from_static("/abort_request");
    let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/json"))]);
    let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
    let (connector, upstream) = (connector.clone(), Arc::clone(upstream));
    runtime.spawn(supervise::logged("abort at an engine", async move {
        let request = || upstream.request(Method::POST, &path, headers.clone(), Full::new(body.clone()));
        let sent = connection::send(&connector, &upstream, keep_alive, request);
        let _ = tokio::time::timeout(Duration::from_secs(2), sent).await;
    }));
}
