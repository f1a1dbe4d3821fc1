//! The record of one request, the same from simulator, live router and load generator.

use crate::request::TraceRequest;
use crate::time::{Span, Time};
use serde::{Deserialize, Serialize};

/// How full a replica was at an instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueSample {
    /// When.
    pub at: Time,
    /// Which replica.
    pub replica: u16,
    /// Requests in the engine's queue or on their way into it.
    pub waiting: u32,
    /// Requests running, in prefill or decode.
    pub running: u32,
    /// Requests in the queue of the router beside it (edge) or of the proxy.
    pub queued_at_router: u32,
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// All tokens reached the user.
    Finished,
    /// Refused by the router: its queue was full or no replica could ever take it.
    Rejected,
    /// Waited longer than the queue timeout or the request's deadline.
    TimedOut,
    /// Lost to a replica or the network, and no retry was left or allowed.
    Failed,
    /// The client left.
    Cancelled,
}

impl Status {
    /// The name in CSV and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Finished => "finished",
            Self::Rejected => "rejected",
            Self::TimedOut => "timed-out",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// One request, from the user's click to the last token. Instants are ns since the start of the run;
/// [`Time::NEVER`] marks one that was not reached.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RequestRecord {
    /// Position of the request in the workload.
    pub request: u64,
    /// Conversation.
    pub session: u64,
    /// 1-based turn.
    pub turn: u32,
    /// Index of the user's country or region in the run's name table.
    pub origin: u16,
    /// Index of the router that first received it.
    pub router: u16,
    /// Index of the replica that answered (or tried last), `u16::MAX` when none was ever tried.
    pub replica: u16,
    /// How it ended.
    pub status: Status,
    /// Dispatches made, retries included.
    pub attempts: u8,
    /// Times it was forwarded between routers.
    pub hops: u8,
    /// Prompt length.
    pub prompt_tokens: u32,
    /// Tokens generated.
    pub output_tokens: u32,
    /// Prompt tokens the router believed to be cached on the chosen replica.
    pub predicted_cached_tokens: u32,
    /// Prompt tokens the engine found in its cache.
    pub cached_tokens: u32,
    /// Time to first token the policy expected, ms from dispatch; NaN when it has no such estimate.
    pub predicted_ttft_ms: f32,
    /// When the schedule wanted it sent.
    pub scheduled: Time,
    /// When the user's client sent it (later than `scheduled` only for a bounded client).
    pub sent: Time,
    /// Arrival at the first router.
    pub arrived: Time,
    /// Dispatch to the replica that answered, by the router that chose it.
    pub dispatched: Time,
    /// Arrival at that engine.
    pub accepted: Time,
    /// Start of the first step that computes its prompt.
    pub prefill: Time,
    /// First token leaves the engine.
    pub engine_first: Time,
    /// First token passes the first router.
    pub router_first: Time,
    /// First token reaches the user.
    pub first_token: Time,
    /// Last token leaves the engine.
    pub engine_done: Time,
    /// Last token reaches the user, or the failure does.
    pub done: Time,
}

impl RequestRecord {
    /// The record of a request that was not sent yet.
    pub fn scheduled(request: u64, row: &TraceRequest, at: Time) -> Self {
        Self {
            request,
            session: row.session,
            turn: row.turn,
            origin: u16::MAX,
            router: u16::MAX,
            replica: u16::MAX,
            status: Status::Failed,
            attempts: 0,
            hops: 0,
            prompt_tokens: row.input_tokens,
            output_tokens: 0,
            predicted_cached_tokens: 0,
            cached_tokens: 0,
            predicted_ttft_ms: f32::NAN,
            scheduled: at,
            sent: at,
            arrived: Time::NEVER,
            dispatched: Time::NEVER,
            accepted: Time::NEVER,
            prefill: Time::NEVER,
            engine_first: Time::NEVER,
            router_first: Time::NEVER,
            first_token: Time::NEVER,
            engine_done: Time::NEVER,
            done: Time::NEVER,
        }
    }

    /// Time to first token at the user, from sending; `None` if there was none.
    pub fn ttft(&self) -> Option<Span> {
        (self.first_token != Time::NEVER).then(|| self.first_token - self.sent)
    }

    /// Time to first token at the router, from arrival there.
    pub fn router_ttft(&self) -> Option<Span> {
        (self.router_first != Time::NEVER).then(|| self.router_first - self.arrived)
    }

    /// End-to-end latency at the user of a finished request.
    pub fn e2e(&self) -> Option<Span> {
        (self.status == Status::Finished).then(|| self.done - self.sent)
    }

    /// Time per output token after the first, ms; `None` for answers of one token.
    pub fn tpot_ms(&self) -> Option<f64> {
        let rest = self.output_tokens.checked_sub(1).filter(|&n| n > 0)?;
        (self.status == Status::Finished).then(|| (self.done - self.first_token).ms() / f64::from(rest))
    }
}
