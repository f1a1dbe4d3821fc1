//! Input and output of an engine: requests, events and errors.

use gorgo_core::radix::{NodeId, ROOT};
use gorgo_core::request::TraceRequest;
use gorgo_core::{RequestId, Time};
use std::sync::Arc;

/// A request as it reaches the engine.
#[derive(Debug, Clone, PartialEq)]
pub struct EngineRequest {
    /// Unique among the engine's requests in flight.
    pub id: RequestId,
    /// Prompt tokens, at least 1.
    pub input_tokens: u32,
    /// Tokens that the model will generate, at least 1; limited by `max_new_tokens` and by the longest sequence.
    pub output_tokens: u32,
    /// The client's `max_tokens`, which admission reserves for; `None` reserves as if unlimited.
    pub max_new_tokens: Option<u32>,
    /// Tokens per block; equal for all requests of one engine.
    pub block_tokens: u32,
    /// Chained ids of the prompt's blocks, `ceil(input_tokens / block_tokens)` of them.
    pub blocks: Arc<[u64]>,
    /// Ids of the whole blocks that prompt and answer add after the prompt's whole blocks; may be empty.
    pub answer_blocks: Arc<[u64]>,
    /// The engine answers 400 before any work, as it does when its chat template rejects the messages.
    pub refused: bool,
}

impl EngineRequest {
    /// Converts a row of a workload.
    pub fn from_trace(id: RequestId, row: &TraceRequest) -> Self {
        Self {
            id,
            input_tokens: row.input_tokens,
            output_tokens: row.output_tokens,
            max_new_tokens: row.max_tokens,
            block_tokens: row.block_tokens,
            blocks: Arc::clone(&row.blocks),
            answer_blocks: Arc::clone(&row.answer_blocks),
            refused: row.refused,
        }
    }
}

/// An event of a request. `at` is when it leaves the server: for tokens the configured output delay after the end of
/// their step, so it may be later than the `now` of the call.
#[derive(Debug, Clone, PartialEq)]
pub enum EngineEvent {
    /// The first step that computes the prompt started on the GPU.
    PrefillStarted {
        /// Which request.
        id: RequestId,
        /// Start of the step.
        at: Time,
        /// Prompt tokens found in the cache when the step was chosen.
        cached_tokens: u32,
    },
    /// The first token left the server.
    FirstToken {
        /// Which request.
        id: RequestId,
        /// When.
        at: Time,
        /// As in [`Self::PrefillStarted`].
        cached_tokens: u32,
    },
    /// A later token left the server; only with `stream_tokens`.
    Token {
        /// Which request.
        id: RequestId,
        /// When.
        at: Time,
        /// Tokens generated so far.
        generated: u32,
    },
    /// The last token left the server.
    Finished {
        /// Which request.
        id: RequestId,
        /// When.
        at: Time,
        /// Tokens generated.
        output_tokens: u32,
        /// As in [`Self::PrefillStarted`].
        cached_tokens: u32,
        /// How often the request was retracted.
        retractions: u32,
    },
    /// The request ended without an answer.
    Aborted {
        /// Which request.
        id: RequestId,
        /// When.
        at: Time,
        /// Why.
        error: EngineError,
    },
}

impl EngineEvent {
    /// The request of the event.
    pub fn id(&self) -> RequestId {
        match *self {
            Self::PrefillStarted { id, .. }
            | Self::FirstToken { id, .. }
            | Self::Token { id, .. }
            | Self::Finished { id, .. }
            | Self::Aborted { id, .. } => id,
        }
    }

    /// When the event leaves the server.
    pub fn at(&self) -> Time {
        match *self {
            Self::PrefillStarted { at, .. }
            | Self::FirstToken { at, .. }
            | Self::Token { at, .. }
            | Self::Finished { at, .. }
            | Self::Aborted { at, .. } => at,
        }
    }
}

/// Why an engine refused or dropped a request. The first four texts are SGLang's own, because clients match on them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// The prompt is longer than the context window.
    #[error("The input ({input} tokens) is longer than the model's context length ({limit} tokens).")]
    InputTooLong {
        /// Prompt tokens.
        input: u32,
        /// Context length.
        limit: u32,
    },
    /// The prompt does not fit the KV pool.
    #[error("Input length ({input} tokens) exceeds the maximum allowed length ({limit} tokens).")]
    ExceedsPool {
        /// Prompt tokens.
        input: u32,
        /// Longest prompt that fits the pool.
        limit: u32,
    },
    /// Prompt and `max_tokens` together exceed the context window.
    #[error(
        "Requested token count exceeds the model's maximum context length of {limit} tokens ({requested} requested)."
    )]
    TooManyRequested {
        /// Prompt tokens and `max_tokens`.
        requested: u64,
        /// Context length.
        limit: u32,
    },
    /// The trace says that engines refuse the request.
    #[error("The request was refused, as the trace says.")]
    Refused,
    /// `max_queued_requests` are waiting.
    #[error("The request queue is full.")]
    QueueFull,
    /// The request is inconsistent; the text names the field to change.
    #[error("{0}")]
    BadRequest(String),
    /// The client disconnected.
    #[error("the client cancelled the request")]
    Cancelled,
    /// The engine crashed; streams end without a final event.
    #[error("the engine crashed")]
    Crashed,
    /// The engine is down and refuses connections.
    #[error("the engine is down: restart it first")]
    Down,
}

impl EngineError {
    /// HTTP status of a non-streamed answer; `None` when there is no answer, only a closed connection.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::InputTooLong { .. }
            | Self::ExceedsPool { .. }
            | Self::TooManyRequested { .. }
            | Self::Refused
            | Self::BadRequest(_) => Some(400),
            Self::QueueFull => Some(503),
            Self::Cancelled | Self::Crashed | Self::Down => None,
        }
    }
}

/// State of a request inside the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// At the tokenizer, or not yet received by the scheduler.
    Inbox,
    /// In the waiting queue.
    Waiting,
    /// In a prefill batch (or between two chunks) and not yet in the running batch.
    Prefill,
    /// At this position of the running batch.
    Running(u32),
}

/// A request in flight.
#[derive(Debug, Clone)]
pub(super) struct Req {
    pub(super) id: RequestId,
    /// Number of the submission; never reused, so (slot, seq) identifies a request.
    pub(super) seq: u64,
    pub(super) blocks: Arc<[u64]>,
    pub(super) answer_blocks: Arc<[u64]>,
    pub(super) input: u32,
    /// Generation ends at this many tokens.
    pub(super) stop_at: u32,
    /// Most tokens it may generate; admission reserves for them.
    pub(super) max_new: u32,
    pub(super) place: Place,
    /// Tokens generated, up to the last processed *prefill*; decode steps since `join` come on top.
    pub(super) generated: u32,
    /// Whether the result of its latest prefill was processed.
    pub(super) prefilled: bool,
    /// First decode step it took part in since its latest prefill.
    pub(super) join: u64,
    /// Decode steps processed when it finishes; identifies its entry among the finish times.
    pub(super) finish_at: u64,
    /// Tokens whose KV the latest prefill computes: the prompt and what was generated before a retraction.
    pub(super) fill: u32,
    /// Tokens of those with KV, cached or computed.
    pub(super) computed: u32,
    /// Tokens of its KV that the tree holds.
    pub(super) shared: u32,
    /// End of its locked path, and that path's length in blocks.
    pub(super) node: NodeId,
    pub(super) symbols: usize,
    /// Prompt tokens cached at first scheduling; not updated after a retraction.
    pub(super) cached: Option<u32>,
    pub(super) started: bool,
    /// When its latest token was generated, if that was not in the last decode step.
    pub(super) last_token: Option<Time>,
    /// Blocks that hold its KV (vLLM).
    pub(super) held: Vec<u32>,
    /// Tokens that steps in progress generate for it (vLLM).
    pub(super) in_flight: u32,
    pub(super) retractions: u32,
    pub(super) cancelled: bool,
}

impl Req {
    pub(super) fn new(request: EngineRequest, seq: u64, max_new: u32) -> Self {
        Self {
            id: request.id,
            seq,
            blocks: request.blocks,
            answer_blocks: request.answer_blocks,
            input: request.input_tokens,
            stop_at: request.output_tokens.min(max_new),
            max_new,
            place: Place::Inbox,
            generated: 0,
            prefilled: false,
            join: 0,
            finish_at: 0,
            fill: 0,
            computed: 0,
            shared: 0,
            node: ROOT,
            symbols: 0,
            cached: None,
            started: false,
            last_token: None,
            held: Vec::new(),
            in_flight: 0,
            retractions: 0,
            cancelled: false,
        }
    }

    /// Tokens generated after `done` processed decode steps.
    pub(super) fn generated_after(&self, done: u64) -> u32 {
        match self.place {
            Place::Running(_) if self.prefilled => self.generated + (done - self.join) as u32,
            _ => self.generated,
        }
    }
}
