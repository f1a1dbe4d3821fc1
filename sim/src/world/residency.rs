//! Residency in the simulator: which users' requests must stay in which sites, and an independent count of violations.

use super::{Flight, TraceRequest, World, WorldConfig};
use gorgo_core::residency::{Fence, FenceError};
use gorgo_core::rng;
use rand::RngExt;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Users whose requests must stay in a group of regions: simulated runs only.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ResidencyConfig {
    /// Share of users whose requests may only go to the group that holds the region nearest to them, 0 to 1.
    pub share: f64,
    /// Groups of regions of replicas. A user whose nearest region is in no group may go everywhere.
    pub groups: Vec<Vec<String>>,
}

/// What came of the fences in a run.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FencedCount {
    /// Requests with a fence.
    pub requests: u64,
    /// Dispatches and forwards of those to a site outside; must be 0.
    pub violations: u64,
    /// Those that reached their first token.
    pub first_tokens: u64,
    /// Their times to first token together, ns.
    pub ttft_ns: u64,
}

impl ResidencyConfig {
    /// The fence of each group.
    pub(super) fn fences(&self) -> Result<Vec<Fence>, FenceError> {
        self.groups.iter().map(|group| Fence::new(vec![group.clone()])).collect()
    }
}

/// The group in which a request must stay; `None` for everywhere. All requests of a user have the same.
fn group(config: &WorldConfig, request: &TraceRequest) -> Option<usize> {
    let residency = config.residency.as_ref()?;
    let drawn: f64 = rng::stream(config.seed, "residency", request.user).random();
    let place = request.place.filter(|_| drawn < residency.share)?;
    let sites = config.replicas.iter().map(|replica| &config.sites[replica.site]);
    let nearest = sites.min_by(|a, b| place.km_to(a.place).total_cmp(&place.km_to(b.place)))?;
    residency.groups.iter().position(|group| group.contains(&nearest.name))
}

impl<I: Iterator<Item = TraceRequest>> World<'_, I> {
    /// The group of a request, counted.
    pub(super) fn residency(&mut self, request: &TraceRequest) -> Option<usize> {
        let group = group(self.config, request);
        if group.is_some() {
            self.fenced_requests.push(self.records.len());
        }
        group
    }

    /// Counts a dispatch of `flight` to `site` if it leaves its group. It looks at names of sites, not at what the router
    /// excluded.
    pub(super) fn check_residency(&mut self, flight: usize, site: usize) {
        let Flight { group: Some(group), .. } = self.flights[flight] else { return };
        let config = self.config;
        let here = &config.sites[site].name;
        let inside = config.residency.as_ref().is_some_and(|residency| residency.groups[group].contains(here));
        self.violations += u64::from(!inside);
    }

    /// What came of the fences.
    pub(super) fn fenced(&self) -> FencedCount {
        let ttfts = self.fenced_requests.iter().filter_map(|&index| self.records[index].ttft());
        FencedCount {
            requests: self.fenced_requests.len() as u64,
            violations: self.violations,
            first_tokens: ttfts.clone().count() as u64,
            ttft_ns: ttfts.map(|ttft| ttft.0).sum(),
        }
    }
}
