//! Engines: submitting and cancelling requests, and sending replies to routers.

use super::queue::{Event, Reply};
use super::requests::message;
use super::{EngineEvent, Key, RequestId, Time, TraceRequest, World};
use crate::engine::{EngineError, EngineRequest};
use gorgo_core::router::Failure;

impl<I: Iterator<Item = TraceRequest>> World<'_, I> {
    pub(super) fn at_engine(&mut self, replica: u16, key: Key) {
        let node = &mut self.replicas[usize::from(replica)];
        node.on_the_way.retain(|&(_, sent)| sent != key);
        let flight = &self.flights[key.slot()];
        if !flight.live || flight.at_engine != key {
            return; // cancelled on the way
        }
        match node.engine.submit(self.now, EngineRequest::from_trace(RequestId(key.0), &flight.request)) {
            Ok(()) => {
                self.records[key.index() as usize].accepted = self.now.into();
                self.drive(replica);
            }
            Err(error) => self.send_reply(
                replica,
                self.now,
                key,
                message::DONE,
                Reply::Failed { failure: failure(&error), dispatches: 1 },
            ),
        }
    }

    pub(super) fn cancel_engine(&mut self, replica: u16, key: Key) {
        let mut events = std::mem::take(&mut self.engine_events);
        self.replicas[usize::from(replica)].engine.cancel(self.now, RequestId(key.0), &mut events);
        self.engine_events = events;
        self.drive(replica);
    }

    pub(super) fn wake(&mut self, replica: u16) {
        let node = &mut self.replicas[usize::from(replica)];
        if node.wake <= self.now {
            node.wake = Time::NEVER;
            self.drive(replica);
        }
    }

    /// Advances an engine to now and schedules its next wake-up.
    pub(super) fn drive(&mut self, replica: u16) {
        let mut events = std::mem::take(&mut self.engine_events);
        let node = &mut self.replicas[usize::from(replica)];
        node.engine.advance(self.now, &mut events);
        if let Some(next) = node.engine.next_event().filter(|&next| next < node.wake) {
            node.wake = next;
            self.events.push(next.max(self.now), Event::Wake { replica });
        }
        for event in events.drain(..) {
            self.engine_event(replica, &event);
        }
        self.engine_events = events;
    }

    fn engine_event(&mut self, replica: u16, event: &EngineEvent) {
        match *event {
            EngineEvent::PrefillStarted { id, at, .. } => {
                if let Some(record) = self.record_of(Key(id.0)) {
                    record.prefill = record.prefill.get().map_or(at, |earlier| earlier.min(at)).into();
                }
            }
            EngineEvent::FirstToken { id, at, cached_tokens } => {
                let key = Key(id.0);
                if let Some(record) = self.record_of(key) {
                    (record.engine_first, record.cached_tokens) = (at.into(), cached_tokens);
                }
                self.send_reply(replica, at, key, message::FIRST, Reply::FirstToken);
            }
            EngineEvent::Finished { id, at, output_tokens, cached_tokens, .. } => {
                let key = Key(id.0);
                if let Some(record) = self.record_of(key) {
                    (record.engine_done, record.output_tokens) = (at.into(), output_tokens);
                }
                self.send_reply(replica, at, key, message::DONE, Reply::Finished { cached_tokens, output_tokens });
            }
            EngineEvent::Aborted { id, at, ref error } => {
                if *error != EngineError::Cancelled {
                    self.send_reply(
                        replica,
                        at,
                        Key(id.0),
                        message::DONE,
                        Reply::Failed { failure: failure(error), dispatches: 1 },
                    );
                }
            }
            EngineEvent::Token { .. } => {}
        }
    }

    /// The record of a dispatch, unless another dispatch of the request counts by now.
    fn record_of(&mut self, key: Key) -> Option<&mut gorgo_core::record::RequestRecord> {
        let flight = &self.flights[key.slot()];
        (flight.live && flight.at_engine == key).then(|| &mut self.records[key.index() as usize])
    }

    /// Sends a reply from a replica to the router that dispatched the request.
    pub(super) fn send_reply(&mut self, replica: u16, at: Time, key: Key, message: u64, reply: Reply) {
        let by_peer = key.peer_attempt() > 0;
        let router = if by_peer { replica } else { self.records[key.index() as usize].router };
        let attempt = if by_peer { key.peer_attempt() } else { key.entry_attempt() };
        let (from, to) = (self.replicas[usize::from(replica)].site, self.routers[usize::from(router)].site);
        let at = at.max(self.now) + self.one_way(from, to, key, message);
        let at = self.in_order(key, 0, at);
        self.events.push(at, Event::ReplyAtRouter { router, key: key.parent(), attempt, reply });
    }
}

/// The failure that a router counts for an engine's error. An engine that is down takes no connection; one that crashes
/// breaks those it has.
fn failure(error: &EngineError) -> Failure {
    match error.status() {
        Some(status) => Failure::of_status(status).unwrap_or(Failure::Server(status)),
        None if *error == EngineError::Down => Failure::Unreachable,
        None => Failure::Connection,
    }
}
