//! The service's objects. Unknown fields, regions, statuses and codes are accepted.

use super::Ports;
use crate::provider::{Node, Offer, Region, Status};
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub(super) const TAG_KEY: &str = "gorgo-key";
pub(super) const TAG_RUN: &str = "gorgo-run";
pub(super) const TAG_NAME: &str = "gorgo-name";
pub(super) const TAG_PORTS: &str = "gorgo-ports";
const MARK: &str = "-gorgo-";

/// A machine's name at the service: the user's name and the nonce, at most 64 characters.
pub(super) fn machine_name(name: &str, key: &str) -> String {
    format!("{name}{MARK}{key}")
}

/// Text at `pointer` that is not empty.
fn text<'a>(value: &'a Value, pointer: &str) -> Option<&'a str> {
    value.pointer(pointer)?.as_str().filter(|text| !text.is_empty())
}

/// A price: whole cents, a fraction counted up. What is no price is unknown.
fn cents(value: &Value, pointer: &str) -> Option<u64> {
    let price = value.pointer(pointer)?;
    price
        .as_u64()
        .or_else(|| price.as_f64().filter(|price| (0.0..1e12).contains(price)).map(|price| price.ceil() as u64))
}

fn gpus(value: &Value, pointer: &str) -> u32 {
    value.pointer(pointer).and_then(Value::as_u64).and_then(|count| count.try_into().ok()).unwrap_or(0)
}

/// A type of machine; nothing when it has no name. Every field is looked at alone, so that one odd entry hides no other.
pub(super) fn offer(item: &Value) -> Option<Offer> {
    let regions = item["regions_with_capacity_available"].as_array().into_iter().flatten();
    let region = |region: &Value| {
        let description = text(region, "/description").unwrap_or_default().to_owned();
        Some(Region { name: text(region, "/name")?.to_owned(), description })
    };
    Some(Offer {
        name: text(item, "/instance_type/name")?.to_owned(),
        description: text(item, "/instance_type/description").unwrap_or_default().to_owned(),
        gpus: gpus(item, "/instance_type/specs/gpus"),
        cents_per_hour: cents(item, "/instance_type/price_cents_per_hour"),
        regions: regions.filter_map(region).collect(),
    })
}

/// A machine. Its Jupyter token and URL are left out: they give access to it.
pub(super) struct Instance<'a>(pub(super) &'a Value);

impl Instance<'_> {
    pub(super) fn region(&self) -> &str {
        text(self.0, "/region/name").unwrap_or_default()
    }

    pub(super) fn has_ruleset(&self, id: &str) -> bool {
        self.0["firewall_rulesets"].as_array().into_iter().flatten().any(|reference| reference["id"] == id)
    }

    /// The machine; nothing when it has no id.
    pub(super) fn node(&self) -> Option<Node> {
        let id = text(self.0, "/id")?;
        let tags = || self.0["tags"].as_array().into_iter().flatten();
        let tag = |key: &str| tags().find(|tag| tag["key"] == key)?["value"].as_str().map(str::to_owned);
        let full = text(self.0, "/name").unwrap_or_default();
        let split = full.rsplit_once(MARK);
        let key = tag(TAG_KEY).or_else(|| split.map(|(_, key)| key.to_owned()));
        let name = tag(TAG_NAME).unwrap_or_else(|| split.map_or(full, |(name, _)| name).to_owned());
        let ports = tag(TAG_PORTS).and_then(|ports| ports.parse::<Ports>().ok());
        let status = match text(self.0, "/status").unwrap_or("no status") {
            "booting" => Status::Booting,
            "active" => Status::Ready,
            "unhealthy" => Status::Unhealthy,
            "terminating" => Status::Ending,
            "terminated" => Status::Gone,
            other => Status::Other(other.to_owned()),
        };
        Some(Node {
            name: if name.is_empty() { id.to_owned() } else { name },
            run: tag(TAG_RUN),
            key,
            machine: text(self.0, "/instance_type/name").unwrap_or("-").to_owned(),
            region: text(self.0, "/region/name").unwrap_or("-").to_owned(),
            status,
            address: text(self.0, "/ip").map(str::to_owned),
            cents_per_hour: cents(self.0, "/instance_type/price_cents_per_hour"),
            gpus: gpus(self.0, "/instance_type/specs/gpus"),
            ports: ports.unwrap_or_default(),
            id: id.to_owned(),
        })
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
        let node = Instance(&serde_json::from_str(text).unwrap()).node().unwrap();
        assert_eq!((node.name.as_str(), node.key.as_deref()), ("eu", Some("0123456789abcdef")));
        assert_eq!(node.status, Status::Other("contactable".to_owned()));
        assert!(!format!("{node:?}").contains("secret"));
    }

    #[test]
    fn an_odd_field_makes_itself_unknown_and_nothing_else() {
        let read = |text: &str| Instance(&serde_json::from_str(text).unwrap()).node();
        let kind = r#""name": "x", "status": "active", "region": {"name": "r", "description": null}"#;
        let null =
            read(&format!(r#"{{"id": "f", {kind}, "instance_type": {{"name": "t", "price_cents_per_hour": null}}}}"#));
        assert_eq!(null.map(|node| (node.machine, node.cents_per_hour)), Some(("t".to_owned(), None)));
        let half = read(&format!(r#"{{"id": "f", {kind}, "instance_type": {{"price_cents_per_hour": 129.5}}}}"#));
        assert_eq!(half.unwrap().cents_per_hour, Some(130));
        let bare = read(r#"{"id": "f", "status": "terminated", "region": null, "instance_type": null}"#).unwrap();
        assert_eq!((bare.name.as_str(), bare.status), ("f", Status::Gone));
        assert!(read(r#"{"id": null, "name": "x"}"#).is_none());
        assert!(offer(&serde_json::json!({"instance_type": {"name": "t"}})).unwrap().cents_per_hour.is_none());
    }
}
