//! Text for traces that contain only block ids: equal blocks give equal bytes.
//!
//! A token is [`TOKEN_BYTES`] bytes: a space and a three-letter word that common vocabularies contain whole, so a real
//! tokenizer counts about as many tokens as the trace. A block id always gives the same words, and ids of a trace are
//! chained (equal ids mean equal whole prefixes), so two prompts share exactly the bytes of their common blocks.
//!
//! The emulated model's answer is a function of its prompt ([`Answer`]), so the load generator can compute it in
//! advance and put it into the next turn's prompt ([`Texts`]).

use gorgo_core::request::TraceRequest;
use std::collections::BTreeMap;
use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Bytes per generated token.
pub const TOKEN_BYTES: usize = 4;

/// Tokens per block of the emulated engine.
pub const BLOCK_TOKENS: u32 = 16;

const WORDS: &[u8; 192] = b"theandforarebutnotyouallcanherwasoneourouthasdayhimhishowmannewnowoldseetwowaywhoboyditgetletputsayshetoousewarfarfewgotofftopredrunhotcutsixtentrylowbigaskeyemenboxcarendfunjoblawmaypayagoair";

/// The token that `hash` selects.
fn token(hash: u64) -> [u8; TOKEN_BYTES] {
    let at = (hash & 63) as usize * 3;
    [b' ', WORDS[at], WORDS[at + 1], WORDS[at + 2]]
}

/// Appends `count` pseudo-random tokens of the sequence `seed`, starting with number `from`.
fn append_tokens(seed: u64, from: u32, count: u32, out: &mut Vec<u8>) {
    out.reserve(count as usize * TOKEN_BYTES);
    for i in from..from + count {
        out.extend_from_slice(&token(xxh3_64_with_seed(&i.to_le_bytes(), seed)));
    }
}

fn utf8(bytes: Vec<u8>) -> String {
    // All bytes are ASCII.
    String::from_utf8(bytes).unwrap_or_default()
}

/// The emulated model's answer to one prompt, of unlimited length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    seed: u64,
}

impl Answer {
    /// The answer to `prompt`, a rendered prompt. Equal prompts have equal answers, as at temperature 0.
    pub fn to(prompt: &[u8]) -> Self {
        Self { seed: xxh3_64_with_seed(prompt, 0x616e_7377_6572) }
    }

    /// Tokens `from..to` as text.
    pub fn text(self, from: u32, to: u32) -> String {
        let mut out = Vec::new();
        append_tokens(self.seed, from, to.saturating_sub(from), &mut out);
        utf8(out)
    }

    /// Length of the answer without a requested length: log-normal with median 180 tokens, at least 1.
    pub fn natural_tokens(self) -> u32 {
        // The centred sum of four uniform draws is close enough to normal and needs no logarithm of zero.
        let draw = |i: u64| (xxh3_64_with_seed(&i.to_le_bytes(), !self.seed) >> 11) as f64 / (1u64 << 53) as f64;
        let z = (0..4).map(draw).sum::<f64>() - 2.0;
        (180.0 * (z * 3f64.sqrt() * 0.8).exp()).round().clamp(1.0, 4096.0) as u32
    }
}

/// Generates the prompts of a trace. Requests must be passed in the order of the trace, because the text of an answer
/// must be known before the turn that repeats it.
#[derive(Debug, Default)]
pub struct Texts {
    /// Changes every token, so that a warm cache contains no prefix of this run.
    salt: u64,
    /// Bytes of the blocks that repeat an answer. The bytes of other blocks follow from their id.
    answered: BTreeMap<u64, Arc<[u8]>>,
}

impl Texts {
    /// Creates a generator. Prompts with different `salt`s share no prefix.
    pub fn new(salt: u64) -> Self {
        Self { salt, answered: BTreeMap::new() }
    }

    /// The prompt of a request: exactly `input_tokens * 4` bytes.
    pub fn prompt(&mut self, request: &TraceRequest) -> String {
        let mut out = Vec::with_capacity(request.input_tokens as usize * TOKEN_BYTES);
        for (i, &id) in request.blocks.iter().enumerate() {
            let tokens = (request.input_tokens - i as u32 * request.block_tokens).min(request.block_tokens);
            match self.answered.get(&id) {
                Some(bytes) => out.extend_from_slice(bytes),
                None => append_tokens(xxh3_64_with_seed(&id.to_le_bytes(), self.salt), 0, tokens, &mut out),
            }
        }
        self.learn_answer(request, &out);
        utf8(out)
    }

    /// Stores the bytes of the blocks that repeat the answer, unless these blocks already have other bytes.
    fn learn_answer(&mut self, request: &TraceRequest, prompt: &[u8]) {
        if request.answer_blocks.is_empty() {
            return;
        }
        let block = request.block_tokens as usize * TOKEN_BYTES;
        let start = (request.input_tokens / request.block_tokens) as usize * block;
        let mut tail = prompt[start..].to_vec();
        append_tokens(Answer::to(prompt).seed, 0, request.output_tokens, &mut tail);
        for (&id, bytes) in request.answer_blocks.iter().zip(tail.chunks_exact(block)) {
            self.answered.entry(id).or_insert_with(|| bytes.into());
        }
    }
}

/// A prompt as the engine model sees it: a token count and chained ids of 16-token blocks. Equal leading bytes give
/// equal leading ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blocks {
    /// Number of tokens: bytes over `bytes_per_token`, rounded up, at least 1.
    pub tokens: u32,
    /// One id per block; the last block may be partial.
    pub ids: Vec<u64>,
}

/// Divides `bytes` into blocks of 16 tokens. Ids are 64-bit hashes without a key: a client can construct collisions,
/// which only affects this emulated server.
pub fn blocks(bytes: &[u8], bytes_per_token: u32) -> Blocks {
    let per = bytes_per_token.max(1) as usize;
    let mut ids = Vec::with_capacity(bytes.len() / (per * BLOCK_TOKENS as usize) + 1);
    for block in bytes.chunks(per * BLOCK_TOKENS as usize) {
        ids.push(chained(block, ids.last().copied().unwrap_or(0)));
    }
    if ids.is_empty() {
        ids.push(0);
    }
    Blocks { tokens: u32::try_from(bytes.len().div_ceil(per)).unwrap_or(u32::MAX).max(1), ids }
}

/// The id of a block that follows the block with id `before` (0 for the first).
pub fn chained(block: &[u8], before: u64) -> u64 {
    xxh3_64_with_seed(block, before)
}

#[cfg(test)]
mod tests {
    use super::*;
    use gorgo_core::Time;
    use proptest::prelude::*;

    fn request(input: u32, output: u32, block: u32, ids: Vec<u64>, answer: Vec<u64>) -> TraceRequest {
        TraceRequest {
            at: Time::ZERO,
            session: 0,
            user: 0,
            turn: 1,
            place: None,
            country: None,
            input_tokens: input,
            output_tokens: output,
            max_tokens: None,
            block_tokens: block,
            blocks: ids.into(),
            router_tokens: None,
            refused: false,
            answer_blocks: answer.into(),
            delay: None,
            awaited: false,
        }
    }

    /// Ids as a trace has them: each depends on all before it.
    fn chain(path: &[u8]) -> Vec<u64> {
        path.iter()
            .scan(7u64, |id, &step| {
                *id = xxh3_64_with_seed(&[step], *id);
                Some(*id)
            })
            .collect()
    }

    fn common<T: PartialEq>(a: &[T], b: &[T]) -> usize {
        a.iter().zip(b).take_while(|(x, y)| x == y).count()
    }

    proptest! {
        #[test]
        fn prompts_share_exactly_the_bytes_of_their_common_blocks(
            a in prop::collection::vec(0u8..2, 1..12), b in prop::collection::vec(0u8..2, 1..12), double in any::<bool>(), salt in any::<u64>()
        ) {
            let block = if double { 32 } else { 16 };
            let (a, b) = (chain(&a), chain(&b));
            let mut texts = Texts::new(salt);
            let text = |texts: &mut Texts, ids: &[u64]| texts.prompt(&request(ids.len() as u32 * block, 1, block, ids.to_vec(), vec![]));
            let (ta, tb) = (text(&mut texts, &a), text(&mut texts, &b));
            prop_assert_eq!(ta.len(), a.len() * block as usize * TOKEN_BYTES);
            let (ea, eb) = (blocks(ta.as_bytes(), 4), blocks(tb.as_bytes(), 4));
            prop_assert_eq!(common(&ea.ids, &eb.ids), common(&a, &b) * (block / BLOCK_TOKENS) as usize);
        }

        #[test]
        fn the_next_turn_begins_with_prompt_and_answer_to_the_last_whole_block(input in 1u32..200, output in 1u32..200, more in 0u32..100) {
            let (whole, all) = (input / 16, (input + output) / 16);
            let path = |n: u32, end: u8| chain(&(0..n).map(|_| 1).chain((end > 0).then_some(end)).collect::<Vec<_>>());
            let first_ids = if input % 16 == 0 { path(whole, 0) } else { path(whole, 9) };
            let answer = path(all, 0)[whole as usize..].to_vec();
            let first = request(input, output, 16, first_ids, answer);
            let long = all * 16 + more.max(1);
            let second = request(long, 1, 16, path(long.div_ceil(16), 0), vec![]);
            let mut texts = Texts::new(3);
            let (one, two) = (texts.prompt(&first), texts.prompt(&second));
            let said = one.clone() + &Answer::to(one.as_bytes()).text(0, output);
            let shared = all as usize * 16 * TOKEN_BYTES;
            prop_assert_eq!(&said.as_bytes()[..shared], &two.as_bytes()[..shared]);
        }
    }

    #[test]
    fn a_salt_changes_every_prompt_and_a_partial_block_is_cut() {
        let row = request(21, 1, 16, chain(&[1, 2]), vec![]);
        let text = Texts::new(0).prompt(&row);
        assert_eq!(text.len(), 84);
        assert_ne!(text[..64], Texts::new(1).prompt(&row)[..64]);
        assert_eq!(&text[..4].trim().len(), &3);
    }

    #[test]
    fn answers_are_repeatable_and_of_sensible_length() {
        let answer = Answer::to(b"why?");
        assert_eq!(answer.text(0, 10), answer.text(0, 4) + &answer.text(4, 10));
        assert_ne!(answer.text(0, 10), Answer::to(b"why!").text(0, 10));
        let mut lengths: Vec<u32> = (0..2000u32).map(|i| Answer::to(&i.to_le_bytes()).natural_tokens()).collect();
        lengths.sort_unstable();
        assert!((150..210).contains(&lengths[1000]) && lengths[1900] > 400, "{} {}", lengths[1000], lengths[1900]);
    }

    #[test]
    fn the_empty_prompt_is_one_token() {
        assert_eq!(blocks(b"", 4), Blocks { tokens: 1, ids: vec![0] });
        assert_eq!(blocks(&[b'a'; 65], 4).tokens, 17);
        assert_eq!(blocks(&[b'a'; 65], 4).ids.len(), 2);
    }
}
