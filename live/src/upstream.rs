//! Replicas as this process reaches them: addresses, connections, the pool.

pub mod connect;
pub mod replica;

pub(crate) mod abort;
pub(crate) mod connection;
pub(crate) mod self_wake;
