//! Polls: scrapes of engines and requests for peers' reports. A router sends one, the other side reads it, the answer
//! arrives, and after a pause the router sends the next.
//!
//! With edges these are most events of a run. Each poll has exactly one pending event at any time, so its state stays
//! here and the queue keeps only its number: see [`super::queue`].

use super::peer_message::PeerMessage;
use super::{Span, TraceRequest, World};
use crate::engine::Health as EngineHealth;
use gorgo_core::fleet::EngineReport;
use gorgo_core::network::{Connection, HEAD_BYTES};
use gorgo_core::router::ReplicaEvent;
use gorgo_core::{ReplicaId, Time};

/// What a router asks one target again and again.
#[derive(Debug, Clone, Copy)]
pub(super) struct Question {
    router: u16,
    target: u16,
    /// A peer's report, or an engine's metrics.
    of_peer: bool,
    next: Next,
}

/// What happens to a question next.
#[derive(Debug, Clone, Copy)]
enum Next {
    /// The router asks.
    Ask,
    /// The target reads what was `asked` then, over this connection.
    Read { asked: Time, connection: Connection },
    /// The router gets the answer.
    Answered { asked: Time, connection: Connection, answer: Answer },
}

#[derive(Debug, Clone, Copy)]
enum Answer {
    /// `None`: the engine is down.
    Engine(Option<EngineReport>),
    Peer(PeerMessage),
}

impl Question {
    pub(super) fn new(router: u16, target: u16, of_peer: bool) -> Self {
        Self { router, target, of_peer, next: Next::Ask }
    }

    /// Whether its clock ticks next.
    pub(super) fn is_due(&self) -> bool {
        matches!(self.next, Next::Ask)
    }

    /// Whether it asks for a peer's report.
    pub(super) fn is_of_peer(&self) -> bool {
        self.of_peer
    }
}

impl<I: Iterator<Item = TraceRequest>> World<'_, I> {
    pub(super) fn question(&mut self, number: u32) {
        let &Question { router, target, of_peer, ref next } = &self.questions[number as usize];
        match *next {
            Next::Ask => {
                // Over the connections that requests use.
                let (upload, connection) = self.upload(router, ReplicaId(target), HEAD_BYTES);
                let way = upload + self.half_rtt(router, target);
                let asked = self.now;
                self.follow(number, self.now + way, Next::Read { asked, connection });
            }
            Next::Read { asked, connection } => {
                let way = self.half_rtt(router, target);
                let answer = if of_peer {
                    Answer::Peer(PeerMessage::of(&self.routers[usize::from(target)].router, self.now))
                } else {
                    Answer::Engine(self.metrics(target))
                };
                self.follow(number, self.now + way, Next::Answered { asked, connection, answer });
            }
            Next::Answered { asked, connection, answer } => {
                let period_ms = if of_peer { self.config.peer_ms } else { self.config.scrape_ms };
                self.follow(number, (asked + Span::from_ms(period_ms)).max(self.now), Next::Ask);
                let replica = ReplicaId(target);
                if !matches!(answer, Answer::Engine(None)) {
                    self.return_connection(router, replica, connection);
                }
                let event = match answer {
                    Answer::Engine(Some(report)) => ReplicaEvent::Scraped { replica, report },
                    Answer::Engine(None) => ReplicaEvent::ScrapeFailed { replica, connected: false },
                    Answer::Peer(message) => {
                        let seen = self.routers[usize::from(router)].router.counted_until(replica, asked);
                        ReplicaEvent::PeerReported { replica, report: message.report(), seen }
                    }
                };
                self.handle(router, event);
            }
        }
    }

    fn follow(&mut self, number: u32, at: Time, next: Next) {
        self.questions[number as usize].next = next;
        self.events.push_question(at, number);
    }

    /// What a scrape of an engine reads; `None` if it is down.
    fn metrics(&mut self, replica: u16) -> Option<EngineReport> {
        self.drive(replica);
        let node = &mut self.replicas[usize::from(replica)];
        (node.engine.health(self.now) == EngineHealth::Up).then(|| {
            let gauges = node.engine.metrics(self.now);
            EngineReport {
                running: gauges.num_running_reqs,
                queued: gauges.num_queue_reqs as u32,
                used_tokens: gauges.num_used_tokens,
                kv_tokens: u64::from(gauges.max_total_num_tokens),
                kv_share: None,
            }
        })
    }
}
