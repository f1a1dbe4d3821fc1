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

mod abort;
pub mod admin;
mod alarm;
mod attempt;
pub mod body;
pub mod capture;
pub mod client;
pub mod clock;
pub mod config;
pub mod decision_log;
pub mod driver;
pub mod errors;
pub mod exchange;
pub mod explain;
pub mod extract;
pub mod fleet;
pub mod forward;
pub mod headers;
mod intake;
mod json;
mod link;
pub mod listener;
pub mod mailbox;
pub mod merge;
pub mod metrics;
pub mod node;
#[cfg(feature = "otel")]
pub mod otel;
pub mod probe;
pub mod prom_text;
pub mod prompt;
pub mod ratio;
pub mod relay;
pub mod run;
pub mod scrape;
pub mod server;
pub mod shadow;
pub mod sse;
mod steady;
pub mod table;
pub mod tls;
pub mod tokens;
pub mod upstream;
pub mod watchers;
pub mod workers;

#[cfg(any(test, feature = "testkit"))]
pub mod testkit;
