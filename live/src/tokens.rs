//! How many tokens a prompt has: counted by the model's own tokenizer where one is configured and in time, else
//! estimated by the learned bytes a token.
//!
//! Counting takes about 3 µs a token, a thousand decisions for a long prompt. So it is done on blocking threads, for
//! no longer than `timeouts.tokenize_ms` of a request's time, and only for text that was not counted before: at every
//! half kilobyte the count so far is kept under the chained hash of the prompt's blocks there. A count that comes too
//! late still leaves those for the next turn.
//!
//! Text is cut where a space stands between a visible ASCII character and a letter. Pre-tokenizers begin a new word
//! there, so the pieces' counts add up to the whole's; only text without such a place (base64, some scripts) is cut
//! between any two characters after 1.5 kB. Measured on WildChat conversations counted turn by turn: Qwen3's tokenizer
//! gave 10 tokens too many in 112,579 (at worst 3 in a prompt), Mistral's 39 in 131,054 (14), as it knows no words.

use crate::config::Config;
use crate::wire::prompt_blocks::{BLOCK, Part, Prompt};
use crate::wire::request_fields::{self, Extract};
use bytes::Bytes;
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

pub mod bytes_per_token;
mod template_overhead;
use bytes_per_token::Ratios;
use template_overhead::Overheads;

/// A piece is cut at the first good place from here on, bytes.
const PIECE: usize = 512;
/// A piece without a good place is cut here, bytes.
const LONGEST: usize = 1_536;

/// Counts the tokens of a text by itself, no special ones added; `true` if it goes on after other text.
type Encode = Box<dyn Fn(&str, bool) -> usize + Send + Sync>;

/// The tokens of a prompt as a policy is told them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Tokens {
    /// How many.
    pub(crate) all: u32,
    /// Whether they were counted: by the tokenizer, or by the client who sent ids.
    pub(crate) exact: bool,
    /// What the tokenizer counted in the text, without the template around it.
    pub(crate) text: Option<u32>,
}

/// The tokens of a request's prompt: counted if there is a counter and it is in time, else estimated.
pub(crate) async fn count_tokens(
    counter: Option<&Arc<Counter>>,
    ratios: &Ratios,
    config: &Config,
    seed: u64,
    body: &Bytes,
    found: Option<&Extract>,
) -> Tokens {
    let Some(Extract { prompt, model, .. }) = found else { return Tokens::default() };
    let model = model.as_deref();
    if let Some(counter) = counter.filter(|_| prompt.bytes > 0) {
        let limit = Duration::from_millis(config.timeouts.tokenize_ms);
        let counted = Box::pin(counter.count(body, seed, prompt, limit)); // rare, and large
        if let Some(text) = counted.await {
            let around = counter.overheads.get(model, prompt.messages);
            return Tokens { all: text.saturating_add(around), exact: true, text: Some(text) };
        }
    }
    Tokens { all: prompt.tokens(ratios.get(model)), exact: prompt.bytes == 0, text: None }
}

/// Counts text. See the module page.
pub struct Counter {
    encode: Encode,
    held: Mutex<Held>,
    /// What templates put around the text.
    pub(crate) overheads: Overheads,
    threads: Arc<Semaphore>,
}

impl std::fmt::Debug for Counter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Counter").finish_non_exhaustive()
    }
}

impl Counter {
    /// A counter by the tokenizer of this file that remembers at most `entries` counts.
    ///
    /// # Errors
    /// One sentence when it cannot be read, or this build has no tokenizers.
    pub fn load(path: &Path, entries: usize) -> Result<Self, String> {
        Ok(Self::new(encoder(path)?, entries))
    }

    fn new(encode: Encode, entries: usize) -> Self {
        // One thread stays free for the requests themselves.
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get().saturating_sub(1).clamp(1, 8));
        Self {
            encode,
            held: Mutex::new(Held { most: entries / 2, ..Held::default() }),
            overheads: Overheads::default(),
            threads: Arc::new(Semaphore::new(threads)),
        }
    }

    /// Tokens of the prompt's text; `None` if they are not counted within `limit`.
    async fn count(self: &Arc<Self>, body: &Bytes, seed: u64, prompt: &Prompt, limit: Duration) -> Option<u32> {
        let (me, body, symbols, whole) = (Arc::clone(self), body.clone(), Arc::clone(&prompt.symbols), prompt.whole);
        let work = async {
            let thread = Arc::clone(&self.threads).acquire_owned().await.ok()?;
            let count = tokio::task::spawn_blocking(move || {
                let _thread = thread;
                me.count_now(&body, seed, &symbols[..whole])
            });
            count.await.ok().flatten()
        };
        tokio::time::timeout(limit, work).await.ok().flatten()
    }

    /// Tokens of the prompt's text; `symbols` are its whole blocks.
    pub fn count_now(&self, body: &[u8], seed: u64, symbols: &[u64]) -> Option<u32> {
        let (from, mut tokens) = self.held.lock().longest(symbols);
        let texts = request_fields::texts(body, seed, from).ok()?;
        let mut counted = Vec::new();
        let last = texts.parts.len().saturating_sub(1);
        for (nth, part) in texts.parts.iter().enumerate() {
            self.part(part, nth < last, &mut tokens, &mut counted);
        }
        self.held.lock().hold(symbols, &counted);
        let around: usize = texts.before.iter().map(|text| (self.encode)(&String::from_utf8_lossy(text), false)).sum();
        let ids = u64::from(texts.ids);
        u32::try_from(tokens + ids + around as u64).ok()
    }

    /// Counts one part piece by piece, noting the count so far at each cut.
    fn part(&self, part: &Part, closed: bool, tokens: &mut u64, counted: &mut Vec<(u64, u64)>) {
        let mut start = 0;
        while start < part.text.len() {
            let end = cut(&part.text[start..]).map_or(part.text.len(), |length| start + length);
            let piece = String::from_utf8_lossy(&part.text[start..end]);
            *tokens += (self.encode)(&piece, part.goes_on || start > 0) as u64;
            if end < part.text.len() || closed {
                counted.push((part.at + end as u64, *tokens));
            }
            start = end;
        }
    }
}

/// Length of the first piece of a text; `None` if the rest is one. It depends on nothing beyond two bytes after it, so
/// that the next turn cuts at the same places.
fn cut(text: &[u8]) -> Option<usize> {
    let good = |at: &usize| {
        text[*at] == b' ' && text[*at - 1].is_ascii_graphic() && text.get(*at + 1).is_some_and(u8::is_ascii_alphabetic)
    };
    if let Some(at) = (PIECE..text.len().min(LONGEST)).find(good) {
        return Some(at);
    }
    // Not within a character.
    (text.len() > LONGEST + 2).then(|| (LONGEST - 3..=LONGEST).rfind(|&at| text[at] & 0xc0 != 0x80).unwrap_or(LONGEST))
}

/// Counts so far by the block in which they are known: the byte up to which it goes, and the tokens. Two generations:
/// what was not asked for while the younger filled up goes with the older.
#[derive(Debug, Default)]
struct Held {
    most: usize,
    young: FxHashMap<u64, (u64, u64)>,
    old: FxHashMap<u64, (u64, u64)>,
}

impl Held {
    /// The longest beginning of these blocks that is counted.
    fn longest(&mut self, symbols: &[u64]) -> (u64, u64) {
        for symbol in symbols.iter().rev() {
            if let Some(&count) = self.young.get(symbol) {
                return count;
            }
            if let Some(&count) = self.old.get(symbol) {
                self.put(*symbol, count);
                return count;
            }
        }
        (0, 0)
    }

    fn hold(&mut self, symbols: &[u64], counted: &[(u64, u64)]) {
        for &(end, tokens) in counted {
            // The block by whose end the two bytes after the cut are known, too.
            let block = (end as usize + 2).div_ceil(BLOCK);
            if let Some(&symbol) = symbols.get(block - 1) {
                self.put(symbol, (end, tokens));
            }
        }
    }

    fn put(&mut self, symbol: u64, count: (u64, u64)) {
        if self.young.len() >= self.most {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(symbol, count);
    }
}

#[cfg(not(feature = "tokenizer"))]
fn encoder(_: &Path) -> Result<Encode, String> {
    Err("this build has no tokenizers".to_owned())
}

/// The tokenizer of a file. Some put a space before every text; those get pieces that go on without theirs.
#[cfg(feature = "tokenizer")]
fn encoder(path: &Path) -> Result<Encode, String> {
    let mut tokenizer = tokenizers::Tokenizer::from_file(path).map_err(|why| why.to_string())?;
    tokenizer.with_truncation(None).map_err(|why| why.to_string())?;
    tokenizer.with_padding(None);
    let ids = |text: &str| tokenizer.encode_fast(text, false).map(|e| e.get_ids().to_vec()).unwrap_or_default();
    let (whole, bare, spaced) = (ids("and the"), ids("the"), ids(" the"));
    let puts_space = whole.ends_with(&bare) && !whole.ends_with(&spaced);
    Ok(Box::new(move |text, goes_on| {
        let text = if goes_on && puts_space { text.strip_prefix(' ').unwrap_or(text) } else { text };
        tokenizer.encode_fast(text, false).map_or(0, |encoding| encoding.len())
    }))
}

#[cfg(test)]
mod tests;
