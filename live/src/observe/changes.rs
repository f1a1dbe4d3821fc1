//! One line of log for each change of state.
//!
//! The driver compares the state that operators care about before and after the events that can change it; what else
//! changes is told where it happens. Lines are written by one task, so that a slow log delays no request, and limited in
//! number for each thing they are about.

use crate::supervise;
use crate::upstream::replica::Upstream;
use gorgo_core::Time;
use gorgo_core::fleet::{Health, Replica};
use gorgo_core::router::{Event, ReplicaEvent, RequestEvent, Router};
use rustc_hash::FxHashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Lines about one thing that are written at once.
const BURST: u32 = 6;
/// After that, one line in this time.
const REFILL: Duration = Duration::from_secs(10);
/// Things that are told apart; beyond them the limit is shared.
const KEYS: usize = 1_024;
/// Changes that wait to be written; more are counted.
const WAITING: usize = 1_024;

/// A change of the router's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    /// A replica joined the fleet.
    Added { replica: String, url: String },
    /// A source of discovery gives no endpoints: its last set stays.
    SourceStale { source: String, why: String, kept: usize },
    /// It gives endpoints again.
    SourceFresh { source: String, endpoints: usize },
    /// A discovered endpoint cannot be used.
    EndpointRefused { source: String, endpoint: String, why: String },
    /// A replica left the fleet.
    Removed { replica: String },
    /// A replica answers, for the first time or again.
    Up { replica: String },
    /// A replica does not answer.
    Down { replica: String, why: String },
    /// A replica's circuit breaker opened.
    BreakerOpened { replica: String, why: String },
    /// It closed.
    BreakerClosed { replica: String },
    /// A replica gets no new requests, or gets them again.
    Draining { replica: String, on: bool },
    /// The engine was restarted, so the index forgets what it held.
    Restarted { replica: String },
    /// Several engines answer under one name.
    SeveralEngines { replica: String },
    /// A replica's KV events are read, for the first time or again.
    KvEventsUp { replica: String },
    /// They are not read any more.
    KvEventsDown { replica: String, why: String },
    /// A replica refuses this router's key.
    KeyRefused { replica: String, status: u16 },
    /// Another policy, or other settings of it.
    Policy { old: String, new: String },
    /// Other settings of the router.
    Settings { what: String },
    /// An operator emptied the index.
    IndexCleared { nodes: usize },
    /// Requests are refused because the queue is full.
    QueueFull,
    /// Requests are refused because no replica inside their residency can answer them.
    NoneInside,
    /// Requests are refused because no replica is predicted to meet their deadline.
    NotAdmitted { retry_after_s: u32 },
    /// A client's key is wrong.
    ClientRefused { from: String },
    /// A request ended in an error of the router's.
    RequestFailed { reason: &'static str, replica: String, why: String },
}

impl Change {
    /// What the line is about; lines about one thing are limited together.
    fn key(&self) -> (u8, &str) {
        match self {
            Self::Added { replica, .. } | Self::Removed { replica } => (0, replica),
            Self::Up { replica } | Self::Down { replica, .. } => (1, replica),
            Self::BreakerOpened { replica, .. } | Self::BreakerClosed { replica } => (2, replica),
            Self::Draining { replica, .. } => (3, replica),
            Self::Restarted { replica } => (4, replica),
            Self::SeveralEngines { replica } => (5, replica),
            Self::KeyRefused { replica, .. } => (6, replica),
            Self::Policy { .. } => (7, ""),
            Self::Settings { .. } => (8, ""),
            Self::IndexCleared { .. } => (9, ""),
            Self::QueueFull => (10, ""),
            Self::ClientRefused { .. } => (11, ""),
            Self::RequestFailed { reason, .. } => (12, reason),
            Self::SourceStale { source, .. } | Self::SourceFresh { source, .. } => (13, source),
            Self::EndpointRefused { endpoint, .. } => (14, endpoint),
            Self::NoneInside => (15, ""),
            Self::NotAdmitted { .. } => (16, ""),
            Self::KvEventsUp { replica } | Self::KvEventsDown { replica, .. } => (17, replica),
        }
    }

    /// Whether it is trouble.
    fn warns(&self) -> bool {
        matches!(
            self,
            Self::Down { .. }
                | Self::BreakerOpened { .. }
                | Self::SeveralEngines { .. }
                | Self::SourceStale { .. }
                | Self::EndpointRefused { .. }
                | Self::KeyRefused { .. }
                | Self::KvEventsDown { .. }
                | Self::QueueFull
                | Self::NoneInside
                | Self::NotAdmitted { .. }
                | Self::ClientRefused { .. }
                | Self::RequestFailed { .. }
        )
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Added { replica, url } => write!(f, "replica {replica} added ({url})"),
            Self::Removed { replica } => write!(f, "replica {replica} removed"),
            Self::Up { replica } => write!(f, "replica {replica} is up"),
            Self::Down { replica, why } => write!(f, "replica {replica} is down: {why}"),
            Self::BreakerOpened { replica, why } => write!(f, "breaker of replica {replica} opened: {why}"),
            Self::BreakerClosed { replica } => write!(f, "breaker of replica {replica} closed"),
            Self::Draining { replica, on: true } => write!(f, "replica {replica} is draining: no new requests"),
            Self::Draining { replica, on: false } => write!(f, "replica {replica} takes requests again"),
            Self::Restarted { replica } => {
                write!(f, "restart of replica {replica} seen: its part of the prefix index is emptied")
            }
            Self::SeveralEngines { replica } => write!(
                f,
                "several engines answer as replica {replica}: name each engine by its own address; restarts are no longer \
                 told apart"
            ),
            Self::KvEventsUp { replica } => write!(f, "KV events of replica {replica} are read"),
            Self::KvEventsDown { replica, why } => {
                write!(f, "KV events of replica {replica} are not read, its cache is predicted: {why}")
            }
            Self::KeyRefused { replica, status } => {
                write!(f, "replica {replica} refuses this router's key ({status}): set its api_key")
            }
            Self::SourceStale { source, why, kept } => {
                write!(f, "discovery from {source} is stale: {why}; its last {kept} endpoints stay")
            }
            Self::SourceFresh { source, endpoints } => {
                write!(f, "discovery from {source} is fresh again: {endpoints} endpoints")
            }
            Self::EndpointRefused { source, endpoint, why } => {
                write!(f, "discovery from {source}: endpoint {endpoint} is not used: {why}")
            }
            Self::Policy { old, new } => write!(f, "policy changed from {old} to {new}"),
            Self::Settings { what } => write!(f, "settings changed: {what}"),
            Self::IndexCleared { nodes } => write!(f, "prefix index emptied ({nodes} nodes)"),
            Self::QueueFull => write!(f, "the queue is full (router.queue_limit): requests are refused"),
            Self::ClientRefused { from } => write!(f, "a request from {from} is refused: its key is wrong or missing"),
            Self::RequestFailed { reason, replica, why } if replica.is_empty() => {
                write!(f, "a request ended with {reason}: {why}")
            }
            Self::NoneInside => f.write_str(
                "requests are refused: no replica inside their residency can answer them; see `[residency]`",
            ),
            Self::NotAdmitted { retry_after_s } => write!(
                f,
                "requests are refused: no replica is predicted to meet their deadline within {retry_after_s} s \
                 (router.admission)"
            ),
            Self::RequestFailed { reason, replica, why } => {
                write!(f, "a request at replica {replica} ended with {reason}: {why}")
            }
        }
    }
}

/// Where changes are told.
#[derive(Debug, Clone)]
pub(crate) struct Changes(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    lines: mpsc::Sender<Change>,
    lost: AtomicU64,
}

impl Changes {
    /// Starts the task that writes the lines; call it in a runtime.
    pub(crate) fn start() -> Self {
        let (changes, lines) = Self::channel();
        let inner = Arc::downgrade(&changes.0);
        tokio::spawn(supervise::logged("log of changes", async move {
            write(lines, move || inner.upgrade().map_or(0, |inner| inner.lost.swap(0, Ordering::Relaxed))).await;
        }));
        changes
    }

    fn channel() -> (Self, mpsc::Receiver<Change>) {
        let (sender, lines) = mpsc::channel(WAITING);
        (Self(Arc::new(Inner { lines: sender, lost: AtomicU64::new(0) })), lines)
    }

    /// Tells of a change. Does not wait.
    pub(crate) fn tell(&self, change: Change) {
        if self.0.lines.try_send(change).is_err() {
            self.0.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The limit of the lines about one thing.
struct Limit {
    left: u32,
    since: Instant,
    held_back: u64,
}

/// Limits lines by what they are about.
#[derive(Default)]
struct Limits(FxHashMap<(u8, String), Limit>);

impl Limits {
    /// The number of lines held back before this one; `None` if this one is held back, too.
    fn pass(&mut self, change: &Change) -> Option<u64> {
        let (kind, about) = change.key();
        let about = if self.0.len() < KEYS { about } else { "" };
        let now = Instant::now();
        let limit = self.0.entry((kind, about.to_owned())).or_insert(Limit { left: BURST, since: now, held_back: 0 });
        let refills = (now - limit.since).as_secs() / REFILL.as_secs();
        if refills > 0 {
            limit.left = (u64::from(limit.left) + refills).min(u64::from(BURST)) as u32;
            limit.since = now;
        }
        if limit.left == 0 {
            limit.held_back += 1;
            return None;
        }
        limit.left -= 1;
        Some(std::mem::take(&mut limit.held_back))
    }
}

async fn write(mut lines: mpsc::Receiver<Change>, lost: impl Fn() -> u64) {
    let mut limits = Limits::default();
    while let Some(change) = lines.recv().await {
        let Some(before) = limits.pass(&change) else { continue };
        let before = before + lost();
        let more = if before == 0 { String::new() } else { format!(" ({before} like it not shown)") };
        if change.warns() {
            tracing::warn!("{change}{more}");
        } else {
            tracing::info!("{change}{more}");
        }
    }
}

/// The part of a replica's state whose changes are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Known {
    is_here: bool,
    /// `None` before the first probe.
    is_up: Option<bool>,
    breaker_open: bool,
    draining: bool,
}

impl Known {
    /// The replica's state, of which `was` is logged.
    fn of(replica: &Replica, was: Self) -> Self {
        if replica.removed {
            return Self::default();
        }
        let is_up = match replica.health {
            Health::Unknown => None,
            // Fewer failures than the limit change nothing: a replica that never answered is not up.
            Health::Suspect => was.is_up,
            Health::Up => Some(true),
            Health::Down => Some(false),
        };
        Self {
            is_here: true,
            is_up,
            breaker_open: replica.breaker.is_open(Time::ZERO, u32::MAX),
            draining: replica.draining,
        }
    }
}

/// Finds what an event changed.
#[derive(Debug, Default)]
pub(crate) struct Tracker {
    known: Vec<Known>,
    open_breakers: usize,
}

impl Tracker {
    /// Whether the event can change what is told.
    pub(crate) fn concerns(&self, event: &Event) -> bool {
        match event {
            Event::Replica(_) | Event::Timer => true,
            Event::Request(RequestEvent::Failed { .. } | RequestEvent::ClientGone { .. }) => true,
            // A success closes a breaker. After a retry it also shows that the replica before was at fault.
            Event::Request(
                RequestEvent::FirstToken { attempt, .. }
                | RequestEvent::Committed { attempt, .. }
                | RequestEvent::Finished { attempt, .. },
            ) => self.open_breakers > 0 || *attempt > 1,
            Event::Request(RequestEvent::Arrived(_)) | Event::Admin(_) => false,
        }
    }

    /// Compares the fleet with what was known of it, and tells of each difference.
    pub(crate) fn compare(&mut self, router: &Router, upstreams: &[Arc<Upstream>], mut tell: impl FnMut(Change)) {
        self.known.resize(router.replicas().len(), Known::default());
        self.open_breakers = 0;
        for ((known, replica), upstream) in self.known.iter_mut().zip(router.replicas()).zip(upstreams) {
            let now = Known::of(replica, *known);
            let was = std::mem::replace(known, now);
            self.open_breakers += usize::from(now.breaker_open);
            if was == now {
                continue;
            }
            let name = || upstream.name.clone();
            let why = || upstream.last_error().map_or_else(|| "unknown".to_owned(), |error| error.why);
            match (was.is_here, now.is_here) {
                (false, true) => {
                    let url = format!("{}://{}", upstream.endpoint.scheme, upstream.endpoint.name());
                    tell(Change::Added { replica: name(), url });
                }
                (true, false) => {
                    tell(Change::Removed { replica: name() });
                    continue;
                }
                _ => {}
            }
            match now.is_up {
                Some(true) if was.is_up != now.is_up => tell(Change::Up { replica: name() }),
                Some(false) if was.is_up != now.is_up => tell(Change::Down { replica: name(), why: why() }),
                _ => {}
            }
            match (was.breaker_open, now.breaker_open) {
                (false, true) => tell(Change::BreakerOpened { replica: name(), why: why() }),
                (true, false) => tell(Change::BreakerClosed { replica: name() }),
                _ => {}
            }
            if was.draining != now.draining {
                tell(Change::Draining { replica: name(), on: now.draining });
            }
        }
    }

    /// Forgets a slot's former replica, so that the next one is logged in full. Call it before the event that adds it.
    pub(crate) fn adding(&mut self, event: &Event) {
        if let Event::Replica(ReplicaEvent::Added { replica, .. }) = event
            && let Some(known) = self.known.get_mut(replica.index())
        {
            *known = Known::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::connect::Endpoint;
    use gorgo_core::fleet::{Kind, ReplicaSpec};
    use gorgo_core::policy::{PolicyConfig, RequestInfo};
    use gorgo_core::router::{Action, Failure, Request, RouterConfig};
    use gorgo_core::{ReplicaId, RequestId, rng};
    use proptest::prelude::*;

    const REPLICAS: u16 = 3;

    fn upstream(slot: u16) -> Arc<Upstream> {
        let endpoint = Endpoint::parse(&format!("http://r{slot}:80")).unwrap();
        Arc::new(Upstream::new(ReplicaId(slot), format!("r{slot}"), Kind::Remote, None, endpoint))
    }

    fn event(word: u8, slot: u16, sent: &[(RequestId, u8, bool)], next: &mut u64) -> Event {
        let replica = ReplicaId(slot);
        match word {
            0 | 1 => ReplicaEvent::Probed { replica, rtt_ms: 1.0 }.into(),
            2..=4 => ReplicaEvent::ProbeFailed { replica }.into(),
            5 => ReplicaEvent::Draining { replica, draining: true }.into(),
            6 => ReplicaEvent::Draining { replica, draining: false }.into(),
            7 => ReplicaEvent::Removed { replica }.into(),
            8 => {
                let spec = ReplicaSpec::new(format!("r{slot}"), Kind::Remote);
                ReplicaEvent::Added { replica, spec }.into()
            }
            9..=12 => {
                *next += 1;
                let id = RequestId(*next);
                let info = RequestInfo { prompt_tokens: 10, ..RequestInfo::default() };
                RequestEvent::Arrived(Request {
                    id,
                    symbols: Arc::from([]),
                    info,
                    hops: 0,
                    deadline: None,
                    only: None,
                    fence: None,
                })
                .into()
            }
            13..=16 if !sent.is_empty() => {
                let (id, attempt, _) = sent[usize::from(slot) % sent.len()];
                RequestEvent::Failed { id, attempt, failure: Failure::Connection }.into()
            }
            17 | 18 if !sent.is_empty() => {
                let (id, attempt, _) = sent[usize::from(slot) % sent.len()];
                let usage = gorgo_core::router::Usage::default();
                match word {
                    17 => RequestEvent::FirstToken { id, attempt }.into(),
                    _ => RequestEvent::Finished { id, attempt, usage, answer: None }.into(),
                }
            }
            19 => RequestEvent::ClientGone { id: RequestId(*next) }.into(),
            _ => Event::Timer,
        }
    }

    proptest! {
        /// Whatever happens, the log tells of exactly the changes: replaying its lines gives the state.
        #[test]
        fn no_state_changes_unsaid(words in proptest::collection::vec((0u8..21, 0u16..REPLICAS, 0u64..700), 1..120)) {
            let mut router = Router::new(RouterConfig::default(), PolicyConfig::default().build(), None, rng::stream(1, "policy", 0));
            let upstreams: Vec<_> = (0..REPLICAS).map(upstream).collect();
            let (mut tracker, mut told) = (Tracker::default(), vec![Known::default(); usize::from(REPLICAS)]);
            let (mut sent, mut next, mut now) = (Vec::new(), 0, Time::ZERO);
            for slot in 0..REPLICAS {
                let added = event(8, slot, &sent, &mut next);
                tracker.adding(&added);
                router.handle(now, added, &mut Vec::new());
            }
            tracker.compare(&router, &upstreams, |change| replay(&mut told, &change));
            for (word, slot, ms) in words {
                now = Time(now.0 + ms * 1_000_000);
                let event = event(word, slot, &sent, &mut next);
                let (concerns, mut actions) = (tracker.concerns(&event), Vec::new());
                tracker.adding(&event);
                if matches!(&event, Event::Replica(ReplicaEvent::Added { .. })) {
                    told[usize::from(slot)] = Known::default();
                }
                router.handle(now, event, &mut actions);
                for action in actions {
                    match action {
                        Action::Dispatch(d) => {
                            sent.retain(|one| one.0 != d.id);
                            sent.push((d.id, d.attempt, true));
                        }
                        Action::Done { id, .. } => sent.retain(|one| one.0 != id),
                        _ => {}
                    }
                }
                if concerns {
                    tracker.compare(&router, &upstreams, |change| replay(&mut told, &change));
                }
                let state: Vec<Known> =
                    router.replicas().iter().zip(&told).map(|(replica, told)| Known::of(replica, *told)).collect();
                prop_assert_eq!(&told[..state.len()], &state[..], "after {}", word);
            }
        }
    }

    #[test]
    fn a_replica_that_never_answered_is_not_logged_as_up() {
        let mut router =
            Router::new(RouterConfig::default(), PolicyConfig::default().build(), None, rng::stream(1, "policy", 0));
        let (upstreams, mut tracker, mut lines) = ([upstream(0)], Tracker::default(), Vec::new());
        let (mut next, replica) = (0, ReplicaId(0));
        let probes = std::iter::repeat_n(ReplicaEvent::ProbeFailed { replica }.into(), 9);
        for event in std::iter::once(event(8, 0, &[], &mut next)).chain(probes) {
            router.handle(Time::ZERO, event, &mut Vec::new());
            tracker.compare(&router, &upstreams, |change| lines.push(change.to_string()));
        }
        assert_eq!(lines, ["replica r0 added (http://r0:80)", "replica r0 is down: unknown"]);
    }

    fn replay(told: &mut [Known], change: &Change) {
        let slot = |name: &str| name[1..].parse::<usize>().unwrap();
        match change {
            Change::Added { replica, .. } => told[slot(replica)].is_here = true,
            Change::Removed { replica } => told[slot(replica)] = Known::default(),
            Change::Up { replica } => told[slot(replica)].is_up = Some(true),
            Change::Down { replica, .. } => told[slot(replica)].is_up = Some(false),
            Change::BreakerOpened { replica, .. } => told[slot(replica)].breaker_open = true,
            Change::BreakerClosed { replica } => told[slot(replica)].breaker_open = false,
            Change::Draining { replica, on } => told[slot(replica)].draining = *on,
            other => panic!("{other} is no change of a replica"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn lines_about_one_thing_are_limited_and_those_held_back_are_counted() {
        let mut limits = Limits::default();
        let down = |name: &str| Change::Down { replica: name.to_owned(), why: String::new() };
        let passed = (0..100).filter(|_| limits.pass(&down("a")).is_some()).count();
        assert_eq!((passed, limits.pass(&down("b"))), (BURST as usize, Some(0)), "another replica has its own limit");
        tokio::time::advance(REFILL).await;
        assert_eq!((limits.pass(&down("a")), limits.pass(&down("a"))), (Some(100 - u64::from(BURST)), None));
    }
}
