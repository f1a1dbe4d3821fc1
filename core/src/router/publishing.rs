//! Learned prefixes that a router publishes: paths for routers of the same replicas, and a digest for peer edges.

use super::{Action, Flight, Router};
use crate::digest::{Digest, Edition, Update};
use crate::fleet::{Kind, Replica};
use crate::sharing::Path;
use crate::{ReplicaId, Span, Time};
use std::sync::Arc;

/// Which learned prefixes the router publishes.
#[derive(Debug, Clone, Default)]
pub(super) struct Publishing {
    /// Emits [`Action::Learned`].
    pub(super) shares: bool,
    /// The digest of the router's own engines; `None` if the router publishes none.
    digest: Option<Digest>,
}

impl Publishing {
    /// Takes a path that a request showed to be cached at a replica; returns the action that publishes it. Paths of
    /// requests with a fence are not published, since another router may be outside of the fence.
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
        self.publishing.shares = shares;
    }

    /// Starts to keep a digest of the prefixes of the router's own engines; arguments as of [`Digest::new`].
    pub fn tell_digest(&mut self, author: u64, every: usize) {
        self.publishing.digest = Some(Digest::new(author, every));
    }

    /// The digest as of the last request for it; `None` if the router publishes none.
    pub fn digest(&self) -> Option<&Digest> {
        self.publishing.digest.as_ref()
    }

    /// The answer to a peer that requests the digest and holds the edition `known`; `None` if the router publishes
    /// none. No decision depends on it.
    pub fn digest_since(&mut self, now: Time, known: Option<Edition>) -> Option<Update> {
        let own = self.slots(|replica| !replica.removed && replica.spec.kind != Kind::Peer);
        let digest = self.publishing.digest.as_mut()?;
        digest.collect(now, &self.index, &own);
        Some(digest.since(now, known))
    }

    /// Stores the digest from a peer's answer.
    pub(super) fn digest_told(&mut self, now: Time, replica: ReplicaId, update: &Update) {
        let at = self.replicas.get_mut(replica.index()).filter(|at| !at.removed && at.spec.kind == Kind::Peer);
        let Some(at) = at else { return };
        // It was sent half a round trip ago.
        let old = Span::from_ms(at.rtt.smoothed_ms() / 2.0) + update.age;
        let made = Time(now.0.saturating_sub(old.0));
        Arc::make_mut(at.digest.get_or_insert_default()).take(update, made);
    }
}
