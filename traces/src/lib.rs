//! Request traces: reading and generating them, places of users, and timelines of runs.
//!
//! Reading order: [`workload`] (readers, generator, statistics) → [`geo`] (places and regions) → [`shipped`] (traces
//! that come with the crate) → [`timeline`] (spans of requests for Perfetto) → [`calendar`], [`error`].
#![warn(missing_docs)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod calendar;
pub mod error;
pub mod geo;
pub mod shipped;
pub mod timeline;
pub mod workload;

pub use error::TraceError;
pub use workload::{Arrivals, Format, Options, Per, UnknownPlaces, Workload, open};
