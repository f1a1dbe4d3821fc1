//! Passes events to the core router, and the core's actions to the tasks that carry them out.
//!
//! The core is behind one mutex, locked for one event at a time and never across an await. A request's task receives
//! its actions as commands in the request's [`mailbox`]. One task waits for the core's timer. The [`observers`]
//! (decision log, explanations, shadow policies) receive copies. [`clock`] is the only source of the core's time.

use crate::driver::clock::Clock;
use crate::driver::mailbox::{Command, Mailbox};
use crate::driver::observers::Observers;
use crate::observe::changes::{Change, Tracker};
use crate::upstream::replica::Upstream;
use gorgo_core::digest::{Edition, Update};
use gorgo_core::fleet::{PeerReport, ReplicaSpec};
use gorgo_core::policy::PolicyConfig;
use gorgo_core::rng;
use gorgo_core::router::EndReason;
use gorgo_core::router::{Action, AdminEvent, DecisionRecord, Event, ReplicaEvent, RequestEvent, Router, RouterConfig};
use gorgo_core::sharing::Path;
use gorgo_core::{ReplicaId, RequestId, Time};
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::watch;

pub(crate) mod clock;
mod learned;
pub(crate) mod mailbox;
pub(crate) mod observers;
mod policy;

/// Decisions kept of a request, besides the one it was dispatched by last.
pub(crate) const MAX_OTHER_DECISIONS: usize = 7;

/// A request that has not ended.
#[derive(Default)]
struct InFlight {
    mailbox: Arc<Mailbox>,
    /// Decisions since the last command that chose no replica: one each time the queue was tried in vain.
    undecided: Vec<Arc<DecisionRecord>>,
}

struct Inner {
    router: Router,
    policy: PolicyConfig,
    upstreams: Vec<Arc<Upstream>>,
    requests: FxHashMap<RequestId, InFlight>,
    actions: Vec<Action>,
    tracker: Tracker,
    last: Time,
}

/// Drives one core router.
pub struct Driver {
    /// Not poisoned by a panic: the router is consistent between events, and serving on is better than refusing all.
    inner: Mutex<Inner>,
    clock: Clock,
    timer: watch::Sender<Time>,
    next: AtomicU64,
    observers: Observers,
    /// Learned paths not yet sent to other routers; only with `[sharing]`.
    learned: Option<Mutex<VecDeque<Path>>>,
    /// What was learned since an upgrade began, for the next process.
    heir: Mutex<Option<VecDeque<Path>>>,
    learned_dropped: AtomicU64,
}

impl std::fmt::Debug for Driver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Driver").finish_non_exhaustive()
    }
}

impl Driver {
    /// A driver of a router without replicas. Index symbols weigh in proportion to their number.
    pub fn new(config: RouterConfig, policy: PolicyConfig, seed: u64, clock: Clock, observers: Observers) -> Self {
        let router = Router::new(config, policy.build(), None, rng::stream(seed, "policy", 0));
        let inner = Inner {
            router,
            policy,
            upstreams: Vec::new(),
            requests: FxHashMap::default(),
            actions: Vec::new(),
            tracker: Tracker::default(),
            last: Time::ZERO,
        };
        let (timer, _) = watch::channel(Time::NEVER);
        Self {
            inner: Mutex::new(inner),
            clock,
            timer,
            next: AtomicU64::new(1),
            observers,
            learned: None,
            heir: Mutex::default(),
            learned_dropped: AtomicU64::new(0),
        }
    }

    /// The clock of the core's times.
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// The observers of decisions.
    pub fn observers(&self) -> &Observers {
        &self.observers
    }

    /// A request id that no other request has.
    pub fn next_id(&self) -> RequestId {
        RequestId(self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// Passes an event to the core.
    pub fn handle(&self, event: impl Into<Event>) {
        let mut inner = self.inner.lock();
        self.process(&mut inner, event);
    }

    /// Passes a request's event to the core and returns its time, unless the mailbox holds a command that its task has
    /// not read yet.
    pub(crate) fn handle_if_quiet(&self, mailbox: &Mailbox, event: impl Into<Event>) -> Option<Time> {
        let mut inner = self.inner.lock();
        if !mailbox.is_quiet() {
            return None;
        }
        let now = self.now(&mut inner);
        self.process_at(now, &mut inner, event);
        Some(now)
    }

    /// Announces a request to the core, which dispatches or queues it in the same step, and opens its mailbox.
    pub fn arrive(
        &self,
        request: impl FnOnce(RequestId, Time) -> gorgo_core::router::Request,
    ) -> (RequestId, Arc<Mailbox>) {
        let id = self.next_id();
        let in_flight = InFlight::default();
        let mailbox = Arc::clone(&in_flight.mailbox);
        let mut inner = self.inner.lock();
        inner.requests.insert(id, in_flight);
        let now = self.now(&mut inner);
        let request = request(id, now);
        self.process_at(now, &mut inner, RequestEvent::Arrived(request));
        (id, mailbox)
    }

    /// Passes a replica's event to the core; ignored if the slot belongs to another replica by now, since a probe may
    /// end after its replica was removed.
    pub fn handle_for(&self, upstream: &Upstream, event: impl Into<Event>) {
        let mut inner = self.inner.lock();
        if inner.upstreams.get(upstream.id.index()).is_some_and(|current| std::ptr::eq(&**current, upstream)) {
            self.process(&mut inner, event);
        }
    }

    /// Adds a replica in a free slot, and returns it with the removed replica that had the slot; `None` when the fleet
    /// is full.
    pub fn add(
        &self,
        spec: &ReplicaSpec,
        make: impl FnOnce(ReplicaId) -> Upstream,
    ) -> Option<(Arc<Upstream>, Option<Arc<Upstream>>)> {
        let mut inner = self.inner.lock();
        let replica = inner.router.free_slot()?;
        let upstream = Arc::new(make(replica));
        let old = match inner.upstreams.get_mut(replica.index()) {
            Some(slot) => Some(std::mem::replace(slot, Arc::clone(&upstream))),
            None => {
                inner.upstreams.push(Arc::clone(&upstream));
                None
            }
        };
        self.process(&mut inner, ReplicaEvent::Added { replica, spec: spec.clone() });
        Some((upstream, old))
    }

    /// Calls `f` with the core router, the replicas by slot, and the time.
    pub fn read<T>(&self, f: impl FnOnce(&Router, &[Arc<Upstream>], Time) -> T) -> T {
        let mut inner = self.inner.lock();
        let now = self.now(&mut inner);
        f(&inner.router, &inner.upstreams, now)
    }

    /// Empties the prefix index; returns how many nodes it had.
    pub fn clear_index(&self) -> usize {
        let mut inner = self.inner.lock();
        let nodes = inner.router.index().nodes();
        self.process(&mut inner, AdminEvent::IndexCleared);
        self.observers.tell(Change::IndexCleared { nodes });
        nodes
    }

    /// Puts other router settings in force.
    pub fn set_config(&self, config: RouterConfig) {
        self.handle(AdminEvent::ConfigSet(Box::new(config)));
    }

    /// The report that peers get.
    pub fn peer_report(&self) -> (PeerReport, Time) {
        self.read(|router, _, now| (router.report(now), now))
    }

    /// From now on peers may ask for a digest; arguments as of [`Router::tell_digest`].
    pub(crate) fn tell_digest(&self, author: u64, every: usize) {
        self.inner.lock().router.tell_digest(author, every);
    }

    /// The answer to a peer that asks for the digest: [`Router::digest_since`].
    pub(crate) fn digest_since(&self, known: Option<Edition>) -> Option<Update> {
        let mut inner = self.inner.lock();
        let now = self.now(&mut inner);
        inner.router.digest_since(now, known)
    }

    /// Sends every request the command to stop. Requests that arrive later must check the router's phase.
    pub(crate) fn stop_requests(&self) {
        let inner = self.inner.lock();
        inner.requests.values().for_each(|request| request.mailbox.put(Command::Stop));
    }

    /// Runs the core's timer until the driver is dropped.
    pub async fn run_timer(&self) {
        let mut timer = self.timer.subscribe();
        loop {
            let at = *timer.borrow_and_update();
            tokio::select! {
                changed = timer.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
                () = tokio::time::sleep_until(self.clock.instant(at)), if at != Time::NEVER => {
                    self.timer.send_if_modified(|current| {
                        let is_same = *current == at;
                        if is_same {
                            *current = Time::NEVER;
                        }
                        is_same
                    });
                    self.handle(Event::Timer);
                }
            }
        }
    }

    fn now(&self, inner: &mut Inner) -> Time {
        // Read under the lock, so that the core's time never runs back.
        inner.last = inner.last.max(self.clock.now());
        inner.last
    }

    fn process(&self, inner: &mut Inner, event: impl Into<Event>) {
        let now = self.now(inner);
        self.process_at(now, inner, event);
    }

    fn process_at(&self, now: Time, inner: &mut Inner, event: impl Into<Event>) {
        let event = event.into();
        self.observers.event(now, &event);
        let changes = self.observers.changes.as_ref().filter(|_| inner.tracker.concerns(&event));
        inner.tracker.adding(&event);
        let mut actions = std::mem::take(&mut inner.actions);
        inner.router.handle(now, event, &mut actions);
        if let Some(changes) = changes {
            inner.tracker.compare(&inner.router, &inner.upstreams, |change| changes.tell(change));
        }
        let mut decided = None; // a decision for a replica comes right before its dispatch
        for action in actions.drain(..) {
            match action {
                Action::Decided(record) => {
                    self.observers.decided(&record);
                    if record.chosen.is_some() {
                        decided = Some(record);
                    } else if let Some(request) = inner.requests.get_mut(&record.id) {
                        request.keep(record);
                    }
                }
                Action::Dispatch(dispatch) => {
                    let upstream = Arc::clone(&inner.upstreams[dispatch.replica.index()]);
                    if let Some(request) = inner.requests.get_mut(&dispatch.id) {
                        let (decision, undecided) = (decided.take(), std::mem::take(&mut request.undecided));
                        request.mailbox.put(Command::Dispatch { dispatch, upstream, decision, undecided });
                    }
                }
                Action::Learned(path) => self.learned(path),
                Action::Queued { id } => inner.send(id, Command::Queued),
                Action::Cancel { id, .. } => inner.send(id, Command::Cancel),
                Action::Done { id, reason } => {
                    match reason {
                        EndReason::QueueFull => self.observers.tell(Change::QueueFull),
                        EndReason::Outside => self.observers.tell(Change::NoneInside),
                        EndReason::InsideDown => self.observers.tell(Change::InsideDown),
                        EndReason::Admission { retry_after_s } => {
                            self.observers.tell(Change::NotAdmitted { retry_after_s });
                        }
                        _ => {}
                    }
                    if let Some(InFlight { mailbox, undecided }) = inner.requests.remove(&id) {
                        mailbox.put(Command::Done { reason, undecided });
                    }
                    self.observers.done(now, id);
                }
                Action::SetTimer(at) => {
                    self.timer.send_replace(at);
                }
            }
        }
        inner.actions = actions;
    }
}

impl InFlight {
    fn keep(&mut self, record: Arc<DecisionRecord>) {
        if self.undecided.len() >= MAX_OTHER_DECISIONS {
            self.undecided.remove(0);
        }
        self.undecided.push(record);
    }
}

impl Inner {
    fn send(&self, id: RequestId, command: Command) {
        if let Some(request) = self.requests.get(&id) {
            request.mailbox.put(command);
        }
    }
}
