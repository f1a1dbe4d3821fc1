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
use std::sync::Arc;

mod ahead;
mod config;
mod faults;
mod key;
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
use gorgo_core::residency::Fence;
use key::Key;
pub use peer_message::PeerMessage;
use proxies::SharingWorld;
pub use proxies::{Front, Prefixes, ProxiesConfig, Shared};
use questions::Question;
use queue::{Event, EventQueue, Signal};
pub use residency::{FencedCount, ResidencyConfig};
use tuned::Tuner;
pub use tuned::{TuneConfig, Tuned};

/// Clocks wake this long before the arrival that ends an idle time: some of the longest periods, so that every belief
/// is renewed and a replica that died is noticed, and a little more.
const IDLE_LEAD_PERIODS: f64 = 10.0;
const IDLE_LEAD_MS: f64 = 10_000.0;

/// Most records that memory is reserved for at the start, whatever the trace says of its length.
const MOST_RESERVED: usize = 1 << 22;

/// The results of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// One record per request, in the order of the trace.
    pub records: Vec<RequestRecord>,
    /// Gaps between tokens of one request, over all engines.
    pub itl: GapHistogram,
    /// Queue samples in order of time.
    pub samples: Vec<QueueSample>,
    /// Hash over every event: equal for equal inputs.
    pub event_hash: u64,
    /// Events processed.
    pub events: u64,
    /// Virtual time from the start to the last answer.
    pub span: Span,
    /// Every decision, with the index of its request in `records`; only with `router.record_decisions`.
    pub decisions: Vec<(usize, Arc<DecisionRecord>)>,
    /// What came of fences; `None` without `residency`.
    pub fenced: Option<FencedCount>,
    /// What proxies told each other; only if they do.
    pub shared: Option<Shared>,
    /// What each router's tuner found; empty without `tune`.
    pub tuned: Vec<Tuned>,
}

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
    live: bool,
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
    decisions: Vec<(usize, Arc<DecisionRecord>)>,
    /// The fence of each group of sites.
    fences: Vec<Fence>,
    /// Records of requests with a fence, and dispatches of those that left it.
    fenced_requests: Vec<usize>,
    violations: u64,
    sharing: SharingWorld,
    tuners: Vec<Tuner>,
}

/// Where a run is in its trace.
struct Course {
    /// Times of the last recorded arrival, and of the last request sent.
    last_recorded: Time,
    last_arrival: Time,
    /// Time of the next recorded arrival.
    recorded: Option<Time>,
}

impl Course {
    fn new(now: Time, next: Option<&TraceRequest>) -> Self {
        Self { last_recorded: now, last_arrival: now, recorded: next.map(|request| request.at) }
    }
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
        let rule = |node: &RouterNode, replica: &ReplicaConfig| {
            let mut rule = config.link_rule(node.site, replica.site);
            rule.transport.keep_alive_ms = rule.transport.keep_alive_ms.min(replica.keep_alive_ms.unwrap_or(f64::MAX));
            rule
        };
        let rules = routers.iter().flat_map(|node| config.replicas.iter().map(|replica| rule(node, replica))).collect();
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
            tuners: config.tune.iter().flat_map(|tune| (0..count).map(|i| Tuner::new(tune, config.seed, i))).collect(),
        })
    }

    fn process_events(&mut self) -> Result<(), WorldError> {
        let mut course = Course::new(Time::ZERO, self.trace.peek());
        while self.advance(&mut course)? {}
        Ok(())
    }

    /// Processes the next arrival or event; false when only periodic signals are left.
    #[inline]
    fn advance(&mut self, course: &mut Course) -> Result<bool, WorldError> {
        let following = self.following.next_time();
        let recorded = course.recorded;
        let arrival = match (recorded, following) {
            (Some(recorded), Some(following)) => Some(recorded.min(following)),
            (one, other) => one.or(other),
        };
        let event = self.events.next_time();
        let arrives = arrival.is_some_and(|at| event.is_none_or(|e| at <= e));
        if arrives && recorded == arrival {
            let request = self.trace.next().expect("peeked");
            course.recorded = self.trace.peek().map(|r| r.at);
            if request.at < course.last_recorded {
                return Err(WorldError::TraceOrder { request: self.records.len(), at: request.at });
            }
            course.last_recorded = request.at;
            if let Some(request) = self.turns.due((&request).into(), request) {
                course.last_arrival = self.arrive(request);
            }
            return Ok(true);
        }
        if arrives && let Some(due) = self.following.pop() {
            course.last_arrival = self.arrive(TraceRequest { at: due.at, ..due.item });
            return Ok(true);
        }
        if arrival.is_none() && self.live == 0 && self.due.is_empty() {
            return Ok(false);
        }
        let Some((at, event)) = self.events.pop() else { return Err(self.stuck()) };
        if arrival.is_none() && at > course.last_arrival + Span::from_secs(self.config.drain_limit_s) {
            return Err(self.stuck());
        }
        if let Some(later) = self.after_idle_time(at, &event, arrival) {
            match event {
                Event::Question { number } => self.events.push_question(later, number),
                event => self.events.push(later, event),
            }
            return Ok(true);
        }
        self.now = at;
        self.process(event);
        Ok(true)
    }

    /// Sends a request at its time, which it returns.
    fn arrive(&mut self, request: TraceRequest) -> Time {
        self.now = self.now.max(request.at);
        self.events.hash_event(self.now, 0xa1);
        self.scheduled(request);
        self.now
    }

    /// When the clock `event`, due at `at`, ticks next if nothing is there to hear it: in a world without requests,
    /// clocks rest until shortly before the next arrival. They keep their phases, and what routers know is as fresh
    /// at the arrival as if the clocks had ticked through.
    fn after_idle_time(&self, at: Time, event: &Event, arrival: Option<Time>) -> Option<Time> {
        if self.live > 0 || self.busy > 0 || !self.due.is_empty() {
            return None;
        }
        let config = self.config;
        let period_ms = match event {
            Event::Sample => config.sample_ms,
            Event::Question { number } => match &self.questions[*number as usize] {
                question if !question.is_due() => return None,
                question if question.is_of_peer() => config.peer_ms,
                _ => config.scrape_ms,
            },
            Event::Signal(Signal::Probe { .. }) => config.probe_ms,
            Event::Signal(Signal::Share { .. }) => config.proxies.share_ms,
            _ => return None,
        };
        let longest = config.scrape_ms.max(config.probe_ms).max(config.peer_ms);
        let lead = Span::from_ms(IDLE_LEAD_MS + IDLE_LEAD_PERIODS * longest);
        let period = Span::from_ms(period_ms).0.max(1);
        let ticks = arrival?.since(at + lead).0 / period;
        (ticks > 0).then(|| at + Span(ticks * period))
    }

    fn stuck(&self) -> WorldError {
        WorldError::Stuck { requests: self.live + self.due.len(), at: self.now }
    }

    fn process(&mut self, event: Event) {
        match event {
            Event::AtRouter { router, key } => self.at_router(router, key),
            Event::AtEngine { replica, key } => self.at_engine(replica, key),
            Event::CancelEngine { replica, key } => self.cancel_engine(replica, key),
            Event::CancelPeer { router, key } => self.handle(router, RequestEvent::ClientGone { id: RequestId(key.0) }),
            Event::Wake { replica } => self.wake(replica),
            Event::ReplyAtRouter { router, key, attempt, reply } => self.reply_at_router(router, key, attempt, reply),
            Event::PatienceOver { key } => self.patience_over(key),
            Event::WorkerFree => self.worker_free(),
            Event::Timer { router } => self.handle(router, RouterEvent::Timer),
            Event::Sample => self.sample(),
            Event::Fault { index } => self.fault(index),
            Event::Restart { replica } => self.restart(replica),
            Event::Question { number } => self.question(number),
            Event::Signal(signal) => self.signal(signal),
        }
    }

    /// Passes an event to a router and carries out its actions.
    fn handle(&mut self, router: u16, event: impl Into<RouterEvent>) {
        let mut actions = std::mem::take(&mut self.actions);
        actions.clear();
        self.routers[usize::from(router)].router.handle(self.now, event, &mut actions);
        for action in actions.drain(..) {
            match action {
                Action::Dispatch(dispatch) => self.dispatch(router, &dispatch),
                Action::Cancel { id, replica, attempt } => self.cancel(router, Key(id.0), replica, attempt),
                Action::Done { id, reason } => self.request_ended(router, Key(id.0), reason),
                Action::SetTimer(at) => self.events.push(at.max(self.now), Event::Timer { router }),
                Action::Decided(record) => self.decisions.push((Key(record.id.0).index() as usize, record)),
                Action::Learned(path) => self.sharing.learned(router, path),
                Action::Queued { .. } => {}
            }
        }
        self.actions = actions;
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

    fn sample(&mut self) {
        for (i, node) in self.replicas.iter_mut().enumerate() {
            let loads = node.engine.loads(self.now);
            let queued = match self.config.topology {
                Topology::Edge => self.routers[i].router.queue_len(),
                Topology::Proxy { .. } => self.routers.iter().map(|node| node.router.queue_len()).sum(),
            };
            self.samples.push(QueueSample {
                at: self.now,
                replica: i as u16,
                waiting: (loads.waiting + loads.arriving) as u32,
                running: (loads.running + loads.prefilling) as u32,
                kv_tokens: loads.used_tokens as u32,
                queued_at_router: queued as u32,
            });
        }
        self.events.push(self.now + Span::from_ms(self.config.sample_ms), Event::Sample);
    }

    fn finish(self) -> Outcome {
        let fenced = self.config.residency.as_ref().map(|_| self.fenced());
        let mut itl = GapHistogram::default();
        for node in &self.replicas {
            itl.merge(node.engine.gaps());
        }
        let (event_hash, events) = self.events.digest();
        let span = self.records.iter().filter_map(|r| r.done.get()).max().unwrap_or_default();
        Outcome {
            records: self.records,
            itl,
            samples: self.samples,
            event_hash,
            events,
            span: span - Time::ZERO,
            shared: self.sharing.shared(),
            tuned: self.tuners.iter().map(Tuner::found).collect(),
            decisions: self.decisions,
            fenced,
        }
    }
}

#[cfg(test)]
mod tests;
