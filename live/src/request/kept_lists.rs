//! `GET /v1/files` and `/v1/batches`: the union of what the engines keep, since each knows only what it made.
//!
//! Further pages (`after=ID`) come from the engine that made the id.

use crate::request::body::Body;
use crate::request::client_request::ClientRequest;
use crate::request::endpoints;
use crate::request::headers;
use crate::request::residency::Named;
use crate::upstream::connection;
use crate::upstream::replica::Upstream;
use bytes::Bytes;
use futures_util::future::join_all;
use gorgo_core::fleet::{Health, Kind};
use http::header::{CONTENT_TYPE, HeaderMap};
use http::uri::PathAndQuery;
use http::{HeaderValue, Method, Response, Uri};
use http_body_util::{BodyExt, Full, Limited};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

/// Most bytes of an engine's list.
const LIST: usize = 4 << 20;

/// How long an engine may take; the others' lists are not kept back for longer.
const LIMIT: Duration = Duration::from_secs(5);

/// Whether this asks for the first page of such a list.
pub(super) fn is_list(method: &Method, uri: &Uri) -> bool {
    *method == Method::GET
        && matches!(uri.path().trim_end_matches('/'), "/v1/files" | "/v1/batches")
        && endpoints::listed_after(uri).is_none()
}

/// The union of the engines' lists; the request back if there is nothing to join: one engine, or no list.
pub(super) async fn answer(request: Box<ClientRequest>) -> Result<Response<Body>, Box<ClientRequest>> {
    let (state, parts) = (&request.context.state, &request.parts);
    let nobody = Named { model: None, may_be_any: false };
    let has_fence = parts.headers.contains_key(headers::FENCE);
    let Ok(fence) = state.residency().fence(&parts.headers, nobody, has_fence) else { return Err(request) };
    let engines: Vec<Arc<Upstream>> = state.driver.read(|router, upstreams, _| {
        let here = upstreams.iter().zip(router.replicas());
        here.filter(|(u, r)| !r.removed && r.health != Health::Down && u.kind != Kind::Peer)
            .filter(|(_, r)| fence.as_ref().is_none_or(|fence| fence.admits_replica(&r.spec)))
            .map(|(u, _)| Arc::clone(u))
            .collect()
    });
    if engines.len() < 2 {
        return Err(request);
    }
    let id = headers::request_id(&parts.headers, state.seed, state.driver.next_id());
    let mut to_engines = parts.headers.clone();
    state.with_keys(|keys| headers::to_upstream(&mut to_engines, 0, &id, &request.context.client, keys));
    let root = PathAndQuery::from_static("/");
    let path = parts.uri.path_and_query().unwrap_or(&root);
    let lists = join_all(engines.iter().map(|engine| list_of(&request, engine, path, &to_engines))).await;
    if lists.iter().all(Option::is_none) {
        return Err(request);
    }
    for (engine, list) in engines.iter().zip(&lists) {
        let entries = list.iter().filter_map(|list| list["data"].as_array()).flatten();
        entries.filter_map(|entry| entry["id"].as_str()).for_each(|id| state.kept_ids.learn(id, engine));
    }
    let mut response = Response::new(Body::Full(Bytes::from(union(lists.into_iter().flatten()).to_string())));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert(headers::REQUEST_ID, id);
    Ok(response)
}

/// The list of one engine; `None` if it has none.
async fn list_of(
    request: &ClientRequest,
    engine: &Arc<Upstream>,
    path: &PathAndQuery,
    map: &HeaderMap,
) -> Option<Value> {
    let keep_alive = Duration::from_millis(request.config.timeouts.keep_alive_ms);
    let make = || engine.request(Method::GET, path, map.clone(), Full::new(Bytes::new()));
    let exchange = async {
        let sent = connection::send(&request.context.state.connector, engine, keep_alive, make).await;
        let response = sent.ok().filter(|response| response.status().is_success())?;
        let page = Limited::new(response.into_body(), LIST).collect().await.ok()?.to_bytes();
        serde_json::from_slice::<Value>(&page).ok().filter(|page| page["data"].is_array())
    };
    tokio::time::timeout(LIMIT, exchange).await.ok().flatten()
}

/// All entries of the lists, the latest first.
fn union(lists: impl Iterator<Item = Value>) -> Value {
    let (mut data, mut has_more) = (Vec::new(), false);
    for mut list in lists {
        has_more |= list["has_more"] == true;
        if let Value::Array(entries) = list["data"].take() {
            data.extend(entries);
        }
    }
    data.sort_by_key(|entry| std::cmp::Reverse(entry["created_at"].as_i64()));
    let id = |entry: Option<&Value>| entry.map(|entry| entry["id"].clone());
    json!({
        "object": "list", "first_id": id(data.first()), "last_id": id(data.last()), "has_more": has_more, "data": data,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_joined_by_their_time() {
        let lists = [
            json!({"data": [{"id": "b", "created_at": 2}, {"id": "a", "created_at": 1}], "has_more": false}),
            json!({"data": [{"id": "c", "created_at": 3}], "has_more": true}),
            json!({"data": []}),
        ];
        let all = union(lists.into_iter());
        let ids: Vec<_> = all["data"].as_array().unwrap().iter().map(|entry| entry["id"].as_str().unwrap()).collect();
        assert_eq!((ids, &all["has_more"], &all["last_id"]), (vec!["c", "b", "a"], &json!(true), &json!("a")));
    }

    #[test]
    fn only_the_first_page_is_joined() {
        let is = |method: Method, uri: &str| is_list(&method, &uri.parse().unwrap());
        assert!(is(Method::GET, "/v1/files") && is(Method::GET, "/v1/batches/?limit=5"));
        assert!(!is(Method::POST, "/v1/files") && !is(Method::GET, "/v1/files/f"));
        assert!(!is(Method::GET, "/v1/files?limit=5&after=f"));
    }
}
