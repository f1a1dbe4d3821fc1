//! The life of a request: send, route, forward, answer, and delivery to the user.

use super::queue::{Event, Reply};
use super::{ByPeer, Client, Flight, Key, RequestId, RequestRecord, Sent, Span, Status, Time, TraceRequest, World};
use gorgo_core::network::Connection;
use gorgo_core::policy::RequestInfo;
use gorgo_core::router::{Answer, Dispatch, EndReason, Request, RequestEvent, Usage};
use gorgo_core::{MaybeTime, ReplicaId};
use std::sync::Arc;

/// Numbers of the messages of a request; each message draws its own jitter.
pub(super) mod message {
    pub(crate) const USER_IN: u64 = 1;
    pub(crate) const USER_FIRST: u64 = 2;
    pub(crate) const USER_DONE: u64 = 3;
    pub(crate) const TO_ENGINE: u64 = 4;
    pub(crate) const FIRST: u64 = 5;
    pub(crate) const DONE: u64 = 6;
    pub(crate) const TO_PEER: u64 = 7;
    pub(crate) const PEER_FIRST: u64 = 8;
    pub(crate) const PEER_DONE: u64 = 9;
}

impl<I: Iterator<Item = TraceRequest>> World<'_, I> {
    /// Sends a request that is due, or queues it until a worker is free.
    pub(super) fn scheduled(&mut self, request: TraceRequest) {
        match self.config.client {
            Client::Open => self.send(request.at, request),
            Client::Bounded { workers } if self.busy < workers => {
                self.busy += 1;
                self.send(request.at, request);
            }
            Client::Bounded { .. } => self.due.push_back((request.at, request)),
        }
    }

    /// Gives the next due request to a free worker of the bounded client.
    pub(super) fn worker_free(&mut self) {
        match self.due.pop_front() {
            Some((scheduled, request)) => self.send(scheduled, request),
            None => self.busy -= 1,
        }
    }

    fn send(&mut self, scheduled: Time, request: TraceRequest) {
        let (origin, user_rtt_ms) = self.entry(&request);
        let group = self.residency(&request);
        let index = self.records.len() as u64;
        self.records.push(RequestRecord {
            origin: self.config.origin(request.country).into(),
            output_tokens: request.output_tokens,
            sent: self.now,
            ..RequestRecord::scheduled(index, &request, scheduled, origin)
        });
        let last_reply = [Time::ZERO; 2];
        let at_engine = Key::default();
        let (sent, block) = ([None; 2], 0);
        let by_peer = ByPeer::default();
        let flight =
            Flight { request, user_rtt_ms, origin, group, at_engine, block, last_reply, sent, by_peer, live: true };
        let slot = match self.free.pop() {
            Some(slot) => {
                self.flights[slot as usize] = flight;
                slot
            }
            None => {
                self.flights.push(flight);
                (self.flights.len() - 1) as u32
            }
        };
        self.live += 1;
        let key = Key::new(index, slot);
        let way = self.user_upload(key) + Span::from_ms(self.config.router_ms);
        self.events.push(self.now + way, Event::AtRouter { router: origin, key });
        if let Some(patience) = self.config.patience_ms {
            self.events.push(self.now + Span::from_ms(patience), Event::PatienceOver { key });
        }
    }

    /// Time until a router has read the request of a user, whose connection was idle while the user typed.
    fn user_upload(&self, key: Key) -> Span {
        let Flight { request, user_rtt_ms, .. } = &self.flights[key.slot()];
        let network = &self.config.network;
        let trips = network.user_upload_trips(request.input_tokens);
        self.to_user(key, message::USER_IN) + Span::from_ms(user_rtt_ms * network.scale * trips)
    }

    fn to_user(&self, key: Key, message: u64) -> Span {
        self.network.user_one_way(self.flights[key.slot()].user_rtt_ms, (key.index() << 8) | message)
    }

    /// The flight of a key; `None` if the request has ended (its slot may hold another request).
    pub(super) fn flight(&self, key: Key) -> Option<&Flight> {
        let record = &self.records[key.index() as usize];
        self.flights.get(key.slot()).filter(|f| f.live && record.done.is_none())
    }

    /// A request arrives at a router, from its user or from another router.
    pub(super) fn at_router(&mut self, router: u16, key: Key) {
        let Some(flight) = self.flight(key) else { return };
        let request = &flight.request;
        let head = request.blocks.len().min(256usize.div_ceil(request.block_tokens as usize));
        let info = RequestInfo {
            prompt_tokens: request.tokens_at_router(),
            bytes: self.config.network.request_bytes(request.input_tokens),
            session: request.user,
            head: head.checked_sub(1).map_or(0, |last| request.blocks[last]),
            counted: true,
        };
        let hops = u8::from(key.entry_attempt() > 0);
        let arrived = Request {
            hops,
            deadline: self.config.deadline_ms.map(|ms| self.now + Span::from_ms(ms)),
            fence: flight.group.map(|group| self.fences[group].clone()),
            attempts: (hops > 0).then_some(flight.by_peer.allowed),
            ..Request::new(RequestId(key.0), Arc::clone(&request.blocks), info)
        };
        if hops == 0 {
            self.records[key.index() as usize].arrived = self.now.into();
        }
        self.tell_truth(router, key);
        self.handle(router, RequestEvent::Arrived(arrived));
    }

    pub(super) fn dispatch(&mut self, router: u16, dispatch: &Dispatch) {
        let key = Key(dispatch.id.0);
        let by_peer = key.entry_attempt() > 0;
        let sent = key.sent(dispatch.attempt, by_peer);
        let from = self.routers[usize::from(router)].site;
        let bytes = self.config.network.request_bytes(self.flights[key.slot()].request.input_tokens);
        if !by_peer {
            self.flights[key.slot()].block = self.block(router);
        }
        let (upload, connection) = self.upload(router, dispatch.replica, bytes);
        self.flights[key.slot()].sent[usize::from(by_peer)] = Some(Sent { to: dispatch.replica, connection });
        if by_peer {
            self.flights[key.slot()].by_peer.made += 1;
        }
        let record = &mut self.records[key.index() as usize];
        if dispatch.forward {
            record.hops += 1;
            self.flights[key.slot()].by_peer = ByPeer { allowed: dispatch.allowed, made: 0 };
            let to = self.routers[dispatch.replica.index()].site;
            self.check_residency(key.slot(), to);
            let way = upload + self.one_way(from, to, key, message::TO_PEER) + Span::from_ms(self.config.router_ms);
            self.events.push(self.now + way, Event::AtRouter { router: dispatch.replica.0, key: sent });
            return;
        }
        record.attempts = record.attempts.saturating_add(1);
        record.replica = dispatch.replica.0.into();
        record.predicted_cached_tokens = dispatch.cached_tokens;
        record.predicted_ttft_ms = dispatch.predicted_ttft_ms.map(|ms| ms as f32);
        record.dispatched = self.now.into();
        for later in [&mut record.accepted, &mut record.prefill, &mut record.engine_first, &mut record.engine_done] {
            *later = MaybeTime::NONE;
        }
        self.flights[key.slot()].at_engine = sent;
        let to = self.replicas[dispatch.replica.index()].site;
        self.check_residency(key.slot(), to);
        let way = upload + self.one_way(from, to, key, message::TO_ENGINE);
        if self.routers[usize::from(router)].router.needs_truth() {
            let node = &mut self.replicas[dispatch.replica.index()];
            node.on_the_way.retain(|&(at, _)| at >= self.now);
            node.on_the_way.push((self.now + way, sent));
        }
        self.events.push(self.now + way, Event::AtEngine { replica: dispatch.replica.0, key: sent });
    }

    /// A connection is idle again. Scrapes and peers' reports use the same ones as requests, and so keep one open.
    #[inline]
    pub(super) fn return_connection(&mut self, router: u16, target: ReplicaId, connection: Connection) {
        self.routers[usize::from(router)].connections[target.index()].put(connection, self.now);
    }

    /// Takes a connection for a request of `bytes`, or opens one: time beyond one way until its last byte has arrived.
    #[inline]
    pub(super) fn upload(&mut self, router: u16, target: ReplicaId, bytes: u64) -> (Span, Connection) {
        let rule = &self.rules[usize::from(router) * self.replicas.len() + target.index()];
        let node = &mut self.routers[usize::from(router)];
        let rtt_ms = self.network.rtt_ms(node.site, self.replicas[target.index()].site, self.now);
        let (path, connection) = node.connections[target.index()].send(&rule.transport, bytes, self.now, rtt_ms);
        (Span::from_ms(rtt_ms * (path.trips() - 1.0) + rule.transfer_ms(bytes)), connection)
    }

    pub(super) fn cancel(&mut self, router: u16, key: Key, replica: ReplicaId, attempt: u8) {
        let sent = key.sent(attempt, key.entry_attempt() > 0);
        let from = self.routers[usize::from(router)].site;
        let forwarded = self.is_edge() && usize::from(router) != replica.index();
        let to = self.replicas[replica.index()].site;
        let at = self.now + self.one_way(from, to, key, message::TO_ENGINE);
        let event = if forwarded {
            Event::CancelPeer { router: replica.0, key: sent }
        } else {
            Event::CancelEngine { replica: replica.0, key: sent }
        };
        self.events.push(at, event);
    }

    /// A reply arrives at the router that dispatched the request.
    pub(super) fn reply_at_router(&mut self, router: u16, key: Key, attempt: u8, reply: Reply) {
        let id = RequestId(key.0);
        if match reply {
            Reply::Finished { .. } => true,
            Reply::Failed { failure, .. } => failure.is_answer(),
            Reply::FirstToken => false,
        } {
            // The answer is read to its end: its connection is free again.
            if let Some(Sent { to, connection }) =
                self.flights[key.slot()].sent[usize::from(key.entry_attempt() > 0)].take()
            {
                self.return_connection(router, to, connection);
            }
        }
        match reply {
            Reply::FirstToken => {
                self.handle(router, RequestEvent::FirstToken { id, attempt });
                self.first_token(router, key, attempt);
            }
            Reply::Failed { failure, dispatches } => {
                self.handle(router, RequestEvent::Failed { id, attempt, failure, dispatches });
            }
            Reply::Finished { cached_tokens, output_tokens } => {
                let usage = Usage { cached_tokens: Some(cached_tokens), output_tokens };
                let answer = self.flight(key).and_then(|f| answer(&f.request));
                // The entry router learns a forwarded answer as well: it predicts hits at the peer's engine.
                self.handle(router, RequestEvent::Finished { id, attempt, usage, answer });
            }
        }
    }

    /// Passes a first token on towards the user.
    fn first_token(&mut self, router: u16, key: Key, attempt: u8) {
        let Some(flight) = self.flight(key) else { return };
        if !is_current_dispatch(flight.at_engine, key, attempt) {
            return;
        }
        let origin = flight.origin;
        if key.entry_attempt() > 0 {
            self.return_to_origin(router, key, message::PEER_FIRST, Reply::FirstToken);
        } else {
            debug_assert_eq!(origin, router);
            let at = self.now + self.to_user(key, message::USER_FIRST);
            let record = &mut self.records[key.index() as usize];
            (record.router_first, record.first_token) = (self.now.into(), at.into());
        }
    }

    fn return_to_origin(&mut self, router: u16, key: Key, message: u64, reply: Reply) {
        let Some(flight) = self.flight(key) else { return };
        let origin = flight.origin;
        let (from, to) = (self.routers[usize::from(router)].site, self.routers[usize::from(origin)].site);
        let at = self.now + self.one_way(from, to, key, message);
        let at = self.in_order(key, 1, at);
        self.events
            .push(at, Event::ReplyAtRouter { router: origin, key: key.parent(), attempt: key.entry_attempt(), reply });
    }

    /// The instant `at`, but not before the previous reply on the same connection.
    pub(super) fn in_order(&mut self, key: Key, connection: usize, at: Time) -> Time {
        let last = &mut self.flights[key.slot()].last_reply[connection];
        *last = at.max(*last);
        *last
    }

    /// A router ended a request.
    pub(super) fn request_ended(&mut self, router: u16, key: Key, reason: EndReason) {
        if key.entry_attempt() > 0 {
            let record = &self.records[key.index() as usize];
            let reply = match (reason, reason.failure_at_sender()) {
                (_, Some(failure)) => Reply::Failed { failure, dispatches: self.flights[key.slot()].by_peer.made },
                (EndReason::Finished, None) => {
                    Reply::Finished { cached_tokens: record.cached_tokens, output_tokens: record.output_tokens }
                }
                (_, None) => return, // the entry router cancelled the request itself
            };
            self.return_to_origin(router, key, message::PEER_DONE, reply);
            return;
        }
        if reason == EndReason::Finished {
            self.tune(router, key);
        }
        let at = self.now + self.to_user(key, message::USER_DONE);
        // Jitter must not let the last token overtake the first.
        let first = self.records[key.index() as usize].first_token.get();
        self.records[key.index() as usize].reason = Some(reason);
        self.ended(key, first.map_or(at, |first| at.max(first)), reason.status());
    }

    /// A request ends for its user.
    fn ended(&mut self, key: Key, done: Time, status: Status) {
        let record = &mut self.records[key.index() as usize];
        record.status = status;
        record.done = done.into();
        if status != Status::Finished {
            record.output_tokens = 0;
        }
        let flight = &mut self.flights[key.slot()];
        flight.live = false;
        if let Some((at, next)) = self.turns.ended((&flight.request).into(), done) {
            self.following.push(at, next);
        }
        self.free.push(key.slot() as u32);
        self.live -= 1;
        if matches!(self.config.client, Client::Bounded { .. }) {
            self.events.push(done, Event::WorkerFree);
        }
    }

    /// The user leaves if there is no first token yet.
    pub(super) fn patience_over(&mut self, key: Key) {
        let record = &mut self.records[key.index() as usize];
        if record.done.is_some() || record.first_token.get().is_some_and(|at| at <= self.now) {
            return;
        }
        // A first token that is still on its way finds no client.
        record.first_token = MaybeTime::NONE;
        let router = record.router;
        if record.arrived.is_some() {
            self.handle(router, RequestEvent::ClientGone { id: RequestId(key.0) });
        } else {
            // On its way to the router: the connection is closed before the request is read.
            record.reason = Some(EndReason::ClientGone);
            self.ended(key, self.now, Status::Cancelled);
        }
    }
}

/// Whether a reply to dispatch `attempt` of the request `key` belongs to the latest dispatch.
fn is_current_dispatch(at_engine: Key, key: Key, attempt: u8) -> bool {
    at_engine == key.sent(attempt, key.entry_attempt() > 0)
        || (key.entry_attempt() == 0 && at_engine.entry_attempt() == attempt)
}

/// The answer's blocks for the prefix index; `None` if the trace has none.
fn answer(request: &TraceRequest) -> Option<Answer> {
    if request.answer_blocks.is_empty() {
        return None;
    }
    let keep = (request.input_tokens / request.block_tokens) as usize;
    let blocks = (keep + request.answer_blocks.len()) as u32;
    let tokens = blocks * request.block_tokens;
    let counted = u64::from(tokens) * u64::from(request.tokens_at_router()) / u64::from(request.input_tokens);
    Some(Answer { keep, tail: Arc::clone(&request.answer_blocks), tokens: counted.max(1) as u32 })
}
