//! The configuration of a replica: name, kind, rate, KV capacity, connections, region and labels.

use crate::network::Transport;
use serde::{Deserialize, Serialize};

/// Type of a replica, seen from this router.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Beside this router (an edge's own engine).
    Local,
    /// An engine this router talks to over the network.
    Remote,
    /// Another router, which dispatches to its own engine.
    Peer,
}

/// The configuration of a replica.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReplicaSpec {
    /// Name in records and reports.
    pub name: String,
    /// Own engine, remote engine or peer router.
    pub kind: Kind,
    /// Prefill rate of this replica, ms per token; overrides the policy's.
    #[serde(default)]
    pub ms_per_token: Option<f64>,
    /// KV capacity, tokens: the budget of the replica in the prefix index; `None` until a scrape reports it.
    #[serde(default)]
    pub kv_tokens: Option<u64>,
    /// How connections to it behave.
    #[serde(default)]
    pub transport: Transport,
    /// Region, for residency and egress prices; `None` when unknown.
    #[serde(default)]
    pub region: Option<String>,
    /// Labels, for residency.
    #[serde(default)]
    pub labels: Vec<String>,
    /// Whether it is probed: it then gets no request before its first success while another replica can serve.
    #[serde(default)]
    pub is_probed: bool,
}

impl ReplicaSpec {
    /// A replica of which nothing but name and kind is known.
    pub fn new(name: impl Into<String>, kind: Kind) -> Self {
        Self {
            name: name.into(),
            kind,
            ms_per_token: None,
            kv_tokens: None,
            transport: Transport::default(),
            region: None,
            labels: Vec::new(),
            is_probed: false,
        }
    }
}
