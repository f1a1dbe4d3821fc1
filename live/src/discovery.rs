//! Discovery: replicas (of an edge: peers) from a file, from DNS, from a registry or from Kubernetes, besides those
//! that the configuration lists.
//!
//! Read `endpoint` (one discovered replica, and the difference between two answers of a source), `file`, `dns`, `rest`
//! and `kubernetes` (the sources), `discovered` (the latest answer of each), then `watch` (the task that polls one
//! source and changes the fleet).
//!
//! An endpoint is identified by its name, not by its URL: the same name with another URL is another engine, and any
//! other change of the entry changes the replica in place. A source that fails, or whose answer lists no endpoint,
//! changes nothing: its last set stays, marked as stale. Discovery never changes replicas of the configuration or of
//! the admin API, and does not add a replica again that an operator has removed.

pub(crate) mod discovered;
pub(crate) mod dns;
pub(crate) mod endpoint;
pub(crate) mod file;
#[cfg(feature = "kubernetes")]
pub(crate) mod kubernetes;
pub(crate) mod rest;
pub(crate) mod watch;

use crate::config::Discovery;
use dns::{DnsName, Resolver};
pub use endpoint::DiscoveredEndpoint;
use gorgo_core::MAX_REPLICAS;
use rest::{Registry, RestUrl};
use std::path::PathBuf;
use std::time::Duration;

/// Why a source gave no endpoints; one sentence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct DiscoveryError(pub(crate) String);

/// One source of endpoints.
#[derive(Debug)]
pub(crate) enum Source {
    File(PathBuf),
    Dns(DnsName, Box<Resolver>),
    Rest(Box<Registry>),
    #[cfg(feature = "kubernetes")]
    Kubernetes(Box<kubernetes::Watched>),
}

impl Source {
    /// The sources of a configuration.
    ///
    /// # Errors
    /// The system's resolver configuration cannot be read.
    pub(crate) fn all(config: &Discovery) -> Result<Vec<Self>, DiscoveryError> {
        let mut sources: Vec<Self> = config.file.iter().cloned().map(Self::File).collect();
        for text in &config.dns {
            let name = DnsName::parse(text).map_err(|wrong| DiscoveryError(format!("`{text}`: {wrong}")))?;
            sources.push(Self::Dns(name, Box::new(Resolver::new(config.name_server)?)));
        }
        for text in &config.rest {
            let url = RestUrl::parse(text).map_err(|wrong| DiscoveryError(wrong.to_string()))?;
            sources.push(Self::Rest(Box::new(Registry::new(url)?)));
        }
        #[cfg(feature = "kubernetes")]
        for service in &config.kubernetes {
            sources.push(Self::Kubernetes(Box::new(kubernetes::Watched::new(service.clone()))));
        }
        Ok(sources)
    }

    /// Its name in the log, in `status` and in metrics: the path, the DNS name, the URL, or the Service.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::File(path) => path.display().to_string(),
            Self::Dns(name, _) => name.to_string(),
            Self::Rest(registry) => registry.url.to_string(),
            #[cfg(feature = "kubernetes")]
            Self::Kubernetes(service) => service.name(),
        }
    }

    /// Asks the source once. An answer without endpoints is an error: it would empty the fleet. Of more endpoints than a
    /// fleet holds the first are used: those that take requests before others, then by name, so that all routers of one
    /// source use the same.
    ///
    /// # Errors
    /// The source cannot be read, or lists no endpoint.
    pub(crate) async fn ask(&self, config: &Discovery) -> Result<Listed, DiscoveryError> {
        let mut found = match self {
            Self::File(path) => file::read(path).await?,
            Self::Dns(name, resolver) => resolver.lookup(name).await?,
            Self::Rest(registry) => registry.ask(config).await?,
            #[cfg(feature = "kubernetes")]
            Self::Kubernetes(service) => service.ask(config.region.as_deref()).await.map_err(DiscoveryError)?,
        };
        if found.is_empty() {
            return Err(DiscoveryError("it lists no endpoint".to_owned()));
        }
        for endpoint in &mut found {
            if endpoint.region.is_none() {
                endpoint.region.clone_from(&config.region);
            }
        }
        Ok(Listed::of(found))
    }

    /// Waits until it is time to ask again: for news of what can be watched, else for `poll`.
    pub(crate) async fn pause(&self, poll: Duration) {
        match self {
            Self::File(_) | Self::Dns(..) | Self::Rest(_) => tokio::time::sleep(poll).await,
            #[cfg(feature = "kubernetes")]
            Self::Kubernetes(service) => service.pause(poll).await,
        }
    }
}

/// The innermost reason of an error of the client.
fn cause(error: &dyn std::error::Error) -> String {
    let mut at = error;
    while let Some(source) = at.source() {
        at = source;
    }
    at.to_string()
}

/// What a source lists.
#[derive(Debug, Clone, PartialEq)]
pub struct Listed {
    /// The endpoints that are used, at most as many as a fleet holds.
    pub endpoints: Vec<DiscoveredEndpoint>,
    /// How many it lists beyond these.
    pub beyond: usize,
}

impl Listed {
    fn of(mut all: Vec<DiscoveredEndpoint>) -> Self {
        let beyond = all.len().saturating_sub(MAX_REPLICAS);
        if beyond > 0 {
            all.sort_by(|one, other| (one.draining, &one.name).cmp(&(other.draining, &other.name)));
            all.truncate(MAX_REPLICAS);
        }
        Self { endpoints: all, beyond }
    }
}

/// Asks every source of a configuration once, for `gorgo discovery check`. Changes nothing.
///
/// # Errors
/// The resolver cannot be set up; the error of one source stands in its place.
pub async fn ask_all(config: &Discovery) -> Result<Vec<SourceAnswer>, DiscoveryError> {
    let mut answers = Vec::new();
    for source in Source::all(config)? {
        answers.push(SourceAnswer { source: source.name(), listed: source.ask(config).await });
    }
    Ok(answers)
}

/// What one source answered.
#[derive(Debug)]
pub struct SourceAnswer {
    /// Its name, as in `status`.
    pub source: String,
    /// Its endpoints, or why there are none.
    pub listed: Result<Listed, DiscoveryError>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_too_many_endpoints_the_ready_ones_come_first_and_then_those_whose_names_do() {
        let one = |n: usize| DiscoveredEndpoint {
            draining: n < 3,
            ..DiscoveredEndpoint::new(&format!("e{n:03}"), &format!("http://h:{}", n + 1))
        };
        let few: Vec<_> = (0..MAX_REPLICAS).rev().map(one).collect();
        assert_eq!(Listed::of(few.clone()), Listed { endpoints: few, beyond: 0 });
        let Listed { endpoints, beyond } = Listed::of((0..MAX_REPLICAS + 5).rev().map(one).collect());
        assert_eq!((endpoints.len(), beyond), (MAX_REPLICAS, 5));
        assert!(endpoints.iter().all(|endpoint| !endpoint.draining), "terminating ones are left out first");
        assert_eq!((endpoints[0].name.as_str(), endpoints[255].name.as_str()), ("e003", "e258"));
    }
}
