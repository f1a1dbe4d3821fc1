//! An emulated wide-area network on loopback: TCP relays that delay bytes like the simulator's network.
//!
//! Reading order: [`link`] (delay and state of one link) → `upload` (round trips of long requests) → [`pump`] (moving
//! the bytes of a connection) → [`Relay`] (listeners) → [`control`] (fault injection over HTTP).
//!
//! Round-trip times, their slow variation and the jitter of single messages are those of `gorgo_sim::network` at the
//! wall clock's time, so a run on relays and a simulated run see the same network. Bytes never overtake one another. A
//! new connection waits for its handshake first, and a request longer than the sender's window takes several round
//! trips, as in the simulator. The buffers of a link are bounded: a sender faster than the link meets backpressure.

pub mod control;
pub mod link;
pub mod pump;
mod upload;

pub use link::{LinkConfig, LinkState};

use crate::clock::Clock;
use crate::input_error::InputError;
use crate::timer::PreciseTimer;
use gorgo_core::request::Place;
use gorgo_sim::network::{Network, NetworkConfig};
use link::Link;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// Settings of a set of relays.
#[derive(Debug, Clone, PartialEq)]
pub struct RelayConfig {
    /// Variation and jitter of round-trip times.
    pub network: NetworkConfig,
    /// Seed of all random draws.
    pub seed: u64,
    /// The links.
    pub links: Vec<LinkConfig>,
    /// Names of all sites in the order in which a simulation numbers them, so that both draw the same variation. If
    /// empty, the ends of the links in alphabetical order.
    pub sites: Vec<String>,
    /// Bytes on the link for one byte of a request on the socket. 0 lets every request fit into one round trip.
    pub byte_scale: f64,
    /// Open connections per link; further ones wait in the listen backlog.
    pub max_connections: usize,
}

/// Why relays did not start.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// A setting of a link.
    #[error("link {0}")]
    Setting(#[from] InputError),
    /// The address of a link.
    #[error("cannot listen on {addr} ({source}); is the port taken? choose another address")]
    Listen {
        /// The address.
        addr: SocketAddr,
        /// The system's error.
        source: std::io::Error,
    },
    /// No thread.
    #[error("cannot start a thread ({0}); the machine is out of resources")]
    Thread(#[from] std::io::Error),
}

/// A set of running relays. Dropping it stops them and resets their connections.
#[derive(Debug)]
pub struct Relay {
    links: Vec<(Arc<Link>, SocketAddr)>,
    tasks: Vec<JoinHandle<()>>,
}

impl Relay {
    /// Starts a listener for each link; port 0 chooses a free port.
    ///
    /// # Errors
    /// A setting of a link is out of range, or its address cannot be bound.
    pub async fn start(config: RelayConfig) -> Result<Self, RelayError> {
        for link in &config.links {
            link.check()?;
            if let Some(end) = [&link.from, &link.to].into_iter().find(|end| !config.knows(end)) {
                let known = config.sites.join(", ");
                return Err(RelayError::Setting(
                    format!("`{}`: `{end}` is none of the sites {known}", link.name).into(),
                ));
            }
        }
        let network = network(&config);
        let (clock, timer) = (Clock::start(1.0), PreciseTimer::start()?);
        let shared = Arc::new(Mutex::new(network));
        let mut relay = Self { links: Vec::new(), tasks: Vec::new() };
        let sites = sites(&config);
        for (index, settings) in config.links.iter().enumerate() {
            let addr = settings.listen;
            let listener = TcpListener::bind(addr).await.map_err(|source| RelayError::Listen { addr, source })?;
            let ends = (sites[&settings.from], sites[&settings.to]);
            let link = Arc::new(Link::new(settings.clone(), ends, &config, Arc::clone(&shared), clock, index as u64));
            relay.links.push((Arc::clone(&link), listener.local_addr()?));
            relay.tasks.push(tokio::spawn(pump::accept(link, listener, timer.clone(), config.max_connections)));
        }
        Ok(relay)
    }

    /// The links with their listening addresses.
    pub fn links(&self) -> impl Iterator<Item = (&LinkConfig, SocketAddr)> {
        self.links.iter().map(|(link, addr)| (&link.config, *addr))
    }

    /// The link called `name`.
    pub fn link(&self, name: &str) -> Option<&Arc<Link>> {
        self.links.iter().map(|(link, _)| link).find(|link| link.config.name == name)
    }

    /// Handles to all links, to control them from elsewhere.
    pub fn handles(&self) -> Vec<Arc<Link>> {
        self.links.iter().map(|(link, _)| Arc::clone(link)).collect()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
        self.links.iter().for_each(|(link, _)| link.reset());
    }
}

impl RelayConfig {
    fn knows(&self, site: &String) -> bool {
        self.sites.is_empty() || self.sites.contains(site)
    }
}

/// Numbers of the sites: the order in the settings, or the alphabetical order of the links' ends.
fn sites(config: &RelayConfig) -> BTreeMap<String, usize> {
    if !config.sites.is_empty() {
        return config.sites.iter().cloned().enumerate().map(|(i, name)| (name, i)).collect();
    }
    let names: std::collections::BTreeSet<&String> = config.links.iter().flat_map(|l| [&l.from, &l.to]).collect();
    names.into_iter().cloned().enumerate().map(|(i, name)| (name, i)).collect()
}

fn network(config: &RelayConfig) -> Network {
    let sites = sites(config);
    let mut names: Vec<&String> = sites.keys().collect();
    names.sort_by_key(|name| sites[*name]);
    let places: Vec<Place> = names.iter().enumerate().map(|(i, name)| link::place(name, i)).collect();
    let measured = |a: usize, b: usize| {
        let own =
            |l: &&LinkConfig| (sites[&l.from], sites[&l.to]) == (a, b) || (sites[&l.to], sites[&l.from]) == (a, b);
        config
            .links
            .iter()
            .find(own)
            .and_then(|l| l.rtt_ms)
            .or_else(|| gorgo_traces::geo::measured_ms(names[a], names[b]))
    };
    let mut network = Network::new(config.network.clone(), config.seed, &places, measured);
    for link in config.links.iter().filter_map(|link| Some((link, link.numbers.as_ref()?))) {
        network.set_link(sites[&link.0.from], sites[&link.0.to], link.1);
    }
    network
}

#[cfg(test)]
mod tests {
    use super::*;
    use gorgo_core::Time;

    #[tokio::test]
    async fn relays_with_an_order_of_sites_vary_as_the_simulation_does_and_unknown_ends_are_named() {
        let names = ["lambda:me-west-1", "lambda:europe-central-1", "lambda:us-west-1"].map(str::to_owned);
        let mut link = LinkConfig::parse("127.0.0.1:0=127.0.0.1:1,rtt=180", 0).unwrap();
        (link.from, link.to) = (names[2].clone(), names[0].clone());
        let config = RelayConfig {
            network: NetworkConfig::default(),
            seed: 7,
            links: vec![link],
            sites: names.to_vec(),
            byte_scale: 1.0,
            max_connections: 1,
        };
        let places = names.each_ref().map(|n| gorgo_traces::geo::place_of(n).unwrap());
        let known = |a: usize, b: usize| (a + b == 2 && a != b).then_some(180.0);
        let mut simulated = Network::new(config.network.clone(), 7, &places, known);
        let mut relayed = network(&config);
        for s in [0, 40, 100] {
            let at = Time(s * 1_000_000_000);
            assert_eq!(relayed.rtt_ms(2, 0, at), simulated.rtt_ms(2, 0, at));
        }
        let other = RelayConfig { sites: names[..2].to_vec(), ..config };
        let error = Relay::start(other).await.unwrap_err().to_string();
        assert!(error.contains("`lambda:us-west-1` is none of the sites"), "{error}");
    }
}
