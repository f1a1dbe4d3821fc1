//! The event loop: takes the next arrival or event, dispatches it, and skips periodic signals during idle times.

use super::{
    Action, Event, Key, RequestEvent, RequestId, RouterEvent, Signal, Span, Time, TraceRequest, World, WorldError,
};

/// Periodic signals start again this long before the arrival that ends an idle time: several of the longest periods, so
/// that every estimate is refreshed and a dead replica is noticed, and a margin.
const IDLE_LEAD_PERIODS: f64 = 10.0;
const IDLE_LEAD_MS: f64 = 10_000.0;

/// Where a run is in its trace.
pub(super) struct Course {
    /// Times of the last recorded arrival, and of the last request sent.
    last_recorded: Time,
    last_arrival: Time,
    /// Time of the next recorded arrival.
    recorded: Option<Time>,
}

impl Course {
    pub(super) fn new(now: Time, next: Option<&TraceRequest>) -> Self {
        Self { last_recorded: now, last_arrival: now, recorded: next.map(|request| request.at) }
    }
}

impl<I: Iterator<Item = TraceRequest>> World<'_, I> {
    pub(super) fn process_events(&mut self) -> Result<(), WorldError> {
        let mut course = Course::new(Time::ZERO, self.trace.peek());
        while self.advance(&mut course)? {}
        Ok(())
    }

    /// Processes the next arrival or event; false when only periodic signals are left.
    #[inline]
    pub(super) fn advance(&mut self, course: &mut Course) -> Result<bool, WorldError> {
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
            Event::Signal(Signal::AskDigest { .. }) => config.digest_ms,
            _ => return None,
        };
        let longest = config.scrape_ms.max(config.probe_ms).max(config.peer_ms).max(config.digest_ms);
        let lead = Span::from_ms(IDLE_LEAD_MS + IDLE_LEAD_PERIODS * longest);
        let period = Span::from_ms(period_ms).0.max(1);
        let ticks = arrival?.since(at + lead).0 / period;
        (ticks > 0).then(|| at + Span(ticks * period))
    }

    fn stuck(&self) -> WorldError {
        WorldError::Stuck { requests: self.live + self.due.len(), at: self.now }
    }

    pub(super) fn process(&mut self, event: Event) {
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
    pub(super) fn handle(&mut self, router: u16, event: impl Into<RouterEvent>) {
        let mut actions = std::mem::take(&mut self.actions);
        actions.clear();
        self.routers[usize::from(router)].router.handle(self.now, event, &mut actions);
        for action in actions.drain(..) {
            match action {
                Action::Dispatch(dispatch) => self.dispatch(router, &dispatch),
                Action::Cancel { id, replica, attempt } => self.cancel(router, Key(id.0), replica, attempt),
                Action::Done { id, reason } => self.request_ended(router, Key(id.0), reason),
                Action::SetTimer(at) => self.events.push(at.max(self.now), Event::Timer { router }),
                Action::Decided(decision) => self.decided(router, decision),
                Action::Learned(path) => self.sharing.learned(router, path),
                Action::Queued { .. } => {}
            }
        }
        self.actions = actions;
    }
}
