//! Results: the records of runs, what is stored of them, and the result folder.
//!
//! Reading order: the types here (output of a run) → [`measured`] (the same from a bench) → [`point`] (stored figures of
//! one arm and seed, with the thinned `queues`) → `requests` (rows as CSV) → [`folder`] (files, written atomically and
//! read back by later commands) with [`own_files`] (which of them gorgo may delete).

pub mod folder;
pub mod measured;
pub mod own_files;
pub mod point;
mod requests;
#[cfg(test)]
pub(crate) use requests::write as write_requests;
#[cfg(test)]
pub(crate) mod test_data;

use crate::spec::PlannedArm;
use crate::spec::measure::MeasureSpec;
use gorgo_core::Span;
pub use gorgo_core::record::QueueSample;
use gorgo_core::record::RequestRecord;
use gorgo_sim::engine::GapBucket;
use gorgo_sim::world::{FencedCount, Shared};
use gorgo_traces::timeline::Decision;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub(crate) use folder::DECISIONS;
pub use folder::{ResultFolder, Results, Rows, arms_are_known};
pub use point::Point;

/// Version written into results.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Names behind the indices of a [`RequestRecord`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Names {
    /// Countries or regions of users.
    pub origins: Vec<String>,
    /// Routers.
    pub routers: Vec<String>,
    /// Replicas.
    pub replicas: Vec<String>,
}

/// Everything one arm did with one seed.
#[derive(Debug, Clone, Default)]
pub struct ArmRun {
    /// Unique name of the arm, for example `gorgo running_cost_factor=0.5`.
    pub arm: String,
    /// Name of the arm it is compared with; itself or empty for a baseline.
    pub baseline: String,
    /// Routing policy.
    pub policy: String,
    /// `edge` or `proxy`.
    pub topology: String,
    /// The varied settings of the arm.
    pub settings: BTreeMap<String, String>,
    /// Seed.
    pub seed: u64,
    /// Names behind the records' indices.
    pub names: Names,
    /// Which requests count.
    pub measure: MeasureSpec,
    /// One record per request, in order of the request's number.
    pub records: Vec<RequestRecord>,
    /// Why requests failed, by their number, where only the load generator knows: no router of ours reported a reason.
    pub failures: BTreeMap<u64, String>,
    /// Decisions of the first requests' entry routers, for the timeline.
    pub decisions: Vec<Decision>,
    /// Inter-token latencies.
    pub itl: Vec<GapBucket>,
    /// Queue samples in order of time.
    pub samples: Vec<QueueSample>,
    /// Hash of the event log: equal hashes, equal runs.
    pub event_hash: u64,
    /// Events handled.
    pub events: u64,
    /// From the start to the last event.
    pub span: Span,
    /// Fenced requests and violations of their residency, in a simulation with such requests.
    pub fenced: Option<FencedCount>,
    /// Messages between routers, if there are any: batches of proxies, or digests of edges.
    pub shared: Option<Shared>,
}

impl ArmRun {
    /// A run before its start: names and settings, no records.
    pub fn empty(arm: &PlannedArm, seed: u64, names: Names) -> Self {
        Self {
            arm: arm.label.clone(),
            baseline: arm.baseline.clone(),
            policy: arm.spec.policy.name().to_owned(),
            topology: arm.spec.topology.as_str().to_owned(),
            settings: arm.settings.clone(),
            seed,
            names,
            measure: arm.spec.measure,
            records: Vec::new(),
            failures: BTreeMap::new(),
            decisions: Vec::new(),
            itl: Vec::new(),
            samples: Vec::new(),
            event_hash: 0,
            events: 0,
            span: Span::ZERO,
            fenced: None,
            shared: None,
        }
    }
}

/// How fast an arm was computed; goes only to `timing.json`, since it differs from run to run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ArmTiming {
    /// Arm.
    pub arm: String,
    /// Seed.
    pub seed: u64,
    /// Wall-clock seconds.
    pub wall_s: f64,
    /// Requests over wall-clock seconds.
    pub simulated_requests_per_second: f64,
}

/// What `timing.json` holds: the speed of the runs that this start made, resumed ones left out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Timing {
    /// All requests over the summed seconds of their runs: the rate of one core.
    pub simulated_requests_per_second: f64,
    /// Wall-clock seconds of all runs together, on all cores.
    pub wall_s: f64,
    /// Each run.
    pub arms: Vec<ArmTiming>,
}

impl Timing {
    /// Sums up `arms` of (number of requests, timing).
    pub fn of(mut arms: Vec<(usize, ArmTiming)>, wall_s: f64) -> Self {
        arms.sort_by(|(_, a), (_, b)| (&a.arm, a.seed).cmp(&(&b.arm, b.seed)));
        let requests: usize = arms.iter().map(|(requests, _)| requests).sum();
        let seconds: f64 = arms.iter().map(|(_, timing)| timing.wall_s).sum();
        Self {
            simulated_requests_per_second: requests as f64 / seconds.max(1e-9),
            wall_s,
            arms: arms.into_iter().map(|(_, timing)| timing).collect(),
        }
    }
}

/// Why results could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum ResultError {
    /// The file system refused.
    #[error("cannot {action} `{}`: {source}; check the path, its permissions and free space", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// A file has unexpected content.
    #[error("`{}` {why}; delete it and run the experiment again", path.display())]
    Bad {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The folder belongs to something else.
    #[error("`{}` holds the results of another experiment, other settings or another trace; choose another folder with --out", path.display())]
    Other {
        /// Which folder.
        path: PathBuf,
    },
    /// A file has the name of a result file.
    #[error("`{}` is in the way: gorgo did not write it, or experiment.toml is gone; choose another folder with --out, or move it", path.display())]
    Foreign {
        /// Which file.
        path: PathBuf,
    },
    /// Shards of different experiments.
    #[error("`{}` and `{}` hold results of different experiments; merge only shards of one experiment made by one version", paths[0].display(), paths[1].display())]
    Mixed {
        /// The two folders.
        paths: [PathBuf; 2],
    },
    /// Nothing was recorded.
    #[error("`{}` holds no finished runs (points/*.json); run the experiment into it first", path.display())]
    Empty {
        /// Which folder.
        path: PathBuf,
    },
    /// Two different runs claim the same arm and seed.
    #[error(
        "arm `{arm}` with seed {seed} is in both folders with different results; merge only shards of one experiment made by one version"
    )]
    Conflict {
        /// The arm.
        arm: String,
        /// The seed.
        seed: u64,
    },
    /// A plot failed.
    #[error("cannot draw `{name}`: {why}; the other results are written, please report this")]
    Plot {
        /// File name of the plot.
        name: String,
        /// The drawing library's error.
        why: String,
    },
}

impl ResultError {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { action, path: path.to_owned(), source }
    }

    fn bad(path: &Path, why: impl Into<String>) -> Self {
        Self::Bad { path: path.to_owned(), why: why.into() }
    }
}
