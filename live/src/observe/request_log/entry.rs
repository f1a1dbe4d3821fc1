//! One entry of the log: a request as this router observed it, and what it keeps of the decision.

use gorgo_core::policy::Exclusion;
use gorgo_core::router::{DecisionRecord, EndReason, ScoredCandidate};
use gorgo_core::{ReplicaId, Time};
use smallvec::SmallVec;
use std::collections::BTreeMap;
use std::sync::Arc;

/// One request as observed by this router.
#[derive(Debug, Clone)]
pub struct RequestEntry {
    /// `X-Request-ID`; nearly every one fits in place.
    pub request_id: SmallVec<[u8; 40]>,
    /// Hash of the conversation's key.
    pub session: u64,
    /// Bytes of prompt text.
    pub prompt_bytes: u64,
    /// Prompt tokens as estimated.
    pub prompt_tokens: u32,
    /// As the engine counted.
    pub counted_tokens: Option<u32>,
    /// Tokens generated.
    pub output_tokens: u32,
    /// Cached prompt tokens as the index predicted.
    pub predicted_cached_tokens: u32,
    /// Cached prompt tokens as the engine reported.
    pub cached_tokens: Option<u32>,
    /// Cached prompt tokens by the engine's KV events: those before the first block it stored for the request.
    pub held_tokens: Option<u32>,
    /// Arrival.
    pub arrived: Time,
    /// Last dispatch.
    pub dispatched: Option<Time>,
    /// First token with content.
    pub first_token: Option<Time>,
    /// Last byte.
    pub done: Time,
    /// Smoothed round trip to the replica at dispatch, ms.
    pub rtt_ms: f64,
    /// Time to first token the policy expected, ms.
    pub predicted_ttft_ms: Option<f64>,
    /// The replica of the last dispatch.
    pub replica: Option<RoutedReplica>,
    /// Dispatches.
    pub attempts: u8,
    /// Routers before this one.
    pub hops: u8,
    /// HTTP status of the response.
    pub status_code: u16,
    /// Why it ended, and so how.
    pub end: EndReason,
    /// Whether the answer was a stream: only then is the time of its first token known.
    pub streamed: bool,
    /// The decision of the last dispatch.
    pub decision: DecisionSummary,
}

/// A time to first token, ms, and its parts, which add up to it.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct TtftParts {
    /// From arrival to the first token.
    pub(crate) ttft_ms: f64,
    /// Round trips to the replica: probed, not observed of this request.
    pub(crate) network_ms: f64,
    /// The rest: waiting here, at replicas that failed, and in the engine.
    pub(crate) queue_ms: f64,
    /// Uncached prompt tokens at the replica's learned rate.
    pub(crate) prefill_ms: f64,
}

/// The replica that a request was dispatched to.
#[derive(Debug, Clone)]
pub struct RoutedReplica {
    /// Its slot.
    pub slot: u16,
    /// Its name at that time.
    pub name: Arc<str>,
}

/// The part of a decision that an entry keeps. Entries are kept far longer than decisions, which are several times as
/// large.
#[derive(Debug, Clone, Default)]
pub struct DecisionSummary {
    names: Option<Arc<[Arc<str>]>>,
    scores: SmallVec<[CandidateScore; 4]>,
    pub(super) prefill_ms: Option<f64>,
    pub(super) waiting_tokens: u64,
    pub(super) running_tokens: u64,
    /// Round trips to the replica that the request pays, ms.
    network_ms: f64,
    /// Prefill rate learned of the replica.
    ms_per_token: f64,
}

/// A candidate of the decision.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CandidateScore {
    slot: ReplicaId,
    pub(crate) excluded: Option<Exclusion>,
    pub(crate) cached_tokens: u32,
    pub(crate) total_ms: f64,
}

impl DecisionSummary {
    /// Summarizes a decision.
    pub fn of(record: &DecisionRecord) -> Self {
        let chosen = record.chosen.and_then(|i| record.candidates.get(i));
        let score = |one: &ScoredCandidate| CandidateScore {
            slot: one.candidate.id,
            excluded: one.candidate.excluded,
            cached_tokens: one.candidate.cached_tokens,
            total_ms: one.terms.total,
        };
        Self {
            names: Some(Arc::clone(&record.names)),
            scores: record.candidates.iter().map(score).collect(),
            prefill_ms: chosen.map(|one| one.terms.prefill),
            waiting_tokens: chosen.map_or(0, |one| one.candidate.load.waiting_tokens),
            running_tokens: chosen.map_or(0, |one| one.candidate.load.running_tokens),
            network_ms: chosen.map_or(0.0, |one| one.candidate.rtt_ms * one.candidate.path.trips()),
            ms_per_token: chosen.map_or(0.0, |one| one.candidate.learned.ms_per_token),
        }
    }

    /// Most prompt tokens that the index expected to be cached at any replica, those included that got no requests.
    pub(crate) fn best_cached_tokens(&self) -> u32 {
        self.scores.iter().map(|score| score.cached_tokens).max().unwrap_or(0)
    }

    /// The candidates by the names they had then.
    pub(crate) fn by_name(&self) -> BTreeMap<&str, &CandidateScore> {
        let names = self.names.as_deref().unwrap_or_default();
        let name = |score: &CandidateScore| names.get(score.slot.index()).map_or("", |name| &**name);
        self.scores.iter().map(|score| (name(score), score)).collect()
    }
}

impl Default for RequestEntry {
    /// An entry without any value.
    fn default() -> Self {
        Self {
            request_id: SmallVec::new(),
            session: 0,
            prompt_bytes: 0,
            prompt_tokens: 0,
            counted_tokens: None,
            output_tokens: 0,
            predicted_cached_tokens: 0,
            cached_tokens: None,
            held_tokens: None,
            arrived: Time::ZERO,
            dispatched: None,
            first_token: None,
            done: Time::ZERO,
            rtt_ms: 0.0,
            predicted_ttft_ms: None,
            replica: None,
            attempts: 0,
            hops: 0,
            status_code: 0,
            end: EndReason::default(),
            streamed: false,
            decision: DecisionSummary::default(),
        }
    }
}

impl RequestEntry {
    /// `X-Request-ID` as text: one that is no text never gets in.
    pub fn id(&self) -> &str {
        std::str::from_utf8(&self.request_id).unwrap_or_default()
    }

    /// First token after arrival, ms.
    pub fn ttft_ms(&self) -> Option<f64> {
        self.first_token.map(|at| (at - self.arrived).ms())
    }

    /// Prompt tokens as counted by the engine, else as estimated.
    pub(crate) fn prompt(&self) -> u32 {
        self.counted_tokens.unwrap_or(self.prompt_tokens)
    }

    /// Where the time to first token went; `None` without a first token, or when its time is not known.
    pub(crate) fn ttft_parts(&self) -> Option<TtftParts> {
        let (first, sent) = (self.first_token.filter(|_| self.streamed)?, self.dispatched?);
        let (ttft_ms, after_ms) = ((first - self.arrived).ms(), (first - sent).ms());
        let network_ms = self.decision.network_ms.clamp(0.0, after_ms);
        let uncached = self.prompt().saturating_sub(self.cached_tokens.unwrap_or(self.predicted_cached_tokens));
        let prefill_ms = (f64::from(uncached) * self.decision.ms_per_token).clamp(0.0, after_ms - network_ms);
        Some(TtftParts { ttft_ms, network_ms, prefill_ms, queue_ms: (ttft_ms - network_ms - prefill_ms).max(0.0) })
    }

    pub(super) fn total_ms(&self) -> f64 {
        (self.done - self.arrived).ms()
    }
}
