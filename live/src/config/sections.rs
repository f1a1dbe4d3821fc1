//! The sections of the configuration file.

use super::secret::Secret;
use crate::upstream::connect::Endpoint;
use gorgo_core::policy::PolicyConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// One engine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReplicaConfig {
    /// `http://host:port` or `https://host`.
    pub url: String,
    /// Shown in records; host and port when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// What `[residency]` can allow, besides the region.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<String>,
    /// Prefill time per token, ms; overrides the policy's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ms_per_token: Option<f64>,
    /// KV capacity in tokens, if the engine's metrics do not report it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kv_tokens: Option<u64>,
    /// Names of models that it serves besides those of its own `/v1/models`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub models: Vec<String>,
    /// Key sent to the engine as `Authorization: Bearer`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key: Option<Secret>,
    /// A file whose first line is that key; read at the start and at each reload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key_file: Option<PathBuf>,
}

impl ReplicaConfig {
    /// Its name in records: the configured one, else host and port.
    pub fn shown_name(&self) -> String {
        self.name
            .clone()
            .unwrap_or_else(|| Endpoint::parse(&self.url).map_or_else(|_| self.url.clone(), |at| at.name()))
    }
}

/// Whether two URLs name one address, however they are written.
pub fn is_same_address(one: &str, other: &str) -> bool {
    one == other || Endpoint::parse(one).is_ok_and(|one| Endpoint::parse(other).is_ok_and(|other| one == other))
}

/// Another edge.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PeerConfig {
    /// `http://host:port`
    pub url: String,
    /// Shown in records; host and port when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Region of its engine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// What `[residency]` can allow, besides the region. The peer judges its own engine again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<String>,
}

/// Probes and scrapes of replicas. A period of 0 turns one off.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Probes {
    /// Path of the probe, a cheap request on a connection of its own that measures the round trip.
    pub path: String,
    /// Time between probes, ms.
    pub period_ms: u64,
    /// A probe without a response by then has failed, ms.
    pub timeout_ms: u64,
    /// Time between scrapes of an engine's metrics, ms.
    pub scrape_ms: u64,
    /// A scrape without a response by then has failed, ms.
    pub scrape_timeout_ms: u64,
    /// Time between requests for a peer's report, ms.
    pub peer_ms: u64,
    /// Time between requests for a peer's digest of the prefixes that its engine holds, ms; needs one `sharing.hash_seed` at all
    /// edges. An edge that starts with 0 tells none, either.
    pub digest_ms: u64,
}

impl Default for Probes {
    fn default() -> Self {
        Self {
            path: "/v1/models".to_owned(),
            period_ms: 500,
            timeout_ms: 2_000,
            scrape_ms: 1_000,
            scrape_timeout_ms: 5_000,
            peer_ms: 200,
            digest_ms: 2_000,
        }
    }
}

/// Limits on what clients can use.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Longest request body, bytes.
    pub body_bytes: usize,
    /// All request bodies being read or held for dispatch together, bytes.
    pub bodies_bytes: usize,
    /// Longest request head, bytes.
    pub header_bytes: usize,
    /// Most header lines.
    pub headers: usize,
    /// Worker threads for connections, at most 8; 0 for one per core.
    pub threads: usize,
    /// Most connections; further ones get 503.
    pub connections: usize,
    /// Most requests at once, waiting ones included; further ones get 429.
    pub requests: usize,
    /// Counts of tokens kept for later turns, one each half kilobyte of prompt; about 40 bytes each.
    pub tokenizer_entries: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes: 32 << 20,
            bodies_bytes: 512 << 20,
            header_bytes: 64 << 10,
            headers: 100,
            threads: 0,
            connections: 16_384,
            requests: 16_384,
            tokenizer_entries: 131_072,
        }
    }
}

/// Timeouts, ms.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Timeouts {
    /// Reading a request's head. HTTP/2 connections are asked for a sign of life (a ping) as often.
    pub header_ms: u64,
    /// A connection without a request is closed after this time. Balancers and SDKs keep theirs open for 60 s.
    pub idle_ms: u64,
    /// Between two pieces of a request's body.
    pub body_gap_ms: u64,
    /// Reading the whole body.
    pub body_ms: u64,
    /// Connecting to a replica.
    pub connect_ms: u64,
    /// From arrival to the first token; a request may ask for less with `X-Request-Timeout-Ms`.
    pub first_token_ms: u64,
    /// The beginning of a stream is held back for so long before its first token, so that another replica can still
    /// answer; blanks before a whole JSON answer, too.
    pub hold_ms: u64,
    /// Between two pieces of a streamed response, and for the client to take what was written to it; the response's
    /// total time has no limit.
    pub idle_gap_ms: u64,
    /// After SIGTERM: readiness is off, the port still open.
    pub settle_ms: u64,
    /// Then for open requests to finish.
    pub drain_ms: u64,
    /// Idle connections to replicas are closed after this time. SGLang closes them after 5 s.
    pub keep_alive_ms: u64,
    /// Counting a prompt's tokens before a decision; after that they are estimated.
    pub tokenize_ms: u64,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            header_ms: 10_000,
            idle_ms: 75_000,
            body_gap_ms: 10_000,
            body_ms: 120_000,
            connect_ms: 2_000,
            first_token_ms: 600_000,
            hold_ms: 50,
            idle_gap_ms: 120_000,
            settle_ms: 1_000,
            drain_ms: 600_000,
            keep_alive_ms: 4_000,
            tokenize_ms: 20,
        }
    }
}

/// Keys, each in a file or in the environment, never on the command line. A reload or a `PUT /proxy/config` that is
/// silent about a key leaves it as it is: a key in force can be replaced while the router runs, but not removed.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Security {
    /// Key that clients send as `Authorization: Bearer`; without one every client may send requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_key: Option<Secret>,
    /// A file whose first line is that key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_key_file: Option<PathBuf>,
    /// Key of operators: the whole admin API.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admin_key: Option<Secret>,
    /// A file whose first line is that key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admin_key_file: Option<PathBuf>,
    /// Key that edges show each other: requests, `GET /lb/report` and `GET /lb/digest`. Without one they show the admin key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer_key: Option<Secret>,
    /// A file whose first line is that key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer_key_file: Option<PathBuf>,
    /// Key that may read `/metrics` and every GET of the admin API but snapshots, and change nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read_key: Option<Secret>,
    /// A file whose first line is that key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read_key_file: Option<PathBuf>,
    /// Host names with a dot under which the admin API is reached without a key. IP addresses and names without a dot
    /// need no entry: a page in a browser cannot make them lead here.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<String>,
}

impl Security {
    /// Each kind of key: its name, the key itself, and its file.
    pub(crate) fn kinds(&self) -> [(&'static str, &Option<Secret>, &Option<PathBuf>); 4] {
        [
            ("api_key", &self.api_key, &self.api_key_file),
            ("admin_key", &self.admin_key, &self.admin_key_file),
            ("peer_key", &self.peer_key, &self.peer_key_file),
            ("read_key", &self.read_key, &self.read_key_file),
        ]
    }

    /// As [`Self::kinds`], to be changed.
    pub(crate) fn kinds_mut(&mut self) -> [(&'static str, &mut Option<Secret>, &mut Option<PathBuf>); 4] {
        [
            ("api_key", &mut self.api_key, &mut self.api_key_file),
            ("admin_key", &mut self.admin_key, &mut self.admin_key_file),
            ("peer_key", &mut self.peer_key, &mut self.peer_key_file),
            ("read_key", &mut self.read_key, &mut self.read_key_file),
        ]
    }

    /// Whether a key of this kind is given, in place or in a file.
    pub(crate) fn has(&self, kind: &str) -> bool {
        self.kinds().iter().any(|(name, key, file)| *name == kind && (key.is_some() || file.is_some()))
    }
}

/// What pages of other sites may do.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Cors {
    /// Origins (`https://app.example`, or `*`) whose pages may send requests and read answers. Empty: the engines
    /// decide.
    pub origins: Vec<String>,
}

/// Certificates.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Tls {
    /// PEM certificate chain of the listener.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cert: Option<PathBuf>,
    /// PEM private key of the listener.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<PathBuf>,
    /// PEM root certificates for replicas, in place of the system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream_ca: Option<PathBuf>,
    /// Do not check replicas' certificates.
    pub insecure: bool,
}

/// A file of lines, rotated by size.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LogFile {
    /// The file; older ones get `.1`, `.2` ...
    pub path: PathBuf,
    /// Rotated beyond this, bytes.
    #[serde(default = "LogFile::default_bytes")]
    pub max_bytes: u64,
    /// Older files kept.
    #[serde(default = "LogFile::default_keep")]
    pub keep: u32,
}

impl LogFile {
    fn default_bytes() -> u64 {
        64 << 20
    }

    fn default_keep() -> u32 {
        3
    }
}

/// How many decisions and requests are kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Explain {
    /// Requests whose decisions `/explain/ID` can show.
    pub decisions: usize,
    /// Entries of the request log.
    pub rows: usize,
    /// Decisions as JSON lines that `gorgo decide` reads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log: Option<LogFile>,
    /// Log each request's outcome behind its decision, for `gorgo evaluate`; always with `router.explore` above 0.
    pub outcomes: bool,
}

impl Default for Explain {
    fn default() -> Self {
        Self { decisions: 1_000, rows: 10_000, log: None, outcomes: false }
    }
}

/// Policies that decide without dispatching.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Shadow {
    /// The policies.
    pub policies: Vec<PolicyConfig>,
    /// Memory of each policy's index, bytes.
    pub index_bytes: usize,
}

impl Default for Shadow {
    fn default() -> Self {
        Self { policies: Vec::new(), index_bytes: 16 << 20 }
    }
}
