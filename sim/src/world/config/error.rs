//! Errors: why a world cannot be built, or a run cannot finish.

use crate::engine::ConfigError;
use gorgo_core::range::OutOfRange;
use gorgo_core::residency::FenceError;
use gorgo_core::{MAX_REPLICAS, Time};

/// Errors of a configuration or a run.
#[derive(Debug, thiserror::Error, PartialEq)]
#[non_exhaustive]
pub enum WorldError {
    /// There is no replica.
    #[error("the fleet has {0} replicas; it needs 1 to {MAX_REPLICAS}")]
    Replicas(usize),
    /// A reference to an entry that does not exist.
    #[error("{what} refers to site {site}, but there are {sites} sites")]
    Site {
        /// Who refers to it.
        what: String,
        /// Index of the replica.
        site: usize,
        /// How many there are.
        sites: usize,
    },
    /// A link whose end is not a site.
    #[error("links: no site is called `{0}`; name a region of a replica or of the proxy")]
    LinkEnd(String),
    /// A group of sites that cannot be a fence.
    #[error("residency: {0}")]
    Residency(#[from] FenceError),
    /// A group that names no site.
    #[error("residency: no site is called `{0}`; name the region of a replica")]
    ResidencySite(String),
    /// A number out of its bounds.
    #[error(transparent)]
    Range(#[from] OutOfRange),
    /// A number that cannot be used.
    #[error("{key} is {value}; it must be {must}")]
    Value {
        /// Which setting.
        key: &'static str,
        /// What it is.
        value: f64,
        /// What it should be.
        must: &'static str,
    },
    /// A fault of a replica that does not exist.
    #[error("fault {index} names replica {replica}, but there are {replicas}")]
    Fault {
        /// Position of the fault.
        index: usize,
        /// The replica it names.
        replica: u16,
        /// How many there are.
        replicas: usize,
    },
    /// The configuration of an engine is invalid.
    #[error("replica {replica}: {source}")]
    Engine {
        /// Which replica.
        replica: String,
        /// Why.
        source: ConfigError,
    },
    /// The trace is not in order of time.
    #[error("request {request} of the trace comes at {:.3} s, before the one in front of it; sort the trace by time", .at.secs())]
    TraceOrder {
        /// Position in the trace.
        request: usize,
        /// Its time.
        at: Time,
    },
    /// A world too large to be copied at each decision.
    #[error(
        "the run has {value} {what}; oracle-rollout copies the whole world at each decision and takes at most {most} (shorten the workload, or leave this policy out)"
    )]
    RollOut {
        /// What there is too much of.
        what: &'static str,
        /// How much.
        value: usize,
        /// The limit.
        most: usize,
    },
    /// Requests that never end: a bug, or a drain limit that is too short for the backlog.
    #[error(
        "{requests} requests were still open {:.0} s into the run; the fleet is too slow for this load (raise drain_limit_s, lower the rate or add replicas)",
        .at.secs()
    )]
    Stuck {
        /// How many.
        requests: usize,
        /// When the run gave up.
        at: Time,
    },
}
