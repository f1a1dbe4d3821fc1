//! Keys of requests and their dispatches, packed into 64 bits.

/// `entry attempt : 5 | peer attempt : 5 | index in the trace : 30 | slot in memory : 24`. The entry attempt numbers the
/// dispatch by the entry router, the peer attempt the dispatch by the peer that it forwarded to. Both are 0 in the key of
/// the request itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Key(pub(super) u64);

impl Key {
    /// Most requests of one run.
    pub(super) const MAX_REQUESTS: u64 = 1 << 30;
    /// Most requests in flight at once.
    pub(super) const MAX_SLOTS: u64 = 1 << 24;
    /// Most dispatches of one request by one router.
    pub(super) const MAX_ATTEMPTS: u8 = 31;

    pub(super) fn new(index: u64, slot: u32) -> Self {
        Self((index << 24) | u64::from(slot))
    }

    pub(super) fn slot(self) -> usize {
        (self.0 & (Self::MAX_SLOTS - 1)) as usize
    }

    pub(super) fn index(self) -> u64 {
        (self.0 >> 24) & (Self::MAX_REQUESTS - 1)
    }

    /// Number of the dispatch by the entry router; 0 for none.
    pub(super) fn entry_attempt(self) -> u8 {
        (self.0 >> 59) as u8
    }

    /// Number of the dispatch by the peer; 0 for none.
    pub(super) fn peer_attempt(self) -> u8 {
        ((self.0 >> 54) & 31) as u8
    }

    /// The key of dispatch `attempt` by the entry router, or by a peer when `self` is a forwarded request.
    pub(super) fn sent(self, attempt: u8, by_peer: bool) -> Self {
        Self(self.0 | (u64::from(attempt & 31) << if by_peer { 54 } else { 59 }))
    }

    /// The key of the request itself.
    pub(super) fn plain(self) -> Self {
        Self(self.0 & ((1 << 54) - 1))
    }

    /// The key under which the router that made the last dispatch knows the request.
    pub(super) fn parent(self) -> Self {
        if self.peer_attempt() > 0 { Self(self.0 & !(31 << 54)) } else { self.plain() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packs_and_unpacks() {
        let key = Key::new(1_000_000, 77);
        let forwarded = key.sent(3, false);
        let engine = forwarded.sent(9, true);
        assert_eq!(
            (engine.index(), engine.slot(), engine.entry_attempt(), engine.peer_attempt()),
            (1_000_000, 77, 3, 9)
        );
        assert_eq!((engine.parent(), forwarded.parent(), engine.plain()), (forwarded, key, key));
    }
}
