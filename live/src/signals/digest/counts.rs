//! Counters of the digest exchange: of the requests to one peer, and of this edge's answers to all peers.

use serde::Serialize;
use std::sync::atomic::{AtomicBool, AtomicU64};

/// This edge's answers to all peers.
#[derive(Debug, Default)]
pub(crate) struct DigestCounts {
    pub(crate) bytes_sent: AtomicU64,
    /// Whether the log already has the line that digests are off.
    pub(crate) told_off: AtomicBool,
}

/// What is known of the questions to one peer.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct PeerDigest {
    /// `up`, `down`, `refused` or `damaged`; empty before the first answer.
    pub(crate) state: &'static str,
    pub(crate) why: Option<String>,
    pub(crate) answers: u64,
    pub(crate) bytes: u64,
}
