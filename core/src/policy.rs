//! Routing policies: one trait, one file per policy, one registry.
//!
//! A policy sees numbers only, never a URL, a header or a prompt. Its choice depends on its arguments, its own small
//! state and the generator passed in. It never chooses an excluded candidate.

use crate::ReplicaId;
use crate::digest::DigestView;
use crate::fleet::{Learned, Load};
use crate::network::Path;
use crate::rng::ChaCha8Rng;
use serde::{Deserialize, Serialize};

/// Why a candidate may not be chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Exclusion {
    /// It is down by its probes, or its circuit breaker is open.
    Unhealthy,
    /// It is draining: it finishes its requests and gets no new ones.
    Draining,
    /// A capacity gate (running requests, engine queue, KV use) is closed.
    Full,
    /// It failed or had no room a moment ago; others are asked first.
    Resting,
    /// It has answered no probe yet, and another replica can serve the request.
    Unprobed,
    /// This request already failed at it.
    Tried,
    /// It does not serve the request's model, or has not made what the request names.
    Unserved,
    /// It is behind another router and the request has no hop left.
    Hops,
    /// It is outside the request's residency.
    Outside,
}

impl Exclusion {
    /// Whether it ends by itself, soon: a gate that opens when requests end, a rest of seconds.
    pub fn is_brief(self) -> bool {
        matches!(self, Self::Full | Self::Resting)
    }
}

/// An engine's metrics at the last scrape.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EngineView {
    /// Requests running.
    pub running: u32,
    /// Requests in the engine's own queue.
    pub queued: u32,
    /// KV tokens in use by running requests.
    pub used_tokens: u64,
    /// KV capacity, tokens; 0 if not reported.
    #[serde(skip_serializing_if = "is_zero")]
    pub kv_tokens: u64,
    /// Age of the report in ms.
    pub age_ms: f64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
pub(crate) fn is_free(ms: &f64) -> bool {
    *ms == 0.0
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// One replica as a policy sees it at the moment of a decision.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    /// The replica.
    pub id: ReplicaId,
    /// Why it may not be chosen, if so.
    pub excluded: Option<Exclusion>,
    /// Smoothed round trip router → replica, ms. RTT_u
    pub rtt_ms: f64,
    /// Round trips that this request pays on the way there and back.
    pub path: Path,
    /// Bytes that are sent of this request, where they are fewer than its own: a peer router gets it packed.
    pub packed_bytes: Option<u64>,
    /// Prompt tokens of this request that the index predicts cached at the replica, or a peer's digest if those are more.
    pub cached_tokens: u32,
    /// Requests and prompt tokens at the replica: W_u is `waiting_tokens`, D_u is `running_tokens`.
    pub load: Load,
    /// The engine's own report; `None` if never scraped.
    pub engine: Option<EngineView>,
    /// This replica's own prefill rate, overriding the policy's `ms_per_token` (mixed fleets).
    pub ms_per_token: Option<f64>,
    /// Price of the data that this request and its answer send between regions, ms.
    pub egress_ms: f64,
    /// What the router learned of it.
    pub learned: Learned,
    /// The peer's digest, if `cached_tokens` is from it; for records only.
    pub digest: Option<DigestView>,
    /// The true outcome there; only simulations that run an oracle compute it.
    pub truth: Option<Truth>,
}

impl Candidate {
    /// Requests at the replica, waiting or running.
    pub fn requests(&self) -> u32 {
        self.load.requests()
    }

    /// Prompt tokens of those: W_u + D_u.
    pub fn tokens(&self) -> u64 {
        self.load.tokens()
    }

    /// Time to first token of `request` as learned rates predict it, ms.
    pub fn predicted_ttft_ms(&self, request: &RequestInfo) -> f64 {
        let Load { waiting_requests, waiting_uncached_tokens, running_requests, .. } = self.load;
        let uncached = self.uncached(request.prompt_tokens);
        let at_replica = self.learned.ttft_ms(uncached, waiting_uncached_tokens, running_requests, waiting_requests);
        self.rtt_ms * self.path.trips() + at_replica
    }

    /// Prompt tokens of this request that it would have to compute: U_u.
    pub fn uncached(&self, prompt_tokens: u32) -> u32 {
        prompt_tokens.saturating_sub(self.cached_tokens)
    }
}

/// A request as policies see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RequestInfo {
    /// Prompt length.
    pub prompt_tokens: u32,
    /// Bytes on the wire, head and body; 0 when they are unknown, which counts as one round trip.
    pub bytes: u64,
    /// Hash of the caller's key, user or conversation; 0 when there is none.
    pub session: u64,
    /// Hash of the first 256 tokens of the prompt; 0 for an empty prompt.
    pub head: u64,
    /// Whether the prompt length was counted, not estimated; for records only.
    pub counted: bool,
}

/// Terms of a candidate's score; lower is better. In ms for `gorgo`; the file of each other policy defines its unit.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct CostTerms {
    /// Network round trips.
    pub network: f64,
    /// Computing this request's uncached tokens.
    pub prefill: f64,
    /// Requests waiting at the replica.
    pub waiting: f64,
    /// Requests running at the replica.
    pub running: f64,
    /// Price of data between regions.
    #[serde(default, skip_serializing_if = "is_free")]
    pub egress: f64,
    /// The score that is compared.
    pub total: f64,
}

/// The choice of a policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Selection {
    /// Index into the candidates; `None` if all are excluded.
    pub chosen: Option<usize>,
    /// Names the fallback when the policy's own rule did not decide.
    pub reason: Option<&'static str>,
}

impl Selection {
    /// Decided by the policy's own rule.
    pub fn own(chosen: Option<usize>) -> Self {
        Self { chosen, reason: None }
    }

    /// Decided by a fallback.
    pub fn fallback(chosen: Option<usize>, reason: &'static str) -> Self {
        Self { chosen, reason: Some(reason) }
    }
}

/// A routing policy.
pub trait Policy: std::fmt::Debug + Send {
    /// Its name in the registry.
    fn name(&self) -> &'static str;

    /// The predicted time to first token of `request` at `candidate`, ms, given the terms that [`Policy::choose`] wrote;
    /// `None` for a policy that does not predict it.
    fn predict_ttft(&self, _request: &RequestInfo, _candidate: &Candidate, _terms: &CostTerms) -> Option<f64> {
        None
    }

    /// Whether it needs [`Candidate::truth`], which only a simulation has.
    fn needs_truth(&self) -> bool {
        false
    }

    /// The roll-out of the whole world that it needs for each candidate; only a small simulation runs one.
    fn rolls_out(&self) -> Option<RollOut> {
        None
    }

    /// Scores every candidate into `terms` (same length as `candidates`, zeroed) and chooses one that is not
    /// excluded. Deterministic but for `rng`.
    fn choose(
        &mut self,
        request: &RequestInfo,
        candidates: &[Candidate],
        terms: &mut [CostTerms],
        rng: &mut ChaCha8Rng,
    ) -> Selection;
}

/// Index of the least key among candidates that are not excluded; exact ties at random.
/// NaN loses to every number and never panics. Draws from `rng` only when there is a tie.
pub fn least(
    candidates: &[Candidate],
    rng: &mut ChaCha8Rng,
    mut key: impl FnMut(usize, &Candidate) -> f64,
) -> Option<usize> {
    select::least_of(candidates, rng, |i, candidate| Some([key(i, candidate)]))
}

mod explore;
mod registry;
mod select;
pub(crate) mod settings;

pub mod bounded_hash;
pub mod cache_aware;
pub mod dualmap;
pub mod gorgo;
pub mod kv_cost;
pub mod least_load;
pub mod least_load_seconds;
pub mod least_request;
pub mod llm_d;
pub mod lmetric;
pub mod nearest;
pub mod oracle;
pub mod power_of_two;
pub mod preble;
pub mod predictive;
pub mod prefix_cache;
pub mod prefix_tree;
pub mod random;
pub mod round_robin;
pub mod session_affinity;
pub mod simple_session_affinity;
pub mod skywalker;
pub mod smetric;
pub mod smg_cache_aware;
pub mod stargate;

pub(crate) use explore::explore;
pub use oracle::{RollOut, Truth};
pub use registry::{PolicyConfig, PolicyError};
pub use select::{Signal, Unit, reason};
pub use settings::NoSettings;
