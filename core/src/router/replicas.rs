//! Replica events: scrapes, probes, peer reports, and changes of the fleet.

use super::fence::lacks;
use super::{Action, EndReason, Failure, Flight, ReplicaEvent, Router, State};
use crate::fleet::{Ageing, EngineReading, Health, Kind, Load, Replica, ReplicaSpec};
use crate::kv_events::CacheChange;
use crate::{MAX_REPLICAS, ReplicaId, ReplicaSet, RequestId, Span, Time};

impl Router {
    pub(super) fn replica_event(&mut self, now: Time, event: ReplicaEvent, actions: &mut Vec<Action>) {
        match event {
            ReplicaEvent::Scraped { replica, report } => {
                let typical = self.config.shared_replicas.then_some(self.typical);
                let Some(at) = self.replica_alive(now, replica) else { return };
                (at.engine, at.unread) = (Some(EngineReading { report, at: now }), 0);
                at.others.scraped(now, &report, &at.load, typical);
                at.asked(now);
                if report.kv_tokens > 0 && at.spec.kv_tokens != Some(report.kv_tokens) {
                    at.spec.kv_tokens = Some(report.kv_tokens);
                    if at.measured_tokens.is_none() {
                        self.index.set_budget(replica, report.kv_tokens);
                    }
                }
            }
            ReplicaEvent::Probed { replica, rtt_ms } => {
                if let Some(at) = self.replica_alive(now, replica) {
                    at.rtt.add(now, rtt_ms);
                }
            }
            ReplicaEvent::TransportLearned { replica, transport } => {
                if let Some(at) = self.replica_mut(replica) {
                    at.spec.transport = transport;
                }
            }
            ReplicaEvent::ProbeFailed { replica, connected } => {
                let limit = self.config.unhealthy_after;
                let is_down = self.replica_mut(replica).is_some_and(|at| at.failed(limit));
                self.went_down(now, replica, is_down, connected, actions);
            }
            ReplicaEvent::ScrapeFailed { replica, connected } => {
                let limit = self.config.unhealthy_after;
                let is_down = self.replica_mut(replica).is_some_and(|at| at.scrape_failed(now, limit));
                self.went_down(now, replica, is_down, connected, actions);
            }
            ReplicaEvent::Unreported { replica } => {
                let limit = self.config.unhealthy_after;
                if let Some(at) = self.replica_mut(replica) {
                    at.unreported(now, limit);
                }
            }
            ReplicaEvent::PeerReported { replica, report, seen } => {
                let (ages, takes_rates) = (self.config.age_loads, self.config.peer_rates);
                let Some(at) = self.replica_mut(replica).filter(|at| at.spec.kind == Kind::Peer) else { return };
                at.peer.reported(report, seen);
                // It was made half a round trip ago.
                let made = Time(now.0.saturating_sub(Span::from_ms(at.rtt.smoothed_ms() / 2.0).0));
                let arrivals = report.arrivals.filter(|_| ages);
                at.peer.age(arrivals.map(|all| Ageing::new(made, &all, &at.sending.rate(now))));
                at.asked(now);
                if report.healthy {
                    at.succeeded(now, u32::MAX);
                } else {
                    at.health = Health::Down;
                }
                self.rates.told(replica.index(), report.rates.as_ref().filter(|_| takes_rates));
            }
            ReplicaEvent::DigestReceived { replica, update } => self.digest_told(now, replica, &update),
            ReplicaEvent::Added { replica, spec } => self.added(now, replica, spec, actions),
            ReplicaEvent::Described { replica, spec } => self.described(replica, *spec),
            ReplicaEvent::Draining { replica, draining } => {
                if let Some(at) = self.replica_mut(replica) {
                    at.draining = draining;
                }
            }
            ReplicaEvent::Removed { replica } => self.removed(now, replica, actions),
            ReplicaEvent::Flushed { replica } => self.index.forget(replica),
            ReplicaEvent::Cache { replica, changes } => {
                for change in changes {
                    self.cache_changed(replica, change);
                }
            }
            ReplicaEvent::PeerLoads { peer, loads } => {
                let mut by_slot = vec![Load::default(); self.replicas.len()];
                // The first of several rows about one replica counts.
                for (replica, load) in loads.into_iter().rev() {
                    if let Some(slot) = by_slot.get_mut(replica.index()) {
                        *slot = load;
                    }
                }
                for (at, load) in self.replicas.iter_mut().zip(by_slot) {
                    at.others.told(now, usize::from(peer), load);
                }
            }
            ReplicaEvent::PathLearned { replica, symbols, tokens } => {
                // Nothing would ever evict the entries of a removed replica, and a silent one may come back empty.
                if self.replica_mut(replica).is_some_and(|at| at.health != Health::Down) {
                    self.index.insert(&symbols, tokens, replica);
                }
            }
        }
    }

    /// Applies a cache change from an engine's KV events to the index.
    fn cache_changed(&mut self, replica: ReplicaId, change: CacheChange) {
        let Some(at) = self.replica_mut(replica) else { return };
        match change {
            CacheChange::Cleared => self.index.forget(replica),
            CacheChange::Measured(tokens) => {
                at.measured_tokens = tokens;
                let budget = tokens.or(at.spec.kv_tokens).unwrap_or(self.index.default_budget());
                self.index.set_budget(replica, budget);
            }
            CacheChange::Evicted { symbols, keep } => self.index.cut(&symbols, keep, replica),
        }
    }

    /// Acts on a replica that went down with this event. One that is `connected` still has its process, and its KV cache.
    fn went_down(&mut self, now: Time, replica: ReplicaId, is_down: bool, connected: bool, actions: &mut Vec<Action>) {
        if !is_down {
            return;
        }
        if !connected {
            if let Some(at) = self.replica_mut(replica) {
                at.connections.clear();
                at.digest = None;
            }
            self.index.forget(replica);
        }
        self.evacuate(now, replica, connected, actions);
    }

    fn replica_mut(&mut self, replica: ReplicaId) -> Option<&mut Replica> {
        self.replicas.get_mut(replica.index()).filter(|r| !r.removed)
    }

    /// Records that a replica answered a probe or scrape.
    fn replica_alive(&mut self, now: Time, replica: ReplicaId) -> Option<&mut Replica> {
        let limit = self.config.unhealthy_after;
        let at = self.replica_mut(replica)?;
        if at.succeeded(now, limit) {
            at.breaker.half_open(now);
        }
        Some(at)
    }

    fn added(&mut self, now: Time, replica: ReplicaId, spec: ReplicaSpec, actions: &mut Vec<Action>) {
        if replica.index() >= MAX_REPLICAS {
            return;
        }
        self.removed(now, replica, actions);
        self.vacate(replica, actions);
        self.index.reset(replica, spec.kv_tokens);
        while self.replicas.len() <= replica.index() {
            self.replicas.push(Replica::vacant());
        }
        self.rates.joined(replica.index(), spec.ms_per_token);
        let mut fresh = Replica::new(spec);
        // Joining a fleet at work, its cache is cold; at start-up all are.
        fresh.recovered = (self.stats.arrived > 0).then_some(now);
        fresh.egress = self.config.egress.between(&self.config.region, fresh.spec.region.as_deref());
        self.replicas[replica.index()] = fresh;
        self.fence_again(replica);
        self.names = self.replicas.iter().map(|r| r.spec.name.as_str().into()).collect();
    }

    /// Puts other settings in force; the name, the kind, and what was learned stay.
    fn described(&mut self, replica: ReplicaId, spec: ReplicaSpec) {
        let (egress, own_region) = (&self.config.egress, &self.config.region);
        let Some(at) = self.replicas.get_mut(replica.index()).filter(|r| !r.removed) else { return };
        let old = &at.spec;
        // What the engine reports of its capacity comes before what the configuration says.
        let kv_tokens = old.kv_tokens.filter(|_| at.engine.is_some()).or(spec.kv_tokens).or(old.kv_tokens);
        let budget = kv_tokens.filter(|_| kv_tokens != old.kv_tokens && at.measured_tokens.is_none());
        let other_rate = old.ms_per_token != spec.ms_per_token;
        let (name, kind, transport, is_probed) = (old.name.clone(), old.kind, old.transport, old.is_probed);
        at.spec = ReplicaSpec { name, kind, transport, is_probed, kv_tokens, ..spec };
        at.egress = egress.between(own_region, at.spec.region.as_deref());
        if other_rate {
            self.rates.rated(replica.index(), at.spec.ms_per_token);
        }
        if let Some(tokens) = budget {
            self.index.set_budget(replica, tokens);
        }
        self.fence_again(replica);
    }

    /// Ends all requests that still run at the former replica of a slot. A driver that uses [`Router::free_slot`] has
    /// none; a shadow that missed events may.
    fn vacate(&mut self, replica: ReplicaId, actions: &mut Vec<Action>) {
        let mut here = Vec::new();
        for (&id, flight) in &mut self.flights {
            flight.tried.remove(replica);
            flight.failed.remove(replica);
            if matches!(flight.state, State::Sent { replica: r, .. } if r == replica) {
                here.push(id);
            }
        }
        here.sort_unstable();
        for id in here {
            self.give_up(id, EndReason::ReplicaGone, actions);
        }
    }

    fn removed(&mut self, now: Time, replica: ReplicaId, actions: &mut Vec<Action>) {
        let Some(at) = self.replica_mut(replica) else { return };
        at.removed = true;
        at.digest = None;
        self.fence_again(replica);
        self.index.forget(replica);
        self.call_back(now, replica, None, |_| true, actions);
    }

    /// Sends requests without a first token away from a replica that just went down, unless no other works that they may
    /// use: a full replica will have room again, a silent one may not. A replica that is `connected` may only be busy with
    /// the request, and so would be the next one: such a request moves once.
    fn evacuate(&mut self, now: Time, replica: ReplicaId, connected: bool, actions: &mut Vec<Action>) {
        let gates = &self.config.gates;
        let usable = self.slots(|r| !r.removed && r.is_usable(now, gates));
        let moves = |flight: &Flight| !flight.handling().once && (!connected || !flight.moved);
        self.call_back(now, replica, Some(&usable), moves, actions);
    }

    /// Sends every request that has no first token, `moves`, and may use one of `to`, from `replica` elsewhere.
    fn call_back(
        &mut self,
        now: Time,
        replica: ReplicaId,
        to: Option<&ReplicaSet>,
        moves: impl Fn(&Flight) -> bool,
        actions: &mut Vec<Action>,
    ) {
        let here = |f: &Flight| match f.state {
            State::Sent { replica: r, running, .. } => r == replica && !running && !f.committed && moves(f),
            State::Queued { .. } | State::Unplaced => false,
        };
        let mut waiting: Vec<RequestId> = self.flights.iter().filter(|(_, f)| here(f)).map(|(&id, _)| id).collect();
        waiting.retain(|&id| to.is_none_or(|to| !lacks(to, self.allowed(id))));
        waiting.sort_unstable();
        for id in waiting {
            let Some(flight) = self.flights.get_mut(&id) else { continue };
            flight.moved = true;
            let attempt = flight.attempts;
            actions.push(Action::Cancel { id, replica, attempt });
            self.retry(now, id, Failure::Unreachable, actions);
        }
    }
}
