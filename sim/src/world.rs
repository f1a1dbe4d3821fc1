//! A simulation run in virtual time: users, routers, replicas and the network between them.
//!
//! Events are totally ordered: by time, then by order of scheduling; arrivals come before all other events of the same
//! time. So equal seeds give identical runs, which a running hash over all events verifies. Every delay of a real request
//! is modelled: user → router, the router's queue, router → replica (or peer router → replica), the engine, and the way
//! back.

use crate::engine::{Engine, EngineEvent, GapHistogram};
use crate::network::{LinkRule, Network, user_rtt_ms};
use gorgo_core::network::{Connection, Connections};
use gorgo_core::policy::Policy;
pub use gorgo_core::record::QueueSample;
use gorgo_core::record::{RequestRecord, Status};
use gorgo_core::request::{Place, TraceRequest};
use gorgo_core::router::{Action, DecisionRecord, Event as RouterEvent, RequestEvent, Router, RouterConfig};
use gorgo_core::turns::Turns;
use gorgo_core::{ReplicaId, RequestId, Span, Time, TimeQueue, rng};
use rand::Rng;
use std::collections::VecDeque;

mod ahead;
mod config;
mod digests;
mod event_loop;
mod faults;
mod in_transit;
mod key;
mod outcome;
mod peer_message;
mod proxies;
mod questions;
mod queue;
mod replicas;
mod requests;
mod residency;
mod rollout;
mod signals;
mod truth;
mod tuned;
use ahead::Ahead;
pub use config::{
    Client, Country, Fault, FaultKind, MeasuredRtt, ReplicaConfig, Site, Topology, WorldConfig, WorldError,
};
use digests::DigestWorld;
use event_loop::Course;
use gorgo_core::residency::Fence;
use key::Key;
pub use outcome::{Decided, Outcome};
pub use peer_message::PeerMessage;
use proxies::SharingWorld;
pub use proxies::{Front, Prefixes, ProxiesConfig, Shared};
use questions::Question;
use queue::{Event, EventQueue, Signal};
pub use residency::{FencedCount, ResidencyConfig};
use tuned::Tuner;
pub use tuned::{TuneConfig, Tuned};

/// Most records that memory is reserved for at the start, whatever the trace says of its length.
const MOST_RESERVED: usize = 1 << 22;

/// A request in flight.
#[derive(Debug, Clone)]
struct Flight {
    request: TraceRequest,
    user_rtt_ms: f64,
    origin: u16,
    /// The group of sites that it must not leave.
    group: Option<usize>,
    /// Key of the latest dispatch; replies to earlier dispatches are not recorded.
    at_engine: Key,
    /// The tuner's block in which the entry router dispatched it last.
    block: u64,
    /// When its latest reply reaches the router that dispatched it, and the entry router. Replies share a connection, so
    /// jitter must not reorder them.
    last_reply: [Time; 2],
    /// Its latest dispatch by the entry router, and by the peer it was forwarded to.
    sent: [Option<Sent>; 2],
    /// Dispatches that the peer may make it was forwarded to, and has made.
    by_peer: ByPeer,
    live: bool,
}

/// Dispatches by the peer that a request was forwarded to.
#[derive(Debug, Clone, Copy, Default)]
struct ByPeer {
    allowed: u8,
    made: u8,
}

/// Where a dispatch went, and the connection that carries it.
#[derive(Debug, Clone, Copy)]
struct Sent {
    to: ReplicaId,
    connection: Connection,
}

struct RouterNode {
    router: Router,
    site: usize,
    /// Idle connections, indexed by replica or peer.
    connections: Vec<Connections>,
}

#[derive(Clone)]
struct ReplicaNode {
    engine: Engine,
    site: usize,
    /// Earliest wake-up already in the queue.
    wake: Time,
    /// Requests on their way here with their arrivals; only while an oracle routes.
    on_the_way: Vec<(Time, Key)>,
}

struct World<'a, I: Iterator<Item = TraceRequest>> {
    config: &'a WorldConfig,
    /// How requests travel from each router to each replica (or its router), in order of routers.
    rules: Vec<LinkRule>,
    trace: Ahead<I>,
    /// Turns that wait for the end of the turn before them, and those whose time is known since.
    turns: Turns<TraceRequest>,
    following: TimeQueue<TraceRequest>,
    now: Time,
    events: EventQueue,
    questions: Vec<Question>,
    network: Network,
    routers: Vec<RouterNode>,
    replicas: Vec<ReplicaNode>,
    flights: Vec<Flight>,
    free: Vec<u32>,
    live: usize,
    records: Vec<RequestRecord>,
    samples: Vec<QueueSample>,
    /// Bounded client: requests that wait for a worker, and the number of busy workers.
    due: VecDeque<(Time, TraceRequest)>,
    busy: usize,
    engine_events: Vec<EngineEvent>,
    actions: Vec<Action>,
    decisions: Vec<Decided>,
    /// The fence of each group of sites.
    fences: Vec<Fence>,
    /// Records of requests with a fence, and dispatches of those that left it.
    fenced_requests: Vec<usize>,
    violations: u64,
    sharing: SharingWorld,
    digests: DigestWorld,
    tuners: Vec<Tuner>,
}

/// Simulates `trace`, which must be in order of time, in the world of `config`; `policy` creates the policy of a router.
///
/// # Errors
/// The configuration is invalid, the trace is not in order, or requests remain that never end.
pub fn run(
    config: &WorldConfig,
    policy: &dyn Fn() -> Box<dyn Policy>,
    trace: impl Iterator<Item = TraceRequest>,
) -> Result<Outcome, WorldError> {
    config.check()?;
    let mut world = World::new(config, policy, trace)?;
    world.check_roll_outs()?;
    world.start();
    world.process_events()?;
    Ok(world.finish())
}

impl<'a, I: Iterator<Item = TraceRequest>> World<'a, I> {
    fn new(config: &'a WorldConfig, policy: &dyn Fn() -> Box<dyn Policy>, trace: I) -> Result<Self, WorldError> {
        let places: Vec<Place> = config.sites.iter().map(|s| s.place).collect();
        let mut network = Network::new(config.network.clone(), config.seed, &places, |a, b| config.measured(a, b));
        config.numbered_links().for_each(|(a, b, link)| network.set_link(a, b, link));
        let mut settings = config.router.clone();
        settings.record_decisions = config.decisions_of > 0;
        settings.shared_replicas |= config.proxies.count > 1 && !config.proxies.share();
        let router = |i: usize, site: usize| {
            let mut router = Router::new(
                RouterConfig { region: config.sites[site].name.clone(), ..settings.clone() },
                policy(),
                Some(config.block_tokens).filter(|_| !config.routers_count),
                rng::stream(config.seed, "policy", i as u64),
            );
            if config.proxies.share() {
                router.share_prefixes(true);
            }
            let connections = vec![Connections::default(); config.replicas.len()];
            RouterNode { router, site, connections }
        };
        let routers: Vec<RouterNode> = match config.topology {
            Topology::Proxy { site } => (0..usize::from(config.proxies.count)).map(|i| router(i, site)).collect(),
            Topology::Edge => config.replicas.iter().enumerate().map(|(i, r)| router(i, r.site)).collect(),
        };
        let count = routers.len();
        let replica = |(i, r): (usize, &ReplicaConfig)| {
            let seed = rng::stream(config.seed, "engine", i as u64).next_u64();
            let engine = Engine::new(r.engine.clone(), seed)
                .map_err(|source| WorldError::Engine { replica: r.name.clone(), source })?;
            Ok(ReplicaNode { engine, site: r.site, wake: Time::NEVER, on_the_way: Vec::new() })
        };
        let is_edge = matches!(config.topology, Topology::Edge);
        let rule = |(i, node): (usize, &RouterNode), (u, replica): (usize, &ReplicaConfig)| {
            let mut rule = config.link_rule(node.site, replica.site);
            rule.transport.keep_alive_ms = rule.transport.keep_alive_ms.min(replica.keep_alive_ms.unwrap_or(f64::MAX));
            if !is_edge || i == u {
                rule.transport.compression = 1.0; // an engine reads plain requests
            }
            rule
        };
        let replicas = || config.replicas.iter().enumerate();
        let rules = routers.iter().enumerate().flat_map(|node| replicas().map(move |replica| rule(node, replica)));
        let rules = rules.collect();
        let replicas: Result<Vec<_>, WorldError> = config.replicas.iter().enumerate().map(replica).collect();
        Ok(Self {
            config,
            rules,
            records: Vec::with_capacity(trace.size_hint().0.min(MOST_RESERVED)),
            trace: Ahead::new(trace),
            turns: Turns::new(config.until),
            following: TimeQueue::default(),
            now: Time::ZERO,
            events: EventQueue::default(),
            questions: Vec::new(),
            network,
            routers,
            replicas: replicas?,
            flights: Vec::new(),
            free: Vec::new(),
            live: 0,
            samples: Vec::new(),
            due: VecDeque::new(),
            busy: 0,
            engine_events: Vec::new(),
            actions: Vec::new(),
            decisions: Vec::new(),
            fences: config.residency.as_ref().map(ResidencyConfig::fences).transpose()?.unwrap_or_default(),
            fenced_requests: Vec::new(),
            violations: 0,
            sharing: SharingWorld::new(&config.proxies, config.seed),
            digests: DigestWorld::default(),
            tuners: config.tune.iter().flat_map(|tune| (0..count).map(|i| Tuner::new(tune, config.seed, i))).collect(),
        })
    }

    /// Whether each router stands beside one replica and forwards to its peers.
    fn is_edge(&self) -> bool {
        self.config.topology == Topology::Edge
    }

    /// How requests travel from a router to a replica or peer.
    fn rule(&self, router: u16, target: ReplicaId) -> LinkRule {
        self.rules[usize::from(router) * self.replicas.len() + target.index()]
    }

    /// Time of one message of a request between two sites. `message` numbers the messages of a request.
    fn one_way(&mut self, from: usize, to: usize, key: Key, message: u64) -> Span {
        self.network.one_way(from, to, self.now, (key.index() << 8) | message)
    }

    /// The nearest router to a user and the round trip there.
    fn entry(&self, request: &TraceRequest) -> (u16, f64) {
        let access = self.config.access_ms(request.country);
        let rtt = |node: &RouterNode| match request.place {
            Some(place) => user_rtt_ms(access, place.km_to(self.config.sites[node.site].place)),
            None => access,
        };
        if !self.is_edge() {
            return (self.front(request), rtt(&self.routers[0]));
        }
        let all = self.routers.iter().enumerate().map(|(i, node)| (i as u16, rtt(node)));
        all.min_by(|a, b| a.1.total_cmp(&b.1)).expect("there is a router")
    }
}

#[cfg(test)]
mod tests;
