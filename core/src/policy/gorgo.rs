//! GORGO: the least expected time to first token.
//!
//! ```text
//! t        = ms_per_token of the candidate if it has its own, else of the policy
//! network  = rtt_weight * RTT
//! prefill  = t * U                                    U = prompt tokens not cached there
//! waiting  = t * queue_factor * W                     W = tokens without a first token yet: all, or only uncached
//! running  = t * (running_cost_factor * D + used_factor * K) + ms_per_running_request * n
//!                                                     D, n = prompt tokens, requests past their first token
//!                                                     K = KV tokens the engine says are in use; 0 if never scraped
//! total    = network + prefill + waiting + running
//! ```
//!
//! The least total wins and exact ties go at random. With `tie_band > 0`, all candidates within `tie_band` of the
//! least are near ties: two of them are drawn and the one with less W + D (then the lesser total) wins, which breaks
//! the runs of equal targets that a deterministic argmin makes of a burst.
//!
//! One formula covers every published version; the presets name them. Sources: gotoni's README (`gotoni`); the GORGO
//! paper, version 3 ("2D": `rtt_w rtt + U + queue_w Q`, tuned) and version 1 (RTT in seconds, K counted: the form
//! that made the recorded runs); `physical` is a least-squares fit of TTFT on those runs (2 x L40S, R2 0.59).
//! The published Q is released when a request ends, so there W and D weigh the same.

use super::select::{eligible, two_of};
use super::settings::{Settings, weight};
use super::{Candidate, CostTerms, Policy, RequestInfo, Selection, least};
use crate::rng::ChaCha8Rng;
use serde::{Deserialize, Serialize};

/// Which tokens of waiting requests count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Waiting {
    /// Whole prompts, as published.
    #[default]
    All,
    /// Only what was not cached when they were sent: what the engine has to compute.
    Uncached,
}

/// A published set of weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
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
    /// Its weights.
    pub fn weights(self) -> Weights {
        match self {
            Self::Gotoni => GOTONI,
            Self::PaperV3 => PAPER_V3,
            Self::PaperV1 => PAPER_V1,
            Self::Physical => PHYSICAL,
        }
    }
}

/// Everything the formula needs. See the module page.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Weights {
    /// Cost of a ms of round trip; 1 keeps the total in ms.
    pub rtt_weight: f64,
    /// Cost of computing a token (ms when `rtt_weight` is 1).
    pub ms_per_token: f64,
    /// A waiting token against one of this request.
    pub queue_factor: f64,
    /// Which waiting tokens count.
    pub waiting: Waiting,
    /// A token of a running request against one of this request.
    pub running_cost_factor: f64,
    /// A KV token in use against one of this request.
    pub used_factor: f64,
    /// Cost of a running request whatever its length.
    pub ms_per_running_request: f64,
    /// Totals this near to the least are ties, in the unit of the total; 0 is off.
    pub tie_band: f64,
}

/// gotoni: 0.094 ms a token (Mistral-7B on A100) and half weight for running requests.
pub const GOTONI: Weights = Weights {
    rtt_weight: 1.0,
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
    Weights { rtt_weight: 0.276, ms_per_token: 1.0, queue_factor: 0.5, running_cost_factor: 0.5, ..GOTONI };

/// GORGO paper, version 1: RTT in seconds, 0.07 a token to compute, 0.06 a token queued or in use.
pub const PAPER_V1: Weights = Weights {
    rtt_weight: 0.001,
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
        let network = self.rtt_weight * candidate.rtt_ms;
        let prefill = t * f64::from(candidate.uncached(request.prompt_tokens));
        let waiting = t * self.queue_factor * waiting_tokens as f64;
        let running = t * (self.running_cost_factor * candidate.load.running_tokens as f64 + self.used_factor * used)
            + self.ms_per_running_request * f64::from(candidate.load.running_requests);
        CostTerms { network, prefill, waiting, running, total: network + prefill + waiting + running }
    }

    /// Whether totals are ms, that is predictions of TTFT.
    pub fn in_ms(&self) -> bool {
        self.rtt_weight == 1.0
    }
}

/// Settings of [`Gorgo`]: a preset, and any weight that differs from it. Keys are those of [`Weights`].
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(missing_docs, reason = "the keys are documented at `Weights`")]
pub struct GorgoConfig {
    pub preset: Preset,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rtt_weight: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ms_per_token: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_factor: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waiting: Option<Waiting>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub running_cost_factor: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub used_factor: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ms_per_running_request: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tie_band: Option<f64>,
}

impl GorgoConfig {
    /// The preset's weights with this configuration's own laid over them.
    pub fn weights(&self) -> Weights {
        let preset = self.preset.weights();
        Weights {
            rtt_weight: self.rtt_weight.unwrap_or(preset.rtt_weight),
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

/// The policy. See the module page.
#[derive(Debug, Clone)]
pub struct Gorgo {
    weights: Weights,
}

impl Gorgo {
    /// With these settings.
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

    fn predicts_ttft(&self) -> bool {
        self.weights.in_ms()
    }

    fn choose(
        &mut self,
        request: &RequestInfo,
        candidates: &[Candidate],
        terms: &mut [CostTerms],
        rng: &mut ChaCha8Rng,
    ) -> Selection {
        for (candidate, terms) in candidates.iter().zip(&mut *terms) {
            *terms = self.weights.cost(request, candidate);
        }
        if self.weights.tie_band > 0.0
            && let Some(chosen) = self.near_tie(candidates, terms, rng)
        {
            return Selection::own(Some(chosen));
        }
        Selection::own(least(candidates, rng, |i, _| terms[i].total))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::Load;
    use crate::policy::EngineView;
    use crate::policy::select::tests::{fleet, idle};
    use crate::rng::stream;

    fn choose(config: &GorgoConfig, request: u32, candidates: &[Candidate]) -> (Selection, Vec<CostTerms>) {
        let mut terms = vec![CostTerms::default(); candidates.len()];
        let request = RequestInfo { prompt_tokens: request, ..RequestInfo::default() };
        let choice = Gorgo::new(config).choose(&request, candidates, &mut terms, &mut stream(1, "policy", 0));
        (choice, terms)
    }

    fn loaded() -> Candidate {
        Candidate {
            rtt_ms: 25.6,
            cached_tokens: 4096,
            load: Load {
                waiting_requests: 1,
                waiting_tokens: 900,
                waiting_uncached_tokens: 300,
                running_requests: 3,
                running_tokens: 15_000,
            },
            engine: Some(EngineView { running: 3, queued: 0, used_tokens: 48_000, age_ms: 12_000.0 }),
            ..idle(0)
        }
    }

    fn near(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-9 * b.abs().max(1.0)
    }

    #[test]
    fn each_preset_weighs_the_worked_example_as_published() {
        for (preset, expected) in [
            (Preset::Gotoni, [25.6, 103.776, 84.6, 705.0]),
            (Preset::PaperV3, [0.276 * 25.6, 1104.0, 450.0, 7500.0]),
            (Preset::PaperV1, [0.0256, 0.07 * 1104.0, 54.0, 0.06 * 63_000.0]),
            (Preset::Physical, [25.6, 0.058 * 1104.0, 0.058 * 0.31 * 300.0, 27.0]),
        ] {
            let config = GorgoConfig { preset, ..GorgoConfig::default() };
            let (_, terms) = choose(&config, 5200, &[loaded()]);
            let got = [terms[0].network, terms[0].prefill, terms[0].waiting, terms[0].running];
            assert!(got.iter().zip(expected).all(|(a, b)| near(*a, b)), "{preset:?}: {got:?} != {expected:?}");
            assert!(near(terms[0].total, expected.iter().sum()), "{preset:?}");
        }
    }

    #[test]
    fn the_old_name_of_gotonis_preset_is_still_read_and_written_as_the_new_one() {
        let config: GorgoConfig = serde_json::from_str(r#"{"preset": "seed"}"#).unwrap();
        assert_eq!(config, GorgoConfig { preset: Preset::Gotoni, ..GorgoConfig::default() });
        assert_eq!(serde_json::to_string(&config).unwrap(), r#"{"preset":"gotoni"}"#);
    }

    #[test]
    fn a_key_overrides_its_preset_and_a_candidate_overrides_the_rate() {
        let config = GorgoConfig { preset: Preset::Physical, ms_per_token: Some(0.1), ..GorgoConfig::default() };
        assert_eq!(config.weights(), Weights { ms_per_token: 0.1, ..PHYSICAL });
        let mut fast = idle(0);
        fast.ms_per_token = Some(0.05);
        let mut broken = idle(1);
        broken.ms_per_token = Some(f64::NAN);
        let (choice, terms) = choose(&config, 1000, &[fast, broken]);
        assert_eq!(choice, Selection::own(Some(0)));
        assert!(near(terms[0].total, 50.0) && near(terms[1].total, 100.0), "{terms:?}");
    }

    #[test]
    fn a_far_cached_replica_beats_a_near_cold_one_only_for_long_prompts() {
        let mut fleet = fleet(2);
        (fleet[1].rtt_ms, fleet[1].cached_tokens) = (200.0, 100_000);
        assert_eq!(choose(&GorgoConfig::default(), 2000, &fleet).0.chosen, Some(0)); // 188 < 200
        assert_eq!(choose(&GorgoConfig::default(), 2200, &fleet).0.chosen, Some(1)); // 206.8 > 200
    }

    #[test]
    fn a_tie_band_takes_the_less_loaded_of_two_near_ties_and_never_a_far_one() {
        let config = GorgoConfig { tie_band: Some(5.0), running_cost_factor: Some(0.0), ..GorgoConfig::default() };
        let mut fleet = fleet(3);
        (fleet[0].rtt_ms, fleet[0].load.running_tokens) = (10.0, 9000);
        (fleet[1].rtt_ms, fleet[1].load.running_tokens) = (14.0, 100);
        fleet[2].rtt_ms = 16.0;
        assert_eq!(choose(&config, 0, &fleet).0.chosen, Some(1));
        assert_eq!(choose(&GorgoConfig { tie_band: None, ..config }, 0, &fleet).0.chosen, Some(0));
    }

    #[test]
    fn only_totals_in_ms_predict_ttft() {
        for (preset, expected) in
            [(Preset::Gotoni, true), (Preset::Physical, true), (Preset::PaperV3, false), (Preset::PaperV1, false)]
        {
            assert_eq!(Gorgo::new(&GorgoConfig { preset, ..GorgoConfig::default() }).predicts_ttft(), expected);
        }
    }
}
