//! The router's state as a scrape of `/metrics` reads it.

use crate::discovery::discovered::SourceLevel;
use crate::kv_events::streams::KvFigures;
use gorgo_core::fleet::{EngineReport, Learned, Load};
use gorgo_core::tuner::Trials;

/// A peer's digest of prefixes at the time of a scrape.
#[derive(Debug, Clone, PartialEq)]
pub struct DigestLevel {
    /// Keys, one per kilobyte of prompt.
    pub keys: usize,
    /// Age, seconds.
    pub age_s: f64,
    /// Bytes received since the peer joined.
    pub received_bytes: u64,
}

/// Values of one replica at the time of a scrape.
#[derive(Debug, Clone, Default)]
pub struct ReplicaGauges {
    /// Its name.
    pub name: String,
    /// 1 if it may be used.
    pub usable: f64,
    /// 1 if it is drained: it finishes its requests and gets no new ones.
    pub draining: f64,
    /// 1 if its breaker is open or half open.
    pub breaker_open: f64,
    /// Smoothed round trip, seconds.
    pub rtt_s: f64,
    /// 95th percentile of the last round trips (nearest rank), seconds.
    pub rtt_p95_s: f64,
    /// This router's requests and prompt tokens at the replica.
    pub load: Load,
    /// Tokens in its part of the index.
    pub index_tokens: f64,
    /// Age of the smoothed round trip, seconds; `None` before the first probe.
    pub rtt_age_s: Option<f64>,
    /// The engine's last report, and its age in seconds; `None` before the first.
    pub engine: Option<(EngineReport, f64)>,
    /// What it publishes of its KV cache, if that is read.
    pub(crate) kv: Option<KvFigures>,
    /// Of a peer that sends its digest.
    pub digest: Option<DigestLevel>,
    /// Learned rates.
    pub learned: Learned,
    /// Standard deviations of the prefill rate (ms per token) and of the offset (ms).
    pub learned_sd: Option<(f64, f64)>,
}

/// Levels read from the router at the time of a scrape.
#[derive(Debug, Clone, Default)]
pub struct Levels {
    /// Requests in the queue.
    pub queued: f64,
    /// Requests not over.
    pub in_flight: f64,
    /// Memory of the index, bytes.
    pub index_bytes: f64,
    /// Nodes of the index.
    pub index_nodes: f64,
    /// The policy in force.
    pub policy: String,
    /// Records of decisions and requests that did not fit into a log.
    pub dropped: u64,
    /// The process's start, seconds since 1970.
    pub started_s: f64,
    /// Each limit by its name, with its use.
    pub limits: Vec<(&'static str, f64, f64)>,
    /// One entry a replica.
    pub replicas: Vec<ReplicaGauges>,
    /// One entry a shadow policy.
    pub shadows: Vec<ShadowGauges>,
    /// One entry a source of discovery.
    pub(crate) sources: Vec<SourceLevel>,
    /// The weights that the tuner has put in force, by setting, and its trials; `None` where it is off.
    pub tuner: Option<(Vec<(String, f64)>, Trials)>,
    /// What was exchanged with routers of the same replicas; `None` without peers.
    pub sharing: Option<SharingLevels>,
    /// Keys of this router's digest; 0 without one.
    pub digest_keys: u64,
    /// Bytes of digests sent.
    pub digest_bytes_sent: u64,
}

/// What was exchanged with routers of the same replicas since the start.
#[derive(Debug, Clone, Default)]
pub struct SharingLevels {
    /// Messages sent and answered.
    pub messages_sent: u64,
    /// Bytes of these messages.
    pub bytes_sent: u64,
    /// Prefixes by outcome.
    pub paths: [(&'static str, u64); 6],
    /// Replicas that peers name and this router lacks now.
    pub unknown_replicas: u64,
}

/// What a shadow policy would have done, at the time of a scrape.
#[derive(Debug, Clone, Default)]
pub struct ShadowGauges {
    /// The policy's name.
    pub policy: String,
    /// Share of prompt tokens that would have been cached; `None` before the first prompt.
    pub hit_ratio: Option<f64>,
    /// Largest share of a replica times the number of replicas; `None` before the first decision.
    pub busiest_ratio: Option<f64>,
    /// Mean predicted time to first token, seconds; `None` without a prediction.
    pub predicted_ttft_s: Option<f64>,
}
