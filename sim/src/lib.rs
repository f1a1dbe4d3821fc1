//! The simulated world: engines, networks, clients and the event queue that moves them.
//!
//! Reading order: [`engine`] (one SGLang replica).
//!
//! Time is passed in and every draw comes from a seed, so equal seeds give equal bits.
#![warn(missing_docs)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod engine;
