//! Firewall rulesets of our own, one a region and run.
//!
//! Addresses of peers are known only after boot, so a ruleset begins with ssh alone and is extended later. No ruleset
//! applies in us-south-1: there every port is open to all, and routers rely on their keys.

use super::api::Api;
use super::wire::{Instance, Rule, Ruleset};
use crate::error::{Error, Result};
use serde_json::json;

const OPEN_REGION: &str = "us-south-1";
const PREFIX: &str = "gorgo-";

fn name(run: &str, region: &str) -> String {
    format!("{PREFIX}{run}-{region}")
}

fn rule(port: u16, network: &str, description: &str) -> Rule {
    Rule {
        protocol: "tcp".to_owned(),
        port_range: Some([port, port]),
        source_network: network.to_owned(),
        description: description.to_owned(),
    }
}

/// The ruleset's id, for the launch; none where none applies.
pub(super) async fn ensure(api: &Api, run: &str, region: &str, ssh_from: &str) -> Result<Option<String>> {
    if region == OPEN_REGION {
        return Ok(None);
    }
    let name = name(run, region);
    let find = async || -> Result<Option<Ruleset>> {
        Ok(api.get::<Vec<Ruleset>>("/firewall-rulesets").await?.into_iter().find(|set| set.name == name))
    };
    let body = json!({"name": name, "region": region, "rules": [rule(22, ssh_from, "gorgo: ssh")]});
    let exists = async || Ok(find().await?.is_some());
    api.create("/firewall-rulesets", &body, exists).await?;
    let missing = || Error::new(crate::Kind::Unknown, &name, "the new ruleset is not listed", "run the command again");
    Ok(Some(find().await?.ok_or_else(missing)?.id))
}

/// Opens a port of a machine to networks; returns whether a rule holds there.
pub(super) async fn open(api: &Api, id: &str, port: u16, networks: &[String]) -> Result<bool> {
    let instance: serde_json::Value = api.get(&format!("/instances/{id}")).await?;
    let instance = Instance(&instance);
    if instance.region() == OPEN_REGION {
        return Ok(false);
    }
    if networks.is_empty() {
        return Ok(true);
    }
    let rulesets: Vec<Ruleset> = api.get("/firewall-rulesets").await?;
    let attached = |set: &&Ruleset| instance.has_ruleset(&set.id);
    let Some(ours) = rulesets.iter().filter(attached).find(|set| set.name.starts_with(PREFIX)) else {
        let remedy = "launch it with `gorgo launch`; rulesets are attached only at launch";
        return Err(Error::usage(format!("instance {id}"), "has no firewall ruleset of this program", remedy));
    };
    let mut rules = ours.rules.clone();
    for network in networks {
        let new = rule(port, network, "gorgo: router");
        let same = |old: &Rule| (&old.port_range, &old.source_network) == (&new.port_range, &new.source_network);
        if !rules.iter().any(same) {
            rules.push(new);
        }
    }
    if rules != ours.rules {
        api.patch(&format!("/firewall-rulesets/{}", ours.id), &json!({"rules": rules})).await?;
    }
    Ok(true)
}

/// Whether `text` is a network as rules take it: an address and the length of its prefix.
///
/// # Errors
/// When it is not.
pub(super) fn check_network(text: &str) -> Result<()> {
    let fine = text.split_once('/').is_some_and(|(address, length)| {
        let address = address.parse::<std::net::IpAddr>();
        let most = |address: std::net::IpAddr| if address.is_ipv4() { 32 } else { 128 };
        address.is_ok_and(|address| length.parse::<u8>().is_ok_and(|length| length <= most(address)))
    });
    if fine {
        return Ok(());
    }
    let remedy = "write an address and a prefix, for example 203.0.113.7/32";
    Err(Error::usage(format!("network `{text}`"), "no network", remedy))
}

/// Deletes the rulesets of a run.
pub(super) async fn delete(api: &Api, run: &str) -> Result<()> {
    let prefix = format!("{PREFIX}{run}-");
    for set in api.get::<Vec<Ruleset>>("/firewall-rulesets").await?.iter().filter(|set| set.name.starts_with(&prefix)) {
        api.delete(&format!("/firewall-rulesets/{}", set.id)).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_network_has_an_address_and_a_prefix() {
        for (text, fine) in [
            ("203.0.113.7/32", true),
            ("2001:db8::/64", true),
            ("0.0.0.0/0", true),
            ("1.2.3.4", false),
            ("1.2.3.4/33", false),
            ("banana", false),
        ] {
            assert_eq!(super::check_network(text).is_ok(), fine, "{text}");
        }
    }
}
