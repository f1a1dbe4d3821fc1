//! Connections to replicas. Read [`replica`] (the state of one), [`connect`] (its address, TCP and TLS), `early_answer`
//! (answers before the request is written), `connection` (one request on one connection), `pool` (idle connections),
//! `idle_limit` (how long the replica keeps them), `self_wake` (polling of a connection), `multiplexed` (HTTP/2 to a
//! peer), `transport` (congestion control), `cache_report` (whether an engine reports cached tokens), `absent_paths`
//! (endpoints that it lacks); `compression` (how far bodies for peers are packed); `abort` cancels a request at an
//! engine.

pub(crate) mod absent_paths;
pub(crate) mod compression;
pub(crate) mod connect;
pub(crate) mod replica;

pub(crate) mod abort;
pub(crate) mod cache_report;
pub(crate) mod connection;
mod early_answer;
pub(crate) mod idle_limit;
pub(crate) mod multiplexed;
pub(crate) mod pool;
pub(crate) mod self_wake;
pub(crate) mod transport;

#[cfg(test)]
mod self_wake_tests;

/// What `self_wake` shares between threads. The model check compiles that file with loom's types instead.
mod sync {
    pub(super) use futures_util::task::AtomicWaker;
    pub(super) use std::sync::atomic::{AtomicBool, AtomicUsize};

    thread_local! {
        static HERE: u8 = const { 0 };
    }

    /// A number that no other running thread has, never 0.
    pub(super) fn thread_number() -> usize {
        HERE.with(|here| std::ptr::from_ref(here) as usize)
    }
}
