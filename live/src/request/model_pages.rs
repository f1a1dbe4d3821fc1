//! `/v1/models` and `/v1/models/NAME`: the union of what the replicas serve.

use crate::request::body::Body;
use crate::request::context::ConnectionContext;
use crate::request::endpoints::resolved;
use crate::request::errors::{Own, model_not_found, wrong_key};
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Response};
use serde_json::Value;

/// The answer to a request for the models; `None` if no replica has a list yet, so that one is to be asked.
pub(crate) fn answer(
    context: &ConnectionContext,
    method: &Method,
    path: &str,
    may: impl FnOnce() -> bool,
) -> Option<Response<Body>> {
    let path = resolved(path).ok()?;
    let wanted =
        path.strip_prefix("/v1/models").filter(|_| matches!(*method, Method::GET | Method::HEAD))?.trim_matches('/');
    let state = &context.state;
    if !may() {
        context.tell_client_refused();
        return Some(wrong_key());
    }
    let list = state.models.list()?;
    if wanted.is_empty() {
        return Some(page(&list));
    }
    let entry = list["data"].as_array()?.iter().find(|entry| entry["id"] == wanted);
    match entry {
        Some(entry) => Some(page(entry)),
        None if state.models.replicas_of(wanted, false).is_err() => Some(model_not_found(wanted)),
        None => None,
    }
}

fn page(value: &Value) -> Response<Body> {
    let mut response = Response::new(Body::Full(Bytes::from(value.to_string())));
    response.extensions_mut().insert(Own(None));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
