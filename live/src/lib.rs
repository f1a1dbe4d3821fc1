//! The live router: sockets and timers in, `gorgo_core::router`'s actions out.
//!
//! Nothing is decided here. Reading order: [`server`] (connections, start, stop, reload), `steady` (how each is
//! polled), `alarm` (how long it may wait) → [`forward`] (one request: read, ask, carry out) → [`extract`] and [`prompt`] (what the router reads of a
//! body), [`tokens`] (how many they are) → [`driver`] (events to the core under one lock, actions to the tasks) →
//! `attempt`, `link` and [`relay`] (an answer on its way, watched by the tap of [`sse`]) → [`exchange`] (the guard
//! that tells how a request ended, once) → [`probe`] and [`scrape`] (what replicas say) → [`admin`], [`metrics`],
//! [`table`], [`explain`], [`shadow`], [`capture`], [`merge`], `otel` (what operators see) → [`config`], [`run`],
//! [`client`] (the process and its command line).
#![warn(missing_docs)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod admin;
pub mod client;
pub mod config;
pub mod driver;
pub mod observe;
pub mod request;
pub mod run;
pub mod server;
pub mod signals;
pub mod state;
pub mod tokens;
pub mod upstream;
pub mod wire;

mod idle_timer;
mod supervise;

pub use run::{Signals, keys_from_environment, run};
pub use server::serve::serve;
pub use server::start::{StartError, start};
pub use state::{AppState, ConfigSource};

#[cfg(any(test, feature = "testkit"))]
pub mod testkit;
