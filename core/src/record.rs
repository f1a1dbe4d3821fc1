//! The record of one request, the same from simulator, live router and load generator.

use crate::optional::{MaybeIndex, MaybeTime};
use crate::request::TraceRequest;
use crate::router::EndReason;
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
    /// KV tokens held by requests; tokens that are merely cached do not count.
    pub kv_tokens: u32,
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

/// One request, from the user's click to the last token. Times are ns since the start of the run; a time that the
/// request did not reach is none.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RequestRecord {
    /// Position of the request in the workload.
    pub request: u64,
    /// Conversation.
    pub session: u64,
    /// 1-based turn.
    pub turn: u32,
    /// Index of the user's country or region in the run's name table; none when unknown.
    pub origin: MaybeIndex,
    /// Index of the router that first received it.
    pub router: u16,
    /// Index of the replica that answered (or tried last); none when no replica was tried.
    pub replica: MaybeIndex,
    /// How it ended.
    pub status: Status,
    /// Why it ended so, where a router of ours ended it.
    #[serde(skip)]
    pub reason: Option<EndReason>,
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
    /// Time to first token the policy expected, ms from dispatch; `None` when it makes no such estimate.
    pub predicted_ttft_ms: Option<f32>,
    /// When the schedule wanted it sent.
    pub scheduled: Time,
    /// When the user's client sent it (later than `scheduled` only for a bounded client).
    pub sent: Time,
    /// Arrival at the first router.
    pub arrived: MaybeTime,
    /// Dispatch to the replica that answered, by the router that chose it.
    pub dispatched: MaybeTime,
    /// Arrival at that engine.
    pub accepted: MaybeTime,
    /// Start of the first step that computes its prompt.
    pub prefill: MaybeTime,
    /// First token leaves the engine.
    pub engine_first: MaybeTime,
    /// First token passes the first router.
    pub router_first: MaybeTime,
    /// First token reaches the user.
    pub first_token: MaybeTime,
    /// Last token leaves the engine.
    pub engine_done: MaybeTime,
    /// Last token reaches the user, or the failure does.
    pub done: MaybeTime,
}

impl RequestRecord {
    /// Moves all its times by `ns`, as between two clocks; none goes below zero.
    pub fn shift(&mut self, ns: i64) {
        let moved = |at: Time| Time(at.0.saturating_add_signed(ns));
        self.scheduled = moved(self.scheduled);
        self.sent = moved(self.sent);
        for at in [
            &mut self.arrived,
            &mut self.dispatched,
            &mut self.accepted,
            &mut self.prefill,
            &mut self.engine_first,
            &mut self.router_first,
            &mut self.first_token,
            &mut self.engine_done,
            &mut self.done,
        ] {
            *at = at.get().map(moved).into();
        }
    }

    /// The record of a request that was not sent yet: request number `request` of the workload, scheduled at `at`, to be
    /// sent to the router with index `router`.
    pub fn scheduled(request: u64, row: &TraceRequest, at: Time, router: u16) -> Self {
        Self {
            request,
            session: row.session,
            turn: row.turn,
            origin: MaybeIndex::NONE,
            router,
            replica: MaybeIndex::NONE,
            status: Status::Failed,
            reason: None,
            attempts: 0,
            hops: 0,
            prompt_tokens: row.input_tokens,
            output_tokens: 0,
            predicted_cached_tokens: 0,
            cached_tokens: 0,
            predicted_ttft_ms: None,
            scheduled: at,
            sent: at,
            arrived: MaybeTime::NONE,
            dispatched: MaybeTime::NONE,
            accepted: MaybeTime::NONE,
            prefill: MaybeTime::NONE,
            engine_first: MaybeTime::NONE,
            router_first: MaybeTime::NONE,
            first_token: MaybeTime::NONE,
            engine_done: MaybeTime::NONE,
            done: MaybeTime::NONE,
        }
    }

    /// Time to first token at the user, from sending; `None` without a first token.
    pub fn ttft(&self) -> Option<Span> {
        Some(self.first_token.get()? - self.sent)
    }

    /// Time to first token at the router, from arrival there; `None` without a first token.
    pub fn router_ttft(&self) -> Option<Span> {
        Some(self.router_first.get()? - self.arrived.get()?)
    }

    /// End-to-end latency at the user; `None` unless the request finished.
    pub fn e2e(&self) -> Option<Span> {
        let done = self.done.get().filter(|_| self.status == Status::Finished)?;
        Some(done - self.sent)
    }

    /// Time per output token after the first, ms; `None` for answers of one token and requests that did not finish.
    pub fn tpot_ms(&self) -> Option<f64> {
        let rest = self.output_tokens.checked_sub(1).filter(|&n| n > 0 && self.status == Status::Finished)?;
        Some((self.done.get()? - self.first_token.get()?).ms() / f64::from(rest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scheduled() -> RequestRecord {
        let request = TraceRequest::lone(0, Time::ZERO, 30, 3, 16, [1].into());
        RequestRecord::scheduled(7, &request, Time(5), 2)
    }

    #[test]
    fn a_record_stays_within_160_bytes() {
        assert!(size_of::<RequestRecord>() <= 160, "{}", size_of::<RequestRecord>());
    }

    #[test]
    fn a_request_that_was_not_sent_has_no_latency_and_survives_json() {
        let record = scheduled();
        assert_eq!((record.ttft(), record.router_ttft(), record.e2e(), record.tpot_ms()), (None, None, None, None));
        let text = serde_json::to_string(&record).unwrap();
        assert_eq!(serde_json::from_str::<RequestRecord>(&text).unwrap(), record);
    }

    #[test]
    fn latencies_of_a_finished_request() {
        let record = RequestRecord {
            status: Status::Finished,
            output_tokens: 3,
            arrived: Time(7).into(),
            router_first: Time(9).into(),
            first_token: Time(2_000_010).into(),
            done: Time(4_000_010).into(),
            ..scheduled()
        };
        assert_eq!((record.ttft(), record.router_ttft()), (Some(Span(2_000_005)), Some(Span(2))));
        assert_eq!((record.e2e(), record.tpot_ms()), (Some(Span(4_000_005)), Some(1.0)));
        assert_eq!(RequestRecord { status: Status::Failed, ..record }.e2e(), None);
    }
}
