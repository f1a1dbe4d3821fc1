//! Roll-outs: a copy of the whole world runs on with one choice forced, to measure the effect of that choice.
//!
//! In a copy, every router decides by `predictive`, except that the request in question goes to the forced replica. The
//! copy receives the real next arrivals, as many as the policy requests, and ends when all their requests have ended,
//! or at its horizon. Its loss is the sum of ln TTFT + ln E2E (ms) over the requests in flight at the decision and
//! those that arrive.
//!
//! A copy contains every index, cache, queue and record of the run, which takes milliseconds; a decision makes one for
//! each candidate. So only worlds within the limits below are rolled out. Closed sessions are excluded: the requests of
//! a copy would then depend on the choice, and sums over different requests cannot be compared.

use super::ahead::Ahead;
use super::{Course, Key, RouterNode, Span, Time, TraceRequest, World, WorldError};
use gorgo_core::ReplicaId;
use gorgo_core::policy::{Candidate, CostTerms, Policy, PolicyConfig, RequestInfo, RollOut, Selection, Truth};
use gorgo_core::record::RequestRecord;
use gorgo_core::rng::ChaCha8Rng;

/// Most requests of a run that is rolled out.
const MOST_REQUESTS: usize = 5_000;
/// Most replicas.
const MOST_REPLICAS: usize = 16;

/// `predictive`, except that the next choice is forced.
#[derive(Debug)]
struct ForcedChoice {
    to: Option<ReplicaId>,
    then: Box<dyn Policy>,
}

impl ForcedChoice {
    fn new(to: Option<ReplicaId>) -> Box<Self> {
        let then = PolicyConfig::Predictive(gorgo_core::policy::predictive::PredictiveConfig::default()).build();
        Box::new(Self { to, then })
    }
}

impl Policy for ForcedChoice {
    fn name(&self) -> &'static str {
        "told"
    }

    fn choose(
        &mut self,
        request: &RequestInfo,
        candidates: &[Candidate],
        terms: &mut [CostTerms],
        rng: &mut ChaCha8Rng,
    ) -> Selection {
        let Some(to) = self.to.take() else { return self.then.choose(request, candidates, terms, rng) };
        Selection::own(candidates.iter().position(|candidate| candidate.id == to && candidate.excluded.is_none()))
    }
}

/// ln TTFT + ln E2E of a request, ms; what has not come by `end` counts as coming then. Times below 1 ms count as 1 ms.
fn loss(record: &RequestRecord, end: Time) -> f64 {
    let by = |at: Option<Time>| (at.filter(|at| *at < end).unwrap_or(end) - record.sent).ms().max(1.0).ln();
    by(record.first_token.get()) + by(record.done.get())
}

impl<'a, I: Iterator<Item = TraceRequest>> World<'a, I> {
    /// Whether the world is small enough for the roll-outs that its policy asks for.
    pub(super) fn check_roll_outs(&mut self) -> Result<(), WorldError> {
        if self.routers.iter().all(|node| node.router.rolls_out().is_none()) {
            return Ok(());
        }
        let too_large = |what, value, most| Err(WorldError::RollOut { what, value, most });
        let requests = self.trace.least();
        if requests > MOST_REQUESTS {
            return too_large("requests", requests, MOST_REQUESTS);
        }
        if self.replicas.len() > MOST_REPLICAS {
            return too_large("replicas", self.replicas.len(), MOST_REPLICAS);
        }
        match self.trace.look(MOST_REQUESTS).filter(|request| request.delay.is_some()).count() {
            0 => Ok(()),
            turns => too_large("turns that wait for the turn before them", turns, 0),
        }
    }

    /// What happens if the request at `router` goes to each replica; nothing if it does not decide freely.
    pub(super) fn roll_out(&mut self, router: u16, key: Key, rule: RollOut) -> Vec<Option<Truth>> {
        // Behind others in the queue, or forwarded by another edge, it has no choice now.
        if self.routers[usize::from(router)].router.queue_len() > 0 || key.entry_attempt() > 0 {
            return Vec::new();
        }
        let arrivals: Vec<TraceRequest> = self.trace.look(rule.arrivals).cloned().collect();
        let targets = (0..self.replicas.len() as u16).map(ReplicaId);
        targets.map(|to| self.copied(router, to, arrivals.clone()).rolled_out(router, key, rule.horizon_s)).collect()
    }

    /// A world that goes on from here with these arrivals, in which `router` sends the next request to `to`.
    fn copied(
        &self,
        router: u16,
        to: ReplicaId,
        arrivals: Vec<TraceRequest>,
    ) -> World<'a, std::vec::IntoIter<TraceRequest>> {
        let node = |(i, node): (usize, &RouterNode)| RouterNode {
            router: node.router.copied(ForcedChoice::new((i == usize::from(router)).then_some(to))),
            site: node.site,
            connections: node.connections.clone(),
        };
        World {
            config: self.config,
            rules: self.rules.clone(),
            trace: Ahead::new(arrivals.into_iter()),
            turns: self.turns.clone(),
            following: self.following.clone(),
            now: self.now,
            events: self.events.clone(),
            questions: self.questions.clone(),
            network: self.network.clone(),
            routers: self.routers.iter().enumerate().map(node).collect(),
            replicas: self.replicas.clone(),
            flights: self.flights.clone(),
            free: self.free.clone(),
            live: self.live,
            records: self.records.clone(),
            samples: Vec::new(),
            due: self.due.clone(),
            busy: self.busy,
            engine_events: Vec::new(),
            actions: Vec::new(),
            decisions: Vec::new(),
            fences: self.fences.clone(),
            fenced_requests: Vec::new(),
            violations: 0,
            sharing: self.sharing.clone(),
            digests: self.digests.clone(),
            tuners: Vec::new(),
        }
    }

    /// Runs to the end; `None` if the router does not send the request to the forced replica.
    fn rolled_out(mut self, router: u16, key: Key, horizon_s: f64) -> Option<Truth> {
        let (begun, index) = (self.now, key.index() as usize);
        let end = begun + Span::from_secs(horizon_s);
        let open: Vec<usize> = (0..self.records.len()).filter(|&i| self.records[i].done.is_none()).collect();
        let first_new = self.records.len();
        self.at_router(router, key);
        self.flight(key)?.sent[0]?;
        let mut course = Course::new(begun, self.trace.peek());
        // Requests that never end are charged up to the horizon.
        while self.now < end && self.advance(&mut course).unwrap_or(false) {}
        let counted = open.into_iter().chain(first_new..self.records.len());
        let sum = counted.map(|i| loss(&self.records[i], end)).sum();
        let ttft = self.records[index].router_first.get().unwrap_or(end) - begun;
        Some(Truth { ttft_ms: ttft.ms(), harm_ms: 0.0, loss: Some(sum) })
    }
}
