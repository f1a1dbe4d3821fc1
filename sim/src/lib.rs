//! Discrete-event simulation of SGLang and vLLM replicas, the network between regions, clients and routers.
//!
//! Reading order: [`engine`] (one replica) → [`network`] (round-trip times and how they vary) → [`world`] (one
//! run). The crate depends on `gorgo-core` only; it reads its workload from an iterator of core types. Time is passed
//! in and every random draw comes from a seed, so equal seeds give bit-identical results.
#![warn(missing_docs)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod engine;
pub mod network;
pub mod world;
