//! What comes out of runs. See ARCHITECTURE.md.
//!
//! Reading order: [`results`] (a run's rows in, the result folder out) uses [`stats`] (what every figure means) →
//! [`summary`] (one row an arm) → [`table`] (terminal), [`plot`] (SVG and PNG), [`report`] (one HTML page).
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod plot;
pub mod report;
pub mod results;
pub mod stats;
pub mod summary;
pub mod table;
