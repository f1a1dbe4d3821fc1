//! The section `[discovery]`: sources of replicas besides the list in the file.

use super::{ConfigError, Secret};
use crate::discovery::dns::DnsName;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::path::PathBuf;

/// Where a proxy finds engines, and an edge its peers. Nothing is discovered without `file` and `dns`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Discovery {
    /// A YAML, JSON or TOML file with a list `endpoints`, read again at each poll.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// Names whose A and AAAA records (`[http://]NAME:PORT`) or SRV records (`_SERVICE._PROTO.DOMAIN`) are replicas.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub dns: Vec<String>,
    /// The name server; that of `/etc/resolv.conf` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name_server: Option<SocketAddr>,
    /// Time between two polls of a source, ms.
    pub poll_ms: u64,
    /// Region of discovered replicas without one of their own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Key sent to discovered engines as `Authorization: Bearer`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_key: Option<Secret>,
}

impl Default for Discovery {
    fn default() -> Self {
        Self { file: None, dns: Vec::new(), name_server: None, poll_ms: 2_000, region: None, api_key: None }
    }
}

impl Discovery {
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
        Ok(())
    }
}
