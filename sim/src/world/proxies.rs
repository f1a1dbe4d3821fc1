//! Several proxies in front of all replicas: which one a user's request enters at, and their sharing of prefixes.

use super::in_transit::InTransit;
use super::queue::Signal;
use super::{Span, TraceRequest, World};
use gorgo_core::ReplicaId;
use gorgo_core::fleet::Load;
use gorgo_core::range::{DURATION_MS, OutOfRange, PERIOD_MS, check_ranges};
use gorgo_core::router::ReplicaEvent;
use gorgo_core::sharing::{
    LOAD_BYTES, MAX_PEERS, MESSAGE_BYTES, Missing, News, Path, SentLoads, Sharing, SharingStats, must_send,
};
use gorgo_core::{Time, rng};
use rand::{Rng, RngExt};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Which proxy a request enters at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Front {
    /// Any, as a balancer does that knows neither sessions nor prefixes.
    #[default]
    Spread,
    /// The one that the conversation hashes to, as a balancer does that reads a session's header or cookie.
    Hash,
}

/// What proxies know of each other's requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Prefixes {
    /// Nothing.
    #[default]
    Private,
    /// Each proxy sends what it learned to all others in batches.
    Shared,
}

/// The proxies of a fleet. All stand at one site and send to all replicas.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ProxiesConfig {
    /// How many.
    pub count: u16,
    /// Which one a request enters at.
    pub front: Front,
    /// What they know of each other's requests.
    pub prefixes: Prefixes,
    /// Period of the batches that tell it, ms.
    pub share_ms: f64,
    /// Share of these messages that are lost, 0 to 1.
    pub share_loss: f64,
    /// Messages arrive so much later than their way takes, ms.
    pub share_late_ms: f64,
}

impl Default for ProxiesConfig {
    fn default() -> Self {
        Self {
            count: 1,
            front: Front::Spread,
            prefixes: Prefixes::Private,
            share_ms: 50.0,
            share_loss: 0.0,
            share_late_ms: 0.0,
        }
    }
}

impl ProxiesConfig {
    /// Checks the ranges of the settings.
    ///
    /// # Errors
    /// The first one out of bounds.
    pub fn check(&self) -> Result<(), OutOfRange> {
        check_ranges([
            ("count", f64::from(self.count), 1.0..=MAX_PEERS as f64),
            ("share_ms", self.share_ms, PERIOD_MS),
            ("share_loss", self.share_loss, 0.0..=1.0),
            ("share_late_ms", self.share_late_ms, DURATION_MS),
        ])
    }

    /// Whether the proxies share what they learn.
    pub fn share(&self) -> bool {
        self.count > 1 && self.prefixes == Prefixes::Shared
    }
}

/// Messages between the routers of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Shared {
    /// Messages sent, lost ones included.
    pub messages: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Messages lost.
    pub lost: u64,
    /// Counts of the routers, added up.
    pub paths: SharingStats,
}

/// A message from proxy to proxy.
#[derive(Debug, Clone)]
enum Message {
    Batch(Vec<News>, Vec<(ReplicaId, Load)>),
    Missing(Vec<Missing>),
}

/// The state of all proxies' sharing.
#[derive(Debug)]
pub(super) struct SharingWorld {
    nodes: Vec<Sharing>,
    /// The loads that each proxy sent last.
    told: Vec<SentLoads>,
    /// Messages on their way.
    sent: InTransit<Message>,
    rng: rng::ChaCha8Rng,
    salt: u64,
    counted: Shared,
}

impl Clone for SharingWorld {
    fn clone(&self) -> Self {
        Self {
            nodes: self.nodes.clone(),
            told: self.told.clone(),
            sent: self.sent.clone(),
            rng: rng::copied(&self.rng),
            salt: self.salt,
            counted: self.counted,
        }
    }
}

impl SharingWorld {
    pub(super) fn new(config: &ProxiesConfig, seed: u64) -> Self {
        let mut rng = rng::stream(seed, "sharing", 0);
        let peers = usize::from(config.count) - 1;
        let nodes = (0..=peers).map(|_| Sharing::new(peers, gorgo_core::sharing::Limits::default()));
        let nodes = if config.share() { nodes.collect() } else { Vec::new() };
        let salt = rng.next_u64();
        let told = vec![(Time::ZERO, Vec::new()); peers + 1];
        Self { nodes, told, sent: InTransit::default(), rng, salt, counted: Shared::default() }
    }

    /// What was sent so far; `None` without sharing.
    pub(super) fn shared(&self) -> Option<Shared> {
        let mut shared = self.counted;
        for stats in self.nodes.iter().map(Sharing::stats) {
            let sum = &mut shared.paths;
            sum.sent += stats.sent;
            sum.sent_bytes += stats.sent_bytes;
            sum.dropped += stats.dropped;
            sum.received += stats.received;
            sum.missing += stats.missing;
            sum.asked += stats.asked;
            sum.unknown += stats.unknown;
        }
        (!self.nodes.is_empty()).then_some(shared)
    }

    /// Takes what router `router` learned.
    pub(super) fn learned(&mut self, router: u16, path: Path) {
        if let Some(node) = self.nodes.get_mut(usize::from(router)) {
            node.learned(path);
        }
    }
}

/// The number that `of` has among the peers of `at`.
fn peer(at: u16, of: u16) -> usize {
    usize::from(if of < at { of } else { of - 1 })
}

impl<I: Iterator<Item = TraceRequest>> World<'_, I> {
    /// The proxy that a request enters at.
    pub(super) fn front(&self, request: &TraceRequest) -> u16 {
        let count = u64::from(self.config.proxies.count);
        let key = match self.config.proxies.front {
            Front::Hash => request.session,
            Front::Spread => self.records.len() as u64,
        };
        (xxh3_64_with_seed(&key.to_le_bytes(), self.sharing.salt) % count) as u16
    }

    /// Starts the clocks of the batches, each at a random phase.
    pub(super) fn start_sharing(&mut self) {
        for router in 0..self.sharing.nodes.len() as u16 {
            let phase: f64 = rng::stream(self.config.seed, "share-clock", u64::from(router)).random();
            self.events.push(self.now + Span::from_ms(self.config.proxies.share_ms * phase), Signal::Share { router });
        }
    }

    /// Sends each peer of `router` what it learned since the last batch.
    pub(super) fn share(&mut self, router: u16) {
        let loads = self.routers[usize::from(router)].router.own_loads();
        let due = must_send(self.now, &self.sharing.told[usize::from(router)], &loads);
        for to in (0..self.sharing.nodes.len() as u16).filter(|&to| to != router) {
            let batch = self.sharing.nodes[usize::from(router)].batch(peer(router, to));
            if due || !batch.is_empty() {
                let bytes = batch.iter().map(News::bytes).sum::<u64>() + LOAD_BYTES * loads.len() as u64;
                self.send_message(router, to, bytes, Message::Batch(batch, loads.clone()));
            }
        }
        if due {
            self.sharing.told[usize::from(router)] = (self.now, loads);
        }
        self.events.push(self.now + Span::from_ms(self.config.proxies.share_ms), Signal::Share { router });
    }

    fn send_message(&mut self, from: u16, to: u16, bytes: u64, message: Message) {
        let config = self.config.proxies;
        let counted = &mut self.sharing.counted;
        counted.messages += 1;
        counted.bytes += MESSAGE_BYTES + bytes;
        if self.sharing.rng.random::<f64>() < config.share_loss {
            counted.lost += 1;
            return;
        }
        let number = self.sharing.counted.messages;
        let (a, b) = (self.routers[usize::from(from)].site, self.routers[usize::from(to)].site);
        let way = self.network.one_way(a, b, self.now, number | 1 << 63) + Span::from_ms(config.share_late_ms);
        let slot = self.sharing.sent.put(message);
        self.events.push(self.now + way, Signal::Shared { from, to, slot });
    }

    /// A message arrives at `to`.
    pub(super) fn shared(&mut self, from: u16, to: u16, slot: u32) {
        let message = self.sharing.sent.take(slot);
        let node = &mut self.sharing.nodes[usize::from(to)];
        match message {
            None => {}
            Some(Message::Missing(missing)) => node.asked(peer(to, from), &missing),
            Some(Message::Batch(batch, loads)) => {
                let mut missing = Vec::new();
                let peer_of = peer(to, from) as u8;
                let paths = node.receive(Some(peer(to, from)), batch, &mut missing);
                for Path { replica, symbols, tokens } in paths {
                    self.handle(to, ReplicaEvent::PathLearned { replica, symbols, tokens });
                }
                self.handle(to, ReplicaEvent::PeerLoads { peer: peer_of, loads });
                if !missing.is_empty() {
                    let bytes = Missing::BYTES * missing.len() as u64;
                    self.send_message(to, from, bytes, Message::Missing(missing));
                }
            }
        }
    }
}
