//! Serves one client connection: TLS, then HTTP/1 or HTTP/2, each request to the admin API or to a replica.

use crate::admin;
use crate::request::body::Body;
use crate::request::context::ConnectionContext;
use crate::request::errors::refusal;
use crate::request::forward;
use crate::request::headers::{ClientAddress, HeaderFlags};
use crate::state::AppState;
use crate::supervise::LoggedExecutor;
use crate::upstream::connect::Io;
use http::{Request, StatusCode};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::watch;
use tower::ServiceExt;

/// Most bytes read from a client at once. A long prompt then arrives in one piece and needs no copy to join pieces.
const READ_BYTES: usize = 96 << 10;

/// A connection that was accepted and not yet served.
pub(super) struct Connection {
    context: Arc<ConnectionContext>,
    admin: axum::Router,
    closing: watch::Receiver<bool>,
}

impl Connection {
    pub(super) fn new(
        state: &Arc<AppState>,
        admin: &axum::Router,
        from: IpAddr,
        closing: watch::Receiver<bool>,
    ) -> Self {
        let context = ConnectionContext { state: Arc::clone(state), client: ClientAddress::new(from) };
        Self { context: Arc::new(context), admin: admin.clone(), closing }
    }

    /// Serves requests until either side closes the connection.
    pub(super) async fn run(mut self, io: Io, tls: Option<tokio_rustls::TlsAcceptor>) {
        let config = self.context.state.config();
        let head_limit = Duration::from_millis(config.timeouts.header_ms);
        let io: Io = match tls {
            Some(tls) => match tokio::time::timeout(head_limit, tls.accept(io)).await {
                Ok(Ok(stream)) => Box::new(stream),
                _ => return,
            },
            None => io,
        };
        let mut builder = auto::Builder::new(LoggedExecutor("HTTP/2 stream"));
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(head_limit)
            .max_buf_size(config.limits.header_bytes.max(READ_BYTES))
            .max_headers(config.limits.headers);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(1_000)
            .max_header_list_size(u32::try_from(config.limits.header_bytes).unwrap_or(u32::MAX));
        let has_asked = Arc::new(AtomicBool::new(false));
        let (context, admin, asked) = (self.context, self.admin, Arc::clone(&has_asked));
        let service = service_fn(move |request| {
            asked.store(true, Ordering::Relaxed);
            answer(&context, &admin, request)
        });
        let connection = builder.serve_connection(TokioIo::new(io), service);
        let first_head = tokio::time::sleep(head_limit);
        tokio::pin!(connection, first_head);
        if *self.closing.borrow() {
            connection.as_mut().graceful_shutdown();
        }
        loop {
            tokio::select! {
                biased;
                _ = connection.as_mut() => return,
                changed = self.closing.changed() => match changed {
                    Ok(()) => connection.as_mut().graceful_shutdown(), // no request may follow
                    Err(_) => break,
                },
                // hyper sets no timer before it knows which version of HTTP the client speaks.
                () = first_head.as_mut(), if !first_head.is_elapsed() => if !has_asked.load(Ordering::Relaxed) { return },
            }
        }
        let _ = connection.await;
    }
}

fn answer(context: &Arc<ConnectionContext>, admin: &axum::Router, request: Request<Incoming>) -> forward::Answering {
    let flags = HeaderFlags::of(request.headers());
    let target = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
    let config = context.state.config();
    let (head, most) = (target + flags.bytes, config.limits.header_bytes);
    if head > most {
        let message = format!("the request's head is longer than {most} bytes; send fewer or shorter headers");
        let refused = refusal(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "headers_too_large", &message);
        return Box::pin(std::future::ready(Ok(refused)));
    }
    if !admin::is_admin(request.uri().path()) {
        return forward::handle(Arc::clone(context), config, request, flags);
    }
    let answer = admin.clone().oneshot(request.map(axum::body::Body::new));
    Box::pin(async { Ok(answer.await?.map(Body::Admin)) })
}
