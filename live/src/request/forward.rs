//! From a client's request to its answer: read, ask the core, carry out what it says.

use crate::config::Config;
use crate::driver::mailbox::Command;
use crate::observe::explain;
use crate::observe::request_log::Row;
use crate::request::attempt::{Ready, Refused, attempt};
use crate::request::body::Body;
use crate::request::context::ConnectionContext;
use crate::request::errors::refusal;
use crate::request::guard::Exchange;
use crate::request::headers::{self, HeaderFlags};
use crate::request::read_body;
use crate::request::response_body::Relay;
use crate::state::Phase;
use crate::tokens::tokens;
use crate::upstream::replica::Upstream;
use crate::wire::answer_tap::Framing;
use crate::wire::request_fields::{Extract, extract, session_hash};
use bytes::Bytes;
use gorgo_core::fleet::Kind;
use gorgo_core::policy::Ask;
use gorgo_core::record::Status;
use gorgo_core::router::{Dispatch, Request as CoreRequest};
use gorgo_core::{Span, Time};
use http::header::HeaderMap;
use http::uri::PathAndQuery;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use smallvec::SmallVec;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;

/// A request that was let in: what is sent to whichever replica the core names. It stays where it is from its arrival
/// to its answer, since it is large.
struct Order {
    context: Arc<ConnectionContext>,
    config: Arc<Config>,
    parts: http::request::Parts,
    flags: HeaderFlags,
    prompted: bool,
    /// Whether the client's key was meant for us.
    keyed: bool,
    slot: Option<OwnedSemaphorePermit>,
    incoming: Incoming,
    /// The whole of `incoming`.
    body: Bytes,
    hops: u8,
    /// Stands for the body's bytes until no retry needs them.
    _budget: Option<OwnedSemaphorePermit>,
}

/// Boxed: hyper moves it about, and keeps room for one in every connection.
pub(crate) type Answering = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

/// Answers one request.
pub(crate) fn handle(
    context: Arc<ConnectionContext>,
    config: Arc<Config>,
    request: Request<Incoming>,
    flags: HeaderFlags,
) -> Answering {
    match admit(context, config, request, flags) {
        Ok(order) => Box::pin(answer(order)),
        Err(refused) => Box::pin(std::future::ready(Ok(*refused))),
    }
}

async fn answer(mut order: Box<Order>) -> Result<Response<Body>, Infallible> {
    let exchange = match order.read().await {
        Ok(exchange) => exchange,
        Err(refused) => return Ok(*refused),
    };
    Ok(run(exchange, &order).await)
}

/// What can be said of a request by its head.
fn admit(
    context: Arc<ConnectionContext>,
    config: Arc<Config>,
    request: Request<Incoming>,
    flags: HeaderFlags,
) -> Result<Box<Order>, Box<Response<Body>>> {
    let state = &context.state;
    let refuse = |status, code: &str, message: &str| Err(Box::new(refusal(status, code, message)));
    let shown = if flags.key { headers::shown_key(request.headers()) } else { None };
    let (may_ask, keyed) = state.with_keys(|keys| (keys.may_ask(shown), keys.api.is_some() || keys.admin.is_some()));
    if !may_ask {
        return refuse(
            StatusCode::UNAUTHORIZED,
            "invalid_api_key",
            "send this router's API key as `Authorization: Bearer KEY`",
        );
    }
    let Some(prompted) = read_body::is_prompted(request.uri().path()) else {
        let message = format!("`{}` is not served here; see /v1/models for what is", request.uri().path());
        return refuse(StatusCode::NOT_FOUND, "unknown_endpoint", &message);
    };
    let Ok(slot) = Arc::clone(&state.request_permits).try_acquire_owned() else {
        return refuse(
            StatusCode::TOO_MANY_REQUESTS,
            "too_many_requests",
            "the router holds as many requests as it may (limits.requests); try again soon",
        );
    };
    let (parts, incoming) = request.into_parts();
    let (slot, body, hops, _budget) = (Some(slot), Bytes::new(), 0, None);
    Ok(Box::new(Order { context, config, parts, flags, prompted, keyed, slot, incoming, body, hops, _budget }))
}

impl Order {
    /// Reads the body and tells the core.
    async fn read(&mut self) -> Result<Box<Exchange>, Box<Response<Body>>> {
        let Self { context, config, parts, flags, .. } = self;
        let state = &context.state;
        (self.body, self._budget) = read_body::read(state, config, &parts.headers, &mut self.incoming).await?;
        let found = if self.prompted && parts.method == Method::POST {
            read_body::check_type(&parts.headers)?;
            match extract(&self.body, state.seed) {
                Ok(found) => Some(found),
                Err(message) => {
                    return Err(Box::new(refusal(StatusCode::BAD_REQUEST, "invalid_body", &message)));
                }
            }
        } else {
            None
        };
        let tokens = tokens(state, config, &self.body, found.as_ref()).await;
        let told = |there: bool, name| if there { parts.headers.get(name) } else { None };
        let hops = told(flags.hop, headers::HOP);
        let hops = hops.map_or(0, |v| v.to_str().ok().and_then(|v| v.parse().ok()).unwrap_or(u8::MAX));
        let wait = told(flags.timeout, headers::TIMEOUT).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
        let wait = wait.unwrap_or(u64::MAX).min(config.timeouts.first_token_ms);
        let session = match told(flags.session, headers::SESSION) {
            Some(key) if !key.is_empty() => session_hash(key.as_bytes()),
            _ => found.as_ref().map_or(0, |f| f.session),
        };
        let ask = Ask {
            prompt_tokens: tokens.all,
            counted: tokens.exact,
            session,
            head: found.as_ref().map_or(0, |f| f.prompt.head),
        };
        let symbols = found.as_ref().map_or_else(|| Arc::from([]), |f| Arc::clone(&f.prompt.symbols));
        let mut arrived = Time::ZERO;
        let (id, mail) = state.driver.arrive(|id, now| {
            arrived = now;
            CoreRequest { id, symbols, ask, hops, deadline: Some(now + Span::from_ms(wait as f64)) }
        });
        let request_id = if flags.request_id {
            headers::request_id(&parts.headers, state.seed, id)
        } else {
            headers::new_id(state.seed, id)
        };
        let row = new_row(&request_id, &ask, found.as_ref(), arrived, hops);
        self.hops = hops;
        headers::to_upstream(&mut parts.headers, self.body.len(), &request_id, &context.client, self.keyed);
        let mut exchange = Exchange::new(Arc::clone(context), (id, mail), request_id, row, self.slot.take());
        if let Some(found) = found {
            exchange.rid = found.rid;
            exchange.model = found.model;
            exchange.chat = read_body::is_chat(parts.uri.path());
            exchange.prompt = Some(found.prompt);
            exchange.text_tokens = tokens.text;
        }
        #[cfg(feature = "otel")]
        {
            exchange.trace = state.otel.begin(&mut parts.headers, state.seed, id);
        }
        Ok(exchange)
    }

    fn to(&self, upstream: &Upstream, dispatch: &Dispatch) -> Request<Full<Bytes>> {
        let (parts, body) = (&self.parts, Full::new(self.body.clone()));
        let root = PathAndQuery::from_static("/");
        let path = parts.uri.path_and_query().unwrap_or(&root);
        let mut request = upstream.request(parts.method.clone(), path, parts.headers.clone(), body);
        if dispatch.forward {
            request.headers_mut().insert(headers::HOP, HeaderValue::from(u16::from(self.hops.saturating_add(1))));
        }
        request
    }
}

fn new_row(request_id: &HeaderValue, ask: &Ask, found: Option<&Extract>, arrived: Time, hops: u8) -> Row {
    Row {
        request_id: SmallVec::from_slice(request_id.as_bytes()),
        session: ask.session,
        prompt_bytes: found.map_or(0, |f| f.prompt.bytes),
        prompt_tokens: ask.prompt_tokens,
        arrived,
        hops,
        ..Row::default()
    }
}

/// Does what the core says until there is an answer.
async fn run(mut exchange: Box<Exchange>, order: &Order) -> Response<Body> {
    if order.context.state.phase() == Phase::Ending {
        return stopped(exchange); // it arrived too late for the driver to stop it
    }
    let mut refused: Option<Box<Refused>> = None;
    let mut next = exchange.next().await;
    loop {
        next = match next {
            Command::Stop => return stopped(exchange),
            Command::Queued | Command::Cancel { .. } => exchange.next().await,
            Command::Done { status, reason } => return over(exchange, status, reason, refused),
            Command::Dispatch { dispatch, upstream, decision } => {
                refused = None;
                exchange.dispatched(dispatch, &upstream, decision);
                let keep_alive = Duration::from_millis(order.config.timeouts.keep_alive_ms);
                let request = || order.to(&upstream, &dispatch);
                let trying = attempt(&order.context.state.connector, &upstream, keep_alive, request, order.prompted);
                tokio::select! {
                    biased;
                    result = trying => {
                        match result {
                            Ok(ready) => match pass(exchange, *ready, &upstream, order) {
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
    order: &Order,
) -> Result<Response<Body>, Box<Exchange>> {
    exchange.streamed = ready.framing == Framing::Events;
    exchange.row.status_code = ready.head.status.as_u16();
    // HTTP/2 frames its own bodies.
    let http2 = order.parts.version == http::Version::HTTP_2;
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
    let gap = Duration::from_millis(order.config.timeouts.idle_gap_ms);
    let relay = Relay::new(ready.held, ready.body, ready.tap, exchange, gap);
    Ok(Response::from_parts(ready.head, Body::Relay(Box::new(relay))))
}

/// The router ends what is open before there was an answer.
fn stopped(mut exchange: Box<Exchange>) -> Response<Body> {
    let why = "the router was stopped before there was an answer";
    let response = refusal(StatusCode::SERVICE_UNAVAILABLE, "router_stopped", why);
    exchange.row.status_code = response.status().as_u16();
    exchange.stopped();
    response
}

/// The request is over without an answer to pass on.
fn over(
    mut exchange: Box<Exchange>,
    status: Status,
    reason: &'static str,
    refused: Option<Box<Refused>>,
) -> Response<Body> {
    let mut response = match (status, refused.map(|refused| *refused)) {
        (Status::Failed, Some(Refused { response: Some(mut response), .. })) => {
            headers::strip_hop_by_hop(response.headers_mut());
            response
        }
        (Status::Failed, Some(Refused { why, .. })) => refusal(StatusCode::BAD_GATEWAY, "upstream_failed", &why),
        (Status::Rejected, _) if reason == "queue-full" => {
            refusal(StatusCode::TOO_MANY_REQUESTS, "queue_full", "the router's queue is full; try again soon")
        }
        (Status::Rejected, _) if reason == "unavailable" => refusal(
            StatusCode::SERVICE_UNAVAILABLE,
            "unavailable",
            "this edge's engine does not answer; ask another edge",
        ),
        (Status::TimedOut, _) if reason == "no-healthy-replica" => refusal(
            StatusCode::SERVICE_UNAVAILABLE,
            "no_healthy_replica",
            "no replica answers its probes; see `gorgo proxy status`",
        ),
        (Status::Rejected, _) => refusal(
            StatusCode::SERVICE_UNAVAILABLE,
            "no_replicas",
            "no replica is known to this router; add one with `gorgo proxy servers add URL`",
        ),
        (Status::TimedOut, _) if reason == "queue-timeout" => {
            refusal(StatusCode::SERVICE_UNAVAILABLE, "queue_timeout", "no replica had room in time; try again soon")
        }
        (Status::TimedOut, _) => {
            refusal(StatusCode::GATEWAY_TIMEOUT, "deadline", "no first token came within the request's deadline")
        }
        (_, _) => refusal(StatusCode::BAD_GATEWAY, "upstream_failed", "no replica answered"),
    };
    exchange.row.status_code = response.status().as_u16();
    let upstream = None;
    decorate(response.headers_mut(), &exchange, upstream);
    exchange.close(status, reason);
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
