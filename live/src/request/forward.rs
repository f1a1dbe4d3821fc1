//! From a client's request to its answer: read, ask the core, carry out what it says.

use crate::config::Config;
use crate::driver::mailbox::Command;
use crate::observe::explain;
use crate::request::attempt::{Ready, Refused, attempt};
use crate::request::body::Body;
use crate::request::client_request::ClientRequest;
use crate::request::context::ConnectionContext;
use crate::request::errors;
use crate::request::guard::Exchange;
use crate::request::headers::{self, HeaderFlags};
use crate::request::response_body::Relay;
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

/// Boxed: hyper moves it about, and keeps room for one in every connection.
pub(crate) type Answering = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

/// Answers one request.
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
    let exchange = match request.announce().await {
        Ok(exchange) => exchange,
        Err(refused) => return Ok(*refused),
    };
    Ok(run(exchange, &request).await)
}

/// Does what the core says until there is an answer.
async fn run(mut exchange: Box<Exchange>, request: &ClientRequest) -> Response<Body> {
    if request.context.state.phase() == Phase::Ending {
        return stopped(exchange); // it arrived too late for the driver to stop it
    }
    let mut refused: Option<Box<Refused>> = None;
    let mut next = exchange.next().await;
    loop {
        next = match next {
            Command::Stop => return stopped(exchange),
            Command::Queued | Command::Cancel { .. } => exchange.next().await,
            Command::Done { reason } => return over(exchange, reason, refused),
            Command::Dispatch { dispatch, upstream, decision } => {
                refused = None;
                exchange.dispatched(dispatch, &upstream, decision);
                let keep_alive = Duration::from_millis(request.config.timeouts.keep_alive_ms);
                let make = || request.to_replica(&upstream, &dispatch);
                let trying = attempt(&request.context.state.connector, &upstream, keep_alive, make, request.has_prompt);
                tokio::select! {
                    biased;
                    result = trying => {
                        match result {
                            Ok(ready) => match pass(exchange, *ready, &upstream, request) {
                                Ok(response) => return response,
                                Err(back) => exchange = back,
                            },
                            Err(why) => {
                                exchange.failed(why.failure);
                                refused = Some(why);
                            }
                        }
                        exchange.next().await
                    },
                    command = exchange.next() => {
                        // Dropping the attempt has closed its connection; to stop aborts it too.
                        if !matches!(command, Command::Stop) {
                            exchange.abort();
                        }
                        command
                    }
                }
            }
        };
    }
}

/// Passes an answer on; gives the exchange back if the core has meanwhile taken this attempt back.
fn pass(
    mut exchange: Box<Exchange>,
    mut ready: Ready,
    upstream: &Upstream,
    request: &ClientRequest,
) -> Result<Response<Body>, Box<Exchange>> {
    exchange.streamed = ready.framing == Framing::Events;
    exchange.row.status_code = ready.head.status.as_u16();
    // HTTP/2 frames its own bodies.
    let http2 = request.parts.version == http::Version::HTTP_2;
    ready.head.version = if http2 { http::Version::HTTP_2 } else { http::Version::HTTP_11 };
    decorate(&mut ready.head.headers, &exchange, Some(upstream));
    if let Some(whole) = ready.whole {
        return match exchange.came_whole(&ready.tap) {
            true => Ok(Response::from_parts(ready.head, Body::Full(whole))),
            false => Err(exchange),
        };
    }
    if !exchange.first_token() {
        return Err(exchange);
    }
    if !exchange.streamed || ready.tap.content() {
        exchange.row.first_token = exchange.now();
    }
    let gap = Duration::from_millis(request.config.timeouts.idle_gap_ms);
    let relay = Relay::new(ready.held, ready.body, ready.tap, exchange, gap);
    Ok(Response::from_parts(ready.head, Body::Relay(Box::new(relay))))
}

/// The response to a request that has no answer yet when the router ends what is open.
fn stopped(mut exchange: Box<Exchange>) -> Response<Body> {
    let reason = EndReason::RouterStopped;
    let response = errors::ended(reason, reason.sentence());
    exchange.row.status_code = response.status().as_u16();
    exchange.stopped();
    response
}

/// The response to a request that ended without an answer to pass on.
fn over(mut exchange: Box<Exchange>, reason: EndReason, refused: Option<Box<Refused>>) -> Response<Body> {
    let refused = refused.filter(|_| reason.status() == Status::Failed).map(|refused| *refused);
    let mut response = match refused {
        Some(Refused { response: Some(mut response), .. }) => {
            headers::strip_hop_by_hop(response.headers_mut());
            response
        }
        Some(Refused { why, .. }) => errors::ended(reason, &why),
        None => errors::ended(reason, reason.sentence()),
    };
    exchange.row.status_code = response.status().as_u16();
    let upstream = None;
    decorate(response.headers_mut(), &exchange, upstream);
    exchange.close(reason);
    response
}

fn decorate(map: &mut HeaderMap, exchange: &Exchange, upstream: Option<&Upstream>) {
    headers::strip_hop_by_hop(map);
    let row = &exchange.row;
    map.insert(headers::REQUEST_ID, exchange.request_id.clone());
    if let Some(decision) = &exchange.decision {
        let name = row.replica.as_ref().map_or("-", |(_, name)| name);
        if let Some(line) = explain::header(decision, name) {
            map.insert(headers::DECISION, line);
        }
    }
    // A peer has said itself which engine it gave the request to.
    if let Some(name) = upstream.filter(|u| u.kind != Kind::Peer).and_then(|u| u.shown.clone()) {
        map.insert(headers::REPLICA, name);
    }
}
