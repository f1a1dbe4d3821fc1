//! Settings of an engine, and their validation.

use super::blocks::BLOCK_TOKENS;
use super::steps::{DecodeTimes, PrefillTimes, pairs};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Whose scheduler an engine runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum EngineKind {
    /// SGLang 0.5.10: prefill first, radix cache.
    #[default]
    Sglang,
    /// vLLM 0.19 (v1): one token budget a step, block cache.
    Vllm,
}

impl EngineKind {
    /// The settings that an engine of this kind does not read.
    fn unread_keys(self) -> &'static [&'static str] {
        match self {
            Self::Sglang => &["max_num_batched_tokens", "reserve_full_prompt"],
            Self::Vllm => &[
                "chunked_prefill_size",
                "max_prefill_tokens",
                "schedule_conservativeness",
                "init_new_token_ratio",
                "min_new_token_ratio_factor",
                "new_token_ratio_decay_steps",
                "decode_log_interval",
            ],
        }
    }

    /// Refuses a table that sets something that an engine of this kind does not read.
    ///
    /// # Errors
    /// The first such setting.
    pub fn check_read<'a>(self, mut set: impl Iterator<Item = &'a str>) -> Result<(), ConfigError> {
        match set.find(|key| self.unread_keys().contains(key)) {
            Some(key) => Err(ConfigError::Unread { key: key.to_owned(), kind: self.as_str() }),
            None => Ok(()),
        }
    }

    /// Its name in files.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sglang => "sglang",
            Self::Vllm => "vllm",
        }
    }
}

/// Settings of one engine, with SGLang's names where SGLang has them. The default is the preset
/// `mistral-7b-a100-80`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EngineConfig {
    /// Whose scheduler: `sglang` or `vllm`.
    pub kind: EngineKind,
    /// Step times of prefill.
    pub prefill: PrefillTimes,
    /// Step times of decode.
    pub decode: DecodeTimes,
    /// Relative spread of step times, 0 to 0.05.
    pub step_noise: f64,

    /// KV pool, tokens (`max_total_num_tokens`).
    pub kv_tokens: u32,
    /// Context window, tokens (`context_length`).
    pub context_len: u32,
    /// New tokens a prefill batch may hold; a prompt beyond is cut and goes on in the next. 0: no limit, no cutting.
    pub chunked_prefill_size: u32,
    /// Second limit on the new tokens of a prefill batch; binds only after the first request of the batch.
    pub max_prefill_tokens: u32,
    /// Tokens a step of vLLM may hold, chunks of prompts and decodes together.
    pub max_num_batched_tokens: u32,
    /// vLLM admits a prompt only when all of it fits into free blocks (`scheduler_reserve_full_isl`), not just its first
    /// chunk.
    pub reserve_full_prompt: bool,
    /// Largest running batch (vLLM's `max_num_seqs`).
    pub max_running_requests: u32,
    /// Waiting requests beyond which new ones are answered with 503; `None`: no limit.
    pub max_queued_requests: Option<u32>,
    /// Scales the share of `max_tokens` that admission reserves for running requests.
    pub schedule_conservativeness: f64,
    /// That share on an idle engine.
    pub init_new_token_ratio: f64,
    /// The share never falls below this fraction of its initial value.
    pub min_new_token_ratio_factor: f64,
    /// Decode steps over which it falls there.
    pub new_token_ratio_decay_steps: u32,
    /// Choose the next batch while the current one runs (SGLang: `--disable-overlap-schedule` is `false`; vLLM:
    /// `async_scheduling`).
    pub overlap: bool,
    /// Keep the KV of past requests (SGLang: `--disable-radix-cache` is `false`; vLLM: `enable_prefix_caching`).
    pub radix_cache: bool,
    /// A cached prefix is reused up to a multiple of so many tokens. 1: up to any token. Hybrid models (Mamba or linear
    /// attention beside KV) resume only where a recurrent state was kept.
    pub resume_tokens: u32,

    /// Tokenizer, which serves one request at a time: ms a request.
    pub tokenizer_fixed_ms: f64,
    /// Tokenizer: ms a prompt token.
    pub tokenizer_ms_per_token: f64,
    /// HTTP, process hops and batch building before the scheduler sees a request, ms; these overlap.
    pub receive_ms: f64,
    /// Detokenizer and SSE after the step that made a token, ms.
    pub output_ms: f64,

    /// Gauges are published every so many decode steps (`decode_log_interval`).
    pub decode_log_interval: u32,
    /// An idle engine publishes its gauges when they are this old, s.
    pub idle_publish_s: f64,

    /// Median time from restart to ready (weights, graph capture, warm-up), s.
    pub cold_start_s: f64,
    /// Spread of its logarithm.
    pub cold_start_sigma: f64,
    /// The first prefill step after a restart takes this much longer (kernels compiled on first use), ms.
    pub first_step_extra_ms: f64,
    /// Prefill steps within this long after the first one of a cold engine take longer, too (kernels compiled for
    /// further shapes), s.
    pub warm_up_s: f64,
    /// By this much at the beginning of that time, falling in a straight line to 0 at its end, ms.
    pub warm_up_extra_ms: f64,
    /// The engine is cold at time 0, as after a restart, but ready at once.
    pub cold_at_start: bool,

    /// Report every token. Runs of decode steps are then walked, not jumped over; all other events stay the same to
    /// the bit.
    pub stream_tokens: bool,
}

/// A setting out of range, or an unknown preset.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ConfigError {
    /// A value out of range.
    #[error("engine setting `{key}` is {value}: {advice}")]
    Value {
        /// The setting.
        key: &'static str,
        /// Its value.
        value: String,
        /// What to do.
        advice: &'static str,
    },
    /// A setting that the engine does not read.
    #[error("engine setting `{key}` has no effect with kind = \"{kind}\"; drop it")]
    Unread {
        /// The setting.
        key: String,
        /// The engine's kind.
        kind: &'static str,
    },
    /// No preset of that name.
    #[error("no engine preset `{name}`; {hint}")]
    UnknownPreset {
        /// The name that was given.
        name: String,
        /// The one that is near, or all.
        hint: String,
    },
}

impl EngineConfig {
    /// Checks every setting.
    ///
    /// # Errors
    /// The first setting that is out of range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let reject = |key, value: &dyn std::fmt::Display, advice| {
            Err(ConfigError::Value { key, value: value.to_string(), advice })
        };
        let (p, d) = (&self.prefill, &self.decode);
        for (key, ms) in [
            ("prefill.fixed_ms", p.fixed_ms),
            ("prefill.weights_ms", p.weights_ms),
            ("prefill.ms_per_token", p.ms_per_token),
            ("prefill.ms_per_pair", p.ms_per_pair),
            ("prefill.floor_ms", p.floor_ms),
            ("decode.fixed_ms", d.fixed_ms),
            ("decode.weights_ms", d.weights_ms),
            ("decode.row_compute_ms", d.row_compute_ms),
            ("decode.ms_per_row", d.ms_per_row),
            ("decode.ms_per_context_token", d.ms_per_context_token),
            ("decode.eager_ms", d.eager_ms),
            ("tokenizer_fixed_ms", self.tokenizer_fixed_ms),
            ("tokenizer_ms_per_token", self.tokenizer_ms_per_token),
            ("receive_ms", self.receive_ms),
            ("output_ms", self.output_ms),
            ("first_step_extra_ms", self.first_step_extra_ms),
            ("warm_up_extra_ms", self.warm_up_extra_ms),
        ] {
            if !(0.0..=1e7).contains(&ms) {
                return reject(key, &ms, "give milliseconds from 0 to 10,000,000");
            }
        }
        for (key, ms) in [("prefill", p.ms(1, 0.5)), ("decode", d.ms(1, 1))] {
            if ms < 0.001 {
                return reject(key, &ms, "a step of one token must take at least 0.001 ms");
            }
        }
        for (key, s) in [
            ("idle_publish_s", self.idle_publish_s),
            ("cold_start_s", self.cold_start_s),
            ("warm_up_s", self.warm_up_s),
        ] {
            if !(0.0..=1e6).contains(&s) {
                return reject(key, &s, "give seconds from 0 to 1,000,000");
            }
        }
        for (key, n, least) in [
            ("kv_tokens", self.kv_tokens, 16),
            ("context_len", self.context_len, 16),
            ("max_prefill_tokens", self.max_prefill_tokens, 1),
            ("max_running_requests", self.max_running_requests, 1),
            ("new_token_ratio_decay_steps", self.new_token_ratio_decay_steps, 1),
            ("decode_log_interval", self.decode_log_interval, 1),
            ("resume_tokens", self.resume_tokens, 1),
            ("max_num_batched_tokens", self.max_num_batched_tokens, 1),
        ] {
            if !(least..=1 << 30).contains(&n) {
                return reject(key, &n, "give a whole number from 1 (16 for token capacities) to 2^30");
            }
        }
        if self.kind == EngineKind::Vllm {
            if self.max_num_batched_tokens < self.max_running_requests {
                let advice = "give at least max_running_requests, so that every running request gets its token";
                return reject("max_num_batched_tokens", &self.max_num_batched_tokens, advice);
            }
            if self.kv_tokens < 64 {
                return reject("kv_tokens", &self.kv_tokens, "give at least 64: four blocks, one of which vLLM keeps");
            }
        }
        if self.chunked_prefill_size > 1 << 30 {
            return reject(
                "chunked_prefill_size",
                &self.chunked_prefill_size,
                "give at most 2^30, or 0 for no chunking",
            );
        }
        for (key, share) in [
            ("init_new_token_ratio", self.init_new_token_ratio),
            ("min_new_token_ratio_factor", self.min_new_token_ratio_factor),
        ] {
            if !(0.0..=1.0).contains(&share) {
                return reject(key, &share, "give a share from 0 to 1");
            }
        }
        if !(0.0..=100.0).contains(&self.schedule_conservativeness) {
            return reject("schedule_conservativeness", &self.schedule_conservativeness, "give 0 to 100; 1 is normal");
        }
        if !(0.0..=0.05).contains(&self.step_noise) {
            return reject("step_noise", &self.step_noise, "give a relative spread from 0 to 0.05");
        }
        if !(0.0..=2.0).contains(&self.cold_start_sigma) {
            return reject("cold_start_sigma", &self.cold_start_sigma, "give 0 to 2");
        }
        Ok(())
    }

    /// The same engine under another scheduler, with vLLM's default limits (2,048 tokens and 256 requests a step) if
    /// that is vLLM's.
    #[must_use]
    pub fn with_kind(self, kind: EngineKind) -> Self {
        match kind {
            EngineKind::Vllm if self.kind != kind => {
                let max_running_requests = self.max_running_requests.min(256);
                Self { kind, max_num_batched_tokens: 2048, max_running_requests, ..self }
            }
            _ => Self { kind, ..self },
        }
    }

    /// The initial and the least share of `max_tokens` reserved for running requests.
    pub(super) fn ratio_bounds(&self) -> (f64, f64) {
        let init = (self.init_new_token_ratio * self.schedule_conservativeness).min(1.0);
        (init, init * self.min_new_token_ratio_factor)
    }

    /// Longest sequence, prompt and answer: the window and the pool each less one.
    pub(super) fn max_sequence(&self) -> u32 {
        let pool = match self.kind {
            EngineKind::Sglang => self.kv_tokens,
            EngineKind::Vllm => self.blocks_of_tokens(),
        };
        self.context_len.min(pool) - 1
    }

    /// Longest prompt the pool takes.
    pub(super) fn max_input(&self) -> u32 {
        match self.kind {
            EngineKind::Sglang => self.max_sequence() - 5,
            EngineKind::Vllm => self.max_sequence(),
        }
    }

    /// Tokens in the blocks that requests can hold; 0 of an engine without blocks. One block is vLLM's own.
    pub(super) fn blocks_of_tokens(&self) -> u32 {
        match self.kind {
            EngineKind::Sglang => 0,
            EngineKind::Vllm => (self.kv_tokens / BLOCK_TOKENS).saturating_sub(1) * BLOCK_TOKENS,
        }
    }

    /// Prefill cost a policy may assume, ms a token: a whole prompt of 2048 tokens over its length.
    pub fn ms_per_token(&self) -> f64 {
        self.prefill.ms(2048, pairs(0, 2048)) / 2048.0
    }
}

impl Default for EngineConfig {
    fn default() -> Self {
        super::presets::mistral_7b_a100_80()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_toml_over_the_defaults_and_names_an_unknown_key() {
        let config: EngineConfig = toml::from_str("kv_tokens = 9000\noverlap = false").unwrap();
        assert_eq!(config, EngineConfig { kv_tokens: 9000, overlap: false, ..EngineConfig::default() });
        let error = toml::from_str::<EngineConfig>("kv_tokenz = 9000").unwrap_err().to_string();
        assert!(error.contains("kv_tokenz"), "{error}");
    }

    #[test]
    fn a_bad_value_is_named_with_its_key_and_a_way_out() {
        let error = EngineConfig { step_noise: 0.5, ..EngineConfig::default() }.validate().unwrap_err();
        assert_eq!(error.to_string(), "engine setting `step_noise` is 0.5: give a relative spread from 0 to 0.05");
        let mut nan = EngineConfig::default();
        nan.decode.weights_ms = f64::NAN;
        assert!(nan.validate().unwrap_err().to_string().contains("decode.weights_ms"));
        assert!(EngineConfig { kv_tokens: 0, ..EngineConfig::default() }.validate().is_err());
    }
}
