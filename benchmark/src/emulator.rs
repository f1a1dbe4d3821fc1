//! An SGLang server without a GPU: `gorgo_sim::engine` in real time behind SGLang's HTTP surface.
//!
//! Reading order: [`config`] → [`actor`] (the thread that owns the engine) → [`prompt`] (a request body becomes symbols
//! and a token count) → [`answer`] (tokens become JSON and SSE bytes) → [`complete`] (the three generating paths) →
//! [`admin`] (health, loads, flush, abort, tokenize) → [`metrics`] (Prometheus text) → [`faults`] (crash, hang and
//! slow start on command) → [`server`] (sockets, and how they die).
//!
//! Shapes and manners are those of SGLang 0.5.10, whose scheduler the engine model follows: the 200 of a stream comes
//! with its first token, `null`s are written out, `prompt_tokens_details` is null when nothing was cached, errors are
//! flat objects, `/health` takes a second, gauges are as old as the scheduler leaves them.

pub mod actor;
pub mod admin;
pub mod answer;
pub mod complete;
pub mod config;
pub mod errors;
pub mod faults;
pub mod metrics;
pub mod prompt;
pub mod server;

pub use actor::{EngineHandle, Progress};
pub use config::EmulatorConfig;
pub use server::{Emulator, StartError};
