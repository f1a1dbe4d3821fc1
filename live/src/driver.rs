//! Feeds events to the core router and hands its actions to the tasks that carry them out.
//!
//! One mutex is held for one event, never across an await. A request's task gets its actions through its own
//! mailbox; timers are one task; what watches decisions (log, explanations, shadows) gets copies on the way.

use crate::driver::clock::Clock;
use crate::driver::mailbox::{Command, Mail};
use crate::driver::observers::Observers;
use crate::upstream::replica::Upstream;
use gorgo_core::fleet::PeerReport;
use gorgo_core::fleet::ReplicaSpec;
use gorgo_core::policy::PolicyConfig;
use gorgo_core::rng;
use gorgo_core::router::{Action, AdminEvent, Event, ReplicaEvent, RequestEvent, Router, RouterConfig};
use gorgo_core::{ReplicaId, RequestId, Time};
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::watch;

pub mod clock;
pub mod mailbox;
pub mod observers;

struct Inner {
    router: Router,
    policy: PolicyConfig,
    upstreams: Vec<Arc<Upstream>>,
    mail: FxHashMap<RequestId, Mail>,
    actions: Vec<Action>,
    last: Time,
}

/// The driver. See the module page.
pub struct Driver {
    /// Not poisoned by a panic: the router is consistent between events, and serving on is better than refusing all.
    inner: Mutex<Inner>,
    clock: Clock,
    timer: watch::Sender<Time>,
    next: AtomicU64,
    observers: Observers,
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
            mail: FxHashMap::default(),
            actions: Vec::new(),
            last: Time::ZERO,
        };
        let (timer, _) = watch::channel(Time::NEVER);
        Self { inner: Mutex::new(inner), clock, timer, next: AtomicU64::new(1), observers }
    }

    /// The clock.
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// What watches decisions.
    pub fn observers(&self) -> &Observers {
        &self.observers
    }

    /// An id no request in flight has.
    pub fn next_id(&self) -> RequestId {
        RequestId(self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// Tells what happened.
    pub fn tell(&self, event: impl Into<Event>) {
        let mut inner = self.inner.lock();
        self.handle(&mut inner, event);
    }

    /// Tells what happened to a request, and when, unless the core has meanwhile said something that is still unread.
    pub(crate) fn tell_if_quiet(&self, mail: &Mail, event: impl Into<Event>) -> Option<Time> {
        let mut inner = self.inner.lock();
        if !mail.is_quiet() {
            return None;
        }
        let now = self.now(&mut inner);
        self.handle_at(now, &mut inner, event);
        Some(now)
    }

    /// Announces a request and opens its mailbox. Choice and booking are one step under the lock.
    pub fn arrive(&self, request: impl FnOnce(RequestId, Time) -> gorgo_core::router::Request) -> (RequestId, Mail) {
        let id = self.next_id();
        let mail = Mail::default();
        let mut inner = self.inner.lock();
        inner.mail.insert(id, Arc::clone(&mail));
        let now = self.now(&mut inner);
        let request = request(id, now);
        self.handle_at(now, &mut inner, RequestEvent::Arrived(request));
        (id, mail)
    }

    /// Tells what happened to a replica; nothing, if its slot meanwhile belongs to another. A watch that is being
    /// stopped may still speak.
    pub fn tell_of(&self, upstream: &Upstream, event: impl Into<Event>) {
        let mut inner = self.inner.lock();
        if inner.upstreams.get(upstream.id.index()).is_some_and(|here| std::ptr::eq(&**here, upstream)) {
            self.handle(&mut inner, event);
        }
    }

    /// Adds a replica in a free slot; `None` when the fleet is full. Gives back, too, the removed replica that had
    /// the slot.
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
        self.handle(&mut inner, ReplicaEvent::Added { replica, spec: spec.clone() });
        Some((upstream, old))
    }

    /// Reads the router.
    pub fn read<T>(&self, f: impl FnOnce(&Router, &[Arc<Upstream>], Time) -> T) -> T {
        let mut inner = self.inner.lock();
        let now = self.now(&mut inner);
        f(&inner.router, &inner.upstreams, now)
    }

    /// Empties the prefix index; returns how many nodes it had.
    pub fn clear_index(&self) -> usize {
        let mut inner = self.inner.lock();
        let nodes = inner.router.index().nodes();
        self.handle(&mut inner, AdminEvent::IndexCleared);
        nodes
    }

    /// Puts other router settings in force.
    pub fn set_config(&self, config: RouterConfig) {
        self.tell(AdminEvent::ConfigSet(Box::new(config)));
    }

    /// The report that peers get.
    pub fn peer_report(&self) -> (PeerReport, Time) {
        self.read(|router, _, now| (router.report(now), now))
    }

    /// The policy as configured.
    pub fn policy(&self) -> PolicyConfig {
        self.inner.lock().policy.clone()
    }

    /// Decides by another policy from now on.
    pub fn set_policy(&self, policy: PolicyConfig) {
        let mut inner = self.inner.lock();
        self.handle(&mut inner, AdminEvent::PolicySet(policy.clone()));
        inner.policy = policy;
    }

    /// Tells every request that the router ends what is open. Those that arrive later must ask for the phase.
    pub(crate) fn stop_requests(&self) {
        let inner = self.inner.lock();
        inner.mail.values().for_each(|mail| mail.put(Command::Stop));
    }

    /// Rings the core's timer for as long as the router lives.
    pub async fn run_timer(&self) {
        let mut wish = self.timer.subscribe();
        loop {
            let at = *wish.borrow_and_update();
            tokio::select! {
                changed = wish.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
                () = tokio::time::sleep_until(self.clock.instant(at)), if at != Time::NEVER => {
                    self.timer.send_if_modified(|wish| {
                        let mine = *wish == at;
                        if mine {
                            *wish = Time::NEVER;
                        }
                        mine
                    });
                    self.tell(Event::Timer);
                }
            }
        }
    }

    fn now(&self, inner: &mut Inner) -> Time {
        // Read under the lock, so that the core's time never runs back.
        inner.last = inner.last.max(self.clock.now());
        inner.last
    }

    fn handle(&self, inner: &mut Inner, event: impl Into<Event>) {
        let now = self.now(inner);
        self.handle_at(now, inner, event);
    }

    fn handle_at(&self, now: Time, inner: &mut Inner, event: impl Into<Event>) {
        let event = event.into();
        self.observers.event(now, &event);
        let mut actions = std::mem::take(&mut inner.actions);
        inner.router.handle(now, event, &mut actions);
        for action in actions.drain(..) {
            match action {
                Action::Decided(record) => {
                    self.observers.decided(&record);
                    if let Some(mail) = inner.mail.get(&record.id) {
                        mail.decided(record);
                    }
                }
                Action::Dispatch(dispatch) => {
                    let upstream = Arc::clone(&inner.upstreams[dispatch.replica.index()]);
                    if let Some(mail) = inner.mail.get(&dispatch.id) {
                        mail.put(Command::Dispatch { dispatch, upstream, decision: mail.latest() });
                    }
                }
                Action::Queued { id } => send(inner, id, Command::Queued),
                Action::Cancel { id, attempt, .. } => send(inner, id, Command::Cancel { attempt }),
                Action::Done { id, reason } => {
                    if let Some(mail) = inner.mail.remove(&id) {
                        mail.put(Command::Done { reason });
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

/// Tells the request's task. One that is gone tells so itself, by its guard.
fn send(inner: &Inner, id: RequestId, command: Command) {
    if let Some(mail) = inner.mail.get(&id) {
        mail.put(command);
    }
}
