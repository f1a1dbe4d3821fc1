//! GORGO: chooses the replica with the least expected time to first token.
//!
//! ```text
//! t        = ms_per_token of the candidate if set, else of the policy
//! network  = rtt_weight * RTT * trips                 trips = 1 (`network = "rtt"`, as published), or the round trips
//!                                                     by bytes, window and opening (`network = "rounds"`)
//! prefill  = t * U                                    U = prompt tokens not cached at the replica
//! waiting  = t * queue_factor * W                     W = tokens without a first token yet: all, or only uncached
//! running  = t * (running_cost_factor * D + used_factor * K) + ms_per_running_request * n
//!                                                     D, n = prompt tokens, requests past their first token
//!                                                     K = KV tokens in use in the last engine report; 0 if never scraped
//! egress   = rtt_weight * E                           E = price of the data between regions, ms; 0 unless configured
//! total    = network + prefill + waiting + running + egress
//! ```
//!
//! The least total wins; exact ties are broken at random. With `tie_band > 0`, all candidates within `tie_band` of the
//! least total are near ties: two of them are drawn at random, and the one with less W + D (then the lesser total)
//! wins. Without it a deterministic argmin sends all requests of a burst to one replica.
//!
//! One formula covers every published version; each preset is one version. Sources: gotoni's README (`gotoni`); the
//! GORGO paper, version 3 ("2D": `rtt_w rtt + U + queue_w Q`, tuned) and version 1 (RTT in seconds, K counted: the form
//! that made the recorded runs); `physical` is a least-squares fit of TTFT on those runs (2 x L40S, R2 0.59). The
//! published versions subtract a request from Q when it ends, so W and D have equal weight in their presets.

use super::select::{eligible, fill, two_of};
use super::settings::{Settings, weight};
use super::{Candidate, CostTerms, Policy, RequestInfo, Selection, least};
use crate::rng::ChaCha8Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which tokens of waiting requests count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Waiting {
    /// Whole prompts, as published.
    #[default]
    All,
    /// Only tokens that were not cached at dispatch, which the engine has to prefill.
    Uncached,
}

/// How often a request pays the round trip.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum NetworkForm {
    /// As often as TCP makes it pay: see [`crate::network`].
    #[default]
    Rounds,
    /// Once, as published.
    Rtt,
}

/// A published set of weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Preset {
    /// [`GOTONI`]
    #[default]
    #[serde(alias = "seed")]
    Gotoni,
    /// [`PAPER_V3`]
    PaperV3,
    /// [`PAPER_V1`]
    PaperV1,
    /// [`PHYSICAL`]
    Physical,
}

impl Preset {
    /// The weights of this version.
    pub fn weights(self) -> Weights {
        match self {
            Self::Gotoni => GOTONI,
            Self::PaperV3 => PAPER_V3,
            Self::PaperV1 => PAPER_V1,
            Self::Physical => PHYSICAL,
        }
    }
}

/// Weights of the cost formula in the module documentation.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Weights {
    /// Cost of one ms of round trip; with 1 the total is in ms.
    pub rtt_weight: f64,
    /// How often a request pays the round trip.
    pub network: NetworkForm,
    /// Cost of prefilling one token; ms when `rtt_weight` is 1.
    pub ms_per_token: f64,
    /// Weight of a waiting token relative to a token of this request.
    pub queue_factor: f64,
    /// Which waiting tokens count.
    pub waiting: Waiting,
    /// Weight of a token of a running request relative to a token of this request.
    pub running_cost_factor: f64,
    /// Weight of a KV token in use relative to a token of this request.
    pub used_factor: f64,
    /// Cost of a running request independent of its length; ms when `rtt_weight` is 1.
    pub ms_per_running_request: f64,
    /// Totals within this distance of the least are ties, in the unit of the total; 0 turns ties off.
    pub tie_band: f64,
}

/// gotoni: 0.094 ms a token (Mistral-7B on A100) and half weight for running requests.
pub const GOTONI: Weights = Weights {
    rtt_weight: 1.0,
    network: NetworkForm::Rounds,
    ms_per_token: 0.094,
    queue_factor: 1.0,
    waiting: Waiting::All,
    running_cost_factor: 0.5,
    used_factor: 0.0,
    ms_per_running_request: 0.0,
    tie_band: 0.0,
};

/// GORGO paper, version 3: the weights its online search found; totals are in tokens.
pub const PAPER_V3: Weights =
    Weights { rtt_weight: 0.276, network: NetworkForm::Rtt, ms_per_token: 1.0, queue_factor: 0.5, ..GOTONI };

/// GORGO paper, version 1: RTT in seconds, 0.07 a token to compute, 0.06 a token queued or in use.
pub const PAPER_V1: Weights = Weights {
    rtt_weight: 0.001,
    network: NetworkForm::Rtt,
    ms_per_token: 0.07,
    queue_factor: 0.06 / 0.07,
    running_cost_factor: 0.06 / 0.07,
    used_factor: 0.06 / 0.07,
    ..GOTONI
};

/// Fit of TTFT on recorded runs of 2 x L40S: 0.058 ms a token, 0.018 a waiting uncached token, 9 ms a running request.
pub const PHYSICAL: Weights = Weights {
    ms_per_token: 0.058,
    queue_factor: 0.31,
    waiting: Waiting::Uncached,
    running_cost_factor: 0.0,
    ms_per_running_request: 9.0,
    ..GOTONI
};

impl Weights {
    /// The terms of one candidate.
    pub fn cost(&self, request: &RequestInfo, candidate: &Candidate) -> CostTerms {
        let t = candidate.ms_per_token.filter(|own| own.is_finite() && *own >= 0.0).unwrap_or(self.ms_per_token);
        let waiting_tokens = match self.waiting {
            Waiting::All => candidate.load.waiting_tokens,
            Waiting::Uncached => candidate.load.waiting_uncached_tokens,
        };
        let used = candidate.engine.map_or(0.0, |engine| engine.used_tokens as f64);
        let trips = match self.network {
            NetworkForm::Rounds => candidate.path.trips(),
            NetworkForm::Rtt => 1.0,
        };
        let network = self.rtt_weight * candidate.rtt_ms * trips;
        let prefill = t * f64::from(candidate.uncached(request.prompt_tokens));
        let waiting = t * self.queue_factor * waiting_tokens as f64;
        let running = t * (self.running_cost_factor * candidate.load.running_tokens as f64 + self.used_factor * used)
            + self.ms_per_running_request * f64::from(candidate.load.running_requests);
        let egress = self.rtt_weight * candidate.egress_ms;
        CostTerms { network, prefill, waiting, running, egress, total: network + prefill + waiting + running + egress }
    }

    /// Whether totals are in ms and so predict the TTFT.
    pub fn in_ms(&self) -> bool {
        self.rtt_weight == 1.0
    }
}

/// Settings of [`Gorgo`]: a preset, and any weight that differs from it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct GorgoConfig {
    /// Weights that hold where this table sets none.
    pub preset: Preset,
    /// Cost of one ms of round trip; with 1 the total is in ms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rtt_weight: Option<f64>,
    /// How often a request pays the round trip.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<NetworkForm>,
    /// Cost of prefilling one token; ms when `rtt_weight` is 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ms_per_token: Option<f64>,
    /// Weight of a waiting token relative to a token of this request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_factor: Option<f64>,
    /// Which waiting tokens count.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waiting: Option<Waiting>,
    /// Weight of a token of a running request relative to a token of this request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub running_cost_factor: Option<f64>,
    /// Weight of a KV token in use relative to a token of this request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub used_factor: Option<f64>,
    /// Cost of a running request independent of its length; ms when `rtt_weight` is 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ms_per_running_request: Option<f64>,
    /// Totals within this distance of the least are ties, in the unit of the total; 0 turns ties off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tie_band: Option<f64>,
}

impl GorgoConfig {
    /// The preset's weights, overridden by the weights that this configuration sets.
    pub fn weights(&self) -> Weights {
        let preset = self.preset.weights();
        Weights {
            rtt_weight: self.rtt_weight.unwrap_or(preset.rtt_weight),
            network: self.network.unwrap_or(preset.network),
            ms_per_token: self.ms_per_token.unwrap_or(preset.ms_per_token),
            queue_factor: self.queue_factor.unwrap_or(preset.queue_factor),
            waiting: self.waiting.unwrap_or(preset.waiting),
            running_cost_factor: self.running_cost_factor.unwrap_or(preset.running_cost_factor),
            used_factor: self.used_factor.unwrap_or(preset.used_factor),
            ms_per_running_request: self.ms_per_running_request.unwrap_or(preset.ms_per_running_request),
            tie_band: self.tie_band.unwrap_or(preset.tie_band),
        }
    }
}

impl Settings for GorgoConfig {
    fn check(&self) -> Result<(), String> {
        let w = self.weights();
        weight("rtt_weight", w.rtt_weight)?;
        weight("ms_per_token", w.ms_per_token)?;
        weight("queue_factor", w.queue_factor)?;
        weight("running_cost_factor", w.running_cost_factor)?;
        weight("used_factor", w.used_factor)?;
        weight("ms_per_running_request", w.ms_per_running_request)?;
        weight("tie_band", w.tie_band)
    }
}

/// The GORGO policy; stateless, scores as defined in the module documentation.
#[derive(Debug, Clone)]
pub struct Gorgo {
    weights: Weights,
}

impl Gorgo {
    /// Creates the policy with these settings.
    pub fn new(config: &GorgoConfig) -> Self {
        Self { weights: config.weights() }
    }

    /// Power of two choices among the near ties of the least total; `None` when there are fewer than two.
    fn near_tie(&self, candidates: &[Candidate], terms: &[CostTerms], rng: &mut ChaCha8Rng) -> Option<usize> {
        let least = eligible(candidates).map(|(i, _)| terms[i].total).fold(f64::INFINITY, f64::min);
        let near = eligible(candidates).map(|(i, _)| i).filter(|&i| terms[i].total <= least + self.weights.tie_band);
        let count = near.clone().count();
        if count < 2 {
            return None;
        }
        let (first, second) = two_of(count, rng);
        let (first, second) = (near.clone().nth(first)?, near.clone().nth(second)?);
        let load = |i: usize| candidates[i].tokens();
        let order = load(second).cmp(&load(first)).then(terms[second].total.total_cmp(&terms[first].total));
        Some(if order.is_lt() { second } else { first })
    }
}

impl Policy for Gorgo {
    fn name(&self) -> &'static str {
        "gorgo"
    }

    fn predict_ttft(&self, _: &RequestInfo, _: &Candidate, terms: &CostTerms) -> Option<f64> {
        self.weights.in_ms().then_some(terms.total - terms.egress)
    }

    fn choose(
        &mut self,
        request: &RequestInfo,
        candidates: &[Candidate],
        terms: &mut [CostTerms],
        rng: &mut ChaCha8Rng,
    ) -> Selection {
        fill(candidates, terms, |candidate| self.weights.cost(request, candidate));
        if self.weights.tie_band > 0.0
            && let Some(chosen) = self.near_tie(candidates, terms, rng)
        {
            return Selection::own(Some(chosen));
        }
        Selection::own(least(candidates, rng, |i, _| terms[i].total))
    }
}

#[cfg(test)]
mod tests;
