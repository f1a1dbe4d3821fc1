//! The simulated world: SGLang replicas, the network between regions, clients and routers, in virtual time.
//!
//! Reading order: [`engine`] (one SGLang replica) → [`network`] (round trips and how they swing) → [`world`] (one run).
//! It depends on `gorgo-core` only; a workload reaches it as an iterator of core types. Time is passed in and every
//! draw comes from a seed, so equal seeds give equal bits.
#![warn(missing_docs)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod engine;
pub mod network;
pub mod world;
