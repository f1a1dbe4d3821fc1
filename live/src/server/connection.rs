//! Serves one client connection: TLS, then HTTP/1 or HTTP/2, each request to the admin API or to a replica.

use crate::admin;
use crate::config::Config;
use crate::request::body::Body;
use crate::request::context::{ConnectionContext, Switched};
use crate::request::error_json::BoxError;
use crate::request::errors::{Own, refusal};
use crate::request::forward;
use crate::request::headers::{self, ClientAddress, HeaderFlags};
use crate::server::client_io::ClientIo;
use crate::server::drain::Closing;
use crate::server::stalled_stream::{self, StreamExecutor};
use crate::signals::loops;
use crate::state::{AppState, Phase};
use crate::upstream::connect::Io;
use crate::upstream::multiplexed;
use bytes::Bytes;
use http::header::{CONNECTION, HOST, HeaderMap, TRANSFER_ENCODING};
use http::{HeaderValue, Request, Response, StatusCode, Version};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use memchr::memchr;
use std::convert::Infallible;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::watch;

/// Most bytes read from a client at once. A long prompt then arrives in one piece and needs no copy to join pieces.
const READ_BYTES: usize = 96 << 10;

/// Bytes of one request over HTTP/2 that may be on the way: prompts of this length come in one piece.
const STREAM_WINDOW: u32 = 2 << 20;

/// Bytes of all requests of an HTTP/2 connection that may be on the way: on a path of 200 ms, 80 MB/s of prompts from
/// another router. They are read as they come and count in `limits.bodies_bytes`.
const CONNECTION_WINDOW: u32 = 16 << 20;

/// A connection that was accepted and not yet served.
pub(super) struct Connection {
    context: Arc<ConnectionContext>,
    admin: axum::Router,
    closing: watch::Receiver<Closing>,
    /// Whether the connection is beyond the limit: it gets one answer, and only of the admin API.
    is_reserve: bool,
}

impl Connection {
    pub(super) fn new(
        state: &Arc<AppState>,
        admin: &axum::Router,
        from: IpAddr,
        closing: watch::Receiver<Closing>,
        is_reserve: bool,
    ) -> Self {
        let context = ConnectionContext::new(state, ClientAddress::new(from));
        Self { context: Arc::new(context), admin: admin.clone(), closing, is_reserve }
    }

    /// Serves requests until either side closes the connection.
    pub(super) async fn run(mut self, io: Io, tls: Option<tokio_rustls::TlsAcceptor>) {
        let config = self.context.state.config();
        let head_limit = Duration::from_millis(config.timeouts.header_ms);
        let io: Io = Box::new(ClientIo::new(io, Arc::clone(&self.context), &config));
        let io: Io = match tls {
            Some(tls) => match tokio::time::timeout(head_limit, tls.accept(io)).await {
                Ok(Ok(stream)) => Box::new(stream),
                _ => return,
            },
            None => io,
        };
        let mut builder =
            auto::Builder::new(StreamExecutor { gap: Duration::from_millis(config.timeouts.idle_gap_ms) });
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(None) // ClientIo has that limit, and another for idle connections
            .keep_alive(!self.is_reserve)
            .max_buf_size(config.limits.header_bytes.max(READ_BYTES))
            .max_headers(config.limits.headers);
        builder
            .http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(Some(head_limit))
            .keep_alive_timeout(head_limit)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_concurrent_streams(multiplexed::STREAMS)
            .max_header_list_size(u32::try_from(config.limits.header_bytes).unwrap_or(u32::MAX));
        let mut switches = self.context.switches();
        let (context, admin, is_reserve) = (Arc::clone(&self.context), self.admin, self.is_reserve);
        let service = service_fn(move |request: Request<Incoming>| {
            let open = OpenRequest::begin(&context, request.version() == Version::HTTP_2);
            let has_body = request.version() != Version::HTTP_2 && !request.body().is_end_stream();
            let id = request.headers().get(headers::REQUEST_ID).cloned();
            let (version, answering) = (request.version(), answer(&context, &admin, request, is_reserve));
            async move {
                let mut response = answering.await?;
                // Its own refusals come before the body, or in place of the rest of it.
                let own = response.extensions().get::<Own>().copied();
                let is_own = own.is_some();
                if let Some(Own(Some(code))) = own {
                    open.0.state.metrics.refused(code);
                }
                open.0.activity.set_unread(has_body && is_own);
                if is_own && !response.headers().contains_key(headers::REQUEST_ID) {
                    let id = headers::id_of(id.as_ref(), || {
                        headers::new_id(open.0.state.seed, open.0.state.driver.next_id())
                    });
                    response.headers_mut().insert(headers::REQUEST_ID, id);
                }
                if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                    open.0.activity.upgrade();
                } else if open.0.state.phase() != Phase::Serving {
                    match version {
                        Version::HTTP_2 => open.0.activity.idle.notify_one(), // GOAWAY
                        _ => drop(response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"))),
                    }
                }
                Ok::<_, Infallible>(response.map(|body| Tracked { body, _open: open }))
            }
        });
        let connection = builder.serve_connection_with_upgrades(TokioIo::new(io), service);
        tokio::pin!(connection);
        if *self.closing.borrow() == Closing::Now {
            connection.as_mut().graceful_shutdown();
        }
        let mut is_over = false;
        while !is_over {
            tokio::select! {
                biased;
                _ = connection.as_mut() => is_over = true,
                changed = self.closing.changed() => match changed {
                    // An HTTP/1 connection closes with its next answer, others are told to send no more.
                    Ok(()) if *self.closing.borrow() == Closing::AfterAnswer && !self.context.activity.is_http2() => {}
                    Ok(()) => connection.as_mut().graceful_shutdown(), // no request may follow
                    Err(_) => break,
                },
                () = self.context.activity.idle.notified() => connection.as_mut().graceful_shutdown(),
            }
        }
        if !is_over {
            let _ = connection.await;
        }
        if let Ok(Switched(work)) = switches.try_recv() {
            work.await;
        }
    }
}

/// A request that was begun; ended when dropped.
struct OpenRequest(Arc<ConnectionContext>);

impl OpenRequest {
    fn begin(context: &Arc<ConnectionContext>, is_http2: bool) -> Self {
        context.activity.begin(is_http2);
        Self(Arc::clone(context))
    }
}

impl Drop for OpenRequest {
    fn drop(&mut self) {
        self.0.activity.end();
    }
}

/// The body of an answer, with which its request ends.
struct Tracked {
    body: Body,
    _open: OpenRequest,
}

impl http_body::Body for Tracked {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, BoxError>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        stalled_stream::body_polled(matches!(polled, Poll::Ready(Some(_))));
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

fn answer(
    context: &Arc<ConnectionContext>,
    admin: &axum::Router,
    request: Request<Incoming>,
    is_reserve: bool,
) -> forward::Answering {
    let flags = HeaderFlags::of(request.headers());
    let target = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
    let config = context.state.config();
    let (head, most) = (target + flags.bytes, config.limits.header_bytes);
    if head > most {
        let message = format!("the request's head is longer than {most} bytes; send fewer or shorter headers");
        let refused = refusal(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "headers_too_large", &message);
        return Box::pin(std::future::ready(Ok(refused)));
    }
    // The parser of HTTP/1 counts them itself.
    if request.version() == Version::HTTP_2 && request.headers().len() > config.limits.headers {
        let message = format!("the request has more than {} headers; send fewer", config.limits.headers);
        let refused = refusal(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "too_many_headers", &message);
        return Box::pin(std::future::ready(Ok(refused)));
    }
    if let Some(refused) = ambiguous(request.version(), request.headers(), flags) {
        return Box::pin(std::future::ready(Ok(refused)));
    }
    if flags.router {
        if let Some(why) = loops::refusal(&context.state.router_id, request.headers()) {
            let mut refused = refusal(StatusCode::LOOP_DETECTED, "router_loop", why);
            refused.headers_mut().insert(headers::ROUTER, loops::announcement(&context.state));
            return Box::pin(std::future::ready(Ok(refused)));
        }
        let (context, admin) = (Arc::clone(context), admin.clone());
        return Box::pin(async move {
            let mut response = dispatch(&context, &admin, request, config, flags, is_reserve).await?;
            response.headers_mut().insert(headers::ROUTER, loops::announcement(&context.state));
            Ok(response)
        });
    }
    dispatch(context, admin, request, config, flags, is_reserve)
}

/// Refuses a head that others on the way may read in another way (RFC 9112, 3.2 and 6.1).
fn ambiguous(version: Version, map: &HeaderMap, flags: HeaderFlags) -> Option<Response<Body>> {
    if version == Version::HTTP_11 && flags.hosts != 1 {
        let message = format!("the request has {} Host lines; send one", flags.hosts);
        return Some(refusal(StatusCode::BAD_REQUEST, "invalid_host", &message));
    }
    if map.get(HOST).is_some_and(|host| !is_host(host.as_bytes())) {
        let message = "the Host line is no `host` or `host:port`; send the address that the request goes to";
        return Some(refusal(StatusCode::BAD_REQUEST, "invalid_host", message));
    }
    let is_chunked = |value: &HeaderValue| value.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked");
    let mut encodings = map.get_all(TRANSFER_ENCODING).iter();
    // Several lines are one list, and `chunked` may be applied once.
    if flags.transfer && !(encodings.next().is_some_and(is_chunked) && encodings.next().is_none()) {
        let message = "the body has another transfer encoding than `chunked`; send it plain, or packed with a \
                       Content-Encoding";
        return Some(refusal(StatusCode::NOT_IMPLEMENTED, "unknown_transfer_encoding", message));
    }
    None
}

/// Whether a value of Host can be one: a name or address, and a port after it (RFC 9112, 3.2). A list of several is
/// none.
fn is_host(value: &[u8]) -> bool {
    let end = match value.first() {
        Some(b'[') => memchr(b']', value).map(|end| end + 1),
        _ => Some(memchr(b':', value).unwrap_or(value.len())),
    };
    let Some((name, port)) = end.map(|end| value.split_at(end)) else { return false };
    let is_of_name = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+;=[]:".contains(byte);
    let is_port = port.strip_prefix(b":").is_none_or(|digits| digits.iter().all(u8::is_ascii_digit));
    name.iter().all(is_of_name) && is_port && port.first().is_none_or(|first| *first == b':')
}

/// To the admin API, or to a replica.
fn dispatch(
    context: &Arc<ConnectionContext>,
    admin: &axum::Router,
    request: Request<Incoming>,
    config: Arc<Config>,
    flags: HeaderFlags,
    is_reserve: bool,
) -> forward::Answering {
    if admin::is_admin(request.uri().path()) {
        let (context, admin) = (Arc::clone(context), admin.clone());
        return Box::pin(async move { Ok(admin::answer(&context, &config, admin, request).await) });
    }
    if is_reserve {
        let message = "the router holds as many connections as it may (limits.connections); try again soon";
        let refused = refusal(StatusCode::SERVICE_UNAVAILABLE, "too_many_connections", message);
        return Box::pin(std::future::ready(Ok(refused)));
    }
    forward::handle(Arc::clone(context), config, request, flags)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_a_name_or_address_with_or_without_a_port() {
        for host in ["", "a", "a.example:8000", "127.0.0.1:1", "[::1]", "[::1]:8000", "a:", "my_host.local"] {
            assert!(is_host(host.as_bytes()), "{host}");
        }
        for other in ["a b", "a/b", "u@a", "a,b", "a\\b", "a#b", "[::1", "a:99x", "[::1]x", "a:1:2"] {
            assert!(!is_host(other.as_bytes()), "{other}");
        }
    }
}
