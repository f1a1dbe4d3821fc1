//! Prompts as chains of block ids, so that equal ids mean equal whole prefixes and no text travels on.
//!
//! A prompt is a sequence of tokens, each a 64-bit symbol. Every `block_tokens` of them close a block
//! whose id is a hash of the id before it and of its symbols. A later turn's prompt continues the same chain, so it
//! begins with exactly the whole blocks of the earlier prompt and answer.

use std::sync::Arc;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// Default number of tokens per block; also the common page size at which engines share prefixes.
pub const BLOCK_TOKENS: u32 = 16;

/// A growing prompt.
#[derive(Debug, Clone)]
pub struct BlockChain {
    block_tokens: u32,
    whole: Vec<u64>,
    open: Vec<u8>, // symbols of the unfinished block, as bytes to hash
}

impl BlockChain {
    /// An empty prompt in blocks of `block_tokens` (at least 1).
    pub fn new(block_tokens: u32) -> Self {
        Self { block_tokens: block_tokens.max(1), whole: Vec::new(), open: Vec::new() }
    }

    /// Appends one token.
    pub fn push(&mut self, symbol: u64) {
        self.open.extend_from_slice(&symbol.to_le_bytes());
        if self.open.len() == self.block_tokens as usize * 8 {
            self.whole.push(self.open_id());
            self.open.clear();
        }
    }

    /// Appends several tokens.
    pub fn extend(&mut self, symbols: impl IntoIterator<Item = u64>) {
        symbols.into_iter().for_each(|s| self.push(s));
    }

    /// Tokens in a block.
    pub fn block_tokens(&self) -> u32 {
        self.block_tokens
    }

    /// Tokens so far.
    pub fn tokens(&self) -> u64 {
        self.whole.len() as u64 * u64::from(self.block_tokens) + self.open.len() as u64 / 8
    }

    /// Ids of the prompt so far, the unfinished block included.
    pub fn ids(&self) -> Arc<[u64]> {
        let partial = (!self.open.is_empty()).then(|| self.open_id());
        self.whole.iter().copied().chain(partial).collect()
    }

    /// Ids of the whole blocks from number `from` on.
    pub fn whole_from(&self, from: usize) -> Arc<[u64]> {
        self.whole.get(from..).unwrap_or_default().into()
    }

    /// Number of whole blocks.
    pub fn whole_len(&self) -> usize {
        self.whole.len()
    }

    fn open_id(&self) -> u64 {
        xxh3_64_with_seed(&self.open, self.whole.last().copied().unwrap_or(0))
    }
}

/// Weights in 1/60 token of a character: about 4 characters a token for Latin text, 2.4 for Cyrillic and other
/// alphabets, 1.5 for Chinese, Japanese and Korean (means over WildChat with Mistral's tokenizer).
fn weight(c: char) -> u32 {
    match c as u32 {
        0..0x250 => 15,
        0x1100..0x1200 | 0x2E80..0xD7B0 | 0xF900..0xFB00 | 0xFF00..0xFFF0 | 0x2_0000..0x3_0000 => 40,
        _ => 25,
    }
}

/// How tokens are counted where a trace stores text without counts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Counting {
    /// By script: see [`symbols`].
    Script,
    /// A fixed number of bytes per token.
    BytesPerToken(f64),
}

/// The symbols of a message: one per estimated token, each a hash of the piece of text it stands for. Pieces are cut
/// from the front without looking ahead, so two texts with a common beginning have common first symbols. With a
/// `stored` count the result has exactly that many: the estimate is cut or padded at its end. The last symbol also
/// hashes the role and the whole text, so that messages that differ anywhere never continue one chain.
pub fn symbols(role: &str, text: &str, stored: Option<u32>, counting: Counting) -> Vec<u64> {
    let seed = xxh3_64(role.as_bytes());
    let mut pieces = Vec::new();
    let (mut start, mut filled) = (0, 0.0);
    for (at, c) in text.char_indices() {
        filled += match counting {
            Counting::Script => f64::from(weight(c)) / 60.0,
            Counting::BytesPerToken(bytes) => c.len_utf8() as f64 / bytes.max(1.0),
        };
        // The tolerance keeps four quarters one token whatever the rounding.
        while filled >= 1.0 - 1e-9 {
            let end = at + c.len_utf8();
            pieces.push(xxh3_64_with_seed(&text.as_bytes()[start..end], seed));
            (start, filled) = (end, filled - 1.0);
        }
    }
    if start < text.len() || pieces.is_empty() {
        pieces.push(xxh3_64_with_seed(&text.as_bytes()[start..], seed));
    }
    let whole = xxh3_64_with_seed(text.as_bytes(), seed);
    let wanted = stored.map_or(pieces.len(), |n| n.max(1) as usize);
    pieces.truncate(wanted);
    let padding = (pieces.len()..wanted).map(|i| mix(whole, i as u64));
    let mut symbols: Vec<u64> = pieces.iter().copied().chain(padding).collect();
    if let Some(last) = symbols.last_mut() {
        *last = mix(*last, whole);
    }
    symbols
}

/// Two numbers as one well-spread number: for symbols that stand for no text.
pub fn mix(a: u64, b: u64) -> u64 {
    xxh3_64_with_seed(&b.to_le_bytes(), a)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn chain(parts: &[&[u64]]) -> BlockChain {
        let mut chain = BlockChain::new(4);
        parts.iter().for_each(|p| chain.extend(p.iter().copied()));
        chain
    }

    #[test]
    fn equal_prefixes_share_ids_and_a_difference_ends_them() {
        let (a, b) = (chain(&[&[1, 2, 3, 4, 5, 6, 7, 8, 9]]).ids(), chain(&[&[1, 2, 3, 4, 5, 6, 7, 0, 9]]).ids());
        assert_eq!(a.len(), 3);
        assert_eq!(a[0], b[0]);
        assert_ne!(a[1], b[1]);
        assert_ne!(a[2], b[2], "a block's id hashes everything before it");
    }

    #[test]
    fn token_estimates_follow_the_script() {
        let count = |text: &str| symbols("user", text, None, Counting::Script).len();
        assert_eq!(count("four chars a token, so: 24"), 7);
        assert_eq!(count("привет, мир! как дела?"), 8);
        assert_eq!(count("你好世界你好"), 4);
        assert_eq!(count(""), 1, "an empty message still costs a token");
        assert_eq!(symbols("user", "12345678", None, Counting::BytesPerToken(2.0)).len(), 4);
    }

    #[test]
    fn a_template_with_different_ends_shares_its_beginning_only() {
        let text =
            |end: &str| symbols("user", &format!("{}{end}", "write a guide for ".repeat(20)), None, Counting::Script);
        let (a, b) = (text("Rome"), text("Oslo, in winter"));
        let common = a.iter().zip(&b).take_while(|(x, y)| x == y).count();
        assert_eq!(common, 90);
        assert_ne!(
            symbols("user", "hello", None, Counting::Script),
            symbols("assistant", "hello", None, Counting::Script)
        );
    }

    proptest! {
        #[test]
        fn a_longer_prompt_begins_with_the_shorter_ones_whole_blocks(
            first in prop::collection::vec(0u64..3, 0..40), more in prop::collection::vec(0u64..3, 0..40),
        ) {
            let (short, long) = (chain(&[&first]), chain(&[&first, &more]));
            prop_assert_eq!(&long.ids()[..short.whole_len()], &short.ids()[..short.whole_len()]);
            prop_assert_eq!(long.ids().len() as u64, long.tokens().div_ceil(4));
        }

        #[test]
        fn stored_counts_are_kept_exactly(text in ".{0,60}", stored in 0u32..40) {
            prop_assert_eq!(symbols("user", &text, Some(stored), Counting::Script).len() as u32, stored.max(1));
        }
    }
}
