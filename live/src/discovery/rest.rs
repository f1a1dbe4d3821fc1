//! A registry polled over HTTP: a URL that returns an endpoint file as JSON. Each request carries the `ETag` of the
//! last answer, so that an unchanged registry sends no body.

use super::{DiscoveredEndpoint, DiscoveryError, cause, file};
use crate::config::{Config, Discovery, Tls};
use crate::server::tls;
use crate::upstream::connect::{Connector, Endpoint, PooledClient, pooled_client, tcp};
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, ETAG, IF_NONE_MATCH};
use http::uri::PathAndQuery;
use http::{HeaderValue, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use parking_lot::Mutex;
use std::time::Duration;
use thiserror::Error;

/// Longest answer, bytes.
const MOST_BYTES: usize = 1 << 20;
/// The whole answer must be there by then.
const WHOLE_ANSWER: Duration = Duration::from_secs(5);

/// The URL of a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RestUrl {
    at: Endpoint,
    path: PathAndQuery,
}

/// A URL that cannot be asked.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum RestUrlError {
    /// No URL of HTTP.
    #[error("give a URL as http://HOST[:PORT]/PATH or https://HOST/PATH")]
    Form,
    /// Names and passwords would appear in logs.
    #[error("a name or password in a URL would appear in logs; use discovery.rest_key_file")]
    Userinfo,
}

impl RestUrl {
    pub(crate) fn parse(text: &str) -> Result<Self, RestUrlError> {
        let (scheme, rest) = text.split_once("://").ok_or(RestUrlError::Form)?;
        let (authority, path) = rest.find('/').map_or((rest, "/"), |slash| rest.split_at(slash));
        if authority.contains('@') {
            return Err(RestUrlError::Userinfo);
        }
        let at = Endpoint::parse(&format!("{scheme}://{authority}")).map_err(|_| RestUrlError::Form)?;
        if at.authority.host().len() != authority.len() && at.authority.port_u16().is_none() {
            return Err(RestUrlError::Form); // a port that is no number
        }
        Ok(Self { at, path: path.parse().map_err(|_| RestUrlError::Form)? })
    }
}

impl std::fmt::Display for RestUrl {
    /// Without the query, which may hold a secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}://{}{}", self.at.scheme, self.at.name(), self.path.path())
    }
}

/// A registry with its last answer.
pub(crate) struct Registry {
    pub(crate) url: RestUrl,
    client: PooledClient,
    last: Mutex<Option<(HeaderValue, Vec<DiscoveredEndpoint>)>>,
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry").field("url", &self.url).finish_non_exhaustive()
    }
}

impl Registry {
    /// A registry that was not asked yet.
    ///
    /// # Errors
    /// The system's certificates cannot be read.
    pub(crate) fn new(url: RestUrl) -> Result<Self, DiscoveryError> {
        let trust = tls::client_config(&Tls::default()).map_err(|wrong| DiscoveryError(wrong.to_string()))?;
        let connector = Connector::new(tcp(), trust, WHOLE_ANSWER);
        Ok(Self { url, client: pooled_client(connector, Duration::from_secs(4)), last: Mutex::new(None) })
    }

    /// Asks once.
    ///
    /// # Errors
    /// There is no answer in time, it is not 200 or 304, is longer than 1 MiB, or an endpoint in it is wrong.
    pub(crate) async fn ask(&self, config: &Discovery) -> Result<Vec<DiscoveredEndpoint>, DiscoveryError> {
        match tokio::time::timeout(WHOLE_ANSWER, self.answer(config)).await {
            Ok(answer) => answer.map_err(DiscoveryError),
            Err(_) => Err(DiscoveryError(format!("no whole answer within {} s", WHOLE_ANSWER.as_secs()))),
        }
    }

    async fn answer(&self, config: &Discovery) -> Result<Vec<DiscoveredEndpoint>, String> {
        let last = self.last.lock().clone();
        let mut request = Request::new(Full::new(Bytes::new()));
        *request.uri_mut() = self.url.at.uri(&self.url.path);
        let headers = request.headers_mut();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        if let Some(path) = &config.rest_key_file {
            let key = Config::secret(path).map_err(|wrong| wrong.to_string())?;
            let value = HeaderValue::try_from(format!("Bearer {key}"));
            let mut value = value.map_err(|_| "the key holds characters that no header can".to_owned())?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        if let Some((tag, _)) = &last {
            headers.insert(IF_NONE_MATCH, tag.clone());
        }
        let response = self.client.request(request).await.map_err(|wrong| format!("no answer: {}", cause(&wrong)))?;
        let (head, body) = response.into_parts();
        match (head.status, last) {
            (StatusCode::OK, _) => {}
            (StatusCode::NOT_MODIFIED, Some((_, endpoints))) => return Ok(endpoints),
            (status, _) => return Err(format!("it answers {status}")),
        }
        let body = Limited::new(body, MOST_BYTES).collect().await;
        let body = body.map_err(|wrong| format!("its answer broke off or is longer than 1 MiB: {wrong}"))?.to_bytes();
        let text = std::str::from_utf8(&body).map_err(|_| "its answer is no text".to_owned())?;
        let endpoints = file::parse(text, "json")?;
        *self.last.lock() = head.headers.get(ETAG).map(|tag| (tag.clone(), endpoints.clone()));
        Ok(endpoints)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_shown_without_their_query_and_never_hold_a_password() {
        let url = RestUrl::parse("http://registry:8500/v1/engines?token=secret").unwrap();
        assert_eq!(url.to_string(), "http://registry:8500/v1/engines");
        assert_eq!(RestUrl::parse("https://r.example").unwrap().to_string(), "https://r.example/");
        assert_eq!(RestUrl::parse("http://me:secret@r/x"), Err(RestUrlError::Userinfo));
        for wrong in ["", "registry", "ftp://r/x", "http://", "http://r:0x/x", "http://r/a b"] {
            assert_eq!(RestUrl::parse(wrong), Err(RestUrlError::Form), "{wrong}");
        }
    }
}
