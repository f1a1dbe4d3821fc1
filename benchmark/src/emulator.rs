//! An emulated SGLang or vLLM server: `gorgo_sim::engine` in real time behind that server's HTTP API.
//!
//! Reading order: [`config`] → [`messages`], [`handle`], [`actor`] (the thread that owns the engine) → [`bodies`],
//! [`prompt`] (a request body becomes block ids and a token count) → [`response`] (tokens become JSON and SSE bytes) →
//! [`app`] (state shared by the handlers) → [`complete`] (the three generating paths) → [`admin`] (health, loads,
//! flush, abort, tokenize) → [`histograms`], [`metrics`] (Prometheus text) → [`errors`] → [`faults`] (crash, hang and
//! slow start on command) → [`vllm`] (where vLLM's API differs) → [`kv_events`] (published changes of the cache) →
//! [`routes`] → [`server`] (sockets, crash and restart).
//!
//! Formats and behaviour of an SGLang engine are those of 0.5.10, whose scheduler the engine model follows: the status
//! 200 of a stream is sent with its first token, `null`s are written out, `prompt_tokens_details` is null when nothing
//! was cached, errors are flat objects, `/health` takes a second, gauges are as stale as the scheduler leaves them.

pub mod actor;
pub mod admin;
pub mod app;
pub mod bodies;
pub mod complete;
pub mod config;
pub mod errors;
pub mod faults;
pub mod handle;
pub mod histograms;
pub mod kv_events;
pub mod messages;
pub mod metrics;
pub mod prompt;
pub mod response;
pub mod routes;
pub mod server;
pub mod vllm;

pub use config::EmulatorConfig;
pub use handle::EngineHandle;
pub use kv_events::KvEventsConfig;
pub use messages::RequestProgress;
pub use server::{Emulator, StartError};
