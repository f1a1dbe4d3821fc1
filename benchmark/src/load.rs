//! The load generator.
//!
//! Reading order: [`profile`] (when requests are sent) → [`target`] (where they are sent) → [`source`], [`synthetic`]
//! (what they contain) → [`sse`], [`client`] (one request) → [`mod@bench`] (a benchmark and its strategies), `sender`
//! (sending), [`run`] (results of a strategy), [`progress`] (counters while it runs) → [`distribution`], [`slo`],
//! [`report`], `summarize` (the report, with GuideLLM's names) → [`files`] (JSON and CSV), [`table`] (terminal) →
//! [`ceiling`] (the client's own limit).
//!
//! An open-loop schedule is computed before the first request, and a latency counts from the *scheduled* time, so
//! that a slow client cannot make a server look good. Every report contains how late requests were sent, and a run
//! whose 99th percentile of lateness exceeds [`report::MAX_LATENESS_MS`] is marked invalid.

pub mod bench;
pub mod ceiling;
pub mod client;
pub mod distribution;
pub mod files;
pub mod profile;
pub mod progress;
pub mod report;
pub mod run;
mod sender;
pub mod slo;
pub mod source;
pub mod sse;
mod summarize;
pub mod synthetic;
pub mod table;
pub mod target;

pub use bench::{Bench, BenchError};
pub use profile::{Limits, Profile, Strategy};
pub use progress::Progress;
pub use report::Report;
