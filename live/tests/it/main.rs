//! The router between clients and mock engines, on a network in memory and a clock that only moves when all wait.
#![allow(clippy::unwrap_used)]

mod admin;
mod blame;
mod cancel;
mod digest;
mod discovered_fleet;
mod discovery;
mod edge;
mod edge_network;
#[cfg(feature = "kubernetes")]
mod endpoint_slices;
mod ends;
mod explore;
mod fixture;
mod front;
mod hostile;
mod kv_events;
mod models;
mod multiplexed;
mod network;
mod no_answer;
#[cfg(feature = "otel")]
mod otel;
mod overview;
mod packed;
mod paths;
mod refused_keys;
mod registry;
mod reload;
mod residency;
mod routers_in_a_row;
mod sample;
mod security;
mod sharing;
mod shutdown;
mod tune;
mod websocket;
