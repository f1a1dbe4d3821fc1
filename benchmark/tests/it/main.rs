//! Over real sockets on free loopback ports.
#![allow(clippy::unwrap_used)]

mod emulator;
mod http;
mod load;
