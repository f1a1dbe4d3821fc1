//! Emulated replicas, WAN relays and the load generator.
//!
//! Reading order: [`clock`] and [`timer`] (wall-clock time as the core's time, precise waiting) → [`text`] (prompts and
//! answers generated from a trace's structure) → [`emulator`] (an SGLang server whose GPU is `gorgo_sim::engine`) →
//! [`relay`] (TCP relays that delay bytes like `gorgo_sim::network`) → [`load`] (the load generator).
#![warn(missing_docs)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod clock;
pub mod emulator;
mod input_error;
pub mod load;
pub mod relay;
pub mod text;
pub mod timer;

pub use input_error::InputError;
