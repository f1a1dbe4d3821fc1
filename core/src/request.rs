//! A request as the router and the engine model see it: symbols and a token count.

use crate::time::Time;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// A point on Earth in degrees.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Place {
    /// Degrees north.
    pub lat: f64,
    /// Degrees east.
    pub lon: f64,
}

/// One row of a workload: when a request comes, from whom and where, and what it holds. Text never travels here:
/// a prompt is the chain of its block ids, so that equal ids mean equal whole prefixes.
#[derive(Debug, Clone, PartialEq)]
pub struct TraceRequest {
    /// Scheduled instant since the start of the trace.
    pub at: Time,
    /// Conversation.
    pub session: u64,
    /// Person or key behind the conversation.
    pub user: u64,
    /// 1-based turn of the conversation.
    pub turn: u32,
    /// Where the user is; `None` when unknown.
    pub place: Option<Place>,
    /// ISO 3166 two-letter code of the user's country; `None` when unknown.
    pub country: Option<[u8; 2]>,
    /// Prompt length in tokens, at least 1.
    pub input_tokens: u32,
    /// Tokens the engine will generate, at least 1.
    pub output_tokens: u32,
    /// The client's `max_tokens`, which the engine reserves for; `None` reserves as if unlimited.
    pub max_tokens: Option<u32>,
    /// Tokens per block id.
    pub block_tokens: u32,
    /// Chained block ids of the prompt, `ceil(input_tokens / block_tokens)` of them; the last may be partial.
    pub blocks: Arc<[u64]>,
    /// Ids of the whole blocks that prompt and answer together add after the prompt's whole blocks
    /// (`input_tokens / block_tokens` of them); empty when the trace does not tell. Lets a later turn hit the answer.
    pub answer_blocks: Arc<[u64]>,
}
