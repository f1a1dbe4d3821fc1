//! Administrative requests to engines (`/flush_cache`, `/v1/load_lora_adapter` ...): they need the admin key, and are
//! sent to every engine, since a client's next request may go to any of them.

use crate::config::Config;
use crate::request::body::Body;
use crate::request::context::ConnectionContext;
use crate::request::endpoints;
use crate::request::errors::refusal;
use crate::request::headers::{self, HeaderFlags};
use crate::request::read_body;
use crate::signals::model_list;
use crate::upstream::connection;
use crate::upstream::replica::Upstream;
use bytes::Bytes;
use futures_util::future::join_all;
use gorgo_core::fleet::Kind;
use gorgo_core::router::ReplicaEvent;
use http::header::{CONTENT_TYPE, HeaderMap};
use http::uri::PathAndQuery;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use serde_json::{Map, Value, json};
use std::sync::Arc;
use std::time::Duration;

/// Most bytes of an engine's answer that are passed on.
const ANSWER: usize = 64 << 10;

/// Longest wait for an engine's answer to a request that only forgets something. Others may load weights for minutes.
const FORGETS: Duration = Duration::from_secs(30);

/// Sends the request to every engine, and answers with what each said.
pub(crate) async fn answer(
    context: Arc<ConnectionContext>,
    config: Arc<Config>,
    request: Request<Incoming>,
    flags: HeaderFlags,
) -> Response<Body> {
    let state = &context.state;
    let (is_set, may) = state.with_keys(|keys| {
        (keys.admin.is_some(), headers::opens(request.headers(), flags, |key| keys.may_administrate(key)))
    });
    if !is_set {
        let message = "engines are administered through this router only with an admin key; set \
                       security.admin_key_file (or GORGO_ADMIN_KEY)";
        return refusal(StatusCode::NOT_FOUND, "unknown_endpoint", message);
    }
    if !may {
        context.tell_admin_refused(request.uri(), StatusCode::UNAUTHORIZED);
        let message = "engines' administration needs the admin key as `Authorization: Bearer KEY`";
        return refusal(StatusCode::UNAUTHORIZED, "invalid_admin_key", message);
    }
    let Ok(_permit) = Arc::clone(&state.request_permits).try_acquire_owned() else {
        let message = "the router holds as many requests as it may (limits.requests); try again soon";
        return refusal(StatusCode::TOO_MANY_REQUESTS, "too_many_requests", message);
    };
    let (mut parts, mut incoming) = request.into_parts();
    let (body, _held) = match read_body::read(state, &config, &parts.headers, &mut incoming).await {
        Ok(read) => read,
        Err(refused) => return *refused,
    };
    let id = headers::new_id(state.seed, state.driver.next_id());
    state.with_keys(|keys| headers::to_upstream(&mut parts.headers, body.len(), &id, &context.client, keys));
    let engines: Vec<Arc<Upstream>> = state.driver.read(|router, upstreams, _| {
        let here = upstreams.iter().zip(router.replicas());
        here.filter(|(u, r)| !r.removed && u.kind != Kind::Peer).map(|(u, _)| Arc::clone(u)).collect()
    });
    let root = PathAndQuery::from_static("/");
    let path = parts.uri.path_and_query().unwrap_or(&root);
    let asked = engines.iter().map(|engine| ask(&context, &config, engine, &parts.method, path, &parts.headers, &body));
    let answers = join_all(asked).await;
    if endpoints::changes_models(path.path()) {
        // The operator's next request may be for the model; without their new lists the router would refuse it.
        join_all(engines.iter().map(|engine| model_list::read(state, engine))).await;
    }
    let mut said = Map::new();
    let mut worst = StatusCode::OK;
    for (engine, (status, answer)) in engines.iter().zip(answers) {
        if status.is_success() && endpoints::empties_cache(path.path()) {
            state.driver.handle_for(engine, ReplicaEvent::Flushed { replica: engine.id });
        }
        if !status.is_success() {
            worst = StatusCode::BAD_GATEWAY;
        }
        said.insert(engine.name.clone(), json!({"status": status.as_u16(), "body": answer}));
    }
    tracing::info!(path = path.path(), replicas = engines.len(), status = worst.as_u16(), "administration of engines");
    let mut response = Response::new(Body::Full(Bytes::from(json!({"replicas": said}).to_string())));
    *response.status_mut() = worst;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// One engine's status and answer, as JSON if it is some; 502 with the reason if there is none.
async fn ask(
    context: &ConnectionContext,
    config: &Config,
    engine: &Arc<Upstream>,
    method: &Method,
    path: &PathAndQuery,
    headers: &HeaderMap,
    body: &Bytes,
) -> (StatusCode, Value) {
    let keep_alive = Duration::from_millis(config.timeouts.keep_alive_ms);
    let limit = Duration::from_millis(config.timeouts.first_token_ms);
    let limit = if endpoints::only_forgets(path.path()) { limit.min(FORGETS) } else { limit };
    let exchange = async {
        let make = || engine.request(method.clone(), path, headers.clone(), Full::new(body.clone()));
        let sent = connection::send(&context.state.connector, engine, keep_alive, make).await;
        let response = sent.map_err(|error| error.to_string())?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER).collect().await.map_err(|error| error.to_string())?;
        let text = String::from_utf8_lossy(&body.to_bytes()).into_owned();
        Ok((status, serde_json::from_str(&text).unwrap_or(Value::String(text))))
    };
    match tokio::time::timeout(limit, exchange).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(why)) => (StatusCode::BAD_GATEWAY, Value::String(why)),
        Err(_) => (StatusCode::GATEWAY_TIMEOUT, Value::String(format!("no answer within {} s", limit.as_secs()))),
    }
}
