//! Settings of single links that differ from the network's defaults.

use super::NetworkConfig;
use gorgo_core::network::{COMPRESSION, Congestion, Transport};
use gorgo_core::range::{DURATION_MS, OutOfRange, check_ranges};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Numbers of the link between two sites; what is absent is the network's. They hold in both directions.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LinkConfig {
    /// One site: a region, as the replicas name it, a replica that is alone in its region, or `proxy`, which acts in arms with
    /// one. A link holds for all in its two regions.
    pub from: String,
    /// The other one.
    pub to: String,
    /// Median round trip, ms, in place of the measured or estimated one; `scale` does not apply.
    pub rtt_ms: Option<f64>,
    /// Standard deviation of the slow variation, in log space.
    pub sigma: Option<f64>,
    /// Round trips to open a connection.
    pub opening_rounds: Option<f64>,
    /// Congestion control of the sender.
    pub congestion: Option<Congestion>,
    /// Bytes in flight on a new connection.
    pub initial_window: Option<u64>,
    /// An idle connection is closed after this long, ms. Simulation only.
    pub keep_alive_ms: Option<f64>,
    /// Bandwidth of a connection, Mbit/s; unlimited when absent.
    pub mbps: Option<f64>,
    /// Round trips that probes show, as a multiple of those that requests pay. Simulation only.
    pub probe_scale: Option<f64>,
    /// Bytes that an edge sends to another for each byte of a request longer than the initial window. Simulation only.
    pub compression: Option<f64>,
}

impl LinkConfig {
    /// Checks the ranges of the numbers.
    ///
    /// # Errors
    /// The first one out of bounds.
    pub fn check(&self) -> Result<(), OutOfRange> {
        let given = [
            ("links.rtt_ms", self.rtt_ms, DURATION_MS),
            ("links.sigma", self.sigma, 0.0..=2.0),
            ("links.opening_rounds", self.opening_rounds, 0.0..=100.0),
            ("links.initial_window", self.initial_window.map(|window| window as f64), 1.0..=1e12),
            ("links.keep_alive_ms", self.keep_alive_ms, DURATION_MS),
            ("links.mbps", self.mbps, 0.001..=1e9),
            ("links.probe_scale", self.probe_scale, 0.0..=1_000.0),
            ("links.compression", self.compression, COMPRESSION),
        ];
        check_ranges(given.into_iter().filter_map(|(key, value, range)| Some((key, value?, range))))
    }
}

/// How requests and probes travel on a link.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LinkRule {
    /// How its connections behave.
    pub transport: Transport,
    /// Bandwidth of a connection, Mbit/s.
    pub mbps: Option<f64>,
    /// Round trips that probes show, as a multiple.
    pub probe_scale: f64,
}

impl LinkRule {
    /// The rule of a link in a network.
    pub fn new(network: &NetworkConfig, link: Option<&LinkConfig>) -> Self {
        let base = network.transport();
        let Some(link) = link else {
            return Self { transport: base, mbps: None, probe_scale: network.probe_scale };
        };
        Self {
            transport: Transport {
                congestion: link.congestion.unwrap_or(base.congestion),
                initial_window: link.initial_window.unwrap_or(base.initial_window),
                opening_rounds: link.opening_rounds.unwrap_or(base.opening_rounds),
                keep_alive_ms: link.keep_alive_ms.unwrap_or(base.keep_alive_ms),
                compression: link.compression.unwrap_or(base.compression),
            },
            mbps: link.mbps,
            probe_scale: link.probe_scale.unwrap_or(network.probe_scale),
        }
    }

    /// Time that the bandwidth takes for a request of `bytes`, ms.
    pub fn transfer_ms(&self, bytes: u64) -> f64 {
        self.mbps.map_or(0.0, |mbps| self.transport.sent(bytes) as f64 * 8.0 / (mbps * 1e3))
    }
}
