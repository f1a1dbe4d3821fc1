//! A mock engine and an in-memory network, for tests without sockets and real time.

use crate::upstream::connect::Dial;
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

mod engine;
pub mod parsers;
pub use engine::{Engine, Script, Seen};

// Parts of the router that tests, benches and examples use by themselves.
pub use crate::driver::Driver;
pub use crate::driver::clock::Clock;
pub use crate::driver::observers::Observers;
#[cfg(feature = "otel")]
pub use crate::observe::otel;
pub use crate::server::listener::Listener;
pub use crate::upstream::connect::{Connector, Endpoint, Io, PooledClient, pooled_client};
pub use crate::upstream::replica::Upstream;
pub use crate::wire::answer_tap::{AnswerTap, Framing};

/// Entry points of the fuzzers; the unit tests call them too.
pub mod fuzz {
    pub use crate::config::fuzz as config;
    pub use crate::signals::prom_text::fuzz as prom_text;
    pub use crate::wire::answer_tap::fuzz as answer_tap;
    pub use crate::wire::request_fields::fuzz as request_fields;
}

type Hosts = Arc<Mutex<FxHashMap<(String, u16), mpsc::UnboundedSender<Io>>>>;

/// An in-memory network without latency.
#[derive(Clone, Default)]
pub struct Net(Hosts);

impl std::fmt::Debug for Net {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Net")
    }
}

/// Accepts the connections to one host and port.
#[derive(Debug)]
pub struct NetListener {
    incoming: mpsc::UnboundedReceiver<Io>,
}

impl Listener for NetListener {
    async fn accept(&mut self) -> io::Result<(Io, SocketAddr)> {
        match self.incoming.recv().await {
            Some(io) => Ok((io, SocketAddr::from(([127, 0, 0, 1], 50_000)))),
            None => std::future::pending().await,
        }
    }
}

impl Net {
    /// Listens at `host:port`; replaces an earlier listener.
    pub fn listen(&self, host: &str, port: u16) -> NetListener {
        let (sender, incoming) = mpsc::unbounded_channel();
        self.0.lock().insert((host.to_owned(), port), sender);
        NetListener { incoming }
    }

    /// Opens a connection.
    ///
    /// # Errors
    /// When the host does not listen.
    pub fn connect(&self, host: &str, port: u16) -> io::Result<Io> {
        let hosts = self.0.lock();
        let refused = || io::Error::new(io::ErrorKind::ConnectionRefused, "connection refused");
        let listener = hosts.get(&(host.to_owned(), port)).ok_or_else(refused)?;
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        listener.send(Box::new(theirs)).map_err(|_| refused())?;
        Ok(Box::new(ours))
    }

    /// A dialler for this network.
    pub fn dial(&self) -> Dial {
        let net = self.clone();
        Arc::new(move |host, port| {
            let connected = net.connect(&host, port);
            Box::pin(async move { connected })
        })
    }

    /// An HTTP client in this network.
    pub fn client(&self) -> PooledClient {
        pooled_client(Connector::new(self.dial(), None, Duration::from_secs(1)), Duration::from_secs(1))
    }
}
