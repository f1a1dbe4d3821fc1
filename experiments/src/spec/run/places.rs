//! Names of replicas, regions and the ends of links.

use super::{RunSpec, TopologySpec};
use gorgo_core::egress::EgressPrice;
use gorgo_core::suggest::did_you_mean;
use gorgo_sim::network::LinkConfig;

/// The end of a link at the proxy.
pub(in crate::spec) const PROXY: &str = "proxy";

/// Refuses a region that is none of the `known` ones.
fn check_region(place: &str, region: &str, known: &[&str]) -> Result<(), String> {
    if known.contains(&region) {
        return Ok(());
    }
    let hint = did_you_mean(region, known.iter().copied());
    Err(format!("{place} names `{region}`, which is no region of the fleet; {hint}"))
}

impl RunSpec {
    /// Each region once: those of the replicas, then the proxy's.
    fn regions(&self) -> Vec<&str> {
        let all = self.fleet.replicas.iter().map(|r| r.region.as_str()).chain(self.proxy_region.as_deref());
        let mut regions = Vec::new();
        all.for_each(|region| {
            if !regions.contains(&region) {
                regions.push(region);
            }
        });
        regions
    }

    /// Refuses names of replicas that name nothing, or something else, too: a link's end would be ambiguous.
    pub(super) fn check_names(&self) -> Result<(), String> {
        let replicas = &self.fleet.replicas;
        for (i, replica) in replicas.iter().enumerate() {
            let name = replica.name.as_str();
            if name.trim().is_empty() {
                return Err(format!("[fleet] replica {i} has the name \"{name}\", which is empty; give it a name"));
            }
            if replicas[..i].iter().any(|before| before.name == name) {
                return Err(format!("[fleet] replica {i} is called `{name}` like one before it; give it another name"));
            }
            if name == PROXY {
                return Err(format!(
                    "[fleet] replica {i} is called `{PROXY}`, which is the name of the proxy in [[links]]; give it another \
                     name"
                ));
            }
            if name != replica.region && self.regions().contains(&name) {
                return Err(format!(
                    "[fleet] replica {i} in `{}` is called `{name}`, which is the region of another one; give it another name",
                    replica.region
                ));
            }
        }
        Ok(())
    }

    pub(super) fn check_links(&self) -> Result<(), String> {
        for (i, link) in self.links.iter().enumerate() {
            let ends = [self.region_of(&link.from)?, self.region_of(&link.to)?];
            if ends[0] == ends[1] {
                return Err(format!("[[links]] {i} has both ends in `{}`; name two regions", ends[0]));
            }
            for other in &self.links[..i] {
                let others = [self.region_of(&other.from)?, self.region_of(&other.to)?];
                if others == ends || others == [ends[1], ends[0]] {
                    return Err(format!("[[links]] has two entries from `{}` to `{}`; keep one", ends[0], ends[1]));
                }
            }
        }
        for link in &self.links {
            let LinkConfig { from, to, .. } = link;
            if *link == (LinkConfig { from: from.clone(), to: to.clone(), ..LinkConfig::default() }) {
                return Err(format!(
                    "[[links]] from `{from}` to `{to}` has no number; give rtt_ms, mbps or another one"
                ));
            }
            [from, to].into_iter().try_for_each(|end| self.check_stands_alone(end))?;
        }
        Ok(())
    }

    /// Refuses a replica as an end of a link when its region has others: the link would change theirs, too.
    fn check_stands_alone(&self, end: &str) -> Result<(), String> {
        let replicas = &self.fleet.replicas;
        let Some(named) = replicas.iter().find(|r| r.name == end && r.name != r.region) else { return Ok(()) };
        match replicas.iter().find(|r| r.region == named.region && r.name != end) {
            None => Ok(()),
            Some(other) => Err(format!(
                "[[links]] end `{end}` shares its region `{0}` with replica `{1}`, and a link holds for all in a region; \
                 name the region `{0}`",
                named.region, other.name
            )),
        }
    }

    /// Refuses unknown regions and pairs of prices that stand twice.
    pub(super) fn check_regions(&self) -> Result<(), String> {
        let fleet: Vec<&str> = self.regions();
        let replicas: Vec<&str> =
            fleet.iter().copied().filter(|region| self.fleet.replicas.iter().any(|r| r.region == *region)).collect();
        let groups = self.residency.iter().flat_map(|residency| &residency.groups).enumerate();
        let mut grouped: Vec<&str> = Vec::new();
        for (i, group) in groups {
            if group.is_empty() {
                return Err(format!("residency.groups.{i} is an empty list; name its regions or drop it"));
            }
            for region in group {
                check_region("[residency] group", region, &replicas)?;
                if grouped.contains(&region.as_str()) {
                    return Err(format!(
                        "residency.groups.{i} names `{region}`, which an entry before it names, too; a region is in one \
                         group: keep one"
                    ));
                }
                grouped.push(region);
            }
        }
        let egress = &self.router.egress;
        if let Some(EgressPrice { from, to, per_gb }) = egress.doubled() {
            return Err(format!(
                "router.egress.prices has two prices from `{from}` to `{to}`, the second per_gb = {per_gb}; keep one"
            ));
        }
        for price in &egress.prices {
            for region in [&price.from, &price.to] {
                check_region("router.egress.prices", region, &fleet)?;
            }
        }
        Ok(())
    }

    /// The region of an end of a link: a region, a replica, or `proxy`, which has none where there is no proxy and stands
    /// for itself.
    pub(crate) fn region_of<'a>(&'a self, end: &'a str) -> Result<&'a str, String> {
        let replicas = &self.fleet.replicas;
        if let Some(replica) = replicas.iter().find(|r| r.name == end) {
            return Ok(&replica.region);
        }
        if end == PROXY {
            let proxy = self.proxy_region.as_ref().unwrap_or(&replicas[0].region);
            return Ok(if self.topology == TopologySpec::Proxy { proxy } else { end });
        }
        // Arms with and without a proxy share their links.
        if self.regions().contains(&end) {
            return Ok(end);
        }
        let known = replicas.iter().flat_map(|r| [r.region.as_str(), r.name.as_str()]).chain([PROXY]);
        let hint = did_you_mean(end, known);
        Err(format!("[[links]] end `{end}` is no region or replica of the fleet; {hint}"))
    }
}
