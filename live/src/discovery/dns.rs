//! Replicas as DNS records: A and AAAA of a headless Service, SRV of Consul and of Kubernetes' named ports.

use super::{DiscoveredEndpoint, DiscoveryError};
use gorgo_core::MAX_REPLICAS;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::RData;
use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

/// Limit of one lookup, all its tries included.
const TIMEOUT: Duration = Duration::from_secs(5);

/// What a name in the configuration asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum DnsName {
    /// A and AAAA records, each with this port.
    Addresses { host: String, port: u16 },
    /// SRV records, which have ports of their own.
    Services { name: String },
}

/// Why a text is no name to look up. The text is advice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NameError {
    #[error("write NAME:PORT, or _SERVICE._PROTO.DOMAIN for SRV records")]
    Form,
    #[error("engines with TLS cannot be found in DNS, where a certificate's name is not known; list them in a file")]
    Https,
}

impl DnsName {
    pub(crate) fn parse(text: &str) -> Result<Self, NameError> {
        if text.starts_with("https://") {
            return Err(NameError::Https);
        }
        let text = text.strip_prefix("http://").unwrap_or(text).trim_end_matches('/');
        let is_name = |name: &str| {
            let letters = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
            !name.is_empty() && name.len() <= 253 && name.bytes().all(letters)
        };
        if text.starts_with('_') {
            return if is_name(text) { Ok(Self::Services { name: text.to_owned() }) } else { Err(NameError::Form) };
        }
        let (host, port) = text.rsplit_once(':').ok_or(NameError::Form)?;
        let port = port.parse().ok().filter(|&port| port > 0).ok_or(NameError::Form)?;
        if is_name(host) { Ok(Self::Addresses { host: host.to_owned(), port }) } else { Err(NameError::Form) }
    }
}

impl fmt::Display for DnsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Addresses { host, port } => write!(f, "{host}:{port}"),
            Self::Services { name } => f.write_str(name),
        }
    }
}

/// A resolver without a cache of its own: a poll shall see what the name server says now.
#[derive(Debug)]
pub(crate) struct Resolver(TokioResolver);

impl Resolver {
    /// A resolver that asks `server`, or the servers of `/etc/resolv.conf`.
    ///
    /// # Errors
    /// The system's configuration cannot be read.
    pub(crate) fn new(server: Option<SocketAddr>) -> Result<Self, DiscoveryError> {
        let fail =
            |why: &dyn fmt::Display| DiscoveryError(format!("no name server ({why}); set discovery.name_server"));
        let mut builder = match server {
            None => TokioResolver::builder_tokio().map_err(|why| fail(&why))?,
            Some(server) => {
                let (mut udp, mut tcp) = (ConnectionConfig::udp(), ConnectionConfig::tcp());
                (udp.port, tcp.port) = (server.port(), server.port());
                let server = NameServerConfig::new(server.ip(), true, vec![udp, tcp]);
                let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
                TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
            }
        };
        let options = builder.options_mut();
        (options.cache_size, options.timeout, options.attempts) = (0, Duration::from_secs(2), 2);
        Ok(Self(builder.build().map_err(|why| fail(&why))?))
    }

    /// The endpoints behind a name, each once, in the order of their names.
    ///
    /// # Errors
    /// The name server does not answer, has no such name, or answers with more records than a fleet holds.
    pub(crate) async fn lookup(&self, name: &DnsName) -> Result<Vec<DiscoveredEndpoint>, DiscoveryError> {
        let records = tokio::time::timeout(TIMEOUT, self.names(name)).await;
        let names = records.map_err(|_| DiscoveryError("the name server does not answer".to_owned()))??;
        if names.len() > MAX_REPLICAS {
            return Err(DiscoveryError(format!("it has {} records; at most {MAX_REPLICAS} fit", names.len())));
        }
        Ok(names.into_iter().map(|name| DiscoveredEndpoint::new(&name, &format!("http://{name}"))).collect())
    }

    /// `host:port` of each record.
    async fn names(&self, name: &DnsName) -> Result<BTreeSet<String>, DiscoveryError> {
        let fail = |why: &dyn fmt::Display| DiscoveryError(format!("the lookup failed: {why}"));
        match name {
            DnsName::Addresses { host, port } => {
                let found = self.0.lookup_ip(host.as_str()).await.map_err(|why| fail(&why))?;
                Ok(found.iter().map(|ip| SocketAddr::new(ip, *port).to_string()).collect())
            }
            DnsName::Services { name } => {
                let found = self.0.srv_lookup(name.as_str()).await.map_err(|why| fail(&why))?;
                let records = found.answers().iter().filter_map(|record| match &record.data {
                    // A target of `.` says that the service is not available here (RFC 2782).
                    RData::SRV(srv) if !srv.target.is_root() && srv.port > 0 => {
                        Some(format!("{}:{}", srv.target.to_utf8().trim_end_matches('.'), srv.port))
                    }
                    _ => None,
                });
                Ok(records.collect())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_bad_ones_advised() {
        let addresses = DnsName::Addresses { host: "sglang.ml.svc".to_owned(), port: 30_000 };
        assert_eq!(DnsName::parse("sglang.ml.svc:30000"), Ok(addresses.clone()));
        assert_eq!(DnsName::parse("http://sglang.ml.svc:30000/"), Ok(addresses));
        let name = "_sglang._tcp.service.consul".to_owned();
        assert_eq!(DnsName::parse(&name), Ok(DnsName::Services { name }));
        for bad in ["", "host", "host:0", "host:x", ":1", "a b:1", "_a b", "[::1]:1"] {
            assert_eq!(DnsName::parse(bad), Err(NameError::Form), "{bad}");
        }
        assert_eq!(DnsName::parse("https://host:1"), Err(NameError::Https));
    }
}
