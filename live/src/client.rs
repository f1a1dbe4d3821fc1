//! A client of the admin API.

use crate::admin::VERSION;
use crate::config::Tls;
use crate::upstream::connect::{Connector, Endpoint, PooledClient, pooled_client, shown_url, tcp};
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::uri::PathAndQuery;
use http::{HeaderValue, Method, Request};
use http_body_util::{BodyExt, Full, Limited};
use serde_json::Value;
use std::time::Duration;
use thiserror::Error;

/// Longest response that is read, bytes.
const ANSWER: usize = 256 << 20;

/// A failed call of the admin API.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CallError {
    /// The address or key cannot be used.
    #[error("{0}")]
    Usage(String),
    /// No router answered.
    #[error("no router answers at {at}: {why}; is it running, and are --host and --port right?")]
    Silent {
        /// Where.
        at: String,
        /// The system's reason.
        why: String,
    },
    /// What answers is another server.
    #[error("what answers at {at} is no gorgo router; are --host and --port right?")]
    Foreign {
        /// Where.
        at: String,
    },
    /// What listens there speaks TLS.
    #[error("{at} speaks TLS; add --tls, or https:// in front of the address")]
    Tls {
        /// Where.
        at: String,
    },
    /// The router refused.
    #[error("{at} refused ({status}): {why}")]
    Refused {
        /// Where.
        at: String,
        /// HTTP status.
        status: u16,
        /// The router's message.
        why: String,
    },
}

/// The client.
#[derive(Debug, Clone)]
pub struct AdminClient {
    endpoint: Endpoint,
    key: Option<HeaderValue>,
    pool: PooledClient,
    /// Whether only a router's answers are taken.
    of_router: bool,
}

impl AdminClient {
    /// A client of the router at `url`, showing `key` if there is one.
    ///
    /// # Errors
    /// When the URL or the key cannot be used.
    pub fn new(url: &str, key: Option<&str>, tls: &Tls) -> Result<Self, CallError> {
        let wrong = |why: String| CallError::Usage(why);
        let endpoint =
            Endpoint::parse(url).map_err(|advice| wrong(format!("`{}` is no address; {advice}", shown_url(url))))?;
        let trust = crate::server::tls::client_config(tls).map_err(|error| wrong(error.to_string()))?;
        let key = key.map(|key| HeaderValue::try_from(format!("Bearer {key}"))).transpose();
        let key = key.map_err(|_| wrong("the admin key holds characters no header can".to_owned()))?;
        let connector = Connector::new(tcp(), trust, Duration::from_secs(5));
        Ok(Self { endpoint, key, pool: pooled_client(connector, Duration::from_secs(4)), of_router: false })
    }

    /// This client, which takes no other server's answers for a router's.
    #[must_use]
    pub fn of_router(self) -> Self {
        Self { of_router: true, ..self }
    }

    /// Host and port.
    pub fn name(&self) -> String {
        self.endpoint.name()
    }

    /// One call; the answer's bytes.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn bytes(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Bytes, CallError> {
        let at = self.name();
        let path = PathAndQuery::try_from(path).map_err(|_| CallError::Usage(format!("`{path}` is no path")))?;
        let text = body.map_or(Bytes::new(), |body| Bytes::from(body.to_string()));
        let mut request = Request::builder().method(method).uri(self.endpoint.uri(&path));
        if let Some(key) = &self.key {
            request = request.header(AUTHORIZATION, key.clone());
        }
        let request = request.header(CONTENT_TYPE, "application/json").body(Full::new(text));
        let request = request.map_err(|error| CallError::Usage(error.to_string()))?;
        let silent = |why: String| CallError::Silent { at: at.clone(), why };
        let call = async {
            let response = self.pool.request(request).await.map_err(|error| {
                if !self.endpoint.is_https() && is_no_http(&error) {
                    return CallError::Tls { at: at.clone() };
                }
                let source = std::error::Error::source(&error).map(ToString::to_string);
                silent(source.unwrap_or_else(|| error.to_string()))
            })?;
            let (status, is_router) = (response.status(), response.headers().contains_key(VERSION));
            let body = Limited::new(response.into_body(), ANSWER)
                .collect()
                .await
                .map_err(|error| silent(error.to_string()))?;
            Ok((status, is_router, body.to_bytes()))
        };
        let limit = Duration::from_secs(60);
        let (status, is_router, bytes) =
            tokio::time::timeout(limit, call).await.map_err(|_| silent("no answer within 60 s".to_owned()))??;
        if status.is_success() {
            return if is_router || !self.of_router { Ok(bytes) } else { Err(CallError::Foreign { at }) };
        }
        let told: Option<Value> = serde_json::from_slice(&bytes).ok();
        let why = told.as_ref().and_then(|told| told["error"]["message"].as_str().or(told["message"].as_str()));
        let why = why.map_or_else(|| String::from_utf8_lossy(&bytes).trim().to_owned(), str::to_owned);
        Err(CallError::Refused { at, status: status.as_u16(), why })
    }

    /// One call; the answer as JSON, text as a string.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, CallError> {
        let bytes = self.bytes(method, path, body).await?;
        Ok(serde_json::from_slice(&bytes)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned())))
    }
}

/// Whether the answer was no HTTP, as the alert is with which TLS answers a request in plain text.
fn is_no_http(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut at = Some(error);
    while let Some(error) = at {
        if error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_parse) {
            return true;
        }
        at = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn another_server_is_no_router() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 1024]).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 13\r\n\r\n{\"servers\":5}").await;
        });
        let client = AdminClient::new(&format!("http://{at}"), None, &Tls::default()).unwrap().of_router();
        let error = client.call(Method::GET, "/proxy/servers", None).await.unwrap_err();
        assert_eq!(error, CallError::Foreign { at: at.to_string() });
    }

    #[tokio::test]
    async fn an_address_that_speaks_tls_is_said_to() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 16]).await;
            // The alert "unexpected message".
            stream.write_all(&[21, 3, 3, 0, 2, 2, 10]).await.unwrap();
        });
        let client = AdminClient::new(&format!("http://{at}"), None, &Tls::default()).unwrap();
        let error = client.call(Method::GET, "/proxy/status", None).await.unwrap_err();
        assert_eq!(error, CallError::Tls { at: at.to_string() });
    }
}
