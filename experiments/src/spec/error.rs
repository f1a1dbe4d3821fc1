//! Mistakes in experiment files.

use gorgo_core::settings::SettingsError;
use std::path::PathBuf;

/// Why an experiment cannot be run. Each message is one sentence with the place and the remedy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpecError {
    /// The file cannot be read.
    #[error("cannot read `{}`: {source}; give the path of an experiment file, such as experiments/three-regions.toml", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is not TOML.
    #[error("`{file}`: {message}")]
    Syntax {
        /// Which file.
        file: String,
        /// The parser's message, with the line.
        message: String,
    },
    /// A key or value is wrong.
    #[error("`{file}`, {place}: {message}")]
    Key {
        /// Which file.
        file: String,
        /// Arm or table.
        place: String,
        /// What is wrong.
        message: String,
    },
    /// An override is no assignment, or its key leads nowhere.
    #[error(transparent)]
    Set(#[from] SettingsError),
    /// An override reaches nothing.
    #[error("--set {key}: {message}")]
    Override {
        /// The key.
        key: String,
        /// What is wrong.
        message: String,
    },
    /// A varied setting is wrong.
    #[error("{0}")]
    Vary(String),
    /// The workload cannot be read.
    #[error(transparent)]
    Trace(#[from] gorgo_traces::TraceError),
    /// The workload leaves nothing to run.
    #[error(
        "no request arrives within duration_s, so there is nothing to run; give a longer duration_s or a higher rate"
    )]
    NoRequest,
    /// Arrivals lie beyond the clock.
    #[error(
        "the last request arrives after {last:.3e} s, and a run may last {longest:.0e} s; give a higher rate, a smaller time_scale or a duration_s"
    )]
    TooLong {
        /// The last arrival, s.
        last: f64,
        /// The latest that is allowed, s.
        longest: f64,
    },
    /// A region is not known.
    #[error("`{file}`, replica `{replica}`: no region `{region}`; {hint} (or give \"lat,lon\")")]
    Region {
        /// Which file.
        file: String,
        /// Whose region.
        replica: String,
        /// What was asked for.
        region: String,
        /// The one that is near, or all.
        hint: String,
    },
    /// Engine settings are wrong.
    #[error("`{file}`, fleet: {message}")]
    Engine {
        /// Which file.
        file: String,
        /// What is wrong.
        message: String,
    },
}
