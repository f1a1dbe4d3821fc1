//! The load generator.
//!
//! Reading order: [`profile`] (when requests are sent) → [`target`] (where each enters) → [`source`], [`synthetic`]
//! (what they say) → [`sse`], [`client`] (one request) → [`run`] (all of them), [`live`] (figures while it goes on) →
//! [`distribution`], [`report`] (what came of it, with GuideLLM's names) → [`files`] (CSV and HTML) → [`ceiling`] (what
//! this client can do at most).
//!
//! An open-loop schedule is computed before the first request, and a latency counts from the *scheduled* instant, so
//! that a client that falls behind cannot make a server look good. How late requests were sent is in every report, and
//! a run whose 99th percentile of lateness passes [`report::MAX_LATENESS_MS`] is marked invalid.

pub mod ceiling;
pub mod client;
pub mod distribution;
pub mod files;
pub mod live;
pub mod profile;
pub mod report;
pub mod run;
pub mod source;
pub mod sse;
pub mod synthetic;
pub mod target;

pub use live::Live;
pub use profile::{Limits, Profile, Strategy};
pub use report::Report;
pub use run::{Bench, BenchError};
