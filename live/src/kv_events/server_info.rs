//! Reads SGLang's `/server_info` for its KV event streams: ports, ranks, topic, block size.
//!
//! SGLang answers only when its scheduler gets to the request, so the router sends it when a replica joins and after a
//! stream broke, never in between. Any other answer counts as "unknown", and the configuration applies: vLLM and older
//! versions of SGLang do not report their streams.

use crate::signals::pages::fetch;
use crate::state::AppState;
use crate::upstream::replica::Upstream;
use http::StatusCode;
use serde::{Deserialize, Deserializer};
use std::sync::Arc;

/// Most data-parallel ranks of an engine.
pub(crate) const MAX_RANKS: u16 = 64;
/// Longest host name and topic, bytes.
const MOST_TEXT: usize = 253;

/// What an engine publishes, by its own word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Published {
    /// Host of the publisher; that of the replica's URL when absent.
    pub(crate) host: Option<String>,
    /// Port of rank 0.
    pub(crate) port: u16,
    /// Port of rank 0 where batches are asked for again.
    pub(crate) replay_port: Option<u16>,
    /// Data-parallel ranks.
    pub(crate) ranks: u16,
    pub(crate) topic: String,
    /// Tokens of a block.
    pub(crate) block_tokens: u32,
}

/// An engine's answer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) enum ServerInfo {
    /// None that says anything of KV events.
    #[default]
    Unknown,
    /// It publishes nothing.
    Nothing,
    Published(Published),
}

impl ServerInfo {
    pub(crate) fn published(&self) -> Option<&Published> {
        if let Self::Published(published) = self { Some(published) } else { None }
    }

    /// As `status` shows it.
    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Nothing => "publishes nothing; start SGLang with --kv-events-config",
            Self::Published(_) => "published",
        }
    }
}

/// Asks a replica; `Unknown` if it does not answer within `probes.scrape_timeout_ms`.
pub(super) async fn ask(state: &AppState, upstream: &Arc<Upstream>) -> ServerInfo {
    match fetch(state, upstream, "/server_info").await {
        Ok((StatusCode::OK, page)) => read(&page),
        // SGLang 0.5.5 has the old path alone.
        Ok((StatusCode::NOT_FOUND, _)) => match fetch(state, upstream, "/get_server_info").await {
            Ok((StatusCode::OK, page)) => read(&page),
            _ => ServerInfo::Unknown,
        },
        _ => ServerInfo::Unknown,
    }
}

/// The part of `/server_info` that is read.
#[derive(Deserialize)]
struct Info {
    #[serde(default, deserialize_with = "present")]
    kv_events: Option<Option<Entry>>,
}

#[derive(Deserialize)]
struct Entry {
    publisher: Option<String>,
    endpoint_host: Option<String>,
    endpoint_port_base: u16,
    replay_endpoint_port_base: Option<u16>,
    dp_size: u16,
    #[serde(default)]
    topic: String,
    block_size: u32,
}

/// Tells `null` from a key that is absent.
fn present<'de, D: Deserializer<'de>>(value: D) -> Result<Option<Option<Entry>>, D::Error> {
    Option::deserialize(value).map(Some)
}

pub(crate) fn read(page: &[u8]) -> ServerInfo {
    let entry = match serde_json::from_slice::<Info>(page).map(|info| info.kv_events) {
        Ok(Some(Some(entry))) => entry,
        Ok(Some(None)) => return ServerInfo::Nothing,
        Ok(None) | Err(_) => return ServerInfo::Unknown,
    };
    let ports = |first: u16| first > 0 && first.checked_add(entry.dp_size.saturating_sub(1)).is_some();
    let host = entry.endpoint_host.as_deref().unwrap_or("*");
    let fits = (1..=MAX_RANKS).contains(&entry.dp_size)
        && ports(entry.endpoint_port_base)
        && entry.replay_endpoint_port_base.is_none_or(ports)
        && entry.block_size > 0
        && entry.publisher.as_deref().unwrap_or("zmq") == "zmq"
        && entry.topic.len().max(host.len()) <= MOST_TEXT
        && !host.contains(['/', ' ']);
    if !fits {
        return ServerInfo::Unknown;
    }
    // A wildcard says that the engine binds on every address.
    let is_wildcard = ["", "*", "0.0.0.0", "::", "[::]"].contains(&host);
    ServerInfo::Published(Published {
        host: (!is_wildcard).then(|| host.to_owned()),
        port: entry.endpoint_port_base,
        replay_port: entry.replay_endpoint_port_base,
        ranks: entry.dp_size,
        topic: entry.topic,
        block_tokens: entry.block_size,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &str = r#"{"version": "0.5.23", "page_size": 64, "internal_states": [{}], "kv_events": {
        "publisher": "zmq", "endpoint_host": "*", "endpoint_port_base": 5557, "topic": "kv", "block_size": 64,
        "dp_size": 4, "load_endpoint_port_base": 5570, "load_topic": "load", "replay_endpoint_port_base": 5600}}"#;

    #[test]
    fn ports_ranks_topic_and_block_size_are_read() {
        let published = Published {
            host: None,
            port: 5_557,
            replay_port: Some(5_600),
            ranks: 4,
            topic: "kv".to_owned(),
            block_tokens: 64,
        };
        assert_eq!(read(WHOLE.as_bytes()), ServerInfo::Published(published.clone()));
        let told = read(WHOLE.replace("\"*\"", "\"10.0.0.9\"").as_bytes());
        assert_eq!(told, ServerInfo::Published(Published { host: Some("10.0.0.9".to_owned()), ..published.clone() }));
        let told = read(WHOLE.replace(", \"replay_endpoint_port_base\": 5600", "").as_bytes());
        assert_eq!(told, ServerInfo::Published(Published { replay_port: None, ..published }));
    }

    #[test]
    fn nothing_published_is_not_nothing_known() {
        assert_eq!(read(b"{\"kv_events\": null}"), ServerInfo::Nothing);
        assert_eq!(read(b"{\"page_size\": 1}"), ServerInfo::Unknown);
    }

    #[test]
    fn what_does_not_fit_is_unknown() {
        for (old, new) in [
            ("5557", "0"),
            ("5557", "65534"),
            ("5557", "-1"),
            ("5557", "\"5557\""),
            ("5600", "65535"),
            ("\"dp_size\": 4", "\"dp_size\": 0"),
            ("\"dp_size\": 4", "\"dp_size\": 65"),
            ("\"block_size\": 64", "\"block_size\": 0"),
            ("\"zmq\"", "\"null\""),
            ("\"*\"", "\"a/b\""),
            ("\"*\"", &format!("\"{}\"", "a".repeat(300))),
            ("\"kv\"", "7"),
            ("}}", "}"),
        ] {
            let text = WHOLE.replace(old, new);
            assert_ne!(text, WHOLE, "{old}");
            assert_eq!(read(text.as_bytes()), ServerInfo::Unknown, "{text}");
        }
        for page in [&b""[..], b"[]", b"<html>", b"\xff", b"{\"kv_events\": [1]}"] {
            assert_eq!(read(page), ServerInfo::Unknown);
        }
    }
}
