//! The message in which an edge reports its load to its peers.

use gorgo_core::fleet::PeerReport;
use serde::{Deserialize, Serialize};

/// The body of `GET /lb/report`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct PeerMessage {
    /// The load of the edge's own engine.
    pub report: PeerReport,
    /// The edge's wall clock, ns since 1970.
    pub unix_ns: u64,
    /// Whether the edge reads request bodies packed with zstd; absent in messages of earlier versions.
    #[serde(default)]
    pub reads_zstd: bool,
    /// Whether the edge speaks HTTP/2 without an upgrade; absent in messages of earlier versions.
    #[serde(default)]
    pub speaks_http2: bool,
}
