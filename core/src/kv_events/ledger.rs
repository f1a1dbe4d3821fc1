//! The blocks that are resident in one engine's KV cache, tracked from its KV events.

use super::paths::Paths;
use super::{CacheChange, CacheEvent, StoredBlocks};
use crate::{Span, Time};
use rustc_hash::FxHashMap;
use std::sync::Arc;

/// Blocks that are kept; further ones are not tracked, and the capacity is not measured then. About 48 MB.
const MAX_BLOCKS: usize = 1 << 20;
/// Limit on the groups of layers that are tracked separately.
const MAX_GROUPS: u32 = 64;
/// A measured capacity is reported again when it has changed by more than 1/64.
const STEP: u64 = 64;
/// Weight of one removed block in the mean residence time: one part in so many.
const MEMORY: f64 = 256.0;

#[derive(Debug, Clone, Copy)]
struct Block {
    /// Copies; the engine may report each.
    copies: u32,
    tokens: u32,
    /// Tokens of the prompt up to its end; `None` when its parent is not known.
    end: Option<u32>,
    /// The dispatch it was computed for; 0 without one.
    tag: u64,
    stored: Time,
}

/// What a ledger counts, for operators.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct LedgerSummary {
    /// Distinct blocks resident.
    pub blocks: u64,
    /// Their tokens.
    pub tokens: u64,
    /// Whether all resident blocks are known, so that the capacity can be measured.
    pub complete: bool,
    /// Tokens that fit into the cache, measured since it was full; `None` before.
    pub capacity: Option<u64>,
    /// Mean time from storing a block to its removal, ms; `None` before the first.
    pub residence_ms: Option<f64>,
    /// Blocks stored since the stream began.
    pub stored: u64,
    /// Blocks removed.
    pub removed: u64,
    /// Removed blocks that were not known.
    pub removed_unknown: u64,
    /// Stored blocks of tagged dispatches.
    pub tagged: u64,
    /// Paths cut in the index because a tagged block was removed.
    pub cuts: u64,
    /// Paths of tagged dispatches that are kept.
    pub paths: u64,
    /// Paths dropped because there were too many.
    pub paths_dropped: u64,
}

/// The blocks that are resident in the cache of one engine process and rank.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    blocks: FxHashMap<u64, Block>,
    paths: Paths,
    /// Groups of layers that do not count, as a set of bits.
    partial_groups: u64,
    /// Removals of known blocks since one of an unknown block; the unknown ones were stored earlier, so they go first.
    known_in_row: u64,
    /// The capacity reported last.
    told: Option<u64>,
    summary: LedgerSummary,
}

impl Ledger {
    /// Forgets all blocks: another process publishes, or part of the stream is lost. `complete`: the cache is known to
    /// be empty at this point of the stream. Paths stay, since dispatches under way keep their tags.
    pub fn begin(&mut self, complete: bool) {
        self.blocks.clear();
        (self.partial_groups, self.known_in_row, self.told) = (0, 0, None);
        self.summary = LedgerSummary { tokens: 0, complete, capacity: None, ..self.summary };
    }

    /// Forgets the blocks and all dispatches.
    pub fn reset(&mut self) {
        self.begin(false);
        self.paths.clear();
    }

    /// A dispatch was sent with a tag: its path, and its tokens as estimated.
    pub fn dispatched(&mut self, tag: u64, symbols: Arc<[u64]>, tokens: u32) {
        self.paths.put(tag, symbols, tokens);
    }

    /// A tagged dispatch is complete: its path with the answer, and the tokens of it as counted by the engine.
    pub fn finished(&mut self, tag: u64, symbols: Arc<[u64]>, tokens: u32) {
        if self.paths.contains(tag) {
            self.paths.put(tag, symbols, tokens);
        }
    }

    /// Prompt tokens that the engine held when it computed a tagged dispatch: those before the first block that it
    /// stored for it. `None` when no block was stored for it, or its place is not known.
    pub fn held(&self, tag: u64) -> Option<u32> {
        self.paths.get(tag)?.held
    }

    /// The counts.
    pub fn summary(&self) -> LedgerSummary {
        LedgerSummary {
            blocks: self.blocks.len() as u64,
            paths: self.paths.len() as u64,
            paths_dropped: self.paths.dropped,
            ..self.summary
        }
    }

    /// Applies the events of one batch and appends what they change.
    pub fn apply(&mut self, now: Time, events: &[CacheEvent], changes: &mut Vec<CacheChange>) {
        let mut level = self.summary.tokens;
        let mut gone: FxHashMap<u64, Block> = FxHashMap::default();
        let mut removed = false;
        for event in events {
            match event {
                CacheEvent::Stored(blocks) if blocks.is_partial => {
                    if let Some(group) = blocks.group.filter(|group| *group < MAX_GROUPS) {
                        self.partial_groups |= 1 << group;
                    }
                }
                CacheEvent::Stored(blocks) => self.store(now, blocks),
                CacheEvent::Removed { group, .. } if group.is_some_and(|group| self.is_partial(group)) => {}
                CacheEvent::Removed { hashes, .. } => {
                    removed |= !hashes.is_empty();
                    for &hash in hashes {
                        if let Some(block) = self.remove(now, hash) {
                            gone.insert(hash, block);
                        }
                    }
                }
                CacheEvent::Cleared => {
                    self.begin(true);
                    gone.clear();
                    (level, removed) = (0, false);
                    changes.push(CacheChange::Cleared);
                    changes.push(CacheChange::Measured(None));
                }
            }
            level = level.max(self.summary.tokens);
        }
        self.cut(&gone, changes);
        self.measure(level, removed, changes);
    }

    fn is_partial(&self, group: u32) -> bool {
        group < MAX_GROUPS && self.partial_groups & (1 << group) != 0
    }

    fn store(&mut self, now: Time, blocks: &StoredBlocks) {
        let parent = match blocks.parent {
            None => Some(0),
            Some(hash) => self.blocks.get(&hash).and_then(|block| block.end),
        };
        let tag = blocks.tag.filter(|&tag| self.paths.contains(tag));
        if let (Some(tag), Some(start)) = (tag, parent)
            && let Some(path) = self.paths.get_mut(tag)
        {
            path.held.get_or_insert(start);
        }
        let mut end = parent;
        for &hash in &blocks.hashes {
            end = end.map(|end| end.saturating_add(blocks.block_tokens));
            self.summary.stored += 1;
            self.summary.tagged += u64::from(tag.is_some());
            if let Some(block) = self.blocks.get_mut(&hash) {
                block.copies = block.copies.saturating_add(1);
                block.end = block.end.or(end);
                // A path that was dropped places nothing any more.
                if let Some(tag) = tag.filter(|_| !self.paths.contains(block.tag)) {
                    block.tag = tag;
                }
                continue;
            }
            if self.blocks.len() >= MAX_BLOCKS {
                self.summary.complete = false;
                self.known_in_row = 0;
                continue;
            }
            self.summary.tokens += u64::from(blocks.block_tokens);
            let tokens = blocks.block_tokens;
            self.blocks.insert(hash, Block { copies: 1, tokens, end, tag: tag.unwrap_or(0), stored: now });
        }
    }

    /// Removes one copy of a block; returns the block if it was the last one.
    fn remove(&mut self, now: Time, hash: u64) -> Option<Block> {
        self.summary.removed += 1;
        let Some(block) = self.blocks.get_mut(&hash) else {
            self.summary.removed_unknown += 1;
            (self.summary.complete, self.known_in_row) = (false, 0);
            return None;
        };
        block.copies -= 1;
        if block.copies > 0 {
            return None;
        }
        let block = self.blocks.remove(&hash)?;
        self.summary.tokens -= u64::from(block.tokens);
        self.known_in_row += 1;
        let Span(lived) = now - block.stored;
        let lived_ms = lived as f64 / 1e6;
        let mean = self.summary.residence_ms.get_or_insert(lived_ms);
        *mean += (lived_ms - *mean) / MEMORY;
        Some(block)
    }

    /// Cuts the paths of the removed blocks that were not stored again in the same batch: each path once, at the first
    /// token that is gone.
    fn cut(&mut self, gone: &FxHashMap<u64, Block>, changes: &mut Vec<CacheChange>) {
        let mut starts: Vec<(u64, u32)> = Vec::new();
        for (hash, block) in gone {
            let Some(end) = block.end.filter(|_| block.tag != 0 && !self.blocks.contains_key(hash)) else { continue };
            starts.push((block.tag, end.saturating_sub(block.tokens)));
        }
        starts.sort_unstable();
        starts.dedup_by_key(|(tag, _)| *tag);
        for (tag, start) in starts {
            if let Some((symbols, keep)) = self.paths.place(tag, start) {
                self.summary.cuts += 1;
                changes.push(CacheChange::Evicted { symbols, keep });
            }
        }
    }

    /// Measures the capacity: an engine removes blocks when its cache is full, so what is resident then is what fits.
    /// `level` is the most that was resident before, during and after the batch.
    fn measure(&mut self, level: u64, removed: bool, changes: &mut Vec<CacheChange>) {
        let summary = &mut self.summary;
        summary.complete |= self.known_in_row > 0 && self.known_in_row >= self.blocks.len() as u64;
        if !summary.complete {
            if self.told.take().is_some() {
                changes.push(CacheChange::Measured(None));
            }
            summary.capacity = None;
            return;
        }
        let is_new = match summary.capacity {
            None => removed,
            Some(capacity) => removed || level > capacity,
        };
        if !is_new {
            return;
        }
        summary.capacity = Some(level);
        if self.told.is_none_or(|told| told.abs_diff(level) > told / STEP) {
            self.told = Some(level);
            changes.push(CacheChange::Measured(Some(level)));
        }
    }
}

#[cfg(test)]
mod tests;
