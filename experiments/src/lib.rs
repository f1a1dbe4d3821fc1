//! Experiments: reads an experiment file, runs its arms, writes a folder of results.
//!
//! Reading order: [`spec`] (the file) → [`build`] (a spec becomes a world) → [`runner`] (all arms and seeds on all
//! cores), [`live`] (the same arm on real sockets) → [`results`] (records of runs in, the result folder out) with
//! [`stats`] (definitions of all figures) → [`summary`] (one row per arm) → [`verdict`] (the best arm by load and
//! objective) → [`table`] (terminal), [`plot`] (SVG and PNG), [`report`] (one HTML page), [`records`] (requests
//! recorded by anything) → [`validate`] (two results side by side),
//! [`calibrate`] (settings from records). [`points`] takes a sweep apart for many machines, [`tune`] searches a policy's
//! weights. `markup` holds what HTML and SVG share.
#![warn(missing_docs)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod build;
pub mod calibrate;
pub mod live;
mod markup;
pub mod plot;
pub mod points;
pub mod records;
pub mod report;
pub mod results;
pub mod runner;
pub mod spec;
pub mod stats;
pub mod summary;
pub mod table;
pub mod tune;
pub mod validate;
pub mod verdict;
