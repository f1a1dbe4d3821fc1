//! One link between two sites: its settings, the delay of its bytes, and its state.

use super::RelayConfig;
use super::upload::Upload;
use crate::clock::Clock;
use crate::input_error::InputError;
use gorgo_core::network::Congestion;
use gorgo_core::request::Place;
use gorgo_core::{Span, Time, rng};
use gorgo_sim::network::{LinkConfig as LinkNumbers, LinkRule, Network};
use gorgo_traces::geo;
use parking_lot::Mutex;
use rand::RngExt;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::watch;

/// Settings of one link.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkConfig {
    /// Name of the link.
    pub name: String,
    /// Address that clients connect to; loopback only.
    pub listen: SocketAddr,
    /// Address that their bytes are relayed to; loopback only.
    pub target: SocketAddr,
    /// Region of the client's side.
    pub from: String,
    /// Region of the target's side.
    pub to: String,
    /// Median round trip, ms; if absent, measured for the two regions or computed from their distance.
    #[serde(default)]
    pub rtt_ms: Option<f64>,
    /// Mean time after which connections are reset at random, s; never if absent.
    #[serde(default)]
    pub mean_lifetime_s: Option<f64>,
    /// What else sets the link apart from the network's defaults.
    #[serde(default)]
    pub numbers: Option<LinkNumbers>,
}

/// State of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum LinkState {
    /// Bytes pass.
    Up,
    /// No bytes pass in either direction; what was sent is delivered when the link heals.
    Partitioned,
}

/// A running link.
#[derive(Debug)]
pub struct Link {
    /// Settings of the link.
    pub config: LinkConfig,
    rule: LinkRule,
    byte_scale: f64,
    ends: (usize, usize),
    network: Arc<Mutex<Network>>,
    clock: Clock,
    seed: u64,
    index: u64,
    messages: AtomicU64,
    connections: AtomicU64,
    state: watch::Sender<LinkState>,
    /// Number of resets so far.
    resets: watch::Sender<u64>,
}

impl LinkConfig {
    /// Parses `LISTEN=TARGET,rtt=MS` or `LISTEN=TARGET,from=REGION,to=REGION`. Without `name=` the link is named after
    /// `number`.
    ///
    /// # Errors
    /// One sentence that names the part that cannot be read.
    pub fn parse(text: &str, number: usize) -> Result<Self, InputError> {
        let usage = "write LISTEN=TARGET,rtt=MS or LISTEN=TARGET,from=REGION,to=REGION";
        let mut parts = text.split(',');
        let (listen, to) = parts.next().and_then(|p| p.split_once('=')).ok_or(format!("`{text}`: {usage}"))?;
        let addr = |a: &str| a.parse().map_err(|_| format!("`{text}`: `{a}` is no address like 127.0.0.1:9001"));
        let mut link = Self {
            name: format!("link{number}"),
            listen: addr(listen)?,
            target: addr(to)?,
            from: format!("near{number}"),
            to: format!("far{number}"),
            rtt_ms: None,
            mean_lifetime_s: None,
            numbers: None,
        };
        for part in parts {
            let (key, value) = part.split_once('=').ok_or(format!("`{text}`: `{part}` has no value; {usage}"))?;
            let number = || value.parse::<f64>().map_err(|_| format!("`{text}`: {key} is `{value}`, give a number"));
            match key {
                "name" => value.clone_into(&mut link.name),
                "from" => value.clone_into(&mut link.from),
                "to" => value.clone_into(&mut link.to),
                "rtt" => link.rtt_ms = Some(number()?),
                "lifetime" => link.mean_lifetime_s = Some(number()?),
                "opening" => link.numbers().opening_rounds = Some(number()?),
                "window" => link.numbers().initial_window = Some(number()? as u64),
                "mbps" => link.numbers().mbps = Some(number()?),
                "congestion" => {
                    let known =
                        [("cubic", Congestion::Cubic), ("cubic-kept", Congestion::CubicKept), ("bbr", Congestion::Bbr)];
                    let found = known.into_iter().find(|(name, _)| *name == value);
                    let (_, congestion) =
                        found.ok_or(format!("`{text}`: congestion is `{value}`; give cubic, cubic-kept or bbr"))?;
                    link.numbers().congestion = Some(congestion);
                }
                _ => {
                    return Err(format!(
                        "`{text}`: `{key}` is not known; {usage}, with name=, lifetime=SECONDS, opening=ROUNDS, \
                         window=BYTES, congestion=NAME, mbps=MBPS"
                    )
                    .into());
                }
            }
        }
        link.check()?;
        Ok(link)
    }

    fn numbers(&mut self) -> &mut LinkNumbers {
        self.numbers.get_or_insert_default()
    }

    /// Checks the settings.
    ///
    /// # Errors
    /// One sentence that names the link and the value.
    pub fn check(&self) -> Result<(), InputError> {
        let name = &self.name;
        for (key, addr) in [("listen", self.listen), ("target", self.target)] {
            if !addr.ip().is_loopback() {
                return Err(format!("`{name}`: {key} is {addr}; a relay stays on loopback, give 127.0.0.1:PORT").into());
            }
        }
        if let Some(ms) = self.rtt_ms.filter(|ms| !(0.0..=60_000.0).contains(ms)) {
            return Err(format!("`{name}`: rtt is {ms} ms, give 0 to 60,000").into());
        }
        if let Some(s) = self.mean_lifetime_s.filter(|s| !(0.001..=1e7).contains(s)) {
            return Err(format!("`{name}`: lifetime is {s} s, give 0.001 to 10,000,000").into());
        }
        if let Some(numbers) = &self.numbers {
            numbers.check().map_err(|e| format!("`{name}`: {e}"))?;
        }
        if self.from == self.to {
            return Err(format!("`{name}`: both ends are `{}`; name two places", self.from).into());
        }
        for end in [&self.from, &self.to] {
            if self.rtt_ms.is_none() && geo::place_of(end).is_none() {
                return Err(format!(
                    "`{name}`: no region `{end}` is known; give rtt=MS or a region like aws:us-west-1"
                )
                .into());
            }
        }
        Ok(())
    }
}

/// Location of a site. A site without a known region gets a location of its own.
pub(super) fn place(name: &str, index: usize) -> Place {
    geo::place_of(name).unwrap_or(Place { lat: -60.0 + (index % 100) as f64, lon: -150.0 + (index / 100) as f64 })
}

/// Direction of bytes on a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the target.
    ToTarget,
    /// From the target to the client.
    ToClient,
}

impl Link {
    pub(super) fn new(
        config: LinkConfig,
        ends: (usize, usize),
        relay: &RelayConfig,
        network: Arc<Mutex<Network>>,
        clock: Clock,
        index: u64,
    ) -> Self {
        let rule = LinkRule::new(&relay.network, config.numbers.as_ref());
        let (seed, byte_scale) = (relay.seed, relay.byte_scale);
        let (state, resets) = (watch::channel(LinkState::Up).0, watch::channel(0).0);
        let (messages, connections) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { config, rule, byte_scale, ends, network, clock, seed, index, messages, connections, state, resets }
    }

    /// The sending side of a new connection.
    pub(super) fn upload(&self) -> Upload {
        Upload::new(self.rule, self.byte_scale)
    }

    /// When `bytes` that arrive now, or at `opened` if that is later, leave their sender.
    pub(super) fn leaves(&self, upload: &mut Upload, opened: Time, bytes: usize) -> Time {
        let mut network = self.network.lock();
        let now = self.clock.now();
        let rtt_ms = network.rtt_ms(self.ends.0, self.ends.1, now);
        upload.leaves(now.max(opened), bytes, rtt_ms)
    }

    /// When bytes that arrive now leave the link: not before `after`, when the bytes before them leave, and as if they
    /// had arrived at `sent` if that is later.
    pub(super) fn due(&self, direction: Direction, after: Time, sent: Time) -> Time {
        let (a, b) = if direction == Direction::ToTarget { self.ends } else { (self.ends.1, self.ends.0) };
        // The lock is taken before the clock is read: the network must not be asked about the past.
        let mut network = self.network.lock();
        let now = self.clock.now();
        let message = self.messages.fetch_add(1, Ordering::Relaxed);
        (now.max(sent) + network.one_way(a, b, now, message)).max(after)
    }

    /// When the handshake of a connection that is opened now completes.
    pub(super) fn handshake(&self) -> Time {
        let mut network = self.network.lock();
        let now = self.clock.now();
        now + Span::from_ms(network.rtt_ms(self.ends.0, self.ends.1, now) * self.rule.transport.opening_rounds)
    }

    pub(super) fn instant(&self, at: Time) -> std::time::Instant {
        self.clock.instant(at)
    }

    /// When a connection that is opened now is reset at random.
    pub(super) fn reset_time(&self) -> Option<Time> {
        let number = self.connections.fetch_add(1, Ordering::Relaxed);
        Some(self.clock.now() + self.lifetime(number)?)
    }

    /// Lifetime of connection `number`.
    fn lifetime(&self, number: u64) -> Option<Span> {
        let mean = self.config.mean_lifetime_s?;
        let mut rng = rng::stream(self.seed, "relay-lifetime", (self.index << 32) | number);
        Some(Span::from_secs(-(1.0 - rng.random::<f64>()).ln() * mean))
    }

    /// Holds all bytes back until [`Self::heal`].
    pub fn partition(&self) {
        self.state.send_replace(LinkState::Partitioned);
    }

    /// Ends a partition.
    pub fn heal(&self) {
        self.state.send_replace(LinkState::Up);
    }

    /// Resets all open connections.
    pub fn reset(&self) {
        self.resets.send_modify(|n| *n += 1);
    }

    /// State of the link.
    pub fn state(&self) -> LinkState {
        *self.state.borrow()
    }

    pub(super) fn watch_state(&self) -> watch::Receiver<LinkState> {
        self.state.subscribe()
    }

    pub(super) fn watch_resets(&self) -> watch::Receiver<u64> {
        self.resets.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gorgo_sim::network::NetworkConfig;
    use proptest::prelude::*;

    fn link(rtt_ms: f64, jitter: f64) -> Link {
        let config = NetworkConfig { sigma: 0.0, jitter, ..NetworkConfig::default() };
        let places = [place("near0", 0), place("far0", 1)];
        let network = Network::new(config, 1, &places, |_, _| Some(rtt_ms));
        let settings = LinkConfig::parse("127.0.0.1:0=127.0.0.1:1,rtt=10", 0).unwrap();
        let relay = RelayConfig {
            network: NetworkConfig::default(),
            seed: 1,
            links: Vec::new(),
            sites: Vec::new(),
            byte_scale: 1.0,
            max_connections: 1,
        };
        Link::new(settings, (0, 1), &relay, Arc::new(Mutex::new(network)), Clock::start(1.0), 0)
    }

    proptest! {
        #[test]
        fn bytes_take_half_a_round_trip_and_never_overtake(rtt in 0.0f64..400.0, jitter in 0.0f64..0.3, pieces in 1usize..50) {
            let link = link(rtt, jitter);
            let mut last = Time::ZERO;
            for _ in 0..pieces {
                let before = link.clock.now();
                let due = link.due(Direction::ToTarget, last, Time::ZERO);
                prop_assert!(due >= last);
                // Jitter is triangular: never more than root 6 standard deviations.
                let least = Span::from_ms(rtt / 2.0 * (1.0 - jitter * 6f64.sqrt()).max(0.0));
                let most = Span::from_ms(rtt / 2.0 * (1.0 + jitter * 6f64.sqrt())) + (link.clock.now() - before);
                prop_assert!(due - before >= least || due == last);
                prop_assert!(due - before <= most + Span(1) || due == last);
                last = due;
            }
        }
    }

    #[test]
    fn lifetimes_are_exponential_and_repeatable() {
        let mut one = link(10.0, 0.0);
        one.config.mean_lifetime_s = Some(5.0);
        let lives: Vec<f64> = (0..4000).map(|number| one.lifetime(number).unwrap().ms() / 1e3).collect();
        let mean = lives.iter().sum::<f64>() / 4000.0;
        assert!((mean - 5.0).abs() < 0.5, "{mean}");
        assert_eq!(one.lifetime(7), one.lifetime(7));
        assert_eq!(link(10.0, 0.0).reset_time(), None);
    }

    #[test]
    fn links_are_read_and_bad_ones_named() {
        let good =
            LinkConfig::parse("127.0.0.1:1=127.0.0.1:2,from=aws:eu-central-1,to=aws:us-west-1,name=x", 3).unwrap();
        assert_eq!((good.name.as_str(), good.rtt_ms), ("x", None));
        assert!(geo::measured_ms(&good.from, &good.to).is_some_and(|ms| (100.0..250.0).contains(&ms)));
        for (text, problem) in [
            ("127.0.0.1:1", "write LISTEN=TARGET"),
            ("127.0.0.1:1=10.0.0.1:2,rtt=5", "stays on loopback"),
            ("127.0.0.1:1=127.0.0.1:2", "no region `near0` is known"),
            ("127.0.0.1:1=127.0.0.1:2,rtt=x", "rtt is `x`, give a number"),
            ("127.0.0.1:1=127.0.0.1:2,rtt=-1", "rtt is -1 ms"),
            ("127.0.0.1:1=127.0.0.1:2,speed=1", "`speed` is not known"),
            ("127.0.0.1:1=127.0.0.1:2,rtt=5,congestion=reno", "congestion is `reno`; give cubic"),
            ("127.0.0.1:1=127.0.0.1:2,rtt=5,mbps=0", "`link0`: links.mbps is 0"),
            ("localhost=127.0.0.1:2", "is no address"),
        ] {
            let error = LinkConfig::parse(text, 0).unwrap_err().to_string();
            assert!(error.contains(problem), "{error}");
        }
    }
}
