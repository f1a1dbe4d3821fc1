//! The section `[kv_events]`: where engines publish KV events, and whether the router reads them.

use super::ConfigError;
use crate::kv_events::server_info::{MAX_RANKS, ServerInfo};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// KV events that engines publish over ZeroMQ (vLLM's and SGLang's `--kv-events-config`): the index forgets what an
/// engine evicted, cleared or lost in a restart. Data-parallel rank r of an engine publishes on `port` + r. Run against
/// vLLM 0.32 on a CPU; the layouts of SGLang and of other versions of vLLM were only tested as bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct KvEvents {
    /// Whether the events of all replicas are read, but for those that `replicas` excepts.
    pub enabled: bool,
    /// Port of the publisher, at the host of the replica's URL.
    pub port: u16,
    /// Port where published batches are asked for again (`replay_endpoint` of the engine). Without one, a gap in the
    /// stream empties the replica's part of the index.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replay_port: Option<u16>,
    /// Data-parallel ranks of an engine, each with a port of its own.
    pub ranks: u16,
    /// Whether SGLang is asked at `/server_info` where it publishes: host, ports, ranks, topic. Its answer counts before
    /// the keys of this section, and those of `replicas` before its answer.
    pub ask: bool,
    /// The topic that the engine publishes under, or its beginning; empty for all.
    pub topic: String,
    /// Whether requests to vLLM carry `X-Session-ID: gorgo-...`, unless the client named a session: stored blocks then
    /// name the request they belong to, so that an eviction is known to the block.
    pub tag_dispatches: bool,
    /// What differs at single replicas, by their names.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub replicas: BTreeMap<String, KvEventsOf>,
}

/// What differs at one replica; the section's own value where a key is absent.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct KvEventsOf {
    /// Whether its events are read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// Host of the publisher; that of the replica's URL when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Port of the publisher.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Port where published batches are asked for again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replay_port: Option<u16>,
    /// Data-parallel ranks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ranks: Option<u16>,
}

impl Default for KvEvents {
    fn default() -> Self {
        Self {
            enabled: false,
            port: 5_557,
            replay_port: None,
            ranks: 1,
            ask: true,
            topic: String::new(),
            tag_dispatches: true,
            replicas: BTreeMap::new(),
        }
    }
}

/// Where one replica publishes its events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KvSource {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) replay_port: Option<u16>,
    pub(crate) ranks: u16,
    pub(crate) topic: String,
    /// What the engine says of it.
    pub(crate) told: ServerInfo,
}

impl KvEvents {
    /// Where a replica of this name, whose URL has this host and which says this of it, publishes its events; `None` if
    /// they are not read.
    pub(crate) fn source(&self, name: &str, host: &str, told: &ServerInfo) -> Option<KvSource> {
        let own = self.replicas.get(name).cloned().unwrap_or_default();
        let says = told.published();
        own.enabled.unwrap_or(self.enabled).then(|| KvSource {
            host: own.host.or_else(|| says.and_then(|says| says.host.clone())).unwrap_or_else(|| host.to_owned()),
            port: own.port.unwrap_or_else(|| says.map_or(self.port, |says| says.port)),
            // An engine that names no port for it replays nothing.
            replay_port: own.replay_port.or_else(|| says.map_or(self.replay_port, |says| says.replay_port)),
            ranks: own.ranks.unwrap_or_else(|| says.map_or(self.ranks, |says| says.ranks)),
            topic: says.map(|says| &says.topic).filter(|_| self.topic.is_empty()).unwrap_or(&self.topic).clone(),
            told: told.clone(),
        })
    }

    /// Checks ranges.
    ///
    /// # Errors
    /// The first value that is wrong.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        check("kv_events", self.port, self.replay_port, self.ranks)?;
        let bad = |key: String, value: &str, advice: &str| {
            let (value, advice) = (format!("\"{value}\""), advice.to_owned());
            Err(ConfigError::Value { key, value, advice })
        };
        if self.topic.len() > 256 {
            return bad("kv_events.topic".to_owned(), &self.topic, "give at most 256 bytes");
        }
        for (name, own) in &self.replicas {
            let key = format!("kv_events.replicas.{name}");
            let host = own.host.as_deref().unwrap_or("host");
            let (port, ranks) = (own.port.unwrap_or(self.port), own.ranks.unwrap_or(self.ranks));
            check(&key, port, own.replay_port.or(self.replay_port), ranks)?;
            if host.is_empty() || host.contains(['/', ' ', '*']) {
                return bad(format!("{key}.host"), host, "give a host name or an address, without a port");
            }
        }
        Ok(())
    }
}

fn check(key: &str, port: u16, replay: Option<u16>, ranks: u16) -> Result<(), ConfigError> {
    let bad = |what: &str, value: u16, advice: &str| {
        let (key, value) = (format!("{key}.{what}"), value.to_string());
        Err(ConfigError::Value { key, value, advice: advice.to_owned() })
    };
    if !(1..=MAX_RANKS).contains(&ranks) {
        return bad("ranks", ranks, "it must lie between 1 and 64");
    }
    for (what, first) in [("port", Some(port)), ("replay_port", replay)] {
        let Some(first) = first else { continue };
        if first == 0 || first.checked_add(ranks - 1).is_none() {
            return bad(what, first, "the ports of all ranks must lie between 1 and 65535");
        }
    }
    if replay.is_some_and(|replay| replay.abs_diff(port) < ranks) {
        return bad(
            "replay_port",
            replay.unwrap_or(0),
            "the ranks publish on that port; give the engine's replay port",
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::kv_events::server_info::Published;

    #[test]
    fn single_replicas_differ_from_the_fleet() {
        let config = Config::parse(
            "[kv_events]\nenabled = true\nreplay_port = 6000\n\
             [kv_events.replicas.a]\nport = 7000\nhost = \"10.0.0.9\"\n[kv_events.replicas.b]\nenabled = false",
        );
        let events = config.unwrap().kv_events;
        let source = |host: &str, port| KvSource {
            host: host.to_owned(),
            port,
            replay_port: Some(6_000),
            ranks: 1,
            topic: String::new(),
            told: ServerInfo::Unknown,
        };
        let of = |name: &str| events.source(name, "h", &ServerInfo::Unknown);
        assert_eq!(of("a"), Some(source("10.0.0.9", 7_000)));
        assert_eq!((of("b"), of("c")), (None, Some(source("h", 5_557))));
        assert_eq!(KvEvents::default().source("c", "h", &ServerInfo::Unknown), None);
        // What the engine says counts before the section, and what is said of it alone before that.
        let says = Published {
            host: None,
            port: 8_000,
            replay_port: None,
            ranks: 4,
            topic: "kv".to_owned(),
            block_tokens: 64,
        };
        let told = ServerInfo::Published(says);
        let of = |name: &str| {
            let source = events.source(name, "h", &told).unwrap();
            (source.host, source.port, source.replay_port, source.ranks, source.topic)
        };
        assert_eq!(of("a"), ("10.0.0.9".to_owned(), 7_000, None, 4, "kv".to_owned()));
        assert_eq!(of("c"), ("h".to_owned(), 8_000, None, 4, "kv".to_owned()));
        assert_eq!(events.source("c", "h", &ServerInfo::Nothing).unwrap().port, 5_557);
    }

    #[test]
    fn ports_of_all_ranks_are_checked() {
        let error = |text: &str| Config::parse(text).unwrap_err().to_string();
        assert!(error("kv_events = {ranks = 0}").starts_with("`kv_events.ranks` is 0; it must lie"));
        assert!(error("kv_events = {port = 65535, ranks = 2}").contains("between 1 and 65535"));
        assert!(error("kv_events = {port = 100, replay_port = 101, ranks = 2}").contains("the ranks publish"));
        assert!(error("kv_events = {replicas = {x = {host = \"a b\"}}}").starts_with("`kv_events.replicas.x.host`"));
        assert!(error("kv_events = {replicas = {x = {port = 0}}}").starts_with("`kv_events.replicas.x.port`"));
    }
}
