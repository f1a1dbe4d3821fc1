//! The simulated parts in real time, and the load that is put on real ones.
//!
//! Reading order: [`clock`] (wall-clock time as the core's time) → [`text`] (prompts and answers made from structure)
//! → [`emulator`] (an SGLang server whose GPU is `gorgo_sim::engine`) → [`relay`] (round trips, jitter, resets and
//! partitions between loopback ports, from `gorgo_sim::network`) → [`load`] (the load generator).
#![warn(missing_docs)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod clock;
pub mod emulator;
pub mod load;
pub mod relay;
pub mod text;
