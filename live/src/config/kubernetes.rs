//! The tables `[[discovery.kubernetes]]`: Services whose EndpointSlices list replicas.

use super::ConfigError;
use gorgo_core::settings::{NumberOrText, number_or_text};
use schemars::JsonSchema;
use serde::de::{Error as _, Unexpected};
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

/// Most Services.
const MAX_SERVICES: usize = 64;

/// A Service of Kubernetes, whose EndpointSlices are watched; needs a build with the feature `kubernetes`. A replica has
/// the name of its pod, and a pod of the same name with another uid is another replica. A terminating pod and one that is
/// no longer ready finish their requests and get no new ones.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct KubernetesService {
    /// Name of the Service.
    pub service: String,
    /// Its namespace; that of the router's pod, or of the kubeconfig's context, when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Name or number of the port of its slices, which is that of the pods; may be absent if they have only one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<ServicePort>,
    /// A kubeconfig with the API server and the router's rights there; those of the router's pod when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kubeconfig: Option<PathBuf>,
    /// Region of a zone (`"us-east-1a" = "us-east-1"`), for Services without a label `region` or
    /// `topology.kubernetes.io/region`. A zone that is not listed has the region of `[discovery]`, else its own name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub regions: BTreeMap<String, String>,
}

/// A port of EndpointSlices.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum ServicePort {
    /// Its number.
    Number(u16),
    /// Its name.
    Name(String),
}

impl<'de> Deserialize<'de> for ServicePort {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        const EXPECTED: &str = "a number from 1 to 65535, or the name of a port";
        Ok(match number_or_text(from, EXPECTED)? {
            NumberOrText::Text(name) => Self::Name(name),
            NumberOrText::Number(number) => match u16::try_from(number) {
                Ok(port) => Self::Number(port),
                Err(_) => return Err(D::Error::invalid_value(Unexpected::Unsigned(number), &EXPECTED)),
            },
        })
    }
}

impl fmt::Display for KubernetesService {
    /// `kubernetes:NAMESPACE/SERVICE`, which names the source.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "kubernetes:{namespace}/{}", self.service),
            None => write!(f, "kubernetes:{}", self.service),
        }
    }
}

/// Whether this is a name of Kubernetes (RFC 1123): it goes into a path and a selector.
fn is_name(text: &str) -> bool {
    let fine = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&text.len()) && text.bytes().all(fine) && !text.starts_with('-') && !text.ends_with('-')
}

/// Checks the list.
///
/// # Errors
/// A name is none, a Service is listed twice, or this build has no client for Kubernetes.
pub(super) fn check(services: &[KubernetesService]) -> Result<(), ConfigError> {
    let bad = |key: String, value: String, advice: &str| {
        Err(ConfigError::Value { key: format!("discovery.kubernetes{key}"), value, advice: advice.to_owned() })
    };
    if services.len() > MAX_SERVICES {
        return bad(String::new(), format!("a list of {}", services.len()), "give at most 64 Services");
    }
    let name = "write a name of Kubernetes: at most 63 lower-case letters, digits and `-`";
    for (i, service) in services.iter().enumerate() {
        if !is_name(&service.service) {
            return bad(format!("[{i}].service"), format!("\"{}\"", service.service), name);
        }
        if let Some(namespace) = service.namespace.as_ref().filter(|text| !is_name(text)) {
            return bad(format!("[{i}].namespace"), format!("\"{namespace}\""), name);
        }
        if service.port == Some(ServicePort::Number(0)) {
            return bad(format!("[{i}].port"), "0".to_owned(), "give a number from 1 to 65535, or the name of a port");
        }
        if services[..i].iter().any(|before| before.to_string() == service.to_string()) {
            return bad(format!("[{i}]"), format!("\"{service}\""), "it is listed twice; leave one out");
        }
    }
    if !cfg!(feature = "kubernetes") && !services.is_empty() {
        let advice = "this build cannot ask Kubernetes; build it with `cargo build --release --features kubernetes`, or \
                      use discovery.dns";
        return bad(String::new(), format!("a list of {}", services.len()), advice);
    }
    Ok(())
}
