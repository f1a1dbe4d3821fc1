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

/// Opens a port of a machine to networks.
pub(super) async fn open(api: &Api, id: &str, port: u16, networks: &[String]) -> Result<()> {
    let instance: Instance = api.get(&format!("/instances/{id}")).await?;
    if instance.region() == OPEN_REGION || networks.is_empty() {
        return Ok(());
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
    if rules == ours.rules {
        return Ok(());
    }
    api.patch(&format!("/firewall-rulesets/{}", ours.id), &json!({"rules": rules})).await
}

/// Deletes the rulesets of a run.
pub(super) async fn delete(api: &Api, run: &str) -> Result<()> {
    let prefix = format!("{PREFIX}{run}-");
    for set in api.get::<Vec<Ruleset>>("/firewall-rulesets").await?.iter().filter(|set| set.name.starts_with(&prefix)) {
        api.delete(&format!("/firewall-rulesets/{}", set.id)).await?;
    }
    Ok(())
}
