//! Name, type and region of each machine that a launch asks for.

use super::super::{Cloud, Session};
use super::LaunchArgs;
use anyhow::{Context, bail};
use gorgo_cloud::provider::{Offer, check_name};
use std::collections::BTreeSet;

/// Name, type and region of each machine.
pub(super) fn plan<'a>(
    args: &LaunchArgs,
    session: &Session,
    offers: &'a [Offer],
) -> anyhow::Result<Vec<(String, &'a Offer, String)>> {
    let rows: Vec<(String, &Offer, String)> = if session.cloud == Cloud::Ssh {
        for (option, given) in [("--type", args.machine.is_some()), ("--region", !args.region.is_empty())] {
            if given {
                bail!("{option} is not for hosts of yours: hosts.toml says what and where they are; leave it out");
            }
        }
        if args.name.is_empty() {
            bail!("name the hosts to take with --name; `gorgo available --cloud ssh` lists them");
        }
        let host = |name: &String| {
            let offer = offers.iter().find(|offer| offer.name == *name);
            let offer = offer.with_context(|| {
                format!("host `{name}` is not in hosts.toml or is taken already; `gorgo list` shows which are taken")
            })?;
            Ok((name.clone(), offer, offer.regions[0].name.clone()))
        };
        args.name.iter().map(host).collect::<anyhow::Result<_>>()?
    } else {
        let known: Vec<&str> = offers.iter().map(|offer| offer.name.as_str()).collect();
        let machine = args.machine.as_deref().context("name a type with --type; `gorgo available` lists them")?;
        let offer = offers.iter().find(|offer| offer.name == machine);
        let offer = offer.with_context(|| format!("no type `{machine}`; name one of: {}", known.join(", ")))?;
        let (names, regions) = (args.name.len(), args.region.len());
        if regions == 0 {
            let free: Vec<&str> = offer.regions.iter().map(|region| region.name.as_str()).take(20).collect();
            bail!("name regions with --region; {machine} is free in: {}", free.join(", "));
        }
        if names > 1 && regions > 1 && names != regions {
            bail!("{names} names and {regions} regions; give one region a name, or one for all");
        }
        let count = names.max(regions);
        let row = |i: usize| {
            let region = args.region[i.min(regions - 1)].clone();
            let name = match args.name.as_slice() {
                [] if count == 1 => short(&region),
                [] => format!("{}-{}", short(&region), i + 1),
                [one] if count > 1 => format!("{one}-{}", i + 1),
                names => names[i].clone(),
            };
            (name, offer, region)
        };
        (0..count).map(row).collect()
    };
    let mut seen = BTreeSet::new();
    for (name, offer, region) in &rows {
        check_name(name)?;
        if !seen.insert(name) {
            bail!("the name `{name}` is given twice");
        }
        let any = args.any_region || session.provider.capabilities().any_region;
        if !offer.regions.iter().any(|free| free.name == *region) && !any {
            let free: Vec<&str> = offer.regions.iter().map(|region| region.name.as_str()).take(20).collect();
            let free = if free.is_empty() { "no region".to_owned() } else { free.join(", ") };
            bail!("no {} is free in `{region}`; it is free in: {free}", offer.name);
        }
    }
    Ok(rows)
}

/// `aws:us-east-1` as a part of a name.
fn short(region: &str) -> String {
    region.rsplit(':').next().unwrap_or(region).replace(|c: char| !c.is_ascii_alphanumeric() && c != '-', "-")
}

pub(super) fn regions_with_capacity(planned: &[(String, &Offer, String)]) -> Vec<String> {
    planned
        .first()
        .map(|(_, offer, _)| offer.regions.iter().map(|region| region.name.clone()).collect())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_makes_a_name() {
        assert_eq!(short("aws:us-east-1"), "us-east-1");
    }
}
