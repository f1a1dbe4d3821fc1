//! The router as a state machine: events in, actions out, time passed in.
//!
//! It holds queue, capacity gates, timeouts, retries, breakers, hop limit, load counters and the prefix index; it has
//! no sockets, clocks or tasks. It chooses a replica and counts the request there in one step, so that two arrivals
//! never see the same idle replica.

use crate::fleet::{Rates, Replica, SavedRates, Typical};
use crate::judgement::FailedAttempts;
use crate::policy::{Candidate, CostTerms, Policy, RollOut, Truth};
use crate::prefix::PrefixIndex;
use crate::rng::ChaCha8Rng;
use crate::{MAX_REPLICAS, ReplicaId, ReplicaSet, RequestId, Time};
use rustc_hash::FxHashMap;
use std::collections::VecDeque;
use std::sync::Arc;

mod action;
mod admission;
mod config;
mod copy;
mod end_reason;
mod event;
mod fence;
mod flight;
mod outcome;
mod publishing;
mod queue;
mod replicas;
mod route;
mod snapshot;
mod stats;
mod timers;
pub use crate::judgement::Failure;
pub use action::{Action, DecisionRecord, Dispatch, ScoredCandidate};
pub use config::{Admission, LearnAt, RouterConfig};
pub use end_reason::EndReason;
pub use event::{AdminEvent, Answer, Event, Handling, ReplicaEvent, Request, RequestEvent, Usage};
use flight::{Flight, State};
use publishing::Publishing;
pub use snapshot::{SavedReplica, Snapshot};
pub use stats::RouterStats;
use timers::{Timer, Timers};

/// The router. Its prefix index is over block ids.
#[derive(Debug)]
pub struct Router {
    config: RouterConfig,
    policy: Box<dyn Policy>,
    rng: ChaCha8Rng,
    replicas: Vec<Replica>,
    /// Names of the replicas, shared with decision records.
    names: Arc<[Arc<str>]>,
    index: PrefixIndex<u64>,
    flights: FxHashMap<RequestId, Flight>,
    /// Queued requests in order, each with the ticket of this stay in the queue; entries of earlier stays are skipped.
    queue: VecDeque<(RequestId, u64)>,
    queued: usize,
    /// Prompt tokens of those.
    queued_tokens: u64,
    ticket: u64,
    timers: Timers,
    retry_tokens: f64,
    stats: RouterStats,
    rates: Rates,
    publishing: Publishing,
    /// Requests that were dispatched lately.
    typical: Typical,
    /// The true outcome at each replica of the request that arrives next, for oracles; by slot.
    truth: Option<(RequestId, Vec<Option<Truth>>)>,
    /// Time of the event in progress.
    now: Time,
    // Scratch space of one decision.
    matched: Vec<u32>,
    candidates: Vec<Candidate>,
    terms: Vec<CostTerms>,
    learned: Vec<u64>,
}

impl Router {
    /// A router without replicas. `per_symbol` as in [`crate::radix::Radix::new`]; `rng` breaks the policy's ties.
    pub fn new(config: RouterConfig, policy: Box<dyn Policy>, per_symbol: Option<u32>, rng: ChaCha8Rng) -> Self {
        let index = PrefixIndex::new(per_symbol, config.index_tokens, config.index_bytes);
        Self {
            retry_tokens: config.retry_burst,
            config,
            policy,
            rng,
            replicas: Vec::new(),
            names: Arc::from([]),
            index,
            flights: FxHashMap::default(),
            queue: VecDeque::new(),
            queued: 0,
            queued_tokens: 0,
            ticket: 0,
            timers: Timers::default(),
            stats: RouterStats::default(),
            rates: Rates::default(),
            publishing: Publishing::default(),
            typical: Typical::default(),
            truth: None,
            now: Time::ZERO,
            matched: Vec::new(),
            candidates: Vec::new(),
            terms: Vec::new(),
            learned: Vec::new(),
        }
    }

    /// Whether an [`Action::Decided`] is emitted for each decision, from now on.
    pub fn record_decisions(&mut self, records: bool) {
        self.config.record_decisions = records;
    }

    /// Processes one event at `now`, which must not decrease between calls, and appends the resulting actions.
    pub fn handle(&mut self, now: Time, event: impl Into<Event>, actions: &mut Vec<Action>) {
        self.now = now;
        match event.into() {
            Event::Request(event) => self.request_event(now, event, actions),
            // The common case: a probe, scrape or report updates one replica while no request waits in the queue.
            Event::Replica(event) if self.queued == 0 && event.is_news() => self.replica_event(now, event, actions),
            Event::Replica(event) => {
                let working = self.working();
                self.replica_event(now, event, actions);
                self.watch_down(now, &working);
                self.reject_stranded(now, actions);
                self.drain_queue(now, actions);
            }
            Event::Admin(event) => {
                self.admin_event(event);
                self.reject_stranded(now, actions);
                self.drain_queue(now, actions);
            }
            Event::Timer => self.timer(now, actions),
        }
        if let Some(at) = self.timers.rearm(now) {
            actions.push(Action::SetTimer(at));
        }
    }

    fn request_event(&mut self, now: Time, event: RequestEvent, actions: &mut Vec<Action>) {
        match event {
            RequestEvent::Arrived(request) => return self.arrived(now, request, actions),
            RequestEvent::FirstToken { id, attempt } => self.first_token(now, id, attempt, actions),
            RequestEvent::Committed { id, attempt } => {
                if let Some(flight) = self.flights.get_mut(&id).filter(|f| f.attempts == attempt) {
                    flight.committed = true;
                }
            }
            RequestEvent::Finished { id, attempt, usage, answer } => {
                self.finished(now, id, attempt, usage, answer.as_ref(), actions);
            }
            RequestEvent::Failed { id, attempt, failure, dispatches } => {
                self.failed(now, id, attempt, failure, dispatches, actions);
                self.reject_stranded(now, actions);
            }
            RequestEvent::ClientGone { id } => self.give_up(id, EndReason::ClientGone, actions),
        }
        self.drain_queue(now, actions);
    }

    fn admin_event(&mut self, event: AdminEvent) {
        match event {
            AdminEvent::ConfigSet(config) => {
                self.retry_tokens = self.retry_tokens.min(config.retry_burst);
                self.config = *config;
                self.price_egress();
            }
            AdminEvent::PolicySet(policy) => self.policy = policy.build(),
            AdminEvent::IndexCleared => self.index.clear(),
            AdminEvent::RatesRestored(saved) => {
                let names = self.replicas.iter().map(|r| (!r.removed).then_some(r.spec.name.as_str()));
                self.rates.restore(&saved, names);
            }
            AdminEvent::Restored(snapshot) => self.take_over(self.now, &snapshot),
        }
    }

    /// Whether the policy is an oracle, which needs the true outcome of each request before the request arrives.
    pub fn needs_truth(&self) -> bool {
        self.policy.needs_truth()
    }

    /// The roll-out that the policy asks for, if it is an oracle that does.
    pub fn rolls_out(&self) -> Option<RollOut> {
        self.policy.rolls_out()
    }

    /// Gives an oracle the outcome that request `id` would have at each slot if it were sent there now.
    pub fn foresee(&mut self, id: RequestId, truths: Vec<Option<Truth>>) {
        self.truth = Some((id, truths));
    }

    /// The slot for the next replica: that of a removed replica to which nothing refers any more, else a new one.
    /// `None` when the fleet is full.
    pub fn free_slot(&self) -> Option<ReplicaId> {
        let drained = |(slot, r): (usize, &Replica)| {
            r.removed && r.load.requests() == 0 && self.index.tokens(ReplicaId(slot as u16)) == 0
        };
        let slot = self.replicas.iter().enumerate().position(drained).unwrap_or(self.replicas.len());
        (slot < MAX_REPLICAS).then_some(ReplicaId(slot as u16))
    }

    /// All slots, removed replicas included.
    pub fn replicas(&self) -> &[Replica] {
        &self.replicas
    }

    /// Requests waiting in the queue.
    pub fn queue_len(&self) -> usize {
        self.queued
    }

    /// Requests that have not ended, queued or dispatched.
    pub fn in_flight(&self) -> usize {
        self.flights.len()
    }

    /// Rates learned from the router's own requests.
    pub fn rates(&self) -> &Rates {
        &self.rates
    }

    /// The same as kept for a restart.
    pub fn saved_rates(&self) -> SavedRates {
        self.rates.saved(self.replicas.iter().map(|r| (!r.removed).then_some(r.spec.name.as_str())))
    }

    /// The prefix index.
    pub fn index(&self) -> &PrefixIndex<u64> {
        &self.index
    }

    /// Counts since the start.
    pub fn stats(&self) -> RouterStats {
        self.stats
    }

    /// The settings.
    pub fn config(&self) -> &RouterConfig {
        &self.config
    }

    /// The policy's name.
    pub fn policy(&self) -> &'static str {
        self.policy.name()
    }

    fn arrived(&mut self, now: Time, request: Request, actions: &mut Vec<Action>) {
        let id = request.id;
        debug_assert!(!self.flights.contains_key(&id), "request ids in flight are unique");
        self.stats.arrived += 1;
        self.retry_tokens = (self.retry_tokens + self.config.retry_ratio).min(self.config.retry_burst);
        if let Some(deadline) = request.deadline {
            self.timers.set(deadline, Timer::Deadline(id));
            self.sweep_timers();
        }
        let inside = request.fence.as_ref().map(|fence| self.inside(fence));
        let flight = Flight {
            request,
            inside,
            tried: ReplicaSet::EMPTY,
            failed: FailedAttempts::default(),
            committed: false,
            attempts: 0,
            moved: false,
            arrived: now,
            state: State::Unplaced,
        };
        let passes = flight.handling().light || flight.handling().pinned;
        self.flights.insert(id, flight);
        if self.replicas.iter().all(|r| r.removed) {
            self.end(id, EndReason::NoReplicas, actions);
        } else if self.is_outside(id) {
            self.end(id, EndReason::Outside, actions);
        } else if self.is_stranded(now, id) {
            self.end(id, EndReason::Unavailable, actions);
        } else if let Some(reason) = self.refuses(now, id) {
            self.end(id, reason, actions);
        } else if (self.queued > 0 && !passes) || !self.route(now, id, actions) {
            // Behind the requests already queued: the queue is first in, first out.
            if self.queued >= self.config.queue_limit {
                self.end(id, EndReason::QueueFull, actions);
            } else {
                self.enqueue(now, id, false, actions);
                self.drain_queue(now, actions);
            }
        }
    }
}

#[cfg(test)]
mod tests;
