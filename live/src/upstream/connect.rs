//! Addresses of replicas, and how connections to them are opened: TCP, TLS, timeout.

use crate::config::CongestionControl;
use crate::server::tls::with_remedy;
use crate::upstream::early_answer::EarlyAnswer;
use crate::upstream::transport::{keep_alive, set_congestion};
use bytes::Bytes;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderValue, Uri};
use http_body_util::Full;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};

/// A byte stream: TCP, TLS over it, or a simulated one.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> Stream for T {}

/// A byte stream of any kind.
pub type Io = Box<dyn Stream>;

/// Opens a connection to host and port.
pub type Dial = Arc<dyn Fn(String, u16) -> Pin<Box<dyn Future<Output = io::Result<Io>> + Send>> + Send + Sync>;

/// Dials over TCP with the system's congestion control.
pub fn tcp() -> Dial {
    tcp_with(CongestionControl::System)
}

/// Dials over TCP. `TCP_NODELAY` is set: Nagle's algorithm would delay tokens by a round trip.
pub(crate) fn tcp_with(congestion: CongestionControl) -> Dial {
    Arc::new(move |host, port| {
        Box::pin(async move {
            let stream = tokio::net::TcpStream::connect((host.as_str(), port)).await?;
            stream.set_nodelay(true)?;
            set_congestion(&stream, congestion);
            keep_alive(&stream);
            Ok(Box::new(EarlyAnswer::new(stream)) as Io)
        })
    })
}

/// Why a text is not the address of a replica. The text is advice on what to write instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// Scheme, host or port is missing or unknown.
    #[error("write http://host:port or https://host[:port]")]
    NoServer,
    /// The URL has a query.
    #[error("leave out what follows `?`")]
    Query,
    /// The URL has a name or password, which would appear in logs.
    #[error("leave out what stands before `@`; give the engine's key as api_key")]
    Userinfo,
    /// The URL is that of an endpoint.
    #[error("leave out the endpoint; write the URL up to /v1")]
    Endpoint,
    /// The URL has a fragment.
    #[error("leave out what follows `#`")]
    Fragment,
    /// What follows the host is no port.
    #[error("give a port from 1 to 65535 after the host, or leave out the colon")]
    Port,
}

/// A URL as messages show it: without name, password and query.
pub(crate) fn shown_url(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").map_or(("", url), |(scheme, rest)| (scheme, rest));
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    let rest = rest.rsplit_once('@').map_or(rest.to_owned(), |(_, host)| format!("...@{host}"));
    if scheme.is_empty() { rest } else { format!("{scheme}://{rest}") }
}

/// The address of a replica: scheme, host, port and base path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// `http` or `https`.
    pub scheme: Scheme,
    /// Host and port.
    pub authority: Authority,
    /// Prefix of every path, without a trailing slash.
    pub base: String,
}

impl Endpoint {
    /// Parses a URL; `host:port` alone means http.
    ///
    /// # Errors
    /// The text is no URL of a server, its port is no port, or it has a query or fragment.
    pub fn parse(url: &str) -> Result<Self, EndpointError> {
        let advice = || EndpointError::NoServer;
        if url.contains('#') {
            return Err(EndpointError::Fragment); // the parser of URLs would drop it
        }
        let text = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
        let uri: Uri = text.parse().map_err(|_| advice())?;
        let parts = uri.into_parts();
        let (Some(scheme), Some(authority)) = (parts.scheme, parts.authority) else { return Err(advice()) };
        let known = scheme == Scheme::HTTP || scheme == Scheme::HTTPS;
        if authority.as_str().contains('@') {
            return Err(EndpointError::Userinfo);
        }
        if !known || authority.host().is_empty() {
            return Err(advice());
        }
        let port = authority.as_str().get(authority.host().len()..).unwrap_or_default();
        let is_port =
            |port: &str| port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|n| n > 0);
        if !port.is_empty() && !port.strip_prefix(':').is_some_and(is_port) {
            return Err(EndpointError::Port); // else it would be the scheme's
        }
        let path = parts.path_and_query.unwrap_or_else(|| PathAndQuery::from_static("/"));
        if path.query().is_some() {
            return Err(EndpointError::Query);
        }
        // Users know an engine by its OpenAI base URL, too; every path of a request begins with /v1 itself.
        let base = path.path().trim_end_matches('/');
        let base = base.strip_suffix("/v1").unwrap_or(base).trim_end_matches('/').to_owned();
        const ENDPOINTS: [&str; 6] =
            ["/completions", "/v1/responses", "/v1/messages", "/v1/embeddings", "/v1/models", "/generate"];
        if ENDPOINTS.iter().any(|path| base.ends_with(path)) {
            return Err(EndpointError::Endpoint); // requests' paths would follow it
        }
        Ok(Self { scheme, authority, base })
    }

    /// Host, port and base path: the default name of a replica.
    pub fn name(&self) -> String {
        format!("{}{}", self.authority, self.base)
    }

    /// The host, an IPv6 address without its brackets.
    pub fn host(&self) -> &str {
        self.authority.host().trim_start_matches('[').trim_end_matches(']')
    }

    /// The port; the scheme's default if the URL has none.
    pub fn port(&self) -> u16 {
        self.authority.port_u16().unwrap_or(if self.scheme == Scheme::HTTPS { 443 } else { 80 })
    }

    /// Whether this is evidently the address `listen` of this process: the same port, and the same IP address or a name
    /// of loopback.
    pub(crate) fn leads_to(&self, listen: std::net::SocketAddr) -> bool {
        let host = self.host();
        let same = match host.parse::<std::net::IpAddr>() {
            Ok(ip) => ip == listen.ip() || (listen.ip().is_unspecified() && (ip.is_loopback() || ip.is_unspecified())),
            Err(_) => {
                host.eq_ignore_ascii_case("localhost") && (listen.ip().is_loopback() || listen.ip().is_unspecified())
            }
        };
        same && listen.port() != 0 && self.port() == listen.port()
    }

    /// Whether connections use TLS.
    pub fn is_https(&self) -> bool {
        self.scheme == Scheme::HTTPS
    }

    /// The `Host` header; without the port if that is the scheme's default.
    pub(crate) fn host_header(&self) -> HeaderValue {
        let implied = if self.is_https() { 443 } else { 80 };
        let host = self.authority.host();
        let port = self.authority.port_u16().filter(|&port| port != implied);
        let text = port.map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
        HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("replica"))
    }

    /// The request target for `path`, in origin form.
    pub(crate) fn target(&self, path: &PathAndQuery) -> Uri {
        if self.base.is_empty() {
            Uri::from(path.clone())
        } else {
            self.uri(path).path_and_query().cloned().unwrap_or(path.clone()).into()
        }
    }

    /// The absolute URL of `path`.
    pub fn uri(&self, path: &PathAndQuery) -> Uri {
        let mut parts = http::uri::Parts::default();
        parts.scheme = Some(self.scheme.clone());
        parts.authority = Some(self.authority.clone());
        parts.path_and_query = if self.base.is_empty() {
            Some(path.clone())
        } else {
            PathAndQuery::try_from(format!("{}{path}", self.base)).ok()
        };
        Uri::from_parts(parts).unwrap_or_else(|_| Uri::from_static("/"))
    }
}

/// Opens connections, with TLS for https.
#[derive(Clone)]
pub struct Connector {
    dial: Dial,
    tls: Option<tokio_rustls::TlsConnector>,
    /// The same for peers over HTTP/2.
    tls_http2: Option<tokio_rustls::TlsConnector>,
    timeout: Duration,
}

impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connector").field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

impl Connector {
    /// Creates a connector; `timeout` covers TCP and TLS together.
    pub fn new(dial: Dial, tls: Option<Arc<rustls::ClientConfig>>, timeout: Duration) -> Self {
        let with_http2 = |config: &Arc<rustls::ClientConfig>| {
            let mut config = rustls::ClientConfig::clone(config);
            config.alpn_protocols = vec![HTTP2.to_vec()];
            Arc::new(config)
        };
        let tls_http2 = tls.as_ref().map(with_http2).map(tokio_rustls::TlsConnector::from);
        Self { dial, tls: tls.map(tokio_rustls::TlsConnector::from), tls_http2, timeout }
    }

    /// Opens one connection.
    ///
    /// # Errors
    /// When TCP or TLS fails, or the timeout passes.
    pub async fn connect(&self, https: bool, host: &str, port: u16) -> io::Result<Io> {
        self.within_timeout(async {
            let stream = (self.dial)(host.to_owned(), port).await?;
            if !https {
                return Ok(stream);
            }
            Ok(Box::new(secure(self.tls.as_ref(), host, stream).await?) as Io)
        })
        .await
    }

    /// Opens one connection for HTTP/2: without TLS the other side must know it beforehand.
    ///
    /// # Errors
    /// As [`Connector::connect`], and when the other side's TLS does not choose HTTP/2.
    pub(crate) async fn connect_http2(&self, https: bool, host: &str, port: u16) -> io::Result<Io> {
        self.within_timeout(async {
            let stream = (self.dial)(host.to_owned(), port).await?;
            if !https {
                return Ok(stream);
            }
            let stream = secure(self.tls_http2.as_ref(), host, stream).await?;
            if stream.get_ref().1.alpn_protocol() != Some(HTTP2) {
                return Err(io::Error::other("TLS at the other side does not choose HTTP/2"));
            }
            Ok(Box::new(stream) as Io)
        })
        .await
    }

    async fn within_timeout(&self, open: impl Future<Output = io::Result<Io>>) -> io::Result<Io> {
        match tokio::time::timeout(self.timeout, open).await {
            Ok(result) => result,
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "connecting took too long")),
        }
    }
}

/// The name of HTTP/2 in TLS.
const HTTP2: &[u8] = b"h2";

/// Adds TLS to a connection to `host`.
async fn secure(
    tls: Option<&tokio_rustls::TlsConnector>,
    host: &str,
    stream: Io,
) -> io::Result<tokio_rustls::client::TlsStream<Io>> {
    let tls = tls.ok_or_else(|| io::Error::other("no TLS is set up for replicas"))?;
    let name = rustls::pki_types::ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    tls.connect(name, stream).await.map_err(with_remedy)
}

impl tower::Service<Uri> for Connector {
    type Response = PooledStream;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<PooledStream>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let this = self.clone();
        Box::pin(async move {
            let https = uri.scheme() == Some(&Scheme::HTTPS);
            let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
            let port = uri.port_u16().unwrap_or(if https { 443 } else { 80 });
            Ok(PooledStream(TokioIo::new(this.connect(https, host, port).await?)))
        })
    }
}

/// A connection of a [`PooledClient`].
pub struct PooledStream(TokioIo<Io>);

impl Connection for PooledStream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl hyper::rt::Read for PooledStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl hyper::rt::Write for PooledStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }
}

/// hyper-util's pooled client: for the admin client, the span exporter and tests, not for proxied requests.
pub type PooledClient = Client<Connector, Full<Bytes>>;

/// Creates a client that closes connections idle for `keep_alive`.
pub fn pooled_client(connector: Connector, keep_alive: Duration) -> PooledClient {
    Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .timer(TokioTimer::new())
        .pool_idle_timeout(keep_alive)
        .pool_max_idle_per_host(256)
        .build(connector)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_and_joined() {
        let plain = Endpoint::parse("10.0.0.1:8080").unwrap();
        assert_eq!((plain.host(), plain.port(), plain.name().as_str()), ("10.0.0.1", 8080, "10.0.0.1:8080"));
        let based = Endpoint::parse("https://x.modal.host/base/").unwrap();
        assert_eq!(based.port(), 443);
        let uri = based.uri(&PathAndQuery::from_static("/v1/models?a=b"));
        assert_eq!(uri.to_string(), "https://x.modal.host/base/v1/models?a=b");
        assert_eq!(Endpoint::parse("http://[::1]:80").unwrap().host(), "::1");
        for (url, name) in [
            ("http://a:1/v1", "a:1"),
            ("http://a:1/v1/", "a:1"),
            ("http://a:1/x/v1", "a:1/x"),
            ("a:1/v1beta", "a:1/v1beta"),
        ] {
            assert_eq!(Endpoint::parse(url).unwrap().name(), name);
        }
        for bad in ["", "ftp://a", "http://user@a", "http://", "http://a b", "http://a/?x=1"] {
            assert!(Endpoint::parse(bad).is_err(), "{bad}");
        }
        for bad in ["h:99999", "h:abc", "h:-1", "h:", "h:0", "h:+1", "[::1]:", "[::1]:0", "h:65536/v1", "h:80x"] {
            for url in [bad.to_owned(), format!("http://{bad}"), format!("https://{bad}")] {
                assert!(Endpoint::parse(&url).is_err(), "{url}: its port must not become the scheme's");
            }
        }
        assert_eq!(Endpoint::parse("http://h:1/#x"), Err(EndpointError::Fragment));
        for path in ["/v1/chat/completions", "/v1/completions/", "/v1/models", "/x/v1/messages", "/generate"] {
            assert_eq!(Endpoint::parse(&format!("http://h:1{path}")), Err(EndpointError::Endpoint), "{path}");
        }
        assert_eq!(Endpoint::parse("h:08").map(|at| at.port()), Ok(8));
    }
}
