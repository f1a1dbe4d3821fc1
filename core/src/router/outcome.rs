//! First tokens, ends, failures and retries of requests.

use super::{Action, Answer, EndReason, Failure, LearnAt, Router, State, Timer, Usage};
use crate::fleet::{Health, Kind, Replica};
use crate::policy::{Candidate, Exclusion};
use crate::sharing::Path;
use crate::{ReplicaId, RequestId, Span, Time};
use std::sync::Arc;

impl Router {
    pub(super) fn first_token(&mut self, now: Time, id: RequestId, attempt: u8, actions: &mut Vec<Action>) {
        if self.started(now, id, attempt) {
            self.learn_prompt(id, actions);
        }
    }

    /// Counts a request as running; false if it was already, or if the event is of an earlier attempt.
    fn started(&mut self, now: Time, id: RequestId, attempt: u8) -> bool {
        let Some(flight) = self.flights.get_mut(&id).filter(|f| f.attempts == attempt) else { return false };
        let State::Sent { replica, uncached, ref mut running, booked, ref mut started, .. } = flight.state else {
            return false;
        };
        if std::mem::replace(running, true) {
            return false;
        }
        let at = &mut self.replicas[replica.index()];
        if at.spec.kind != Kind::Peer {
            // A retry waited elsewhere first: it says nothing about this replica.
            let learns = (attempt == 1 && self.config.learn_rates).then_some(&booked);
            let running = at.load.running_requests;
            *started = Some(self.rates.first_token(replica.index(), now, running, learns, uncached));
        }
        let tokens = flight.request.info.prompt_tokens;
        at.load.stop_waiting(tokens, uncached);
        at.load.start_running(tokens);
        at.peer.started(id);
        at.answered(now);
        self.blame(now, id, Some(replica));
        true
    }

    /// Learns from the end of a request that ran: its decode steps, if it `finished` with so many output tokens. Once.
    fn learn_steps(&mut self, id: RequestId, finished: Option<u32>) {
        let Some(flight) = self.flights.get_mut(&id) else { return };
        let State::Sent { replica, ref mut started, .. } = flight.state else { return };
        let Some(started) = started.take() else { return };
        let learns = flight.attempts == 1 && self.config.learn_rates;
        let finished = finished.filter(|_| learns).map(|outputs| (flight.arrived, outputs));
        let running = self.replicas[replica.index()].load.running_requests;
        self.rates.ended(replica.index(), self.now, running, started, finished);
    }

    fn learn_prompt(&mut self, id: RequestId, actions: &mut Vec<Action>) {
        let Some(flight) = self.flights.get(&id) else { return };
        let State::Sent { replica, .. } = flight.state else { return };
        if self.config.learn_at == LearnAt::FirstToken {
            let tokens = flight.request.info.prompt_tokens;
            self.index.insert(&flight.request.symbols, tokens, replica);
            let path = || Path { replica, symbols: Arc::clone(&flight.request.symbols), tokens };
            let (at, symbols) = (&self.replicas[replica.index()], &flight.request.symbols);
            actions.extend(self.publishing.learned(flight, at, symbols, path));
        }
    }

    pub(super) fn finished(
        &mut self,
        now: Time,
        id: RequestId,
        attempt: u8,
        usage: Usage,
        answer: Option<&Answer>,
        actions: &mut Vec<Action>,
    ) {
        // A response may be complete before its first content-bearing token is seen.
        let unlearned = self.started(now, id, attempt);
        if self.flights.get(&id).is_some_and(|f| f.attempts == attempt) {
            self.learn_steps(id, Some(usage.output_tokens));
        }
        let Some(flight) = self.flights.get(&id).filter(|f| f.attempts == attempt) else { return };
        let State::Sent { replica, cached, stamp, connection, .. } = flight.state else { return };
        self.replicas[replica.index()].connections.put(connection, now);
        let at = &mut self.replicas[replica.index()];
        (at.last_answer, at.broken_in_row, at.breaks_until) = (Some(now), 0, None);
        // Do not learn for removed replicas: nothing would ever evict those entries.
        let learns = self.config.learn_answers && !self.replicas[replica.index()].removed;
        let answer = answer.filter(|_| learns);
        // Inserting prompt + answer also inserts the prompt, except its partial last block, which the answer completes; so
        // skip the separate insert.
        let apart = |answer: &Answer| answer.keep == 0 || answer.keep + 1 < flight.request.symbols.len();
        if unlearned && answer.is_none_or(apart) {
            self.learn_prompt(id, actions);
        }
        let Some(flight) = self.flights.get(&id) else { return };
        let request = &flight.request;
        if let Some(actual) = usage.cached_tokens {
            self.stats.cache_reports += 1;
            self.stats.predicted_cached_tokens += u64::from(cached);
            self.stats.actual_cached_tokens += u64::from(actual);
            // The last prompt token is always computed, so one less than predicted is no sign of eviction.
            if self.config.correct_index && actual + 1 < cached {
                self.index.truncate(&request.symbols, actual, replica, stamp);
            }
        }
        if let Some(answer) = answer {
            self.learned.clear();
            self.learned.extend_from_slice(&request.symbols[..answer.keep.min(request.symbols.len())]);
            self.learned.extend_from_slice(&answer.tail);
            self.index.insert(&self.learned, answer.tokens, replica);
            let path = || Path { replica, symbols: self.learned.as_slice().into(), tokens: answer.tokens };
            let at = &self.replicas[replica.index()];
            actions.extend(self.publishing.learned(flight, at, &self.learned, path));
        }
        self.end(id, EndReason::Finished, actions);
    }

    pub(super) fn failed(
        &mut self,
        now: Time,
        id: RequestId,
        attempt: u8,
        failure: Failure,
        dispatches: u8,
        actions: &mut Vec<Action>,
    ) {
        let most = self.config.max_attempts;
        let Some(flight) = self.flights.get_mut(&id).filter(|f| f.attempts == attempt) else { return };
        let State::Sent { replica, running, connection, ref booked, .. } = flight.state else { return };
        let sent_at = booked.at;
        let left = flight.attempts_left(most);
        flight.attempts = attempt.saturating_add(dispatches.saturating_sub(1).min(left));
        if failure.is_answer() {
            self.replicas[replica.index()].connections.put(connection, now);
        }
        let begun = running || flight.committed;
        let has_no_more = flight.attempts_left(most) == 0;
        let may_repeat = !flight.handling().once || !failure.breaks_off();
        self.note_failure(now, replica, failure);
        if let Some(flight) = self.flights.get_mut(&id).filter(|_| !running) {
            flight.failed.add(replica, failure);
        }
        let reason = if begun {
            Some(EndReason::AfterFirstToken)
        } else if !failure.may_retry() {
            Some(EndReason::ClientError)
        } else if has_no_more || !may_repeat {
            Some(EndReason::Attempts(failure))
        } else if self.retry_tokens < 1.0 {
            Some(EndReason::RetryBudget(failure))
        } else {
            None
        };
        if running && !failure.is_answer() {
            self.record_failure(now, replica, failure);
        }
        if running && failure.breaks_off() {
            self.note_broken(now, replica, sent_at, failure);
        }
        match reason {
            Some(reason) => {
                self.blame(now, id, None);
                self.end(id, reason, actions);
            }
            None => {
                self.retry_tokens -= 1.0;
                self.retry(now, id, failure, actions);
            }
        }
    }

    /// Records what every failure shows of its replica, at fault or not: the replica rests, and an answer proves that it can be reached.
    fn note_failure(&mut self, now: Time, replica: ReplicaId, failure: Failure) {
        let longest = match failure {
            Failure::Overloaded { retry_after_s: Some(_) } => self.config.max_rest_ms,
            _ => self.config.breaker.open_ms,
        };
        let at = &mut self.replicas[replica.index()];
        if failure.is_answer() && at.breaker.is_unreachable() && at.breaker.succeeded() {
            at.recovered = Some(now);
        }
        let rests = failure != Failure::KeyRefused || at.is_key_unproven();
        if rests && let Some(until) = at.rest(now, failure, longest) {
            self.timers.set(until, Timer::Reopen(replica));
        }
        if failure == Failure::Client {
            self.note_refusal(now, replica);
        }
        if failure == Failure::Unreachable {
            self.record_failure(now, replica, failure);
        }
    }

    fn note_refusal(&mut self, now: Time, replica: ReplicaId) {
        let others_answer = self.another(now, replica, |r| r.refused_in_row == 0);
        let longest = self.config.breaker.open_ms;
        if let Some(until) = self.replicas[replica.index()].refused(now, others_answer, longest) {
            self.timers.set(until, Timer::Reopen(replica));
        }
    }

    fn note_broken(&mut self, now: Time, replica: ReplicaId, sent_at: Time, failure: Failure) {
        let others_finish = self.another(now, replica, |r| r.broken_in_row == 0 && r.last_answer.is_some());
        let longest = self.config.max_rest_ms;
        if let Some(until) = self.replicas[replica.index()].broke(now, sent_at, failure, others_finish, longest) {
            self.timers.set(until, Timer::Reopen(replica));
        }
    }

    /// Whether a usable replica but this one is `well`.
    fn another(&self, now: Time, replica: ReplicaId, well: impl Fn(&Replica) -> bool) -> bool {
        let gates = &self.config.gates;
        let mut others = self.replicas.iter().enumerate().filter(|(slot, r)| *slot != replica.index() && !r.removed);
        others.any(|(_, r)| well(r) && r.is_usable(now, gates))
    }

    /// Counts it for a replica's breaker that a request ends which got nothing there for much longer than predicted, if no
    /// other request got anything either: the engine may hang while its HTTP server answers probes.
    fn note_silence(&mut self, id: RequestId) {
        /// A shorter wait shows nothing, ms.
        const SHORTEST_MS: f64 = 1_000.0;
        /// Times the predicted wait.
        const TIMES: f64 = 4.0;
        let now = self.now;
        let Some(flight) = self.flights.get(&id) else { return };
        let State::Sent { replica, running: false, ref booked, .. } = flight.state else { return };
        let predicted_ms = TIMES * (booked.network_ms + booked.predicted_ms);
        let is_silent = self.replicas[replica.index()].last_answer.is_none_or(|last| last < booked.at);
        if is_silent && !flight.committed && (now - booked.at).ms() >= predicted_ms.max(SHORTEST_MS) {
            self.note_failure(now, replica, Failure::Timeout);
            self.record_failure(now, replica, Failure::Timeout);
        }
    }

    /// Counts the failures of a request for the replicas at fault, once it is known who answered it, if one did.
    fn blame(&mut self, now: Time, id: RequestId, answered: Option<ReplicaId>) {
        let Some(flight) = self.flights.get_mut(&id) else { return };
        let failed = std::mem::take(&mut flight.failed);
        for (replica, failure) in failed.at_fault(answered) {
            self.record_failure(now, replica, failure);
        }
    }

    /// Takes a request back from its replica and sends it elsewhere, or queues it ahead of the others. A request that
    /// was dispatched `max_attempts` times ends: no path may dispatch it without a bound.
    pub(super) fn retry(&mut self, now: Time, id: RequestId, failure: Failure, actions: &mut Vec<Action>) {
        let Some(flight) = self.flights.get(&id) else { return };
        if flight.attempts_left(self.config.max_attempts) == 0 {
            return self.end(id, EndReason::Attempts(failure), actions);
        }
        self.release(id);
        let Some(flight) = self.flights.get_mut(&id) else { return };
        if let State::Sent { replica, .. } = flight.state {
            flight.tried.insert(replica);
        }
        flight.state = State::Unplaced;
        if self.is_stranded(now, id) {
            self.end(id, EndReason::Unavailable, actions);
        } else if self.is_at_fault(id, false) {
            self.blame(now, id, None);
            self.end(id, EndReason::at_fault(failure), actions);
        } else if !self.route(now, id, actions) {
            self.wait(now, id, failure, actions);
        }
    }

    fn is_at_fault(&self, id: RequestId, none_left: bool) -> bool {
        self.flights.get(&id).is_some_and(|f| f.failed.are_the_requests_fault(none_left))
    }

    /// Lets a request wait that no replica can take now: in the queue for one that is closed, or, when it has failed at
    /// every open one, for a pause after which those may be asked again.
    fn wait(&mut self, now: Time, id: RequestId, failure: Failure, actions: &mut Vec<Action>) {
        /// First pause, ms; doubled at each attempt.
        const PAUSE_MS: f64 = 50.0;
        /// A client that would wait longer gets the replica's own refusal.
        const LONGEST_MS: f64 = 2_000.0;
        if !self.has_candidate(Exclusion::Tried) {
            return self.enqueue(now, id, true, actions);
        }
        let none_left = !self.has_candidate(Exclusion::Full);
        if self.is_at_fault(id, none_left) {
            self.blame(now, id, None);
            return self.end(id, EndReason::at_fault(failure), actions);
        }
        let Some(flight) = self.flights.get(&id) else { return };
        let attempts = i32::from(flight.attempts);
        let rests = |c: &Candidate| self.replicas[c.id.index()].rests_until.filter(|_| flight.tried.contains(c.id));
        let rested = self.candidates.iter().filter_map(rests).min().filter(|_| none_left).unwrap_or(now);
        let pause = now + Span::from_ms((PAUSE_MS * 2f64.powi((attempts - 1).clamp(0, 30))).min(LONGEST_MS));
        let again = pause.max(rested);
        if again > now + Span::from_ms(LONGEST_MS) {
            self.blame(now, id, None);
            return self.end(id, EndReason::Attempts(failure), actions);
        }
        self.stats.queued += 1;
        self.pause(now, id, again, actions);
    }

    /// Counts a failure for the replica's breaker. When the breaker opens because the replica cannot be reached, its
    /// prefixes are forgotten; a process that answers still has them.
    fn record_failure(&mut self, now: Time, replica: ReplicaId, failure: Failure) {
        let may_open = failure == Failure::Unreachable || self.may_set_aside(replica);
        let at = &mut self.replicas[replica.index()];
        let is_key_unproven = at.is_key_unproven();
        if at.breaker.failed(now, failure, may_open, is_key_unproven, &self.config.breaker) {
            if let Some(reopens) = at.reopens(now) {
                self.timers.set(reopens, Timer::Reopen(replica));
            }
            if failure == Failure::Unreachable {
                at.digest = None;
                self.index.forget(replica);
            }
        }
    }

    /// Whether a breaker may open by what requests met: at most half of the fleet is set aside that way, so that one
    /// client's requests cannot take it from the others.
    fn may_set_aside(&self, replica: ReplicaId) -> bool {
        let works = |r: &&Replica| !r.removed && !r.draining && r.health != Health::Down && !r.breaker.is_unreachable();
        let fleet = self.replicas.iter().filter(works).count();
        let tripped = |&(slot, r): &(usize, &Replica)| slot != replica.index() && works(&r) && r.breaker.is_tripped();
        let aside = self.replicas.iter().enumerate().filter(tripped).count();
        2 * (aside + 1) <= fleet
    }

    /// Ends a request from this side and cancels its dispatch: the client left or a timeout expired.
    pub(super) fn give_up(&mut self, id: RequestId, reason: EndReason, actions: &mut Vec<Action>) {
        let Some(flight) = self.flights.get(&id) else { return };
        if let State::Sent { replica, .. } = flight.state {
            actions.push(Action::Cancel { id, replica, attempt: flight.attempts });
            self.note_silence(id);
        }
        self.end(id, reason, actions);
    }

    /// Ends a request: removes its state and emits its only [`Action::Done`].
    pub(super) fn end(&mut self, id: RequestId, reason: EndReason, actions: &mut Vec<Action>) {
        self.release(id);
        if let Some(flight) = self.flights.remove(&id) {
            if matches!(flight.state, State::Queued { .. }) {
                self.queued -= 1;
                self.queued_tokens -= u64::from(flight.request.info.prompt_tokens);
            }
            self.stats.ended[reason.status() as usize] += 1;
            actions.push(Action::Done { id, reason });
        }
    }

    /// Subtracts a dispatched request from its replica's load.
    fn release(&mut self, id: RequestId) {
        let Some(flight) = self.flights.get(&id) else { return };
        let State::Sent { replica, uncached, running, .. } = flight.state else { return };
        self.learn_steps(id, None);
        let Some(flight) = self.flights.get(&id) else { return };
        let at = &mut self.replicas[replica.index()];
        let tokens = flight.request.info.prompt_tokens;
        if running {
            at.load.stop_running(tokens);
        } else {
            at.load.stop_waiting(tokens, uncached);
        }
        if at.spec.kind == Kind::Peer {
            at.peer.ended(id);
        }
    }
}

#[cfg(test)]
mod tests;
