//! Routes one request: collects the candidates, lets the policy choose, and updates the counters of the chosen replica.

use super::{Action, DecisionRecord, Dispatch, EndReason, LearnAt, Router, ScoredCandidate, State};
use crate::fleet::{Booked, Kind, Load, Replica};
use crate::policy::{Candidate, CostTerms, Exclusion, Selection, explore};
use crate::sharing::Path;
use crate::{ReplicaId, ReplicaSet, RequestId, Span, Time};
use std::sync::Arc;

impl Router {
    /// Lets the policy choose a replica for request `id` and dispatches it; false if every replica is excluded, for the
    /// reasons left in `candidates`.
    pub(super) fn route(&mut self, now: Time, id: RequestId, actions: &mut Vec<Action>) -> bool {
        self.collect_candidates(now, id);
        let Some(flight) = self.flights.get_mut(&id) else { return true };
        self.terms.clear();
        self.terms.resize(self.candidates.len(), CostTerms::default());
        let info = flight.request.info;
        let choice = self.policy.choose(&info, &self.candidates, &mut self.terms, &mut self.rng);
        let own = choice.chosen.filter(|&i| self.candidates[i].excluded.is_none());
        debug_assert_eq!(own, choice.chosen, "{} chose an excluded replica", self.policy.name());
        let (choice, odds) = explore(self.config.explore, choice, &self.candidates, &mut self.rng);
        let Selection { chosen, .. } = choice;
        if self.config.record_decisions {
            let ages = self.candidates.iter().map(|c| self.replicas[c.id.index()].rtt_age(now).map(Span::ms));
            let rows = self.candidates.iter().zip(&self.terms).zip(ages);
            actions.push(Action::Decided(Arc::new(DecisionRecord {
                id,
                at: now,
                info,
                fence: flight.request.fence.clone(),
                policy: self.policy.name(),
                chosen,
                reason: choice.reason,
                own,
                odds,
                names: Arc::clone(&self.names),
                candidates: rows
                    .map(|((candidate, &terms), rtt_age_ms)| ScoredCandidate {
                        candidate: candidate.clone(),
                        terms,
                        rtt_age_ms,
                    })
                    .collect(),
            })));
        }
        let Some(chosen) = chosen else { return false };
        let candidate = &self.candidates[chosen];
        let (replica, uncached) = (candidate.id, candidate.uncached(info.prompt_tokens));
        let Load { waiting_requests: waiting, running_requests: running, .. } = candidate.load;
        let waiting_uncached = candidate.load.waiting_uncached_tokens;
        let booked = Booked {
            at: now,
            network_ms: candidate.rtt_ms * candidate.path.trips(),
            uncached,
            waiting_uncached,
            running,
            waiting,
            predicted_ms: candidate.learned.ttft_ms(uncached, waiting_uncached, running, waiting),
        };
        let predicted_ttft_ms = self.policy.predict_ttft(&info, candidate, &self.terms[chosen]);
        let at = &mut self.replicas[replica.index()];
        let connection = at.book(now, id, info.prompt_tokens, uncached, info.bytes);
        let forward = at.spec.kind == Kind::Peer;
        self.typical.sent(info.prompt_tokens, uncached);
        let is_alone = self.candidates.iter().all(|c| c.id == replica || c.excluded.is_some());
        let allowed = flight.attempts_for_router(self.config.max_attempts, is_alone).max(1);
        flight.attempts += 1;
        let cached = info.prompt_tokens - uncached;
        let (stamp, started) = (self.index.stamp(), None);
        flight.state = State::Sent { replica, uncached, cached, stamp, running: false, connection, booked, started };
        let dispatch = Dispatch {
            id,
            replica,
            attempt: flight.attempts,
            forward,
            allowed,
            cached_tokens: cached,
            predicted_ttft_ms,
            reason: choice.reason,
        };
        if self.config.learn_at == LearnAt::Dispatch {
            self.index.insert(&flight.request.symbols, info.prompt_tokens, replica);
            let path = || Path { replica, symbols: Arc::clone(&flight.request.symbols), tokens: info.prompt_tokens };
            let (at, symbols) = (&self.replicas[replica.index()], &flight.request.symbols);
            actions.extend(self.publishing.learned(flight, at, symbols, path));
        }
        if dispatch.attempt == 1 {
            self.stats.placed += 1;
            self.stats.placed_prompt_tokens += u64::from(info.prompt_tokens);
            self.stats.placed_cached_tokens += u64::from(cached);
            if let Some(ms) = predicted_ttft_ms {
                self.stats.predicted += 1;
                self.stats.predicted_ns = self.stats.predicted_ns.saturating_add(Span::from_ms(ms).0);
            }
        }
        self.stats.retried += u64::from(dispatch.attempt > 1);
        if forward {
            self.stats.forwarded += 1;
        } else {
            self.stats.dispatched += 1;
        }
        actions.push(Action::Dispatch(dispatch));
        true
    }

    /// Whether a candidate of the last decision was excluded for this reason.
    pub(super) fn has_candidate(&self, excluded: Exclusion) -> bool {
        self.candidates.iter().any(|c| c.excluded == Some(excluded))
    }

    /// Fills `candidates` with the present state of every replica.
    pub(super) fn collect_candidates(&mut self, now: Time, id: RequestId) {
        self.candidates.clear();
        let Some(flight) = self.flights.get(&id) else { return };
        let truths = self.truth.as_ref().filter(|(of, _)| *of == id).map(|(_, truths)| truths);
        let request = &flight.request;
        let gates = &self.config.gates;
        let (inside, only, allowed) = (flight.inside, request.only, self.allowed(id));
        let tried = flight.tried;
        let closed =
            if self.is_closed_by_failures(now, allowed.as_ref()) { Replica::closed_for_all } else { Replica::closed };
        self.matched.resize(self.replicas.len(), 0);
        self.index.lookup(&request.symbols, &mut self.matched);
        for (slot, replica) in self.replicas.iter().enumerate().filter(|(_, r)| !r.removed) {
            let id = ReplicaId(slot as u16);
            let mut excluded = match closed(replica, now, gates) {
                Some(Exclusion::Full) if request.handling.light => None,
                Some(Exclusion::Draining) if request.handling.pinned => None,
                other => other,
            };
            if inside.is_some_and(|inside| !inside.contains(id)) {
                excluded = Some(Exclusion::Outside);
            } else if only.is_some_and(|only| !only.contains(id)) {
                excluded = Some(Exclusion::Unserved);
            } else if replica.spec.kind == Kind::Peer && request.hops >= self.config.max_hops {
                excluded = Some(Exclusion::Hops);
            } else if excluded.is_none() && tried.contains(id) {
                excluded = Some(Exclusion::Tried);
            }
            let (prompt, half_life_ms) = (request.info.prompt_tokens, self.config.digest_half_life_ms);
            let own = self.matched[slot].min(prompt);
            let told = replica.digest().and_then(|digest| digest.view(now, &request.symbols, prompt, half_life_ms));
            let told = told.filter(|told| told.tokens > own);
            let cached = told.map_or(own, |told| told.tokens);
            let learned = self.rates.learned(slot, replica.spec.ms_per_token);
            let truth = truths.and_then(|truths| truths.get(slot).copied().flatten());
            let candidate = replica.candidate(id, now, excluded, cached, request.info.bytes, learned);
            self.candidates.push(Candidate { truth, digest: told, ..candidate });
        }
        self.leave_unprobed_out(&tried);
    }

    /// Excludes replicas that have answered nothing yet, while one that has can take the request, now or soon.
    fn leave_unprobed_out(&mut self, tried: &ReplicaSet) {
        let is_unprobed = |c: &Candidate| self.replicas[c.id.index()].is_unprobed();
        if !self.candidates.iter().any(is_unprobed) {
            return;
        }
        let takes = |c: &Candidate| c.excluded.is_none_or(Exclusion::is_brief);
        if self.candidates.iter().any(|c| takes(c) && !tried.contains(c.id) && !is_unprobed(c)) {
            for candidate in self.candidates.iter_mut().filter(|c| c.excluded.is_none()) {
                if self.replicas[candidate.id.index()].is_unprobed() {
                    candidate.excluded = Some(Exclusion::Unprobed);
                }
            }
        }
    }

    /// Whether no replica (of `only`) is open or full, and some only rest or have a breaker opened by failed requests.
    fn is_closed_by_failures(&self, now: Time, only: Option<&ReplicaSet>) -> bool {
        let gates = &self.config.gates;
        let closed = |r: &Replica| match r.closed(now, gates) {
            None | Some(Exclusion::Full) => false,
            Some(_) => true,
        };
        let may = |slot: usize| only.is_none_or(|only| only.contains(ReplicaId(slot as u16)));
        let mut here = self.replicas.iter().enumerate().filter(|(slot, r)| !r.removed && may(*slot)).map(|(_, r)| r);
        // Mostly the first one is open.
        here.clone().all(closed) && here.any(|r| r.closed_for_all(now, gates).is_none())
    }

    /// Whether a forwarded request finds no working engine at this router. The router that sent it has other replicas, so
    /// the request is rejected at once instead of waiting for a restart.
    pub(super) fn is_stranded(&self, now: Time, id: RequestId) -> bool {
        let forwarded =
            self.flights.get(&id).is_some_and(|f| f.request.hops > 0 && f.request.hops >= self.config.max_hops);
        forwarded && self.has_no_engine(now)
    }

    /// Whether every engine this router dispatches to itself is down, draining or gone.
    fn has_no_engine(&self, now: Time) -> bool {
        let gates = &self.config.gates;
        !self.replicas.iter().any(|r| !r.removed && r.spec.kind != Kind::Peer && r.is_usable(now, gates))
    }

    /// Rejects queued requests that became stranded.
    pub(super) fn reject_stranded(&mut self, now: Time, actions: &mut Vec<Action>) {
        let edge = self.replicas.iter().any(|r| r.spec.kind == Kind::Peer);
        if self.queued == 0 || !edge || !self.has_no_engine(now) {
            return;
        }
        let waiting: Vec<RequestId> = self.queue.iter().map(|&(id, _)| id).collect();
        for id in waiting {
            let queued = self.flights.get(&id).is_some_and(|f| matches!(f.state, State::Queued { .. }));
            if queued && self.is_stranded(now, id) {
                self.end(id, EndReason::Unavailable, actions);
            }
        }
    }
}
