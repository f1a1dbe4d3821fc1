//! The section `[upstream]`: connections to replicas and peers.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Congestion control of connections to replicas.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum CongestionControl {
    /// BBR where the kernel offers it to this process, else the system's: a long prompt on an idle connection takes
    /// about one and a half round trips instead of up to six.
    #[default]
    Bbr,
    /// What the system uses.
    System,
}

/// Connections to replicas and peers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Upstreams {
    /// Congestion control.
    pub congestion: CongestionControl,
    /// Idle connections are used for at most this long, ms, where a replica has shown that it keeps them for longer
    /// than `timeouts.keep_alive_ms`.
    pub max_keep_alive_ms: u64,
    /// Whether request bodies longer than 14.6 kB are packed with zstd for peers that read it: text in less than half its
    /// bytes, which is a round trip less on a new connection and, without BBR, on an idle one.
    pub compress_to_peers: bool,
    /// Whether all requests to a peer share one HTTP/2 connection, if the peer speaks HTTP/2. Without BBR a long prompt on an
    /// idle path then takes one or two round trips instead of up to six; on a path that loses packets, short prompts wait
    /// for long ones.
    pub http2_to_peers: bool,
}

impl Default for Upstreams {
    fn default() -> Self {
        Self {
            congestion: CongestionControl::Bbr,
            max_keep_alive_ms: 300_000,
            compress_to_peers: true,
            http2_to_peers: false,
        }
    }
}
