//! The section `[sharing]`: exchange of learned prefixes with other routers of the same replicas.

use super::ConfigError;
use super::secret::Secret;
use crate::upstream::connect::Endpoint;
use gorgo_core::sharing::MAX_PEERS;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Other routers of the same replicas. Each router tells all of them what it learns of prefixes, and its own requests at
/// each replica. One list serves all of them: a router finds itself in it and leaves itself out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Sharing {
    /// Addresses of the routers, `http://host:port`.
    pub peers: Vec<String>,
    /// Time between two messages to a peer, ms.
    pub share_ms: u64,
    /// A message without an answer by then is sent again, ms.
    pub timeout_ms: u64,
    /// A router that starts asks its peers for what they know, for at most this time, before it is ready, ms; 0: it does
    /// not ask.
    pub snapshot_ms: u64,
    /// The secret that seeds the hashes of prompts: the same at all routers, since symbols of others mean nothing. At
    /// least 16 characters; random per process without one, and then nothing can be shared. Edges with one secret also tell
    /// each other which prefixes they hold (`probes.digest_ms`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hash_seed: Option<Secret>,
    /// A file whose first line is that secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hash_seed_file: Option<PathBuf>,
}

impl Default for Sharing {
    fn default() -> Self {
        Self {
            peers: Vec::new(),
            share_ms: 50,
            timeout_ms: 2_000,
            snapshot_ms: 5_000,
            hash_seed: None,
            hash_seed_file: None,
        }
    }
}

impl Sharing {
    /// Whether a seed is given, in place or in a file.
    pub(crate) fn has_seed(&self) -> bool {
        self.hash_seed.is_some() || self.hash_seed_file.is_some()
    }

    /// Checks ranges and addresses.
    ///
    /// # Errors
    /// The first value that is wrong.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let bad = |key: &str, value: String, advice: &str| {
            Err(ConfigError::Value { key: format!("sharing.{key}"), value, advice: advice.to_owned() })
        };
        for (key, value, low, high) in [
            ("share_ms", self.share_ms, 10, 60_000),
            ("timeout_ms", self.timeout_ms, 10, 60_000),
            ("snapshot_ms", self.snapshot_ms, 0, 600_000),
        ] {
            if !(low..=high).contains(&value) {
                return bad(key, value.to_string(), &format!("it must lie between {low} and {high}"));
            }
        }
        if self.peers.len() > MAX_PEERS {
            return bad("peers", format!("{} addresses", self.peers.len()), &format!("list at most {MAX_PEERS}"));
        }
        for (i, url) in self.peers.iter().enumerate() {
            if let Err(advice) = Endpoint::parse(url) {
                return bad(&format!("peers[{i}]"), format!("\"{url}\""), &advice.to_string());
            }
            if self.peers[..i].contains(url) {
                return bad(&format!("peers[{i}]"), format!("\"{url}\""), "it is listed twice; keep one");
            }
        }
        if self.hash_seed.as_ref().is_some_and(|seed| !seed.is_placeholder() && seed.expose().len() < 16) {
            return bad("hash_seed", "too short".to_owned(), "give 16 random characters or more");
        }
        if !self.peers.is_empty() && !self.has_seed() {
            let advice = "peers need equal hashes of prompts; set sharing.hash_seed_file to one secret at all of them";
            return bad("peers", "set without a hash seed".to_owned(), advice);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::config::Config;

    #[test]
    fn peers_need_a_seed_and_addresses() {
        let error = |text: &str| Config::parse(text).unwrap_err().to_string();
        assert!(error("sharing = {peers = [\"http://a:1\"]}").contains("one secret at all of them"));
        let seed = "hash_seed = \"0123456789abcdef\"";
        assert!(error(&format!("sharing = {{peers = [\"a b\"], {seed}}}")).starts_with("`sharing.peers[0]`"));
        assert!(error(&format!("sharing = {{peers = [\"http://a:1\", \"http://a:1\"], {seed}}}")).contains("twice"));
        assert!(error("sharing = {hash_seed = \"short\"}").contains("16 random characters"));
        assert!(error("sharing = {share_ms = 1}").contains("between 10 and 60000"));
        assert!(Config::parse(&format!("sharing = {{peers = [\"http://a:1\"], {seed}}}")).is_ok());
    }
}
