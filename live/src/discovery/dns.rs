//! Replicas as DNS records: A and AAAA of a headless Service, SRV of Consul and of Kubernetes' named ports.

use super::{DiscoveredEndpoint, DiscoveryError};
use futures_util::future::{Either, FutureExt, select};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{RData, RecordType};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Limit of one question; it is asked twice.
const ATTEMPT: Duration = Duration::from_secs(4);
/// Limit of one lookup, with all questions that it takes.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long addresses of one family wait for an answer about the other, which the name never had.
const OTHER_FAMILY: Duration = Duration::from_secs(1);
/// Targets of SRV records that are looked up at once.
const TARGETS_AT_ONCE: usize = 16;

const SILENT: &str = "the name server does not answer";

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

/// A resolver without a cache of its own, so that every poll gets the name server's current answer.
#[derive(Debug)]
pub(crate) struct Resolver {
    dns: TokioResolver,
    /// Whether it asks another name server than the system, which then cannot look up the targets of SRV records.
    is_own: bool,
    /// Whether the name had IPv4 and IPv6 addresses when they were asked for last.
    had: [AtomicBool; 2],
}

/// The families of addresses, in the order of their preference.
const FAMILIES: [RecordType; 2] = [RecordType::A, RecordType::AAAA];

/// Why a lookup gave no addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
enum NoAnswer {
    /// There is no such name.
    NoName,
    Failed(String),
}

impl From<NoAnswer> for DiscoveryError {
    fn from(why: NoAnswer) -> Self {
        Self(match why {
            NoAnswer::NoName => "the name server knows no such name (NXDOMAIN)".to_owned(),
            NoAnswer::Failed(why) => why,
        })
    }
}

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
        (options.cache_size, options.timeout, options.attempts) = (0, ATTEMPT, 2);
        let dns = builder.build().map_err(|why| fail(&why))?;
        Ok(Self { dns, is_own: server.is_some(), had: Default::default() })
    }

    /// The endpoints behind a name, each once, in the order of their names.
    ///
    /// # Errors
    /// The name server does not answer, or has no such name.
    pub(crate) async fn lookup(&self, name: &DnsName) -> Result<Vec<DiscoveredEndpoint>, DiscoveryError> {
        let endpoints = async {
            match name {
                DnsName::Addresses { host, port } => {
                    let found = self.addresses(host, &self.had).await?;
                    let names = found.into_iter().map(|ip| SocketAddr::new(ip, *port).to_string());
                    Ok(names.map(|name| DiscoveredEndpoint::new(&name, &format!("http://{name}"))).collect())
                }
                DnsName::Services { name } => self.services(name).await,
            }
        };
        let endpoints = tokio::time::timeout(TIMEOUT, endpoints).await;
        endpoints.map_err(|_| DiscoveryError(SILENT.to_owned()))?
    }

    /// The addresses of a host. The two families are asked at once, since some name servers drop questions for one. `had`
    /// says which of the two had addresses before: without an answer about such a family nothing is known.
    async fn addresses(&self, host: &str, had: &[AtomicBool; 2]) -> Result<BTreeSet<IpAddr>, NoAnswer> {
        let [four, six] = FAMILIES.map(|family| self.family(host, family).boxed());
        let (first, second, swapped) = match select(four, six).await {
            Either::Left((four, six)) => (four, six, false),
            Either::Right((six, four)) => (six, four, true),
        };
        let has_addresses = first.as_ref().is_ok_and(|found| !found.is_empty());
        let is_needed = !has_addresses || had[usize::from(!swapped)].load(Ordering::Relaxed);
        let second = if is_needed {
            second.await
        } else {
            let late = |_| Err(NoAnswer::Failed(SILENT.to_owned()));
            tokio::time::timeout(OTHER_FAMILY, second).await.unwrap_or_else(late)
        };
        let answers = if swapped { [second, first] } else { [first, second] };
        let mut all = BTreeSet::new();
        let mut failed = None;
        for (answer, had) in answers.into_iter().zip(had) {
            match answer {
                Ok(found) => {
                    had.store(!found.is_empty(), Ordering::Relaxed);
                    all.extend(found);
                }
                Err(why) if had.load(Ordering::Relaxed) => return Err(why),
                Err(why) => failed = failed.or(Some(why)),
            }
        }
        match failed {
            Some(why) if all.is_empty() => Err(why),
            _ => Ok(all),
        }
    }

    /// The addresses of a host of one family; none for a name that has only others.
    async fn family(&self, host: &str, family: RecordType) -> Result<Vec<IpAddr>, NoAnswer> {
        match self.dns.lookup(host, family).await {
            Ok(found) => Ok(found.answers().iter().filter_map(|record| record.data.ip_addr()).collect()),
            Err(wrong) => if_no_records(wrong, Vec::new),
        }
    }

    /// The replicas of SRV records, by their targets. With a name server of discovery's own it is asked for the targets,
    /// too: the system may not know them.
    async fn services(&self, name: &str) -> Result<Vec<DiscoveredEndpoint>, DiscoveryError> {
        let (records, more) = match self.dns.srv_lookup(name).await {
            Ok(found) => (found.answers().to_vec(), found.additionals().to_vec()),
            Err(wrong) => (if_no_records(wrong, Vec::new)?, Vec::new()),
        };
        let services: BTreeMap<String, (String, u16)> = records
            .iter()
            .filter_map(|record| match &record.data {
                // A target of `.` says that the service is not available here (RFC 2782). Names have no case.
                RData::SRV(srv) if !srv.target.is_root() && srv.port > 0 => {
                    let target = srv.target.to_utf8().trim_end_matches('.').to_ascii_lowercase();
                    Some((format!("{target}:{}", srv.port), (target, srv.port)))
                }
                _ => None,
            })
            .collect();
        if !self.is_own {
            return Ok(services.keys().map(|at| DiscoveredEndpoint::new(at, &format!("http://{at}"))).collect());
        }
        let told = |target: &str| {
            let is_target = |name: &str| name.trim_end_matches('.').eq_ignore_ascii_case(target);
            let records = more.iter().filter(|record| is_target(&record.name.to_utf8()));
            records.filter_map(|record| record.data.ip_addr()).min()
        };
        let found = stream::iter(services).map(async |(name, (target, port))| {
            let ip = match told(&target) {
                Some(ip) => Some(ip),
                None => match self.addresses(&target, &Default::default()).await {
                    Ok(found) => found.into_iter().next(),
                    Err(NoAnswer::NoName) => None,
                    Err(why) => return Err(DiscoveryError(format!("{target}: {}", DiscoveryError::from(why)))),
                },
            };
            Ok(ip.map(|ip| DiscoveredEndpoint::new(&name, &format!("http://{}", SocketAddr::new(ip, port)))))
        });
        let found: Vec<Option<DiscoveredEndpoint>> = found.buffered(TARGETS_AT_ONCE).try_collect().await?;
        let listed = found.len();
        let found: Vec<DiscoveredEndpoint> = found.into_iter().flatten().collect();
        if found.is_empty() && listed > 0 {
            return Err(DiscoveryError(format!("the name server knows no address of its {listed} targets")));
        }
        Ok(found)
    }
}

/// What a lookup without records means: `none` for a name that has only records of other types.
fn if_no_records<T>(wrong: NetError, none: impl FnOnce() -> T) -> Result<T, NoAnswer> {
    match wrong {
        NetError::Dns(DnsError::NoRecordsFound(no)) if no.response_code == ResponseCode::NXDomain => {
            Err(NoAnswer::NoName)
        }
        NetError::Dns(DnsError::NoRecordsFound(no)) if no.response_code == ResponseCode::NoError => Ok(none()),
        NetError::Timeout => Err(NoAnswer::Failed(SILENT.to_owned())),
        NetError::Dns(DnsError::NoRecordsFound(no)) => {
            Err(NoAnswer::Failed(format!("the name server answers `{}`", no.response_code)))
        }
        other => Err(NoAnswer::Failed(format!("the lookup failed: {other}"))),
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
