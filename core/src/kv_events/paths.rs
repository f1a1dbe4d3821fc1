//! The paths of tagged dispatches: they map a block's position in a prompt to a position in the prefix index.

use rustc_hash::FxHashMap;
use std::collections::VecDeque;
use std::sync::Arc;

/// Symbols of all paths together; the oldest path is dropped beyond. 8 MiB.
const MAX_SYMBOLS: usize = 1 << 20;
/// Paths; the oldest is dropped beyond.
const MAX_PATHS: usize = 1 << 16;

#[derive(Debug, Clone)]
pub(super) struct Path {
    symbols: Arc<[u64]>,
    /// Tokens of the symbols together: the router's estimate until the engine counted them.
    tokens: u32,
    /// Tokens before the first block that was stored on its behalf: what the cache held of it.
    pub(super) held: Option<u32>,
}

/// Paths by their tags.
#[derive(Debug, Clone, Default)]
pub(super) struct Paths {
    paths: FxHashMap<u64, Path>,
    /// Tags in the order of their dispatches; tags of dropped paths may be among them.
    order: VecDeque<u64>,
    symbols: usize,
    pub(super) dropped: u64,
}

impl Paths {
    /// Adds a path, or replaces what is known of it.
    pub(super) fn put(&mut self, tag: u64, symbols: Arc<[u64]>, tokens: u32) {
        self.symbols += symbols.len();
        match self.paths.get_mut(&tag) {
            Some(path) => {
                self.symbols -= path.symbols.len();
                (path.symbols, path.tokens) = (symbols, tokens);
            }
            None => {
                self.paths.insert(tag, Path { symbols, tokens, held: None });
                self.order.push_back(tag);
            }
        }
        while self.symbols > MAX_SYMBOLS || self.paths.len() > MAX_PATHS {
            let Some(oldest) = self.order.pop_front() else { return };
            if let Some(path) = self.paths.remove(&oldest) {
                self.symbols -= path.symbols.len();
                self.dropped += 1;
            }
        }
    }

    pub(super) fn get(&self, tag: u64) -> Option<&Path> {
        self.paths.get(&tag)
    }

    pub(super) fn get_mut(&mut self, tag: u64) -> Option<&mut Path> {
        self.paths.get_mut(&tag)
    }

    pub(super) fn contains(&self, tag: u64) -> bool {
        self.paths.contains_key(&tag)
    }

    pub(super) fn len(&self) -> usize {
        self.paths.len()
    }

    /// The path and how many of its symbols lie within its first `tokens` tokens; `None` if the path is not known or
    /// ends there.
    pub(super) fn place(&self, tag: u64, tokens: u32) -> Option<(Arc<[u64]>, usize)> {
        let path = self.paths.get(&tag).filter(|path| tokens < path.tokens)?;
        let keep = u64::from(tokens) * path.symbols.len() as u64 / u64::from(path.tokens);
        Some((Arc::clone(&path.symbols), keep as usize))
    }

    pub(super) fn clear(&mut self) {
        self.paths.clear();
        self.order.clear();
        self.symbols = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_in_tokens_becomes_a_place_in_symbols() {
        let mut paths = Paths::default();
        paths.put(1, (0..10).collect(), 100);
        assert_eq!(paths.place(1, 35).map(|(_, keep)| keep), Some(3));
        paths.put(1, (0..20).collect(), 100);
        assert_eq!(paths.place(1, 35).map(|(_, keep)| keep), Some(7));
        assert!(paths.place(1, 100).is_none() && paths.place(2, 0).is_none());
        assert_eq!(paths.len(), 1);
    }

    #[test]
    fn the_oldest_paths_go_first_and_memory_is_bounded() {
        let mut paths = Paths::default();
        let long: Arc<[u64]> = (0..MAX_SYMBOLS as u64 / 4).collect();
        (0..6).for_each(|tag| paths.put(tag, Arc::clone(&long), 100));
        assert!((2..6).all(|tag| paths.contains(tag)) && !paths.contains(1));
        assert_eq!(paths.dropped, 2);
        (0..2 * MAX_PATHS as u64).for_each(|tag| paths.put(100 + tag, Arc::from([1]), 1));
        assert!(paths.len() <= MAX_PATHS && paths.order.len() <= MAX_PATHS + 1);
    }
}
