//! Synthetic requests of given lengths, described as in GuideLLM: `prompt_tokens=512,output_tokens=128`, optionally
//! with `prefix_tokens=`, a prefix shared by all, and `requests=`.

use crate::input_error::InputError;
use gorgo_core::Time;
use gorgo_core::request::TraceRequest;
use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_64_with_seed;

const BLOCK: u32 = 16;
const MOST_TOKENS: u64 = 1 << 20;

/// Whether `text` is a description, not a file name.
pub fn is_description(text: &str) -> bool {
    text.starts_with("prompt_tokens=") || text.starts_with("prefix_tokens=") || text.starts_with("output_tokens=")
}

/// Generates the described requests. Their times are zero; the profile determines when they are sent.
///
/// # Errors
/// One sentence that names the invalid part.
pub fn rows(text: &str) -> Result<Vec<TraceRequest>, InputError> {
    let (mut prompt, mut output, mut prefix, mut requests) = (512, 128, 0, 1000);
    for part in text.split(',') {
        let bad =
            || format!("`{part}` in `{text}`: write prompt_tokens=, output_tokens=, prefix_tokens= or requests=N");
        let (key, value) = part.split_once('=').ok_or_else(bad)?;
        let n = value.trim().parse::<u64>().ok().filter(|&n| n <= MOST_TOKENS).ok_or_else(bad)?;
        match key.trim() {
            "prompt_tokens" => prompt = n,
            "output_tokens" => output = n,
            "prefix_tokens" => prefix = n,
            "requests" => requests = n,
            _ => return Err(bad().into()),
        }
    }
    if prompt == 0 || output == 0 || requests == 0 {
        return Err(format!("`{text}`: prompt_tokens, output_tokens and requests must be at least 1").into());
    }
    let (shared, input) = (prefix / u64::from(BLOCK), (prefix + prompt) as u32);
    let row = |n: u64| {
        let id = |i: u64| {
            let of = if i < shared { 0 } else { n + 1 };
            xxh3_64_with_seed(&i.to_le_bytes(), of)
        };
        let blocks: Arc<[u64]> = (0..u64::from(input.div_ceil(BLOCK))).map(id).collect();
        TraceRequest {
            at: Time::ZERO,
            session: n,
            user: n,
            turn: 1,
            place: None,
            country: None,
            input_tokens: input,
            output_tokens: output as u32,
            max_tokens: Some(output as u32),
            block_tokens: BLOCK,
            blocks,
            router_tokens: None,
            refused: false,
            answer_blocks: [].into(),
            delay: None,
            awaited: false,
        }
    };
    Ok((0..requests).map(row).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_and_prefixes_are_as_described() {
        let rows = rows("prompt_tokens=100,output_tokens=5,prefix_tokens=64,requests=3").unwrap();
        assert_eq!((rows.len(), rows[0].input_tokens, rows[0].output_tokens, rows[0].blocks.len()), (3, 164, 5, 11));
        assert_eq!(rows[0].blocks[..4], rows[1].blocks[..4]);
        assert_ne!(rows[0].blocks[4], rows[1].blocks[4]);
    }

    #[test]
    fn bad_descriptions_are_named() {
        assert!(
            rows("prompt_tokens=x")
                .unwrap_err()
                .to_string()
                .starts_with("`prompt_tokens=x` in `prompt_tokens=x`: write")
        );
        assert!(rows("prompt_tokens=0").unwrap_err().to_string().contains("at least 1"));
        assert!(is_description("prompt_tokens=5") && !is_description("trace.jsonl"));
    }
}
