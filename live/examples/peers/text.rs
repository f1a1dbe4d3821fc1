//! Prompts: plain text, so that every router reads and re-encodes it alike.

use rand::RngExt;
use rand::rngs::ChaCha8Rng;

const WORDS: [&str; 16] = [
    "route ", "prefill ", "the ", "cache ", "of ", "a ", "token ", "queue ", "region ", "and ", "replica ", "latency ",
    "to ", "batch ", "first ", "network ",
];

/// Exactly `chars` characters of words that `rng` draws.
pub(crate) fn words(rng: &mut ChaCha8Rng, chars: usize) -> String {
    let mut out = String::with_capacity(chars + 16);
    while out.len() < chars {
        let mut draw: u64 = rng.random();
        for _ in 0..16 {
            out.push_str(WORDS[(draw & 15) as usize]);
            draw >>= 4;
        }
    }
    out.truncate(chars);
    out
}

/// A chat with this one message; `events` > 0 asks for a stream of so many.
pub(crate) fn chat(content: &str, events: usize) -> String {
    let stream = events > 0;
    let tokens = events.max(1);
    format!(
        "{{\"model\":\"m\",\"messages\":[{{\"role\":\"user\",\"content\":\"{content}\"}}],\"max_tokens\":{tokens},\"stream\":{stream}}}"
    )
}
