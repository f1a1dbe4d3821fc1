//! Prefix digests between edges: requests for [`gorgo_core::digest`]s and their answers, as messages in transit.
//!
//! Request and answer each take half a round trip: they use connections that the load reports keep open, and an answer
//! of the usual size fits into the initial congestion window.

use super::in_transit::InTransit;
use super::queue::Signal;
use super::{Shared, Span, TraceRequest, World};
use gorgo_core::ReplicaId;
use gorgo_core::digest::{Edition, KEY_TOKENS, Update};
use gorgo_core::fleet::Kind;
use gorgo_core::router::{ReplicaEvent, Router};
use gorgo_core::sharing::MESSAGE_BYTES;
use std::sync::Arc;

/// Answers on their way, and what was sent.
#[derive(Debug, Clone, Default)]
pub(super) struct DigestWorld {
    sent: InTransit<Arc<Update>>,
    counted: Shared,
}

impl DigestWorld {
    /// What was sent so far; `None` if nothing was asked.
    pub(super) fn shared(&self) -> Option<Shared> {
        (self.counted.messages > 0).then_some(self.counted)
    }
}

/// The edition of `target`'s digest that a router has.
fn known(router: &Router, target: u16) -> Option<Edition> {
    router.replicas().get(usize::from(target))?.digest()?.edition()
}

impl<I: Iterator<Item = TraceRequest>> World<'_, I> {
    /// Switches the digests of all edges on, each question at a random phase.
    pub(super) fn start_digests(&mut self) {
        if !self.is_edge() || self.config.digest_ms == 0.0 {
            return;
        }
        let every = (KEY_TOKENS / self.config.block_tokens).max(1);
        for router in 0..self.routers.len() as u16 {
            let edge = &mut self.routers[usize::from(router)].router;
            edge.tell_digest(u64::from(router), every as usize);
            let peers: Vec<u16> = (0u16..)
                .zip(edge.replicas())
                .filter(|(_, r)| r.spec.kind == Kind::Peer)
                .map(|(slot, _)| slot)
                .collect();
            for target in peers {
                let first = self.first_tick(self.config.digest_ms, router, target, "digest-clock");
                self.events.push(first, Signal::AskDigest { router, target });
            }
        }
    }

    /// `router` asks `target`, and will again.
    pub(super) fn ask_digest(&mut self, router: u16, target: u16) {
        let known = known(&self.routers[usize::from(router)].router, target);
        let way = self.half_rtt(router, target);
        self.events.push(self.now + way, Signal::ReadDigest { router, target, known });
        self.events.push(self.now + Span::from_ms(self.config.digest_ms), Signal::AskDigest { router, target });
    }

    /// The question of `router` reaches `target`.
    pub(super) fn read_digest(&mut self, router: u16, target: u16, known: Option<Edition>) {
        let now = self.now;
        let Some(update) = self.routers[usize::from(target)].router.digest_since(now, known) else { return };
        let counted = &mut self.digests.counted;
        counted.messages += 2;
        counted.bytes += 2 * MESSAGE_BYTES + update.bytes();
        let way = self.half_rtt(router, target);
        let slot = self.digests.sent.put(Arc::new(update));
        self.events.push(self.now + way, Signal::DigestReceived { router, target, slot });
    }

    /// The answer of `target` reaches `router`.
    pub(super) fn digest_told(&mut self, router: u16, target: u16, slot: u32) {
        if let Some(update) = self.digests.sent.take(slot) {
            self.handle(router, ReplicaEvent::DigestReceived { replica: ReplicaId(target), update });
        }
    }
}
