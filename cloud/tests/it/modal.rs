//! Modal's provider against a server that behaves as Modal does.

mod code;
mod tests;
