//! How connections to a replica behave: what the core needs to price distance.

use crate::config::Config;
use crate::upstream::connect::Endpoint;
use gorgo_core::network::Transport;

/// The transport to a replica at `endpoint`.
pub(crate) fn transport(config: &Config, endpoint: &Endpoint) -> Transport {
    Transport {
        // TCP, then TLS 1.3.
        opening_rounds: if endpoint.is_https() { 2.0 } else { 1.0 },
        keep_alive_ms: config.timeouts.keep_alive_ms as f64,
        ..Transport::default()
    }
}
