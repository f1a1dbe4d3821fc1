//! What a router tells others of what it learns from requests: paths to routers of the same replicas, and a digest to peers.

use super::{Action, Flight, Router};
use crate::digest::{Digest, Edition, Update};
use crate::fleet::{Kind, Replica};
use crate::sharing::Path;
use crate::{ReplicaId, Span, Time};
use std::sync::Arc;

/// What the router tells.
#[derive(Debug, Clone, Default)]
pub(super) struct Tells {
    /// Emits [`Action::Learned`].
    pub(super) shares: bool,
    /// Of the own engines; `None` where none is told.
    digest: Option<Digest>,
}

impl Tells {
    /// Takes a path that a request showed to be at a replica; the action that tells it to other routers. What a fence holds
    /// is told to no other router, which may stand outside it.
    pub(super) fn learned(
        &mut self,
        flight: &Flight,
        at: &Replica,
        symbols: &[u64],
        path: impl FnOnce() -> Path,
    ) -> Option<Action> {
        if flight.inside.is_some() {
            return None;
        }
        if at.spec.kind != Kind::Peer
            && let Some(digest) = &mut self.digest
        {
            digest.learned(symbols);
        }
        self.shares.then(|| Action::Learned(path()))
    }
}

impl Router {
    /// Whether an [`Action::Learned`] is emitted for each path that the index learns from a request, from now on.
    pub fn share_prefixes(&mut self, shares: bool) {
        self.tells.shares = shares;
    }

    /// From now on the router has a digest of its own engines' prefixes for peers that ask; arguments as of
    /// [`Digest::new`].
    pub fn tell_digest(&mut self, author: u64, every: usize) {
        self.tells.digest = Some(Digest::new(author, every));
    }

    /// The digest as it was at the last question; `None` where none is told.
    pub fn digest(&self) -> Option<&Digest> {
        self.tells.digest.as_ref()
    }

    /// The answer to a peer that asks for the digest and has the edition `known`; `None` where none is told. No decision
    /// depends on it.
    pub fn digest_since(&mut self, now: Time, known: Option<Edition>) -> Option<Update> {
        let own = self.slots(|replica| !replica.removed && replica.spec.kind != Kind::Peer);
        let digest = self.tells.digest.as_mut()?;
        digest.collect(now, &self.index, &own);
        Some(digest.since(now, known))
    }

    /// Takes a peer's answer over.
    pub(super) fn digest_told(&mut self, now: Time, replica: ReplicaId, update: &Update) {
        let at = self.replicas.get_mut(replica.index()).filter(|at| !at.removed && at.spec.kind == Kind::Peer);
        let Some(at) = at else { return };
        // It was sent half a round trip ago.
        let old = Span::from_ms(at.rtt.smoothed_ms() / 2.0) + update.age;
        let made = Time(now.0.saturating_sub(old.0));
        Arc::make_mut(at.digest.get_or_insert_default()).take(update, made);
    }
}
