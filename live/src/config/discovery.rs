//! The section `[discovery]`: sources of replicas besides the list in the file.

use super::{Config, ConfigError, KubernetesService, Secret, kubernetes};
use crate::discovery::dns::DnsName;
use crate::discovery::rest::RestUrl;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer};
use std::borrow::Cow;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Where a proxy finds engines, and an edge its peers. Nothing is discovered without `file`, `dns`, `rest` and `kubernetes`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Discovery {
    /// A YAML, JSON or TOML file with a list `endpoints`, read again at each poll.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// Names whose A and AAAA records (`[http://]NAME:PORT`) or SRV records (`_SERVICE._PROTO.DOMAIN`) are replicas.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub dns: Vec<String>,
    /// URLs that answer with the JSON of such a file, of at most 1 MiB and within 5 s; asked with the last `ETag`.
    #[serde(skip_serializing_if = "Vec::is_empty", serialize_with = "without_queries")]
    pub rest: Vec<String>,
    /// A file whose first line is the key sent to those URLs as `Authorization: Bearer`; read at each poll.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rest_key_file: Option<PathBuf>,
    /// Services of Kubernetes whose EndpointSlices are watched.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub kubernetes: Vec<KubernetesService>,
    /// The name server; that of `/etc/resolv.conf` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name_server: Option<SocketAddr>,
    /// Time between two polls of a source, ms. What is watched (`kubernetes`) changes the fleet at once.
    pub poll_ms: u64,
    /// Region of discovered replicas without one of their own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Key sent to discovered engines as `Authorization: Bearer`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_key: Option<Secret>,
    /// A file whose first line is that key; read with each answer of a source.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_key_file: Option<PathBuf>,
}

impl Default for Discovery {
    fn default() -> Self {
        Self {
            file: None,
            dns: Vec::new(),
            rest: Vec::new(),
            rest_key_file: None,
            kubernetes: Vec::new(),
            name_server: None,
            poll_ms: 2_000,
            region: None,
            api_key: None,
            api_key_file: None,
        }
    }
}

/// Stands for a query that is not shown: it may hold a token.
const HIDDEN_QUERY: &str = "?(set)";

fn without_queries<S: Serializer>(urls: &[String], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(urls.iter().map(|url| match url.split_once('?') {
        Some((url, _)) => Cow::Owned(format!("{url}{HIDDEN_QUERY}")),
        None => Cow::Borrowed(url.as_str()),
    }))
}

impl Discovery {
    /// The key of discovered engines: that of the file, else the one given.
    ///
    /// # Errors
    /// When the file cannot be read, or its first line is no key.
    pub(crate) fn engine_key(&self) -> Result<Option<Secret>, ConfigError> {
        match &self.api_key_file {
            Some(path) => Config::secret(path).map(|key| Some(key.into())),
            None => Ok(self.api_key.clone()),
        }
    }

    /// Puts the queries in force where a configuration that was shown has none.
    pub(super) fn keep_queries(&mut self, old: &Self) {
        for url in &mut self.rest {
            let Some(shown) = url.strip_suffix(HIDDEN_QUERY) else { continue };
            let is_same = |old: &&String| old.split_once('?').is_some_and(|(before, _)| before == shown);
            if let Some(known) = old.rest.iter().find(is_same) {
                url.clone_from(known);
            }
        }
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let bad = |key: String, value: String, advice: &str| {
            Err(ConfigError::Value { key: format!("discovery.{key}"), value, advice: advice.to_owned() })
        };
        if !(100..=3_600_000).contains(&self.poll_ms) {
            return bad("poll_ms".to_owned(), self.poll_ms.to_string(), "it must lie between 100 and 3600000");
        }
        if self.dns.len() > 64 {
            return bad("dns".to_owned(), format!("a list of {}", self.dns.len()), "give at most 64 names");
        }
        for (i, name) in self.dns.iter().enumerate() {
            if let Err(wrong) = DnsName::parse(name) {
                return bad(format!("dns[{i}]"), format!("\"{name}\""), &wrong.to_string());
            }
            if self.dns[..i].contains(name) {
                return bad(format!("dns[{i}]"), format!("\"{name}\""), "it is listed twice; leave one out");
            }
        }
        if self.rest.len() > 64 {
            return bad("rest".to_owned(), format!("a list of {}", self.rest.len()), "give at most 64 URLs");
        }
        let mut shown: Vec<String> = Vec::new();
        for (i, text) in self.rest.iter().enumerate() {
            // Not the URL itself: it may hold a secret.
            match RestUrl::parse(text) {
                Err(wrong) => return bad(format!("rest[{i}]"), "not usable".to_owned(), &wrong.to_string()),
                Ok(url) if text.ends_with(HIDDEN_QUERY) => {
                    let advice = "\"(set)\" stands for a query that is not shown, and none is in force; give the query";
                    return bad(format!("rest[{i}]"), format!("\"{url}{HIDDEN_QUERY}\""), advice);
                }
                Ok(url) if shown.contains(&url.to_string()) => {
                    return bad(format!("rest[{i}]"), format!("\"{url}\""), "it is listed twice; leave one out");
                }
                Ok(url) => shown.push(url.to_string()),
            }
        }
        if self.rest_key_file.is_some() && self.rest.is_empty() {
            return bad(
                "rest_key_file".to_owned(),
                "set".to_owned(),
                "there is no URL in discovery.rest to send it to",
            );
        }
        kubernetes::check(&self.kubernetes)
    }
}
