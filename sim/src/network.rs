//! Network model: round trips between sites and from users to sites, with slow variation and jitter.
//!
//! Between two sites: a measured median where there is one, else `24 + 0.0150 ms/km` over the great circle times a
//! lognormal(0.25) drawn once a pair (fit over 5,310 measured region pairs, residual sd 36-47 ms). From a user:
//! the country's access latency plus `0.0155 ms/km`. On top, each link swings as an AR(1) process in log space with
//! 30 s steps (`sigma` 0.05 for a backbone; 0.30 is what GORGO's HTTP probes show), and each message has a small
//! jitter of its own. Every draw is a function of (seed, link, step or message), so all arms see one network. A request
//! pays as many round trips as its bytes need: see [`gorgo_core::network`].

mod links;

pub use links::{LinkConfig, LinkRule};

use gorgo_core::network::{COMPRESSION, Congestion, HEAD_BYTES, Transport, rounds};
use gorgo_core::range::{DURATION_MS, OutOfRange, check_ranges};
use gorgo_core::request::Place;
use gorgo_core::{Span, Time, rng};
use rand_distr::{Distribution, StandardNormal};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Parameters of the network model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct NetworkConfig {
    /// Standard deviation of the slow variation, in log space.
    pub sigma: f64,
    /// Correlation of the slow variation between consecutive 30 s steps.
    pub rho: f64,
    /// Standard deviation of the jitter of a message, as a share of the one-way time.
    pub jitter: f64,
    /// Factor on all round trips (2.5 scales backbone medians to GORGO's HTTP probes).
    pub scale: f64,
    /// Access latency of users with unknown country, ms.
    pub access_ms: f64,
    /// Idle timeout of a router's connections to replicas and peers, ms. A request without an open connection waits until
    /// a new one is open. Simulation only.
    pub keep_alive_ms: f64,
    /// Round trips to open a connection from a router to a replica or peer: 1 for TCP, 2 with TLS 1.3.
    pub opening_rounds: f64,
    /// Congestion control of routers.
    pub congestion: Congestion,
    /// Bytes in flight on a new connection.
    pub initial_window: u64,
    /// Bytes of a prompt token on the wire. 0 lets every request fit into one round trip.
    pub bytes_per_token: f64,
    /// Round trips that a user pays to open a connection to a router; 0 when users keep connections.
    pub user_opening_rounds: f64,
    /// Round trips that probes show, as a multiple of those that requests pay. Recorded probes over a provider's tunnel
    /// showed 1.5 to 2.5. Simulation only.
    pub probe_scale: f64,
    /// Bytes that an edge sends to another for each byte of a request longer than the initial window: below 1 where edges
    /// pack requests. Simulation only.
    pub compression: f64,
}

impl NetworkConfig {
    /// Checks the ranges of the settings.
    ///
    /// # Errors
    /// The first one out of bounds.
    pub fn check(&self) -> Result<(), OutOfRange> {
        check_ranges([
            ("sigma", self.sigma, 0.0..=2.0),
            ("rho", self.rho, 0.0..=0.999_999),
            ("jitter", self.jitter, 0.0..=2.0),
            ("scale", self.scale, 0.0..=1_000.0),
            ("access_ms", self.access_ms, DURATION_MS),
            ("keep_alive_ms", self.keep_alive_ms, DURATION_MS),
            ("opening_rounds", self.opening_rounds, 0.0..=100.0),
            ("initial_window", self.initial_window as f64, 1.0..=1e12),
            ("bytes_per_token", self.bytes_per_token, 0.0..=1e6),
            ("user_opening_rounds", self.user_opening_rounds, 0.0..=100.0),
            ("probe_scale", self.probe_scale, 0.0..=1_000.0),
            ("compression", self.compression, COMPRESSION),
        ])
    }

    /// How connections between routers and replicas behave.
    pub fn transport(&self) -> Transport {
        Transport {
            congestion: self.congestion,
            initial_window: self.initial_window,
            opening_rounds: self.opening_rounds,
            keep_alive_ms: self.keep_alive_ms,
            compression: self.compression,
        }
    }

    /// Round trips beyond the first half that a user pays until a router has read a request of `tokens` prompt tokens,
    /// over a connection that was idle while the user typed.
    pub fn user_upload_trips(&self, tokens: u32) -> f64 {
        rounds(self.request_bytes(tokens), self.initial_window) - 1.0 + self.user_opening_rounds
    }

    /// Bytes on the wire of a request of `tokens` prompt tokens.
    pub fn request_bytes(&self, tokens: u32) -> u64 {
        if self.bytes_per_token == 0.0 {
            return 0;
        }
        HEAD_BYTES + (f64::from(tokens) * self.bytes_per_token) as u64
    }
}

impl Default for NetworkConfig {
    fn default() -> Self {
        let Transport { congestion, initial_window, opening_rounds, keep_alive_ms, compression } = Transport::default();
        Self {
            sigma: 0.05,
            rho: 0.8,
            jitter: 0.02,
            scale: 1.0,
            access_ms: 25.0,
            keep_alive_ms,
            opening_rounds,
            congestion,
            initial_window,
            bytes_per_token: 4.5,
            user_opening_rounds: 0.0,
            probe_scale: 1.0,
            compression,
        }
    }
}

const STEP: Span = Span(30_000_000_000);

/// The distance model for pairs without a measurement, before its lognormal factor.
pub fn distance_rtt_ms(km: f64) -> f64 {
    24.0 + 0.0150 * km
}

/// Round trip from a user with `access_ms` of access latency to a site `km` away.
pub fn user_rtt_ms(access_ms: f64, km: f64) -> f64 {
    access_ms + 0.0155 * km
}

/// A link with its slow variation.
#[derive(Debug)]
struct Link {
    base_ms: f64,
    sigma: f64,
    swing: rng::ChaCha8Rng,
    /// Next step to draw, and the log deviation of the last one drawn.
    step: u64,
    log: f64,
    /// `base_ms` times the current variation, and when the variation changes.
    rtt_ms: f64,
    until: Time,
}

impl Clone for Link {
    fn clone(&self) -> Self {
        Self { swing: rng::copied(&self.swing), ..*self }
    }
}

impl Link {
    /// Draws the variation up to `now`.
    fn vary(&mut self, rho: f64, now: Time) {
        let sigma = self.sigma;
        if sigma == 0.0 || self.base_ms == 0.0 {
            (self.rtt_ms, self.until) = (self.base_ms, Time::NEVER);
            return;
        }
        let step = now.0 / STEP.0;
        while self.step <= step {
            let normal: f64 = StandardNormal.sample(&mut self.swing);
            self.log = if self.step == 0 {
                sigma * normal
            } else {
                rho * self.log + sigma * (1.0 - rho * rho).sqrt() * normal
            };
            self.step += 1;
        }
        self.rtt_ms = self.base_ms * self.log.exp();
        self.until = Time(self.step.saturating_mul(STEP.0));
    }
}

/// All links between sites.
#[derive(Debug, Clone)]
pub struct Network {
    config: NetworkConfig,
    sites: usize,
    links: Vec<Link>,
    salt: u64,
}

impl Network {
    /// A network over `places`. `measured(a, b)` gives a pair's median round trip in ms where one is known.
    /// A site is 0.5 ms from another at the same place and 0 from itself.
    pub fn new(
        config: NetworkConfig,
        seed: u64,
        places: &[Place],
        measured: impl Fn(usize, usize) -> Option<f64>,
    ) -> Self {
        let sites = places.len();
        let mut links = Vec::with_capacity(sites * sites);
        for a in 0..sites {
            for b in 0..sites {
                // Both directions share base and variation, because measurements give round trips only.
                let (low, high) = (a.min(b), a.max(b));
                let index = (low * sites + high) as u64;
                let mut draw = rng::stream(seed, "network-base", index);
                let factor: f64 = StandardNormal.sample(&mut draw);
                let km = places[low].km_to(places[high]);
                let base = if a == b {
                    0.0
                } else if km < 1.0 {
                    0.5
                } else {
                    let both = measured(low, high).or_else(|| measured(high, low));
                    both.unwrap_or_else(|| distance_rtt_ms(km) * (0.25 * factor).exp())
                };
                let base_ms = base * config.scale;
                links.push(Link {
                    base_ms,
                    sigma: config.sigma,
                    swing: rng::stream(seed, "network-swing", index),
                    step: 0,
                    log: 0.0,
                    rtt_ms: base_ms,
                    until: Time::ZERO,
                });
            }
        }
        Self { config, sites, links, salt: seed ^ 0x6e65_7477_6f72_6b00 }
    }

    /// Sets numbers of a link in both directions, before the first use of the network.
    pub fn set_link(&mut self, a: usize, b: usize, numbers: &LinkConfig) {
        for at in [a * self.sites + b, b * self.sites + a] {
            let link = &mut self.links[at];
            if let Some(ms) = numbers.rtt_ms {
                (link.base_ms, link.rtt_ms) = (ms, ms);
            }
            link.sigma = numbers.sigma.unwrap_or(link.sigma);
        }
    }

    /// The median round trip between two sites, ms.
    pub fn base_ms(&self, a: usize, b: usize) -> f64 {
        self.links[a * self.sites + b].base_ms
    }

    /// The round trip between two sites at `now`, ms, without message jitter. `now` must not go back.
    #[inline]
    pub fn rtt_ms(&mut self, a: usize, b: usize, now: Time) -> f64 {
        let link = &mut self.links[a * self.sites + b];
        if now >= link.until {
            link.vary(self.config.rho, now);
        }
        link.rtt_ms
    }

    /// One-way time of a message from `a` to `b` sent at `now`; `message` selects its jitter.
    #[inline]
    pub fn one_way(&mut self, a: usize, b: usize, now: Time, message: u64) -> Span {
        let half = self.rtt_ms(a, b, now) / 2.0;
        let link = (a * self.sites + b) as u64;
        Span::from_ms(half * self.jitter(message, link))
    }

    /// One-way time of a message between a user with round trip `rtt_ms` and a router.
    pub fn user_one_way(&self, rtt_ms: f64, message: u64) -> Span {
        Span::from_ms(rtt_ms / 2.0 * self.config.scale * self.jitter(message, u64::MAX))
    }

    /// `1 + jitter * t`, t triangular with unit variance: a counter-based draw that costs one hash.
    #[inline]
    fn jitter(&self, message: u64, link: u64) -> f64 {
        if self.config.jitter == 0.0 {
            return 1.0;
        }
        let hash = xxh3_64_with_seed(&message.to_le_bytes(), self.salt ^ link.rotate_left(32));
        let (u, v) = ((hash >> 32) as f64 / 4_294_967_296.0, (hash & 0xffff_ffff) as f64 / 4_294_967_296.0);
        1.0 + self.config.jitter * 6f64.sqrt() * (u + v - 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRANKFURT: Place = Place { lat: 50.11, lon: 8.68 };
    const TEL_AVIV: Place = Place { lat: 32.08, lon: 34.78 };
    const SAN_FRANCISCO: Place = Place { lat: 37.77, lon: -122.42 };

    fn network(config: NetworkConfig, seed: u64) -> Network {
        let known = |a: usize, b: usize| (a == 0 && b == 1).then_some(52.0);
        Network::new(config, seed, &[FRANKFURT, TEL_AVIV, SAN_FRANCISCO, FRANKFURT], known)
    }

    #[test]
    fn measured_pairs_win_and_both_directions_agree() {
        let mut net = network(NetworkConfig { sigma: 0.0, jitter: 0.0, ..NetworkConfig::default() }, 3);
        assert_eq!(
            (net.base_ms(0, 1), net.base_ms(1, 0), net.base_ms(1, 1), net.base_ms(0, 3)),
            (52.0, 52.0, 0.0, 0.5)
        );
        assert_eq!(net.base_ms(0, 2), net.base_ms(2, 0));
        assert_eq!(net.one_way(0, 1, Time(5), 9), Span::from_ms(26.0));
    }

    #[test]
    fn the_swing_has_the_configured_spread_and_does_not_depend_on_who_looks_when() {
        let config = NetworkConfig { sigma: 0.3, rho: 0.8, ..NetworkConfig::default() };
        let (mut often, mut seldom) = (network(config.clone(), 5), network(config, 5));
        let mut logs = Vec::new();
        for step in 0..4_000u64 {
            let rtt = often.rtt_ms(0, 1, Time(step * STEP.0 + 7));
            logs.push((rtt / 52.0).ln());
        }
        assert_eq!(often.rtt_ms(0, 1, Time(3_999 * STEP.0)), seldom.rtt_ms(0, 1, Time(3_999 * STEP.0)));
        let mean = logs.iter().sum::<f64>() / logs.len() as f64;
        let sd = (logs.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / logs.len() as f64).sqrt();
        let lag: f64 = logs.windows(2).map(|w| (w[0] - mean) * (w[1] - mean)).sum::<f64>() / logs.len() as f64;
        assert!(
            mean.abs() < 0.05 && (sd - 0.3).abs() < 0.04 && (lag / sd / sd - 0.8).abs() < 0.05,
            "{mean} {sd} {lag}"
        );
    }

    #[test]
    fn jitter_is_small_repeatable_and_the_messages_own() {
        let mut net = network(NetworkConfig { sigma: 0.0, jitter: 0.02, ..NetworkConfig::default() }, 3);
        let times: Vec<f64> = (0..5_000).map(|m| net.one_way(0, 1, Time(0), m).ms()).collect();
        assert_eq!(net.one_way(0, 1, Time(9), 77), Span::from_ms(times[77]));
        let mean = times.iter().sum::<f64>() / times.len() as f64;
        let sd = (times.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / times.len() as f64).sqrt();
        assert!((mean - 26.0).abs() < 0.05 && (sd / 26.0 - 0.02).abs() < 0.002, "{mean} {sd}");
    }
}
