//! Over real sockets on free loopback ports.
#![allow(clippy::unwrap_used, clippy::needless_pass_by_value)]

mod emulator;
mod http;
mod load;
mod odd_servers;
mod relay;
mod textless;
mod vllm;
