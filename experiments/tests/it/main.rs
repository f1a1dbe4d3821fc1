//! Whole experiments and the shape of the workspace.
#![allow(clippy::unwrap_used)]

mod architecture;
mod circles;
mod code_map;
mod kv_events;
mod page;
mod peering;
mod runs;
mod sources;
mod vllm;
