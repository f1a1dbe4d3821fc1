//! Chained hashes of 64-byte blocks of the prompt: the symbols of the prefix index.
//!
//! The rendered text is never built; the parser passes strings on as it reads them. A symbol identifies its block and
//! all text before it, so the sixteenth also serves as hash of the first 1024 bytes. The seed is random per process,
//! unless `sharing.hash_seed_file` sets it, so that no client can craft prompts that collide. With the default
//! `router.index_bytes` of 64 MB the index itself has 21 MB, enough for about 160 MB of prompts (40 million tokens).

use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Bytes per symbol.
pub(crate) const BLOCK: usize = 64;

/// Ends a role and begins its text; control bytes that no chat template's text holds.
const ROLE: u8 = 1;
const TEXT: u8 = 2;

/// Bytes per token until an engine has reported usage.
pub(crate) const START_RATIO: f64 = 4.0;

/// Hashes a prompt that arrives in pieces.
#[derive(Debug, Clone)]
pub(crate) struct Blocks {
    seed: u64,
    chain: u64,
    partial: [u8; BLOCK],
    filled: usize,
    symbols: Vec<u64>,
    bytes: u64,
    tokens: u32,
    messages: u32,
    salt: u64,
    texts: Option<Box<Texts>>,
}

impl Blocks {
    /// Creates an empty prompt; `seed` keys the hashes.
    pub(crate) fn new(seed: u64) -> Self {
        Self::with_room(seed, 0)
    }

    /// The same, with room for the symbols of `bytes` bytes.
    pub(crate) fn with_room(seed: u64, bytes: usize) -> Self {
        let symbols = Vec::with_capacity(bytes / BLOCK);
        Self {
            seed,
            chain: seed,
            partial: [0; BLOCK],
            filled: 0,
            symbols,
            bytes: 0,
            tokens: 0,
            messages: 0,
            salt: 0,
            texts: None,
        }
    }

    /// The same, and keeps the text from byte `from` of the hashed stream on.
    pub(crate) fn keeping(seed: u64, from: u64) -> Self {
        Self { texts: Some(Box::new(Texts { from, ..Texts::default() })), ..Self::new(seed) }
    }

    /// The text that was kept.
    pub(crate) fn into_texts(self) -> Texts {
        self.texts.map_or_else(Texts::default, |texts| *texts)
    }

    /// Bytes hashed so far.
    fn at(&self) -> u64 {
        (self.symbols.len() * BLOCK + self.filled) as u64
    }

    /// Appends text.
    pub(crate) fn text(&mut self, text: &[u8]) {
        self.bytes += text.len() as u64;
        let at = self.at();
        if let Some(texts) = &mut self.texts {
            texts.add(at, text);
        }
        self.feed(text);
    }

    /// Appends one token of a prompt of token ids.
    pub(crate) fn token(&mut self, id: u64) {
        self.tokens = self.tokens.saturating_add(1);
        if let Some(texts) = &mut self.texts {
            texts.ids = self.tokens;
        }
        self.feed(&(id as u32).to_le_bytes());
    }

    /// Begins a message.
    pub(crate) fn role(&mut self, role: &[u8]) {
        self.feed(&[ROLE]);
        self.feed(role);
        self.feed(&[TEXT]);
        self.messages = self.messages.saturating_add(1);
        let begins = self.at();
        if let Some(texts) = &mut self.texts {
            (texts.closed, texts.begins) = (true, begins);
        }
        // Templates put about this many bytes around a message: <|im_start|>role\n ... <|im_end|>\n
        self.bytes += 16;
    }

    /// Adds a field that templates put before the text, wherever it is in the body (model, tools, instructions). Another
    /// value changes every block. `weigh` counts its bytes as prompt.
    pub(crate) fn before(&mut self, tag: u64, value: &[u8], weigh: bool) {
        self.salt ^= xxh3_64_with_seed(value, tag);
        if weigh {
            self.bytes += value.len() as u64;
            if let Some(texts) = &mut self.texts {
                texts.before.push(value.to_vec());
            }
        }
    }

    fn feed(&mut self, mut data: &[u8]) {
        if self.filled > 0 {
            let take = data.len().min(BLOCK - self.filled);
            self.partial[self.filled..self.filled + take].copy_from_slice(&data[..take]);
            self.filled += take;
            data = &data[take..];
            if self.filled < BLOCK {
                return;
            }
            self.chain = link(self.chain, xxh3_64_with_seed(&self.partial, self.seed));
            self.symbols.push(self.chain);
            self.filled = 0;
        }
        let (blocks, rest) = data.as_chunks::<BLOCK>();
        let (seed, mut chain) = (self.seed, self.chain);
        self.symbols.extend(blocks.iter().map(|block| {
            chain = link(chain, xxh3_64_with_seed(block, seed));
            chain
        }));
        self.chain = chain;
        self.partial[..rest.len()].copy_from_slice(rest);
        self.filled = rest.len();
    }

    /// Finishes the prompt.
    pub(crate) fn finish(mut self) -> Prompt {
        let whole = self.symbols.len();
        let mut symbols = std::mem::take(&mut self.symbols);
        if self.filled > 0 {
            symbols.push(link(self.chain, xxh3_64_with_seed(&self.partial[..self.filled], self.seed)));
        }
        let salt = self.salt;
        let symbols: Arc<[u64]> = symbols.into_iter().map(|symbol| symbol ^ salt).collect();
        let head = symbols.get(1024 / BLOCK - 1).or(symbols.last()).copied().unwrap_or(0);
        Prompt { symbols, whole, head, bytes: self.bytes, tokens: self.tokens, messages: self.messages, state: self }
    }
}

/// The symbol after `chain` for a block with this hash. Blocks are hashed each by itself, so that a processor hashes
/// several at a time; only this product waits for the one before. The product is wyhash's: both halves of 128 bits.
fn link(chain: u64, hash: u64) -> u64 {
    let wide = u128::from(chain ^ 0xa076_1d64_78bd_642f) * u128::from(hash ^ 0xe703_7ed1_a0b4_28db);
    (wide as u64) ^ ((wide >> 64) as u64)
}

/// The text of a prompt from some byte of the hashed stream on, message by message.
#[derive(Debug, Clone, Default)]
pub(crate) struct Texts {
    from: u64,
    /// Whether a new message has begun since the last text.
    closed: bool,
    /// Where the current message's text begins in the hashed stream.
    begins: u64,
    /// The messages' texts, empty ones left out.
    pub(crate) parts: Vec<Part>,
    /// What stands before the text.
    pub(crate) before: Vec<Vec<u8>>,
    /// Tokens given as ids.
    pub(crate) ids: u32,
}

/// The text of one message, or what is left of it.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    /// Where it begins in the hashed stream.
    pub(crate) at: u64,
    /// Whether text of the same message comes before this.
    pub(crate) continues: bool,
    /// The text.
    pub(crate) text: Vec<u8>,
}

impl Texts {
    fn add(&mut self, at: u64, text: &[u8]) {
        let skip = self.from.saturating_sub(at).min(text.len() as u64) as usize;
        let rest = &text[skip..];
        if rest.is_empty() {
            return;
        }
        if std::mem::take(&mut self.closed) || self.parts.is_empty() {
            let at = at + skip as u64;
            self.parts.push(Part { at, continues: at > self.begins, text: Vec::new() });
        }
        if let Some(part) = self.parts.last_mut() {
            part.text.extend_from_slice(rest);
        }
    }
}

/// A finished prompt, and what is needed to append the answer to it.
#[derive(Debug, Clone)]
pub(crate) struct Prompt {
    /// All blocks, the last of which may be partial.
    pub symbols: Arc<[u64]>,
    /// Whole blocks among them.
    pub whole: usize,
    /// Hash of the first 1024 bytes (about 256 tokens); 0 for no prompt.
    pub head: u64,
    /// Text bytes, an allowance for the template included.
    pub bytes: u64,
    /// Tokens given as ids.
    pub tokens: u32,
    /// Messages; 0 for a prompt that is no chat.
    pub messages: u32,
    state: Blocks,
}

impl Prompt {
    /// Expected prompt tokens at `ratio` bytes a token.
    pub(crate) fn tokens(&self, ratio: f64) -> u32 {
        let text = (self.bytes as f64 / ratio).ceil().min(f64::from(u32::MAX)) as u32;
        self.tokens.saturating_add(text)
    }

    /// The blocks that the engine caches once it has generated `answer`. `chat` puts the answer into an assistant's
    /// message, as the next turn will.
    pub(crate) fn answer(&self, answer: &str, chat: bool, prompt_tokens: u32, output_tokens: u32) -> AnswerBlocks {
        let mut more = self.state.clone();
        if chat {
            more.role(b"assistant");
        }
        more.feed(answer.as_bytes());
        let salt = more.salt;
        let tail: Arc<[u64]> = more.symbols.iter().map(|s| s ^ salt).collect();
        let covered = (self.whole + tail.len()) * BLOCK;
        let all = self.whole * BLOCK + self.state.filled + answer.len();
        let tokens = u64::from(prompt_tokens) + u64::from(output_tokens);
        let share = (covered as f64 / all.max(1) as f64).min(1.0);
        AnswerBlocks { keep: self.whole, tail, tokens: (tokens as f64 * share) as u32 }
    }
}

/// Blocks that prompt and answer have together; fields as of [`gorgo_core::router::Answer`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AnswerBlocks {
    /// Whole blocks of the prompt.
    pub keep: usize,
    /// Whole blocks after them.
    pub tail: Arc<[u64]>,
    /// Tokens of all of them.
    pub tokens: u32,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn prompt(pieces: &[&[u8]]) -> Prompt {
        let mut blocks = Blocks::new(7);
        pieces.iter().for_each(|piece| blocks.text(piece));
        blocks.finish()
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter(text in proptest::collection::vec(any::<u8>(), 0..400), cut in 0usize..400) {
            let cut = cut.min(text.len());
            let (whole, cut) = (prompt(&[&text]), prompt(&[&text[..cut], &text[cut..]]));
            prop_assert_eq!(&whole.symbols, &cut.symbols);
            prop_assert_eq!(whole.symbols.len(), text.len().div_ceil(BLOCK));
        }

        #[test]
        fn common_text_gives_common_blocks(common in 0usize..500, a in 1usize..200, b in 1usize..200) {
            let (mut x, mut y) = (vec![7u8; common], vec![7u8; common]);
            x.extend(vec![1u8; a]);
            y.extend(vec![2u8; b]);
            let (x, y) = (prompt(&[&x]), prompt(&[&y]));
            let same = x.symbols.iter().zip(y.symbols.iter()).take_while(|(x, y)| x == y).count();
            prop_assert_eq!(same, common / BLOCK);
        }
    }

    #[test]
    fn the_next_turn_begins_with_prompt_and_answer() {
        let turn = |answered: bool| {
            let mut blocks = Blocks::new(1);
            blocks.before(3, b"tools", true);
            blocks.role(b"user");
            blocks.text(&[b'q'; 300]);
            if answered {
                blocks.role(b"assistant");
                blocks.text(&[b'a'; 200]);
                blocks.role(b"user");
                blocks.text(b"more");
            }
            blocks.finish()
        };
        let (first, second) = (turn(false), turn(true));
        let answer = first.answer(&"a".repeat(200), true, 80, 50);
        let learned: Vec<u64> = first.symbols[..answer.keep].iter().chain(answer.tail.iter()).copied().collect();
        assert_eq!(learned, second.symbols[..learned.len()]);
        assert_eq!(learned.len(), (6 + 300 + 11 + 200) / BLOCK);
        assert!(answer.tokens <= 130 && answer.tokens > 110, "{}", answer.tokens);
    }

    #[test]
    fn what_stands_before_the_text_changes_every_block_wherever_it_came() {
        let with = |tools: &[u8], first: bool| {
            let mut blocks = Blocks::new(1);
            if first {
                blocks.before(3, tools, true);
            }
            blocks.text(&[b'x'; 200]);
            if !first {
                blocks.before(3, tools, true);
            }
            blocks.finish().symbols
        };
        assert_eq!(with(b"t", true), with(b"t", false));
        assert!(with(b"t", true).iter().zip(with(b"u", true).iter()).all(|(a, b)| a != b));
    }
}
