//! Experiments: from a file to a folder of results.
//!
//! Reading order: [`spec`] (the file) → [`build`] (a spec becomes a world) → [`runner`] (all arms and seeds on all
//! cores) → [`results`] (a run's rows in, the result folder out) with [`stats`] (what every figure means) →
//! [`summary`] (one row an arm) → [`table`] (terminal), [`plot`] (SVG and PNG), [`report`] (one HTML page);
//! [`validate`] compares two folders.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod build;
pub mod plot;
pub mod report;
pub mod results;
pub mod runner;
pub mod spec;
pub mod stats;
pub mod summary;
pub mod table;
pub mod validate;
