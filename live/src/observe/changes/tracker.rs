//! Finds what an event changed, by comparing the fleet before and after it.

use super::Change;
use crate::upstream::replica::Upstream;
use gorgo_core::Time;
use gorgo_core::fleet::{Health, Replica};
use gorgo_core::router::{Event, ReplicaEvent, RequestEvent, Router};
use std::sync::Arc;

/// The part of a replica's state whose changes are logged.
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
    /// Whether the event can change the logged state.
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

    /// Compares the fleet with its state at the last call, and passes each difference to `tell`.
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
        Arc::new(Upstream::new(ReplicaId(slot), format!("r{slot}"), Kind::Remote, endpoint))
    }

    fn event(word: u8, slot: u16, sent: &[(RequestId, u8, bool)], next: &mut u64) -> Event {
        let replica = ReplicaId(slot);
        match word {
            0 | 1 => ReplicaEvent::Probed { replica, rtt_ms: 1.0 }.into(),
            2..=4 => ReplicaEvent::ProbeFailed { replica, connected: false }.into(),
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
                RequestEvent::Arrived(Request::new(id, Arc::from([]), info)).into()
            }
            13..=16 if !sent.is_empty() => {
                let (id, attempt, _) = sent[usize::from(slot) % sent.len()];
                RequestEvent::Failed { id, attempt, failure: Failure::Connection, dispatches: 1 }.into()
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
        let probes = std::iter::repeat_n(ReplicaEvent::ProbeFailed { replica, connected: false }.into(), 9);
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
}
