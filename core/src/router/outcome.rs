//! First tokens, ends, failures and retries of requests.

use super::{Action, Answer, EndReason, Failure, Flight, LearnAt, Router, State, Timer, Usage};
use crate::fleet::Kind;
use crate::{ReplicaId, RequestId, Time};

impl Router {
    pub(super) fn first_token(&mut self, now: Time, id: RequestId, attempt: u8) {
        if self.started(now, id, attempt) {
            self.learn_prompt(id);
        }
    }

    /// Counts a request as running; false if it was already, or if the event is of an earlier attempt.
    fn started(&mut self, now: Time, id: RequestId, attempt: u8) -> bool {
        let Some(flight) = self.flights.get_mut(&id).filter(|f| f.attempts == attempt) else { return false };
        let State::Sent { replica, uncached, ref mut running, .. } = flight.state else { return false };
        if std::mem::replace(running, true) {
            return false;
        }
        let at = &mut self.replicas[replica.index()];
        let tokens = flight.request.info.prompt_tokens;
        at.load.stop_waiting(tokens, uncached);
        at.load.start_running(tokens);
        at.peer.started(id);
        if at.breaker.succeeded() {
            at.recovered = Some(now);
        }
        true
    }

    fn learn_prompt(&mut self, id: RequestId) {
        let Some(flight) = self.flights.get(&id) else { return };
        let State::Sent { replica, .. } = flight.state else { return };
        if self.config.learn_at == LearnAt::FirstToken {
            self.index.insert(&flight.request.symbols, flight.request.info.prompt_tokens, replica);
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
        let Some(flight) = self.flights.get(&id).filter(|f| f.attempts == attempt) else { return };
        let State::Sent { replica, cached, stamp, connection, .. } = flight.state else { return };
        self.replicas[replica.index()].connections.put(connection, now);
        // Do not learn for removed replicas: nothing would ever evict those entries.
        let learns = self.config.learn_answers && !self.replicas[replica.index()].removed;
        let answer = answer.filter(|_| learns);
        // Inserting prompt + answer also inserts the prompt, except its partial last block, which the answer completes; so
        // skip the separate insert.
        let apart = |answer: &Answer| answer.keep == 0 || answer.keep + 1 < flight.request.symbols.len();
        if unlearned && answer.is_none_or(apart) {
            self.learn_prompt(id);
        }
        let Some(Flight { request, .. }) = self.flights.get(&id) else { return };
        if let Some(actual) = usage.cached_tokens {
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
        }
        self.end(id, EndReason::Finished, actions);
    }

    pub(super) fn failed(
        &mut self,
        now: Time,
        id: RequestId,
        attempt: u8,
        failure: Failure,
        actions: &mut Vec<Action>,
    ) {
        let Some(flight) = self.flights.get(&id).filter(|f| f.attempts == attempt) else { return };
        let State::Sent { replica, running, connection, .. } = flight.state else { return };
        if failure.keeps_connection() {
            self.replicas[replica.index()].connections.put(connection, now);
        }
        if failure.is_replica_fault() {
            self.record_failure(now, replica);
        }
        if running {
            self.end(id, EndReason::AfterFirstToken, actions);
        } else if !failure.may_retry() {
            self.end(id, EndReason::ClientError, actions);
        } else if attempt >= self.config.max_attempts {
            self.end(id, EndReason::Attempts(failure), actions);
        } else if self.retry_tokens < 1.0 {
            self.end(id, EndReason::RetryBudget(failure), actions);
        } else {
            self.retry_tokens -= 1.0;
            self.retry(now, id, failure, actions);
        }
    }

    /// Takes a request back from its replica and sends it elsewhere, or queues it ahead of the others. A request that
    /// was dispatched `max_attempts` times ends: no path may dispatch it without a bound.
    pub(super) fn retry(&mut self, now: Time, id: RequestId, failure: Failure, actions: &mut Vec<Action>) {
        let Some(flight) = self.flights.get(&id) else { return };
        if flight.attempts >= self.config.max_attempts {
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
        } else if !self.route(now, id, actions) {
            self.enqueue(now, id, true, actions);
        }
    }

    /// Counts a failure for the replica's breaker; when the breaker opens, forgets the replica's prefixes.
    fn record_failure(&mut self, now: Time, replica: ReplicaId) {
        let at = &mut self.replicas[replica.index()];
        if at.breaker.failed(now, &self.config.breaker) {
            if let Some(reopens) = at.reopens(now) {
                self.timers.set(reopens, Timer::Reopen(replica));
            }
            self.index.forget(replica);
        }
    }

    /// Ends a request from this side and cancels its dispatch: the client left or a timeout expired.
    pub(super) fn give_up(&mut self, id: RequestId, reason: EndReason, actions: &mut Vec<Action>) {
        let Some(flight) = self.flights.get(&id) else { return };
        if let State::Sent { replica, .. } = flight.state {
            actions.push(Action::Cancel { id, replica, attempt: flight.attempts });
        }
        self.end(id, reason, actions);
    }

    /// Ends a request: removes its state and emits its only [`Action::Done`].
    pub(super) fn end(&mut self, id: RequestId, reason: EndReason, actions: &mut Vec<Action>) {
        self.release(id);
        if let Some(flight) = self.flights.remove(&id) {
            if matches!(flight.state, State::Queued { .. }) {
                self.queued -= 1;
            }
            self.stats.ended[reason.status() as usize] += 1;
            actions.push(Action::Done { id, reason });
        }
    }

    /// Subtracts a dispatched request from its replica's load.
    fn release(&mut self, id: RequestId) {
        let Some(flight) = self.flights.get(&id) else { return };
        let State::Sent { replica, uncached, running, .. } = flight.state else { return };
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
