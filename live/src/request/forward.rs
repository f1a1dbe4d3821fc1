//! The life of one request: announce it to the core, carry out the core's commands, pass the answer on.

use crate::config::Config;
use crate::driver::mailbox::Command;
use crate::observe::explain;
use crate::request::attempt::{Begun, FailedAttempt, Ready, attempt};
use crate::request::body::Body;
use crate::request::client_request::ClientRequest;
use crate::request::context::ConnectionContext;
use crate::request::cors;
use crate::request::early_body::{EarlyBody, Form, Passed};
use crate::request::endpoints::{self, Endpoint, PathError};
use crate::request::engine_admin;
use crate::request::error_json::Dialect;
use crate::request::errors;
use crate::request::guard::RequestGuard;
use crate::request::headers::{self, HeaderFlags};
use crate::request::kept_lists;
use crate::request::model_pages;
use crate::request::response_body::{BROKE, ProxiedBody};
use crate::request::tunnel;
use crate::request::whole_lines;
use crate::state::Phase;
use crate::upstream::replica::Upstream;
use crate::wire::answer_tap::Framing;
use gorgo_core::fleet::Kind;
use gorgo_core::record::Status;
use gorgo_core::router::{Dispatch, EndReason};
use http::header::{CONTENT_LENGTH, HeaderMap, ORIGIN};
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// The future of an answer. Boxed, since hyper moves it and keeps room for one in every connection.
pub(crate) type Answering = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

/// Answers one request that is not the admin API's.
pub(crate) fn handle(
    context: Arc<ConnectionContext>,
    config: Arc<Config>,
    request: Request<Incoming>,
    flags: HeaderFlags,
) -> Answering {
    if may_be_anthropics(request.uri().path()) && dialect_of(request.uri().path()) == Dialect::Anthropic {
        return Box::pin(async move { Ok(errors::as_anthropics(with_cors(context, config, request, flags).await?)) });
    }
    with_cors(context, config, request, flags)
}

/// Whether a path is worth a closer look, which costs an allocation.
fn may_be_anthropics(path: &str) -> bool {
    path.ends_with("messages") || path.ends_with('/') || path.contains('%')
}

/// Whether a path may lead to the list of models, which is not looked at more closely for each request.
fn may_be_models(path: &str) -> bool {
    path.starts_with("/v1/models") || path.contains('%')
}

/// Answers a request as the page that sent it, if one did, may read it.
fn with_cors(
    context: Arc<ConnectionContext>,
    config: Arc<Config>,
    request: Request<Incoming>,
    flags: HeaderFlags,
) -> Answering {
    let origin = request.headers().get(ORIGIN).filter(|_| flags.origin).cloned();
    if origin.is_none() && config.cors.origins.is_empty() {
        return judge_and_answer(context, config, request, flags);
    }
    Box::pin(async move {
        let answered = if cors::is_preflight(request.method(), request.headers()) {
            cors::preflight(&config, request.headers())
        } else {
            origin.as_ref().and_then(|origin| {
                let is_websocket = flags.upgrade && headers::asks_for_websocket(request.method(), request.headers());
                let is_open = || context.state.with_keys(|keys| keys.may_ask(None));
                let authority = headers::authority(request.uri(), request.headers());
                cors::foreign(&config, origin, authority, is_websocket, is_open)
            })
        };
        let mut response = match answered {
            Some(response) => response,
            None => {
                let mut response = judge_and_answer(context, Arc::clone(&config), request, flags).await?;
                cors::drop_engines(&config, &mut response);
                response
            }
        };
        cors::tell(&config, origin.as_ref(), &mut response);
        Ok(response)
    })
}

/// Passes a request on to a replica.
fn pass(
    context: Arc<ConnectionContext>,
    config: Arc<Config>,
    request: Request<Incoming>,
    flags: HeaderFlags,
    endpoint: Endpoint,
) -> Answering {
    let switches = flags.upgrade && headers::asks_for_websocket(request.method(), request.headers());
    let is_list = kept_lists::is_list(request.method(), request.uri());
    match ClientRequest::admit(context, config, request, flags, endpoint) {
        Ok(request) if switches => Box::pin(async move { Ok(tunnel::answer(request).await) }),
        Ok(request) if is_list => Box::pin(async move {
            match kept_lists::answer(request).await {
                Ok(response) => Ok(response),
                Err(request) => answer(request).await,
            }
        }),
        Ok(request) => Box::pin(answer(request)),
        Err(refused) => Box::pin(std::future::ready(Ok(*refused))),
    }
}

/// Answers a request as its path asks for.
fn judge_and_answer(
    context: Arc<ConnectionContext>,
    config: Arc<Config>,
    request: Request<Incoming>,
    flags: HeaderFlags,
) -> Answering {
    let refused = |status, code: &'static str, message: &str| -> Answering {
        Box::pin(std::future::ready(Ok(errors::refusal(status, code, message))))
    };
    if matches!(*request.method(), Method::CONNECT | Method::TRACE) {
        let message = format!("{} is not served here; use GET or POST", request.method());
        return refused(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", &message);
    }
    match endpoints::judge(request.method(), request.uri().path()) {
        Ok(Endpoint::Administration) => {
            Box::pin(async move { Ok(engine_admin::answer(context, config, request, flags).await) })
        }
        Ok(endpoint) if may_be_models(request.uri().path()) => {
            let may =
                || context.state.with_keys(|keys| headers::opens(request.headers(), flags, |key| keys.may_ask(key)));
            match model_pages::answer(&context, request.method(), request.uri().path(), may) {
                Some(response) => Box::pin(std::future::ready(Ok(response))),
                None => pass(context, config, request, flags, endpoint),
            }
        }
        Ok(endpoint) => pass(context, config, request, flags, endpoint),
        Err(PathError::Ambiguous) => {
            let message = "the path has dot segments, empty segments or characters that servers read differently; \
                           write it plainly";
            refused(StatusCode::BAD_REQUEST, "bad_path", message)
        }
        Err(PathError::Unknown) => {
            let message = format!("`{}` is not served here; see /v1/models for what is", request.uri().path());
            refused(StatusCode::NOT_FOUND, "unknown_endpoint", &message)
        }
    }
}

async fn answer(mut request: Box<ClientRequest>) -> Result<Response<Body>, Infallible> {
    let guard = match request.announce().await {
        Ok(guard) => guard,
        Err(refused) => return Ok(*refused),
    };
    if request.context.state.phase() == Phase::Ending {
        return Ok(stopped_response(guard)); // it arrived after the driver had stopped all requests
    }
    Ok(carry_out(guard, request, None).await)
}

/// A dispatch at its replica, and the stream that has begun there.
struct Attempt {
    dispatch: Dispatch,
    upstream: Arc<Upstream>,
    begun: Option<Box<Ready>>,
}

/// A response of which the head and a part of the body have been passed on, and its attempt.
struct Early {
    passed: Arc<Passed>,
    attempt: Attempt,
}

/// The rest of a response whose head has been passed on.
fn go_on(
    guard: Box<RequestGuard>,
    request: Box<ClientRequest>,
    early: Early,
) -> Pin<Box<dyn Future<Output = Response<Body>> + Send>> {
    Box::pin(carry_out(guard, request, Some(early)))
}

/// Carries out the core's commands until there is a response: all of it, or, once a part was passed on `early`, the
/// rest.
async fn carry_out(mut guard: Box<RequestGuard>, request: Box<ClientRequest>, early: Option<Early>) -> Response<Body> {
    let mut failed: Option<Box<FailedAttempt>> = None;
    let (passed, mut resumed) = match early {
        Some(Early { passed, attempt }) => (Some(passed), Some(attempt)),
        None => (None, None),
    };
    loop {
        let Attempt { dispatch, upstream, begun } = match resumed.take() {
            Some(attempt) => attempt,
            None => match guard.next_command().await {
                Command::Stop => return stopped_response(guard),
                Command::Queued | Command::Cancel => continue,
                Command::Done { reason, .. } => return end_response(guard, reason, failed, passed.as_deref()),
                Command::Dispatch { dispatch, upstream, decision, .. } => {
                    failed = None;
                    guard.record_dispatch(dispatch, &upstream, decision);
                    Attempt { dispatch, upstream, begun: None }
                }
            },
        };
        let trying = attempt(&request, &upstream, &dispatch, begun);
        tokio::select! {
            biased;
            result = trying => match result {
                Ok(Begun::Answer(ready)) => {
                    request.found_at(&upstream, ready.head.status);
                    match pass_on(guard, *ready, &upstream, &request) {
                    Ok(response) => return response,
                    Err(back) => guard = back,
                    }
                }
                Ok(Begun::Stream(mut ready)) => {
                    let commits = !ready.tap.has_only_heartbeats();
                    if commits && !ready.is_committed && !guard.commit() {
                        continue; // the core has withdrawn this attempt
                    }
                    ready.is_committed = commits;
                    guard.stream_id = ready.tap.id().map(str::to_owned);
                    let is_events = ready.framing == Framing::Events;
                    let held =
                        if is_events { whole_lines::take(&mut ready.held) } else { std::mem::take(&mut ready.held) };
                    let attempt = |ready| Attempt { dispatch, upstream: Arc::clone(&upstream), begun: Some(ready) };
                    if let Some(passed) = &passed {
                        passed.push(held);
                        resumed = Some(attempt(ready));
                        continue;
                    }
                    let head = stream_head(&mut guard, &ready, &upstream, &request);
                    let path = request.parts.uri.path();
                    let form = if is_events { Form::Events(dialect_of(path)) } else { Form::Json };
                    let passed = Passed::new(form, held);
                    let early = Early { passed: Arc::clone(&passed), attempt: attempt(ready) };
                    let body = EarlyBody::new(passed, go_on(guard, request, early));
                    return Response::from_parts(head, Body::Early(Box::new(body)));
                }
                Err(attempt) => {
                    if let Some(passed) = &passed {
                        passed.end_event();
                    }
                    guard.report_failure(attempt.failure, &attempt.why, &upstream, attempt.dispatches());
                    failed = Some(attempt);
                }
            },
            command = guard.next_command() => {
                // The attempt was dropped, which closed its connection. `Stop` aborts the request itself.
                if !matches!(command, Command::Stop) {
                    guard.abort_upstream();
                }
                guard.put_back(command);
            }
        }
    }
}

/// The head of an answer whose first token has not come.
fn stream_head(
    guard: &mut RequestGuard,
    ready: &Ready,
    upstream: &Upstream,
    request: &ClientRequest,
) -> http::response::Parts {
    guard.streamed = ready.framing == Framing::Events;
    guard.row.status_code = ready.head.status.as_u16();
    let mut head = Response::new(()).into_parts().0;
    head.status = ready.head.status;
    head.headers = ready.head.headers.clone();
    head.headers.remove(CONTENT_LENGTH); // another replica may answer
    finish_head(&mut head, guard, Some(upstream), request);
    head
}

pub(super) fn finish_head(
    head: &mut http::response::Parts,
    guard: &RequestGuard,
    upstream: Option<&Upstream>,
    request: &ClientRequest,
) {
    // HTTP/2 frames its own bodies.
    let http2 = request.parts.version == http::Version::HTTP_2;
    head.version = if http2 { http::Version::HTTP_2 } else { http::Version::HTTP_11 };
    if let Some(upstream) = upstream {
        request.hide_engines(&mut head.headers, upstream);
    }
    set_response_headers(&mut head.headers, guard, upstream);
}

/// The replica's answer as the client's response; the guard back if the core has withdrawn this attempt meanwhile.
fn pass_on(
    mut guard: Box<RequestGuard>,
    mut ready: Ready,
    upstream: &Upstream,
    request: &ClientRequest,
) -> Result<Response<Body>, Box<RequestGuard>> {
    guard.streamed = ready.framing == Framing::Events;
    guard.row.status_code = ready.head.status.as_u16();
    if guard.streamed {
        ready.head.headers.remove(CONTENT_LENGTH); // an error event may follow
    }
    finish_head(&mut ready.head, &guard, Some(upstream), request);
    if let Some(whole) = ready.whole {
        return match guard.finish_at_once(&ready.tap) {
            true => Ok(Response::from_parts(ready.head, Body::Full(whole))),
            false => Err(guard),
        };
    }
    if !guard.report_first_token() {
        return Err(guard);
    }
    if upstream.refuses_key.load(Ordering::Relaxed) {
        upstream.refuses_key.store(false, Ordering::Relaxed);
    }
    if !guard.streamed || ready.tap.content() {
        guard.row.first_token = Some(guard.now());
    }
    let gap = Duration::from_millis(request.config.timeouts.idle_gap_ms);
    let head = ready.head;
    let ends = (ready.json_end, ready.until_close);
    let dialect = dialect_of(request.parts.uri.path());
    let body = ProxiedBody::new(ready.held, ready.body, ready.tap, guard, dialect, gap, ends);
    Ok(Response::from_parts(head, Body::Proxied(Box::new(body))))
}

/// Whose events the answer to a request for this path has.
fn dialect_of(path: &str) -> Dialect {
    Dialect::of(&endpoints::resolved(path).unwrap_or_default())
}

/// The response to a request that waits for its answer when the router ends open requests.
pub(super) fn stopped_response(mut guard: Box<RequestGuard>) -> Response<Body> {
    let reason = EndReason::RouterStopped;
    let response = errors::ended(reason, reason.sentence());
    guard.row.status_code = response.status().as_u16();
    guard.stop();
    response
}

/// The response to a request that ended without an answer: the last replica's own error, or the router's. Once a
/// part of an answer has `passed`, the error can be sent only in its form.
pub(super) fn end_response(
    mut guard: Box<RequestGuard>,
    reason: EndReason,
    failed: Option<Box<FailedAttempt>>,
    passed: Option<&Passed>,
) -> Response<Body> {
    let failed = failed.filter(|_| reason.status() == Status::Failed).map(|failed| *failed);
    let passes = |response: &Response<Body>| passed.is_none_or(|passed| passed.can_carry(response));
    let mut response = match failed {
        Some(FailedAttempt { response: Some(mut response), .. }) if passes(&response) => {
            headers::strip_hop_by_hop(response.headers_mut());
            if let Body::Rest(rest) = response.body_mut() {
                rest.hold(guard.take_permit());
            }
            response
        }
        Some(FailedAttempt { why, .. }) if reason == EndReason::AfterFirstToken => {
            errors::refusal(StatusCode::BAD_GATEWAY, BROKE, &why)
        }
        Some(FailedAttempt { why, .. }) => errors::ended(reason, &why),
        None => {
            let why = errors::why_ended(&guard.context.state, reason, guard.model());
            let response = errors::ended(reason, &why.told);
            guard.why.get_or_insert(why.logged);
            response
        }
    };
    guard.row.status_code = response.status().as_u16();
    let upstream = None;
    set_response_headers(response.headers_mut(), &guard, upstream);
    headers::tell_attempts(response.headers_mut(), guard.tells_dispatches.then_some(guard.dispatches));
    guard.close(reason);
    response
}

fn set_response_headers(map: &mut HeaderMap, guard: &RequestGuard, upstream: Option<&Upstream>) {
    headers::strip_hop_by_hop(map);
    let row = &guard.row;
    map.insert(headers::REQUEST_ID, guard.request_id.clone());
    if let Some(decision) = &guard.decision {
        let name = row.replica.as_ref().map_or("-", |replica| &*replica.name);
        if let Some(line) = explain::header(decision, name) {
            map.insert(headers::DECISION, line);
        }
    }
    // A peer has named the engine that answered.
    if let Some(name) = upstream.filter(|u| u.kind != Kind::Peer).and_then(|u| u.shown.clone()) {
        map.insert(headers::REPLICA, name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_encoded_path_has_the_dialect_of_the_plain_one() {
        assert_eq!(dialect_of("/v1/%6dessages"), Dialect::Anthropic);
        assert_eq!(dialect_of("/v1/chat/completions"), Dialect::OpenAi);
    }
}
