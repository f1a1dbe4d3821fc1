//! Keys of requests: index in the trace, slot in memory, and number of the dispatch in 64 bits.

/// `first attempt : 5 | second attempt : 5 | index in the trace : 30 | slot : 24`. The first attempt is the dispatch
/// by the entry router, the second the one by the peer it forwarded to; both 0 name the request itself.
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

    /// The entry router's dispatch, 0 for none.
    pub(super) fn first(self) -> u8 {
        (self.0 >> 59) as u8
    }

    /// The peer's dispatch, 0 for none.
    pub(super) fn second(self) -> u8 {
        ((self.0 >> 54) & 31) as u8
    }

    /// The key of dispatch `attempt`, made by the entry router or (when `self` is a forwarded request) by a peer.
    pub(super) fn sent(self, attempt: u8, by_peer: bool) -> Self {
        Self(self.0 | (u64::from(attempt & 31) << if by_peer { 54 } else { 59 }))
    }

    /// The request itself, whoever dispatched it.
    pub(super) fn plain(self) -> Self {
        Self(self.0 & ((1 << 54) - 1))
    }

    /// The request as the router that made the last dispatch knows it.
    pub(super) fn parent(self) -> Self {
        if self.second() > 0 { Self(self.0 & !(31 << 54)) } else { self.plain() }
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
        assert_eq!((engine.index(), engine.slot(), engine.first(), engine.second()), (1_000_000, 77, 3, 9));
        assert_eq!((engine.parent(), forwarded.parent(), engine.plain()), (forwarded, key, key));
    }
}
