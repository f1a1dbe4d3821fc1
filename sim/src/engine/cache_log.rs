//! Log of the changes in a vLLM engine's cache, in order, from which the emulated engine makes its KV events.

use gorgo_core::RequestId;

/// Most entries kept; further ones are counted as lost. A step adds a few entries a request.
const MAX_ENTRIES: usize = 1 << 16;

/// A change of the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CacheEntry {
    /// Full blocks of a request entered the cache, in the order of its tokens.
    Stored {
        /// The request that computed them.
        request: RequestId,
        /// Their contents as hashes over the whole prefix.
        hashes: Vec<u64>,
        /// The block before the first one; `None` at the beginning of a prompt.
        parent: Option<u64>,
    },
    /// Blocks left the cache, because they were needed for other content.
    Removed(Vec<u64>),
    /// The cache was emptied.
    Cleared,
}

/// The changes since they were taken last; empty and free of cost unless it is switched on.
#[derive(Debug, Clone, Default)]
pub(super) struct CacheLog {
    on: bool,
    entries: Vec<CacheEntry>,
    lost: bool,
}

impl CacheLog {
    pub(super) fn switch_on(&mut self) {
        self.on = true;
    }

    pub(super) fn is_on(&self) -> bool {
        self.on
    }

    /// Adds a block to the last entry if that is of the same request and ends with its parent.
    pub(super) fn stored(&mut self, request: RequestId, hash: u64, parent: Option<u64>) {
        if !self.on {
            return;
        }
        if let Some(CacheEntry::Stored { request: of, hashes, .. }) = self.entries.last_mut()
            && *of == request
            && hashes.last().copied() == parent
        {
            return hashes.push(hash);
        }
        self.push(CacheEntry::Stored { request, hashes: vec![hash], parent });
    }

    pub(super) fn removed(&mut self, hash: u64) {
        if !self.on {
            return;
        }
        match self.entries.last_mut() {
            Some(CacheEntry::Removed(hashes)) => hashes.push(hash),
            _ => self.push(CacheEntry::Removed(vec![hash])),
        }
    }

    pub(super) fn cleared(&mut self) {
        if self.on {
            self.entries.clear();
            self.push(CacheEntry::Cleared);
        }
    }

    fn push(&mut self, entry: CacheEntry) {
        if self.entries.len() < MAX_ENTRIES {
            self.entries.push(entry);
        } else {
            self.lost = true;
        }
    }

    /// The changes since the last call; `None` if some were lost.
    pub(super) fn take(&mut self) -> Option<Vec<CacheEntry>> {
        let entries = std::mem::take(&mut self.entries);
        (!std::mem::take(&mut self.lost)).then_some(entries)
    }
}
