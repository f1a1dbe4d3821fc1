//! Scheduled faults of replicas: crash, restart, drain.

use super::queue::{Event, Reply};
use super::requests::message;
use super::{FaultKind, Key, Span, TraceRequest, World};
use crate::engine::EngineEvent;
use gorgo_core::ReplicaId;
use gorgo_core::router::{Failure, ReplicaEvent};

impl<I: Iterator<Item = TraceRequest>> World<'_, I> {
    pub(super) fn fault(&mut self, index: u16) {
        let fault = self.config.faults[usize::from(index)];
        let replica = fault.replica;
        match fault.kind {
            FaultKind::Crash { down_ms } => {
                self.drive(replica);
                let mut events = std::mem::take(&mut self.engine_events);
                let node = &mut self.replicas[usize::from(replica)];
                node.engine.crash(self.now, &mut events);
                for event in events.drain(..) {
                    // Connections break: each request at the engine fails at its router one way later.
                    if let EngineEvent::Aborted { id, .. } = event {
                        self.send_reply(
                            replica,
                            self.now,
                            Key(id.0),
                            message::DONE,
                            Reply::Failed { failure: Failure::Connection, dispatches: 1 },
                        );
                    }
                }
                self.engine_events = events;
                self.events.push(self.now + Span::from_ms(down_ms), Event::Restart { replica });
            }
            FaultKind::Drain | FaultKind::Undrain => {
                let draining = matches!(fault.kind, FaultKind::Drain);
                for router in 0..self.routers.len() as u16 {
                    self.handle(router, ReplicaEvent::Draining { replica: ReplicaId(replica), draining });
                }
            }
        }
    }

    pub(super) fn restart(&mut self, replica: u16) {
        let node = &mut self.replicas[usize::from(replica)];
        node.engine.restart(self.now);
        self.drive(replica);
    }
}
