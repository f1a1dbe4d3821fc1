//! Lambda's provider against a server that behaves as Lambda Cloud does.

mod tests;
mod trouble;
