//! The service's objects. Fields, regions, statuses and codes that this version does not know pass.

use super::Ports;
use crate::provider::{Node, Offer, Region, Status};
use serde::{Deserialize, Serialize};

pub(super) const TAG_KEY: &str = "gorgo-key";
pub(super) const TAG_RUN: &str = "gorgo-run";
pub(super) const TAG_NAME: &str = "gorgo-name";
pub(super) const TAG_PORTS: &str = "gorgo-ports";
const MARK: &str = "-gorgo-";

/// A machine's name at the service: the user's name and the nonce, at most 64 characters.
pub(super) fn machine_name(name: &str, key: &str) -> String {
    format!("{name}{MARK}{key}")
}

#[derive(Debug, Deserialize)]
pub(super) struct Specs {
    #[serde(default)]
    gpus: u32,
}

#[derive(Debug, Deserialize)]
pub(super) struct InstanceType {
    name: String,
    #[serde(default)]
    description: String,
    #[serde(default)]
    price_cents_per_hour: u64,
    specs: Option<Specs>,
}

#[derive(Debug, Deserialize)]
pub(super) struct TypeItem {
    instance_type: InstanceType,
    #[serde(default)]
    regions_with_capacity_available: Vec<Region>,
}

impl TypeItem {
    pub(super) fn offer(self) -> Offer {
        let kind = self.instance_type;
        Offer {
            name: kind.name,
            description: kind.description,
            gpus: kind.specs.map_or(0, |specs| specs.gpus),
            cents_per_hour: kind.price_cents_per_hour,
            regions: self.regions_with_capacity_available,
        }
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct Tag {
    key: String,
    #[serde(default)]
    value: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct Reference {
    id: String,
}

/// A machine. Its Jupyter token and URL are left out: they give access to it.
#[derive(Debug, Deserialize)]
pub(super) struct Instance {
    id: String,
    name: Option<String>,
    ip: Option<String>,
    status: String,
    region: Region,
    instance_type: InstanceType,
    tags: Option<Vec<Tag>>,
    firewall_rulesets: Option<Vec<Reference>>,
}

impl Instance {
    pub(super) fn region(&self) -> &str {
        &self.region.name
    }

    pub(super) fn has_ruleset(&self, id: &str) -> bool {
        self.firewall_rulesets.iter().flatten().any(|reference| reference.id == id)
    }

    pub(super) fn node(self) -> Node {
        let tag = |key: &str| self.tags.iter().flatten().find(|tag| tag.key == key).map(|tag| tag.value.clone());
        let full = self.name.clone().unwrap_or_default();
        let split = full.rsplit_once(MARK);
        let key = tag(TAG_KEY).or_else(|| split.map(|(_, key)| key.to_owned()));
        let plain = || split.map_or_else(|| full.clone(), |(name, _)| name.to_owned());
        let name = tag(TAG_NAME).unwrap_or_else(plain);
        let ports = tag(TAG_PORTS).and_then(|ports| ports.parse::<Ports>().ok());
        let status = match self.status.as_str() {
            "booting" => Status::Booting,
            "active" => Status::Ready,
            "unhealthy" => Status::Unhealthy,
            "terminating" => Status::Ending,
            "terminated" => Status::Gone,
            other => Status::Other(other.to_owned()),
        };
        Node {
            name: if name.is_empty() { self.id.clone() } else { name },
            run: tag(TAG_RUN),
            key,
            machine: self.instance_type.name,
            region: self.region.name,
            status,
            address: self.ip.filter(|ip| !ip.is_empty()),
            cents_per_hour: self.instance_type.price_cents_per_hour,
            gpus: self.instance_type.specs.map_or(0, |specs| specs.gpus),
            ports: ports.unwrap_or_default(),
            id: self.id,
        }
    }
}

/// The ids of a launch.
#[derive(Debug, Deserialize)]
pub(super) struct Launched {
    pub(super) instance_ids: Vec<String>,
}

/// An SSH key of the account.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct SshKey {
    /// Id.
    pub id: String,
    /// Name.
    pub name: String,
    /// Public half.
    #[serde(default)]
    pub public_key: String,
}

/// A file system.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct Filesystem {
    /// Id.
    pub id: String,
    /// Name.
    pub name: String,
    /// Region.
    pub region: Region,
    /// Whether a machine uses it.
    #[serde(default)]
    pub is_in_use: bool,
    /// Bytes used.
    #[serde(default)]
    pub bytes_used: u64,
}

/// A machine image.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct Image {
    /// Id.
    pub id: String,
    /// Name.
    #[serde(default)]
    pub name: String,
    /// Family.
    #[serde(default)]
    pub family: String,
    /// Region.
    pub region: Region,
}

/// A firewall rule.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
pub struct Rule {
    /// tcp, udp, icmp or all.
    pub protocol: String,
    /// First and last port; absent for icmp.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port_range: Option<[u16; 2]>,
    /// Network allowed in.
    pub source_network: String,
    /// Description.
    #[serde(default)]
    pub description: String,
}

/// A firewall ruleset of a region.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct Ruleset {
    /// Id.
    pub id: String,
    /// Name.
    pub name: String,
    /// Region; absent for the global one.
    pub region: Option<Region>,
    /// Rules.
    #[serde(default)]
    pub rules: Vec<Rule>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_with_unknown_fields_region_and_status_is_read() {
        let text = r#"{"id": "i1", "name": "eu-gorgo-0123456789abcdef", "status": "contactable", "is_reserved": false,
            "ssh_key_names": ["k"], "file_system_names": [], "region": {"name": "mars-north-1", "description": "?"},
            "instance_type": {"name": "gpu_1x_new", "price_cents_per_hour": 129, "specs": {"gpus": 1, "fans": 4}},
            "jupyter_token": "secret"}"#;
        let node = serde_json::from_str::<Instance>(text).unwrap().node();
        assert_eq!((node.name.as_str(), node.key.as_deref()), ("eu", Some("0123456789abcdef")));
        assert_eq!(node.status, Status::Other("contactable".to_owned()));
        assert!(!format!("{node:?}").contains("secret"));
    }
}
