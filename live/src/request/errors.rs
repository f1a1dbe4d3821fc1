//! The router's own error responses, in OpenAI's or Anthropic's shape.

use crate::request::body::Body;
use crate::request::error_json::{Dialect, error_json};
use crate::state::AppState;
use bytes::Bytes;
use gorgo_core::router::EndReason;
use http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, Response, StatusCode};

/// Marks a response as the router's own, in its extensions: with the `error.code` in its body if it is a refusal.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Own(pub(crate) Option<&'static str>);

/// The router's own error response. Its type follows the status as OpenAI's do; 429 and 503 carry `Retry-After`.
#[cold]
pub(crate) fn refusal(status: StatusCode, code: &'static str, message: &str) -> Response<Body> {
    let kind = match status {
        StatusCode::UNAUTHORIZED => "authentication_error",
        StatusCode::FORBIDDEN => "permission_error",
        StatusCode::NOT_FOUND => "not_found_error",
        StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
        status if status.is_client_error() => "invalid_request_error",
        _ => "server_error",
    };
    let mut response = Response::new(Body::Full(Bytes::from(error_json(kind, code, message))));
    *response.status_mut() = status;
    response.extensions_mut().insert(Own(Some(code)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if status == StatusCode::UNAUTHORIZED {
        // RFC 9110, 15.5.2. No browser opens a dialog for this scheme.
        response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    if matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

/// A refusal of this router's in the shape that clients of Anthropic's API read; other responses as they are.
pub(super) fn as_anthropics(response: Response<Body>) -> Response<Body> {
    if !matches!(response.extensions().get(), Some(Own(Some(_)))) {
        return response;
    }
    response.map(|body| match body {
        Body::Full(text) => Body::Full(Dialect::Anthropic.error_of(&String::from_utf8_lossy(&text)).to_string().into()),
        other => other,
    })
}

/// The response to a request whose key is wrong or missing.
#[cold]
pub(super) fn wrong_key() -> Response<Body> {
    let message = "send this router's API key as `Authorization: Bearer KEY`";
    refusal(StatusCode::UNAUTHORIZED, "invalid_api_key", message)
}

/// The response to a request for a model that no replica serves, as OpenAI words it.
#[cold]
pub(crate) fn model_not_found(model: &str) -> Response<Body> {
    let shown: String = model.chars().take(128).collect();
    let message = format!("The model `{shown}` does not exist here; GET /v1/models lists those that are served");
    let mut response = refusal(StatusCode::NOT_FOUND, "model_not_found", &message);
    let text = error_json("invalid_request_error", "model_not_found", &message);
    *response.body_mut() = Body::Full(Bytes::from(text));
    response
}

/// Why a request ended that no replica answered.
#[derive(Debug)]
pub(super) struct Why {
    /// For the client.
    pub(super) told: String,
    /// For the operator's log, which may name files and addresses of this machine.
    pub(super) logged: String,
}

/// The sentences on why a request ended that no replica answered.
pub(super) fn why_ended(state: &AppState, reason: EndReason, model: Option<&str>) -> Why {
    let told = match reason {
        EndReason::NoReplicas => {
            if let Some(why) = state.discovered.trouble() {
                return Why {
                    told:
                        "no replica is known to this router, since its discovery finds none; its log and `gorgo proxy \
                           status` tell why"
                            .to_owned(),
                    logged: format!("no replica is known to this router, since {why}"),
                };
            }
            None
        }
        EndReason::NoHealthyReplica => {
            let (drained, usable, all) = state.driver.read(|router, _, now| {
                let gates = &router.config().gates;
                let here = || router.replicas().iter().filter(|r| !r.removed);
                let usable = here().any(|r| r.is_usable(now, gates));
                (here().filter(|r| r.draining).count(), usable, here().count())
            });
            match (all - drained, model) {
                (_, Some(model)) if usable => {
                    let shown: String = model.chars().take(128).collect();
                    Some(format!("no replica that serves `{shown}` is in service; see `gorgo proxy status`"))
                }
                _ if drained == 0 => None,
                (0, _) => Some(format!("all {all} replicas are drained; `gorgo proxy servers undrain NAME` ends that")),
                (down, _) => Some(format!(
                    "{drained} of {all} replicas are drained, and {down} do not answer their probes; see `gorgo proxy \
                     status`"
                )),
            }
        }
        _ => None,
    };
    let told = told.unwrap_or_else(|| reason.sentence().to_owned());
    Why { logged: told.clone(), told }
}

/// The response to a request that ended for `reason`.
pub(crate) fn ended(reason: EndReason, message: &str) -> Response<Body> {
    let status = StatusCode::from_u16(reason.http_status()).unwrap_or(StatusCode::BAD_GATEWAY);
    let mut response = refusal(status, reason.code(), message);
    if let Some(wait) = reason.retry_after_s() {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(wait));
    }
    response
}
