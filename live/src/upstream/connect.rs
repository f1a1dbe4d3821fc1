//! Connections to replicas: where they are, how they are dialled, and the pool.

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

/// Any stream.
pub type Io = Box<dyn Stream>;

/// Opens a connection to host and port.
pub type Dial = Arc<dyn Fn(String, u16) -> Pin<Box<dyn Future<Output = io::Result<Io>> + Send>> + Send + Sync>;

/// Real sockets. `TCP_NODELAY` is set: Nagle's algorithm would hold back tokens by a round trip.
pub fn tcp() -> Dial {
    Arc::new(|host, port| {
        Box::pin(async move {
            let stream = tokio::net::TcpStream::connect((host.as_str(), port)).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as Io)
        })
    })
}

/// Where a replica is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// `http` or `https`.
    pub scheme: Scheme,
    /// Host and port.
    pub authority: Authority,
    /// Put before every path; no slash at its end.
    pub base: String,
}

impl Endpoint {
    /// Reads a URL; `host:port` alone is http.
    ///
    /// # Errors
    /// What to write instead.
    pub fn parse(url: &str) -> Result<Self, String> {
        let advice = || "write http://host:port or https://host[:port]".to_owned();
        let text = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
        let uri: Uri = text.parse().map_err(|_| advice())?;
        let parts = uri.into_parts();
        let (Some(scheme), Some(authority)) = (parts.scheme, parts.authority) else { return Err(advice()) };
        let known = scheme == Scheme::HTTP || scheme == Scheme::HTTPS;
        if !known || authority.as_str().contains('@') || authority.host().is_empty() {
            return Err(advice());
        }
        let path = parts.path_and_query.unwrap_or_else(|| PathAndQuery::from_static("/"));
        if path.query().is_some() {
            return Err("leave out what follows `?`".to_owned());
        }
        let base = path.path().trim_end_matches('/').to_owned();
        Ok(Self { scheme, authority, base })
    }

    /// Host and port as shown.
    pub fn name(&self) -> String {
        format!("{}{}", self.authority, self.base)
    }

    /// Host.
    pub fn host(&self) -> &str {
        self.authority.host().trim_start_matches('[').trim_end_matches(']')
    }

    /// Port, the scheme's own when none is given.
    pub fn port(&self) -> u16 {
        self.authority.port_u16().unwrap_or(if self.scheme == Scheme::HTTPS { 443 } else { 80 })
    }

    /// Whether it is reached through TLS.
    pub fn is_https(&self) -> bool {
        self.scheme == Scheme::HTTPS
    }

    /// The value of `Host`: the port is left out where the scheme implies it.
    pub(crate) fn host_header(&self) -> HeaderValue {
        let implied = if self.is_https() { 443 } else { 80 };
        let host = self.authority.host();
        let port = self.authority.port_u16().filter(|&port| port != implied);
        let text = port.map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
        HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("replica"))
    }

    /// The target of a request for `path` on a connection that leads there.
    pub(crate) fn target(&self, path: &PathAndQuery) -> Uri {
        if self.base.is_empty() {
            Uri::from(path.clone())
        } else {
            self.uri(path).path_and_query().cloned().unwrap_or(path.clone()).into()
        }
    }

    /// The address of `path` there.
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

/// Dials, and wraps in TLS what is https.
#[derive(Clone)]
pub struct Connector {
    dial: Dial,
    tls: Option<tokio_rustls::TlsConnector>,
    timeout: Duration,
}

impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connector").field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

impl Connector {
    /// A connector that gives up after `timeout`.
    pub fn new(dial: Dial, tls: Option<Arc<rustls::ClientConfig>>, timeout: Duration) -> Self {
        Self { dial, tls: tls.map(tokio_rustls::TlsConnector::from), timeout }
    }

    /// One connection.
    ///
    /// # Errors
    /// Those of the network, of TLS, and the timeout.
    pub async fn connect(&self, https: bool, host: &str, port: u16) -> io::Result<Io> {
        let open = async {
            let stream = (self.dial)(host.to_owned(), port).await?;
            if !https {
                return Ok(stream);
            }
            let tls = self.tls.as_ref().ok_or_else(|| io::Error::other("no TLS is set up for replicas"))?;
            let name = rustls::pki_types::ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
            Ok(Box::new(tls.connect(name, stream).await?) as Io)
        };
        match tokio::time::timeout(self.timeout, open).await {
            Ok(result) => result,
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "connecting took too long")),
        }
    }
}

impl tower::Service<Uri> for Connector {
    type Response = Pooled;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Pooled>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let this = self.clone();
        Box::pin(async move {
            let https = uri.scheme() == Some(&Scheme::HTTPS);
            let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
            let port = uri.port_u16().unwrap_or(if https { 443 } else { 80 });
            Ok(Pooled(TokioIo::new(this.connect(https, host, port).await?)))
        })
    }
}

/// A connection of the pool.
pub struct Pooled(TokioIo<Io>);

impl Connection for Pooled {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl hyper::rt::Read for Pooled {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl hyper::rt::Write for Pooled {
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

/// Pooled connections of clients: of the admin API, of collectors of spans, of tests.
pub type Pool = Client<Connector, Full<Bytes>>;

/// A pool that closes connections unused for `keep_alive`.
pub fn pool(connector: Connector, keep_alive: Duration) -> Pool {
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
        for bad in ["", "ftp://a", "http://user@a", "http://", "http://a b", "http://a/?x=1"] {
            assert!(Endpoint::parse(bad).is_err(), "{bad}");
        }
    }
}
