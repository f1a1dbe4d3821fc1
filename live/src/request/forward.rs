//! The way of a request: announce it to the core, carry out the core's commands, pass the answer on.

use crate::config::Config;
use crate::driver::mailbox::Command;
use crate::observe::explain;
use crate::request::attempt::{FailedAttempt, Ready, attempt};
use crate::request::body::Body;
use crate::request::client_request::ClientRequest;
use crate::request::context::ConnectionContext;
use crate::request::errors;
use crate::request::guard::RequestGuard;
use crate::request::headers::{self, HeaderFlags};
use crate::request::response_body::ProxiedBody;
use crate::state::Phase;
use crate::upstream::replica::Upstream;
use crate::wire::answer_tap::Framing;
use gorgo_core::fleet::Kind;
use gorgo_core::record::Status;
use gorgo_core::router::EndReason;
use http::header::HeaderMap;
use http::{Request, Response};
use hyper::body::Incoming;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
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
    match ClientRequest::admit(context, config, request, flags) {
        Ok(request) => Box::pin(answer(request)),
        Err(refused) => Box::pin(std::future::ready(Ok(*refused))),
    }
}

async fn answer(mut request: Box<ClientRequest>) -> Result<Response<Body>, Infallible> {
    let guard = match request.announce().await {
        Ok(guard) => guard,
        Err(refused) => return Ok(*refused),
    };
    Ok(carry_out(guard, &request).await)
}

/// Carries out the core's commands until there is a response.
async fn carry_out(mut guard: Box<RequestGuard>, request: &ClientRequest) -> Response<Body> {
    if request.context.state.phase() == Phase::Ending {
        return stopped_response(guard); // it arrived after the driver had stopped all requests
    }
    let mut failed: Option<Box<FailedAttempt>> = None;
    let mut next = guard.next_command().await;
    loop {
        next = match next {
            Command::Stop => return stopped_response(guard),
            Command::Queued | Command::Cancel => guard.next_command().await,
            Command::Done { reason, .. } => return end_response(guard, reason, failed),
            Command::Dispatch { dispatch, upstream, decision, .. } => {
                failed = None;
                guard.record_dispatch(dispatch, &upstream, decision);
                let keep_alive = Duration::from_millis(request.config.timeouts.keep_alive_ms);
                let make = || request.to_replica(&upstream, &dispatch);
                let trying = attempt(&request.context.state.connector, &upstream, keep_alive, make, request.has_prompt);
                tokio::select! {
                    biased;
                    result = trying => {
                        match result {
                            Ok(ready) => match pass_on(guard, *ready, &upstream, request) {
                                Ok(response) => return response,
                                Err(back) => guard = back,
                            },
                            Err(attempt) => {
                                guard.report_failure(attempt.failure);
                                failed = Some(attempt);
                            }
                        }
                        guard.next_command().await
                    },
                    command = guard.next_command() => {
                        // The attempt was dropped, which closed its connection. `Stop` aborts the request itself.
                        if !matches!(command, Command::Stop) {
                            guard.abort_upstream();
                        }
                        command
                    }
                }
            }
        };
    }
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
    // HTTP/2 frames its own bodies.
    let http2 = request.parts.version == http::Version::HTTP_2;
    ready.head.version = if http2 { http::Version::HTTP_2 } else { http::Version::HTTP_11 };
    set_response_headers(&mut ready.head.headers, &guard, Some(upstream));
    if let Some(whole) = ready.whole {
        return match guard.finish_at_once(&ready.tap) {
            true => Ok(Response::from_parts(ready.head, Body::Full(whole))),
            false => Err(guard),
        };
    }
    if !guard.report_first_token() {
        return Err(guard);
    }
    if !guard.streamed || ready.tap.content() {
        guard.row.first_token = Some(guard.now());
    }
    let gap = Duration::from_millis(request.config.timeouts.idle_gap_ms);
    let body = ProxiedBody::new(ready.held, ready.body, ready.tap, guard, gap);
    Ok(Response::from_parts(ready.head, Body::Proxied(Box::new(body))))
}

/// The response to a request that waits for its answer when the router ends open requests.
fn stopped_response(mut guard: Box<RequestGuard>) -> Response<Body> {
    let reason = EndReason::RouterStopped;
    let response = errors::ended(reason, reason.sentence());
    guard.row.status_code = response.status().as_u16();
    guard.stop();
    response
}

/// The response to a request that ended without an answer: the last replica's own error, or the router's.
fn end_response(mut guard: Box<RequestGuard>, reason: EndReason, failed: Option<Box<FailedAttempt>>) -> Response<Body> {
    let failed = failed.filter(|_| reason.status() == Status::Failed).map(|failed| *failed);
    let mut response = match failed {
        Some(FailedAttempt { response: Some(mut response), .. }) => {
            headers::strip_hop_by_hop(response.headers_mut());
            response
        }
        Some(FailedAttempt { why, .. }) => errors::ended(reason, &why),
        None => errors::ended(reason, reason.sentence()),
    };
    guard.row.status_code = response.status().as_u16();
    let upstream = None;
    set_response_headers(response.headers_mut(), &guard, upstream);
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
