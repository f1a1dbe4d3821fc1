//! The table of known paths: for each symbol the one before it, and which peers know it.
//!
//! A symbol names the whole path down to it, so a path can be put together from its last symbol, and a peer that knows
//! a symbol knows all above it. The table has two generations: what was used since the last change is in the young one;
//! when that is full, the old one is dropped. A path is always used as a whole, so its symbols stay or go together.

use super::MAX_PATH;
use rustc_hash::FxHashMap;

#[derive(Debug, Clone, Copy)]
struct Known {
    /// The symbol before it; none for the first of a path.
    parent: Option<u64>,
    /// Peers that know it, as bits.
    peers: u32,
}

#[derive(Debug, Clone)]
pub(super) struct Paths {
    young: FxHashMap<u64, Known>,
    old: FxHashMap<u64, Known>,
    /// Most symbols of a generation.
    most: usize,
}

impl Paths {
    /// An empty table of at most `symbols` symbols.
    pub(super) fn new(symbols: usize) -> Self {
        Self { young: FxHashMap::default(), old: FxHashMap::default(), most: (symbols / 2).max(1) }
    }

    /// How many of the first symbols of `path` the peer knows.
    pub(super) fn known(&self, path: &[u64], peer: usize) -> usize {
        let bit = 1u32 << peer;
        path.iter().rposition(|symbol| self.get(*symbol).is_some_and(|k| k.peers & bit != 0)).map_or(0, |last| last + 1)
    }

    /// Records that the peer knows the path.
    pub(super) fn tell(&mut self, path: &[u64], peer: usize) {
        self.touch(path, 1 << peer);
    }

    /// Records the path.
    pub(super) fn keep(&mut self, path: &[u64]) {
        self.touch(path, 0);
    }

    /// The path that ends with `end`; `None` if a part of it is not known.
    pub(super) fn path(&self, end: u64) -> Option<Vec<u64>> {
        let mut path = vec![end];
        let mut next = self.get(end)?.parent;
        while let Some(symbol) = next {
            path.push(symbol);
            if path.len() > MAX_PATH {
                return None; // also a circle, which a peer could send
            }
            next = self.get(symbol)?.parent;
        }
        path.reverse();
        Some(path)
    }

    fn get(&self, symbol: u64) -> Option<&Known> {
        self.young.get(&symbol).or_else(|| self.old.get(&symbol))
    }

    fn touch(&mut self, path: &[u64], bits: u32) {
        if self.young.len() + path.len() > self.most {
            self.old = std::mem::take(&mut self.young);
        }
        let mut parent = None;
        for &symbol in path.iter().take(self.most) {
            if let Some(known) = self.young.get_mut(&symbol) {
                known.peers |= bits;
            } else {
                let before = self.old.remove(&symbol).map_or(0, |known| known.peers);
                self.young.insert(symbol, Known { parent, peers: before | bits });
            }
            parent = Some(symbol);
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }
}
